"""sidecar.cli: which command is called with what, what a failure prints, and the exit code."""

import os
import subprocess
import sys
from typing import Any

import pytest

from sidecar import __version__, cli
from sidecar.config import Access, Settings
from sidecar.errors import (
    ConfigError,
    DataDirForeign,
    DataDirInUse,
    JournalDamaged,
    JournalFull,
    ListenFailed,
    NotRunning,
    Problem,
    SidecarError,
    UpstreamRefused,
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SIDECAR_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SIDECAR_DIALECT", "relaycast")
    monkeypatch.setenv("SIDECAR_UPSTREAM", "http://127.0.0.1:1")


class Command:
    """Stands in for a command's module and remembers how its `run` was called."""

    def __init__(self, outcome: int | BaseException = 0) -> None:
        self.outcome = outcome
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run(self, *arguments: Any, **named: Any) -> int:
        self.calls.append((arguments, named))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(module: str, outcome: int | BaseException = 0) -> Command:
        made = Command(outcome)
        monkeypatch.setitem(sys.modules, module, made)  # type: ignore[arg-type]
        return made

    return install


@pytest.mark.parametrize("argv", [[], ["run"]])
def test_run_is_the_default(command: Any, argv: list[str]) -> None:
    app = command("sidecar.app", 7)
    assert cli.main(argv) == 7
    (((settings,), _),) = app.calls
    assert isinstance(settings, Settings)


def test_demo_needs_no_environment_and_has_its_own_options(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIDECAR_DIALECT")
    demo = command("sidecar.demo.demo")
    assert cli.main(["demo", "--seconds", "5"]) == 0
    assert demo.calls == [((["--seconds", "5"],), {})]


def test_check(command: Any) -> None:
    check = command("sidecar.ops.check")
    assert cli.main(["check"]) == 0
    (((settings, environ), _),) = check.calls
    assert isinstance(settings, Settings)
    assert environ["SIDECAR_DIALECT"] == "relaycast"


@pytest.mark.parametrize("as_json", [False, True])
def test_status_needs_only_the_listen_address(command: Any, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    monkeypatch.delenv("SIDECAR_DIALECT")
    monkeypatch.setenv("SIDECAR_LISTEN", "[::1]:99")
    status = command("sidecar.ops.status_cli")
    assert cli.main(["status", *(["--json"] if as_json else [])]) == 0
    assert status.calls == [((Access(listen_host="::1", listen_port=99, local_token=None), as_json), {})]


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["ls"], {"what": "ls", "json": False}),
        (["verify", "--json"], {"what": "verify", "json": True}),
        (["tail"], {"what": "tail", "json": False, "stream": None, "lines": 10, "follow": False}),
        (["tail", "--stream", "s", "-n", "3", "--json", "-f"], {"what": "tail", "json": True, "stream": "s", "lines": 3, "follow": True}),
    ],
)
def test_journal(command: Any, argv: list[str], options: dict[str, Any]) -> None:
    inspect = command("sidecar.journal.inspect")
    assert cli.main(["journal", *argv]) == 0
    (((settings, what, given), _),) = inspect.calls
    assert isinstance(settings, Settings)
    assert what == options["what"]
    assert vars(given) == options | {"command": "journal"}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["me", "--head"], {"offset": None, "stream": None}),
        (["me", "--offset", "0"], {"offset": 0, "stream": None}),
        (["me", "--offset", "12", "--stream", "s"], {"offset": 12, "stream": "s"}),
    ],
)
def test_consumer_reset(command: Any, argv: list[str], named: dict[str, Any]) -> None:
    consumer = command("sidecar.ops.consumer_cli")
    assert cli.main(["consumer", "reset", *argv]) == 0
    (((settings, name), given),) = consumer.calls
    assert isinstance(settings, Settings)
    assert (name, given) == ("me", named)


