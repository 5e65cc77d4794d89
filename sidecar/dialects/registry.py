"""The dialects that are built: one line each. A package `sidecar.dialects.<name>` exposes `DIALECT`."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from sidecar.dialects.probe import Probe
from sidecar.variables import Variable

_MODULES: Final[Mapping[str, str]] = {
    "relaycast": "sidecar.dialects.relaycast",
    "discord": "sidecar.dialects.discord",
}

PLANNED: Final = ("relaycast", "fabric", "actioncable", "discord")
"""The names that the contract gives; those not in the registry are refused as not built yet."""


@runtime_checkable
class Configured(Protocol):
    """The part of a dialect that configuration needs."""

    @property
    def name(self) -> str: ...

    @property
    def default_upstream(self) -> str | None:
        """Base URL, for a dialect with one public home."""

    @property
    def linger_s(self) -> float:
        """Default of SIDECAR_LINGER_S, seconds."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The dialect's knobs, named without `SIDECAR_<DIALECT>_`."""

    def settings_for(self, values: Mapping[str, Any]) -> msgspec.Struct:
        """The frozen struct of the knobs, from parsed values by short name.

        Raises `sidecar.variables.BadValue`, with the short name in `.name`, if values contradict each other."""

    def probes(self, token: str) -> tuple[Probe, ...]:
        """What `sidecar check` asks the upstream with the operator's token, in order."""


def names() -> tuple[str, ...]:
    """The dialects that can be run, in the order of the registry."""
    return tuple(_MODULES)


def prefix(name: str) -> str:
    """What the names of a dialect's own variables begin with."""
    return f"SIDECAR_{name.upper()}_"


def dialect(name: str) -> Any:
    """The dialect's object. Raises KeyError for a name that is not in the registry."""
    return import_module(_MODULES[name]).DIALECT


def configured(name: str) -> Configured:
    """The same object, as configuration sees it. Raises KeyError for a name that is not in the registry."""
    found: Configured = dialect(name)
    return found
