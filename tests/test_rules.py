"""The rules of the house that a reader relies on, checked on the source itself (architecture.md: Two halves, Layout)."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sidecar"

PURE_ROOMS = ("core", "dialects")
"""What stands here, and what it imports, is sans-I/O."""
PURE = frozenset(
    {
        "__future__", "abc", "array", "base64", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib", "heapq",
        "importlib", "ipaddress", "itertools", "json", "math", "msgspec", "operator", "re", "string", "struct", "traceback", "typing",
        "unicodedata", "urllib.parse", "zlib", "calendar", "datetime",
    }
)  # fmt: skip
"""Modules without I/O, clock or randomness. `datetime` for arithmetic: its clock is forbidden by name."""
CLOCKS = frozenset({"now", "today", "utcnow"})
DOORS = frozenset({"open", "print", "input", "breakpoint", "exec", "eval"})

BLIND_ROOMS = ("core", "journal", "upstream", "downstream")
"""What stands here knows no dialect; driver.py and app.py neither."""
DIALECTS = re.compile("relaycast|fabric|actioncable|action_cable|discord", re.IGNORECASE)

LONGEST = 400
LONGER = {
    "core/engine.py": (680, "one loop that keeps the ten invariants: every input and every action in one place"),
    "core/courier.py": (520, "sessions, receipts and cursors move each other"),
    "dialects/relaycast/upstream.py": (800, "one state machine, all its transitions in one file"),
    "dialects/relaycast/downstream.py": (450, "one state machine, all its transitions in one file"),
}
"""Modules that may be longer: up to how many lines, and why."""


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (PACKAGE / room).rglob("*.py"))


def name_of(path: Path) -> str:
    """The module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, anywhere in it; of `from a import b` both `a` and `a.b`."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def file_of(module: str) -> Path | None:
    """The file of one of our own modules, None for what is not a module of ours."""
    place = ROOT.joinpath(*module.split("."))
    found = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return found[0] if found and module.partition(".")[0] == "sidecar" else None


def reached(starts: list[Path]) -> dict[Path, Path]:
    """Our modules that these import, directly or not, each with the one that imports it first."""
    found = {path: path for path in starts}
    todo = list(starts)
    while todo:
        path = todo.pop()
        for target in filter(None, map(file_of, imports(path))):
            if target not in found:
                found[target] = path
                todo.append(target)
    return found


def impurities(path: Path) -> list[str]:
    """What in a module does I/O, reads a clock or draws lots."""
    wrong = []
    for module in imports(path):
        known = any(module == pure or module.startswith(pure + ".") for pure in PURE)
        if not known and module.split(".")[0] != "sidecar":
            wrong.append(f"imports {module}")
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if owner in ("datetime", "date"):
                wrong.append(f"reads the clock: {owner}.{node.attr}, line {node.lineno}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DOORS:
            wrong.append(f"calls {node.func.id}(), line {node.lineno}")
    return wrong


def words(path: Path) -> Iterator[tuple[int, str]]:
    """Every name and text that the code itself uses: no comments, no docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    prose = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            prose |= {id(each.value) for each in body if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)}
    for node in ast.walk(tree):
        if id(node) in prose:
            continue
        for field in ("id", "attr", "name", "module", "arg", "value"):
            text = getattr(node, field, None)
            if isinstance(text, str | bytes):
                yield getattr(node, "lineno", 0), text.decode("latin-1") if isinstance(text, bytes) else text


def files_of_the_project() -> list[Path]:
    """Tracked files; without git, all but what .gitignore would leave out."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    away = {".git", ".venv", "node_modules", "build", "dist", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not away & set(path.relative_to(ROOT).parts)]


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_core_and_dialects_do_no_io_and_know_no_clock_and_no_chance(room: str) -> None:
    starts = modules(room)
    assert len(starts) > 5
    wrong = {
        f"{path.relative_to(ROOT)} (imported by {by.relative_to(ROOT)})": found
        for path, by in reached(starts).items()
        if (found := impurities(path))
    }
    assert wrong == {}


def test_nothing_but_its_own_package_the_registry_and_the_demo_names_a_dialect() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in [*modules(*BLIND_ROOMS), PACKAGE / "driver.py", PACKAGE / "app.py"]
        for line, text in words(path)
        if DIALECTS.search(text)
    ]
    assert named == []


def test_a_dialect_is_imported_by_nobody_but_the_registry() -> None:
    theirs = [path for path in (PACKAGE / "dialects").iterdir() if (path / "__init__.py").is_file() and path.name[0] != "_"]
    assert theirs
    for folder in theirs:
        outside = [path for path in PACKAGE.rglob("*.py") if folder not in path.parents]
        package = name_of(folder / "__init__.py")
        guilty = [str(p.relative_to(ROOT)) for p in outside if any(m == package or m.startswith(package + ".") for m in imports(p))]
        assert guilty == []


def test_modules_fit_on_a_few_screens() -> None:
    lines = {str(p.relative_to(PACKAGE)): len(p.read_text("utf-8").splitlines()) for p in PACKAGE.rglob("*.py")}
    too_long = {name: count for name, count in lines.items() if count > LONGER.get(name, (LONGEST, ""))[0]}
    assert too_long == {}
    assert [name for name in LONGER if lines.get(name, 0) <= LONGEST] == [], "no exception is needed any more"


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(p.relative_to(ROOT))
        for p in PACKAGE.rglob("*.py")
        if p.read_text("utf-8").strip() and not ast.get_docstring(ast.parse(p.read_text("utf-8")))
    ]
    assert silent == []


def test_no_registry_and_no_path_of_a_machine_stands_in_a_file() -> None:
    # Put together here, so that this file does not hold what it looks for.
    hosts = (
        "py" + "pi.org",
        "python" + "hosted.org",
        "registry." + "npmjs",
        "registry." + "yarnpkg",
        "rubygems" + ".org",
        "proxy." + "golang",
    )
    options = ("index" + "-url", "--find" + "-links", "--reg" + "istry")
    wanted = "|".join(map(re.escape, (*hosts, *options, f"{ROOT}/", f"{Path.home()}/"))) + '|"resolved"' + r": *\"https?:"
    pattern = re.compile(wanted.encode())
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in files_of_the_project()
        if path.is_file() and (match := pattern.search(path.read_bytes()))
    ]
    assert found == []


def test_the_readme_has_its_two_commands_and_ci_runs_the_second() -> None:
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    demo, tests = commands
    assert demo.endswith("sidecar demo")
    assert tests.endswith("-m pytest")
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    (extraction,) = [line for line in lines if line.startswith("command=")]
    done = subprocess.run(["bash", "-c", f'{extraction}; printf %s "$command"'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == tests
    assert lines[-1] == 'eval "$command"'