@pytest.mark.parametrize(
    "argv",
    [
        ["bogus"],
        ["--bogus"],
        ["run", "extra"],
        ["journal"],
        ["journal", "rm"],
        ["journal", "tail", "-n", "-1"],
        ["consumer"],
        ["consumer", "reset"],
        ["consumer", "reset", "me"],
        ["consumer", "reset", "me", "--head", "--offset", "1"],
        ["consumer", "reset", "me", "--offset", "-1"],
        ["consumer", "reset", "me", "--offset", "one"],
    ],
)
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "usage: sidecar" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sidecar {__version__}\n"
    assert cli.main(["run", "--version"]) == 0
    assert capsys.readouterr().out == f"sidecar {__version__}\n"
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n    {name} " in listed for name in ("run", "demo", "check", "status", "journal", "consumer"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SidecarError("it broke", mend="mend it"), 1),
        (ConfigError([Problem("SIDECAR_X", "it broke", "mend it")]), 2),
        (DataDirForeign("it broke", mend="mend it"), 2),
        (DataDirInUse("it broke", mend="mend it"), 3),
        (JournalDamaged("it broke", mend="mend it"), 1),
        (JournalFull("it broke", mend="mend it"), 1),
        (ListenFailed("it broke", mend="mend it"), 1),
        (UpstreamRefused("it broke", mend="mend it"), 1),
        (NotRunning("it broke", mend="mend it"), 1),
    ],
)
def test_an_expected_failure_is_two_lines_and_its_exit_code(
    command: Any, capsys: pytest.CaptureFixture[str], error: SidecarError, code: int
) -> None:
    command("sidecar.app", error)
    assert cli.main(["run"]) == code
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith("sidecar: error: ")
    assert first.endswith("it broke")
    assert second == "  mend: mend it"
    assert not out


def test_every_error_has_a_mend() -> None:
    def below(kind: type[SidecarError]) -> list[type[SidecarError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    for kind in below(SidecarError):
        if kind is not ConfigError and kind.__init__ is SidecarError.__init__:
            assert kind("text").mend


def test_each_problem_of_the_environment_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SIDECAR_WINDOW", "none")
    monkeypatch.setenv("SIDECAR_UPSTREAM", "")
    monkeypatch.setenv("SIDECAR_LISTN", "x")
    assert cli.main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("  mend: ") for line in lines[1::2])
    assert {line.split()[2] for line in lines[::2]} == {"SIDECAR_WINDOW", "SIDECAR_UPSTREAM", "SIDECAR_LISTN"}


def test_an_error_shows_no_secret(command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SIDECAR_LOCAL_TOKEN", "hunter2")
    command("sidecar.app", SidecarError("refused hunter2 and at_live_swordfish", mend="not hunter2"))
    assert cli.main([]) == 1
    command("sidecar.app", RuntimeError("hunter2"))
    assert cli.main([]) == 1
    err = capsys.readouterr().err
    assert "hunter2" not in err
    assert "swordfish" not in err


def test_an_error_shows_no_secret_from_a_file(
    command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    path = tmp_path / "token"
    path.write_text("hunter2\n")
    path.chmod(0o600)
    monkeypatch.setenv("SIDECAR_LOCAL_TOKEN_FILE", str(path))
    command("sidecar.app", RuntimeError("hunter2"))
    assert cli.main([]) == 1
    assert "hunter2" not in capsys.readouterr().err


def test_a_defect_keeps_its_trace(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command("sidecar.app", ZeroDivisionError("odd"))
    assert cli.main([]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: odd" in err


def test_interrupted(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command("sidecar.app", KeyboardInterrupt())
    assert cli.main([]) == 130
    assert not capsys.readouterr().err


@pytest.mark.parametrize("argv", [["check"], ["--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_reader_of_our_output_left(argv: list[str], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", *argv],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(writing)
    assert b"BrokenPipe" not in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)


def test_as_a_process() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    environ["SIDECAR_DIALECT"] = "slack"
    done = subprocess.run([sys.executable, "-m", "sidecar"], env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "SIDECAR_DIALECT names no dialect" in done.stderr
    assert "SIDECAR_UPSTREAM is not set" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_version_loads_no_server() -> None:
    code = "import sys, sidecar.cli; sidecar.cli.main(['--version']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert not {"aiohttp", "lmdb", "asyncio"} & set(done.stdout.split())
