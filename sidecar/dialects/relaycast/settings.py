"""The Relaycast dialect's knobs (`SIDECAR_RELAYCAST_...`, relaycast R33 and R8) and defaults."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sidecar.variables import BadValue, Variable, integer, seconds

LINGER_S: Final = 300.0
"""How long the upstream is held after the last local client left (relaycast R17)."""


class RelaycastSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. Field names are the variables' in lower case."""

    ping_s: float = 15.0
    dead_s: float = 30.0
    ack_timeout_s: float = 10.0
    since_bias_s: float = 5.0
    overlap: int = 16
    max_backfill: int = 20000


VARIABLES: Final = (
    Variable(
        name="PING_S",
        default="15",
        unit="s",
        meaning="a JSON ping goes to the upstream at least this often",
        parse=seconds(0.01, 3600),
    ),
    Variable(
        name="DEAD_S",
        default="30",
        unit="s",
        meaning="no event and no JSON pong for this long: the upstream socket is dead and is dialled again",
        parse=seconds(0.02, 7200),
    ),
    Variable(
        name="ACK_TIMEOUT_S",
        default="10",
        unit="s",
        meaning="no resync_ack within this time: history is read over REST instead",
        parse=seconds(0.01, 3600),
    ),
    Variable(
        name="SINCE_BIAS_S",
        default="5",
        unit="s",
        meaning="a resync asks for the time this much before the newest known message",
        parse=seconds(0, 86400),
    ),
    Variable(
        name="OVERLAP",
        default="16",
        unit="events",
        meaning="a resync asks again for this many known events, to recognise a counter that began anew",
        parse=integer(0, 500),
    ),
    Variable(
        name="MAX_BACKFILL",
        default="20000",
        unit="rows",
        meaning="rows read over REST for one fill, at most; what lies beyond becomes a gap record (limit)",
        parse=integer(0, 10_000_000),
    ),
)


def settings_for(values: Mapping[str, Any]) -> RelaycastSettings:
    """The knobs as a struct, from parsed values by short name. Raises `BadValue` where two contradict each other."""
    settings = msgspec.convert({name.lower(): value for name, value in values.items()}, RelaycastSettings)
    if settings.dead_s <= settings.ping_s:
        raise BadValue(
            f"is {settings.dead_s:g} s, not longer than the time between two pings ({settings.ping_s:g} s):"
            " every quiet socket would count as dead",
            "set it to at least twice SIDECAR_RELAYCAST_PING_S",
            name="DEAD_S",
        )
    return settings
