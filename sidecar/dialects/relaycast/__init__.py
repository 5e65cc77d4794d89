"""The Relaycast dialect: settings, probes, and its two halves (wire page: relaycast)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from sidecar.dialects.base import Half, HttpError, View
from sidecar.dialects.probe import Probe
from sidecar.dialects.relaycast import probe, settings
from sidecar.dialects.relaycast.downstream import DownstreamHalf
from sidecar.dialects.relaycast.upstream import UpstreamHalf
from sidecar.variables import Variable


class _Relaycast:
    """See sidecar.dialects.base.Dialect."""

    name: ClassVar[str] = "relaycast"
    default_upstream: ClassVar[str | None] = None
    linger_s: ClassVar[float] = settings.LINGER_S
    variables: ClassVar[tuple[Variable, ...]] = settings.VARIABLES

    def settings_for(self, values: Mapping[str, Any]) -> settings.RelaycastSettings:
        return settings.settings_for(values)

    def probes(self, token: str) -> tuple[Probe, ...]:
        return probe.probes(token)

    counters: ClassVar[Mapping[str, str]] = {}
    rewrites: ClassVar[Mapping[str, Any]] = {}

    def upstream(self, account: str, settings: Any, view: View) -> Half:
        """The half that holds an agent's socket (R1 to R17)."""
        return UpstreamHalf(account, settings, view)

    def downstream(self, settings: Any, view: View) -> Half:
        """The half that local sockets see (R20 to R28)."""
        return DownstreamHalf(settings, view)

    def unavailable(self, message: str) -> HttpError:
        """R32: the server's own error envelope."""
        body = {"ok": False, "error": {"code": "upstream_unavailable", "message": message}}
        return 503, [("Content-Type", "application/json")], msgspec.json.encode(body)


DIALECT: Final = _Relaycast()
