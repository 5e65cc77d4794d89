"""The Discord dialect: settings, probes, and its two halves (wire page: discord)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from sidecar.dialects.base import Half, HttpError, View
from sidecar.dialects.discord import probe, rest, settings
from sidecar.dialects.discord.counters import DOWNSTREAM
from sidecar.dialects.discord.downstream import DownstreamHalf
from sidecar.dialects.discord.upstream import COUNTERS, UpstreamHalf
from sidecar.dialects.probe import Probe
from sidecar.variables import Variable


class _Discord:
    """See sidecar.dialects.base.Dialect."""

    name: ClassVar[str] = "discord"
    default_upstream: ClassVar[str | None] = settings.UPSTREAM
    linger_s: ClassVar[float] = settings.LINGER_S
    variables: ClassVar[tuple[Variable, ...]] = settings.VARIABLES
    counters: ClassVar[Mapping[str, str]] = {**DOWNSTREAM, **COUNTERS}
    rewrites: ClassVar[Mapping[str, Any]] = rest.REWRITES

    def settings_for(self, values: Mapping[str, Any]) -> settings.DiscordSettings:
        return settings.settings_for(values)

    def probes(self, token: str) -> tuple[Probe, ...]:
        return probe.probes(token)

    def upstream(self, account: str, settings: Any, view: View) -> Half:
        """The half that holds a bot's sessions, one a shard (R25 to R36)."""
        return UpstreamHalf(account, settings, view)

    def downstream(self, settings: Any, view: View) -> Half:
        """The half that looks like the gateway to agents (R3 to R24)."""
        return DownstreamHalf(settings, view)

    def unavailable(self, message: str) -> HttpError:
        """R7: Discord's own error envelope."""
        return rest.unavailable(message)


DIALECT: Final = _Discord()
