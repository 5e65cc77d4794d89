"""Every failure that the product expects, as one tree; each carries its mend and the process's exit code.

    SidecarError              1   anything that a person can act on
    ├── ConfigError           2   the environment is wrong: .problems, one for each variable
    ├── DataDirError          2   the data directory cannot be used
    │   ├── DataDirInUse      3   another sidecar works on it
    │   └── DataDirForeign    2   it belongs to another dialect or upstream
    ├── ListenFailed          1   the listen address cannot be bound
    ├── JournalError          1   the journal cannot go on
    │   ├── JournalDamaged    1   what is on disk is not a journal, or contradicts itself
    │   └── JournalFull       1   quota or disk exhausted
    ├── UpstreamError         1   the server, as seen from here
    │   ├── UpstreamRefused   1   it answered, and said no
    │   └── UpstreamAway      1   it cannot be reached
    └── NotRunning            1   a command needs a running sidecar, and there is none

Raise with a text that says what is, and a mend that says what to do; both are plain sentences without secrets:

    raise DataDirInUse(f"{path} is in use by process {pid}", mend="stop that sidecar, or set SIDECAR_DATA_DIR")

Exit codes are the contract's: 0 clean, 2 configuration, 3 data directory in use, 1 anything else.
"""

from collections.abc import Iterable
from typing import ClassVar, Final

import msgspec

EXIT_CLEAN: Final = 0
EXIT_OTHER: Final = 1
EXIT_CONFIG: Final = 2
EXIT_IN_USE: Final = 3


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with one variable: what is wrong (`text`), and what to do about it (`mend`)."""

    variable: str
    text: str
    mend: str

    def __str__(self) -> str:
        return f"{self.variable} {self.text}"


class SidecarError(Exception):
    """Root of the tree. `text` says what is wrong, `mend` what to do about it; `exit_code` is the process's."""

    exit_code: ClassVar[int] = EXIT_OTHER
    default_mend: ClassVar[str] = "see the lines above; `sidecar check` looks at the whole set-up"

    def __init__(self, text: str, *, mend: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.mend = mend or self.default_mend

    def lines(self) -> list[tuple[str, str]]:
        """What a command prints: pairs of (what is wrong, mend)."""
        return [(self.text, self.mend)]


class ConfigError(SidecarError):
    """The environment cannot be run with. Holds every problem found, not only the first."""

    exit_code = EXIT_CONFIG

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "; ".join(map(str, self.problems)),
            mend="; ".join(f"{p.variable}: {p.mend}" for p in self.problems),
        )

    def lines(self) -> list[tuple[str, str]]:
        return [(str(p), p.mend) for p in self.problems]


class DataDirError(SidecarError):
    """The data directory cannot be created, read or written."""

    exit_code = EXIT_CONFIG
    default_mend = "set SIDECAR_DATA_DIR to a directory on a local disk that this user may write"


class DataDirInUse(DataDirError):
    """Another sidecar process works on the same data directory."""

    exit_code = EXIT_IN_USE
    default_mend = "stop the other sidecar, or give this one a SIDECAR_DATA_DIR of its own"


class DataDirForeign(DataDirError):
    """The data directory was made for another dialect or another upstream, which is recorded in it."""

    default_mend = "set SIDECAR_DATA_DIR to a directory of its own for this dialect and upstream"


class ListenFailed(SidecarError):
    """The listen address cannot be bound."""

    default_mend = "set SIDECAR_LISTEN to a free address of this machine (port 0 picks one)"


class JournalError(SidecarError):
    """The journal cannot go on."""


class JournalDamaged(JournalError):
    """What stands in the data directory is not a readable journal, or contradicts itself."""

    default_mend = "`sidecar journal verify` names what is damaged; `sidecar run` sets it aside and begins a new epoch"


class JournalFull(JournalError):
    """Quota or disk exhausted: nothing more can be committed until there is room."""

    default_mend = "free disk space, or change SIDECAR_RETENTION_BYTES or SIDECAR_RETENTION_S"


class UpstreamError(SidecarError):
    """The upstream, as seen from here."""

    default_mend = "`sidecar check` probes SIDECAR_UPSTREAM and says what it finds"


class UpstreamRefused(UpstreamError):
    """The upstream answered, and said no."""


class UpstreamAway(UpstreamError):
    """The upstream cannot be reached."""


class NotRunning(SidecarError):
    """A command needs a running sidecar and found none."""

    default_mend = "start it with `sidecar run`, or set SIDECAR_LISTEN to the address it printed"
