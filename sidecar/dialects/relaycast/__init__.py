"""The Relaycast dialect."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from sidecar.dialects.probe import Probe
from sidecar.dialects.relaycast import probe, settings
from sidecar.variables import Variable


class _Relaycast:
    """What configuration and `sidecar check` need of the dialect."""

    name: ClassVar[str] = "relaycast"
    default_upstream: ClassVar[str | None] = None
    linger_s: ClassVar[float] = settings.LINGER_S
    variables: ClassVar[tuple[Variable, ...]] = settings.VARIABLES

    def settings_for(self, values: Mapping[str, Any]) -> settings.RelaycastSettings:
        return settings.settings_for(values)

    def probes(self, token: str) -> tuple[Probe, ...]:
        return probe.probes(token)


DIALECT: Final = _Relaycast()
