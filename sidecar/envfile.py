"""The commented environment files `conf/sidecar.env` and `conf/<dialect>.env`, made from the tables of variables.

`python -m sidecar.envfile conf` writes them; a test fails when they differ from what the tables say. The format is what
a shell, Docker (`--env-file`) and systemd (`EnvironmentFile=`) all read: NAME=value, no quotes.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sidecar.config import COMMON, knobs_of
from sidecar.dialects import registry
from sidecar.environment import FILE
from sidecar.variables import Variable

_FIRST = ("SIDECAR_DIALECT", "SIDECAR_UPSTREAM", "SIDECAR_LISTEN", "SIDECAR_UPSTREAM_TOKEN", "SIDECAR_LOCAL_TOKEN")
"""What the ready file of a dialect holds beside the dialect's own knobs."""


def files() -> dict[str, str]:
    """File name -> content, for every file under conf/ that comes from the tables."""
    made = {"sidecar.env": _everything()}
    for name in registry.names():
        made[f"{name}.env"] = _ready(name)
    return made


def _everything() -> str:
    lines = [
        "# Every variable of the sidecar. A line that is commented out shows the default (or an example, where there is none).",
        "# A SIDECAR_ variable that does not stand here is an error at start-up. `sidecar check` tells what is in effect.",
        "# Sizes: bytes, or 512MiB, 1GiB. Times: seconds, or 500ms, 30s, 12h, 7d.",
        "",
    ]
    for variable in COMMON:
        lines += [*_entry(variable, None), ""]
    for name in registry.names():
        lines += [f"# --- only with SIDECAR_DIALECT={name}", ""]
        for variable in knobs_of(name):
            lines += [*_entry(variable, None), ""]
    return "\n".join(lines[:-1]) + "\n"


def _ready(name: str) -> str:
    dialect = registry.configured(name)
    lines = [f"# A sidecar for {name}: fill in what is empty. conf/sidecar.env has every other variable.", ""]
    given = {"SIDECAR_DIALECT": name, "SIDECAR_UPSTREAM": dialect.default_upstream or ""}
    for variable in COMMON:
        if variable.name in _FIRST:
            lines += [*_entry(variable, given.get(variable.name)), ""]
        elif variable.name == "SIDECAR_LINGER_S":
            lines += [f"# {variable.meaning} [s]", f"# default: {dialect.linger_s:g}", f"#{variable.name}={dialect.linger_s:g}", ""]
    for variable in knobs_of(name):
        lines += [*_entry(variable, None), ""]
    return "\n".join(lines[:-1]) + "\n"


def _entry(variable: Variable, given: str | None) -> Iterator[str]:
    """The lines of one variable; `given` is set, everything else is commented out."""
    yield f"# {variable.meaning}" + (f" [{variable.unit}]" if variable.unit else "")
    yield f"# default: {variable.default_text()}"
    if given is not None:
        yield f"{variable.name}={given}"
        return
    yield f"#{variable.name}={variable.default if variable.default is not None else variable.example}"
    if variable.secret:
        yield "# or the name of a file with mode 0600 that holds it, on one line"
        yield f"#{variable.name}{FILE}="


def main(arguments: Sequence[str]) -> int:
    """Writes the files into the directory given, or prints the first one."""
    if not arguments:
        print(_everything(), end="")
        return 0
    for name, content in files().items():
        Path(arguments[0], name).write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
