"""The Discord dialect's knobs (`SIDECAR_DISCORD_...`, discord section 8) and defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from sidecar.variables import BadValue, Variable, integer, listing, one_of, quoted, seconds

LINGER_S: Final = 86400.0
"""How long the upstream is held after the last agent left: holding the session while the agent is away is the point."""
UPSTREAM: Final = "https://discord.com"

MAX_INTENTS: Final = (1 << 53) - 1
_SHARD: Final = re.compile(r"(\d{1,5})/(\d{1,5})", re.ASCII)
_GATEWAY: Final = re.compile(r"wss?://[^/?#@\s\\]+(/[^?#\s\\]*)?", re.ASCII | re.IGNORECASE)


class DiscordSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Field names are the variables' in lower case. `intents` None: what agents ask for; `gateway_url` empty: from metadata;
    `backfill_max_age_s` None: the journal's retention."""

    intents: int | None = None
    shards: tuple[str, ...] = ()
    gateway_url: str = ""
    heartbeat_ms: int = 20000
    media: str = "keep"
    compress: str = "zlib-stream"
    identify_budget: int = 200
    backfill_max: int = 1000
    backfill_max_age_s: float | None = None


def shard(text: str) -> str:
    """One shard, `i/n` with i < n."""
    found = _SHARD.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]):
        raise BadValue(f"is not a shard: {quoted(text)}", "write shards as index/count, like 0/2,1/2")
    return f"{int(found[1])}/{int(found[2])}"


def gateway_url(text: str) -> str:
    """A ws:// or wss:// URL without query and fragment."""
    if not _GATEWAY.fullmatch(text) or not _has_host(text):
        raise BadValue(f"is not a gateway URL: {quoted(text)}", "write it like wss://gateway.discord.gg, without a query")
    return text


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


VARIABLES: Final = (
    Variable(
        name="INTENTS",
        default_note="what agents ask for; before any agent: all that need no grant",
        meaning="intents of the upstream session, at least, as a number",
        parse=integer(0, MAX_INTENTS),
        example="33281",
    ),
    Variable(
        name="SHARDS",
        default_note="as agents ask",
        meaning="shards held from start-up with SIDECAR_UPSTREAM_TOKEN",
        parse=listing(shard),
        example="0/2,1/2",
    ),
    Variable(
        name="GATEWAY_URL",
        default_note="from /gateway/bot",
        meaning="the gateway's address, instead of what the upstream's metadata say",
        parse=gateway_url,
        example="wss://gateway.discord.gg",
    ),
    Variable(
        name="HEARTBEAT_MS",
        default="20000",
        unit="ms",
        meaning="the heartbeat interval that agents are told",
        parse=integer(1000, 600_000),
    ),
    Variable(
        name="MEDIA",
        default="keep",
        meaning="keep: media addresses stay as they are; local: they lead to the sidecar, which fetches from Discord's media hosts",
        parse=one_of("keep", "local"),
    ),
    Variable(
        name="COMPRESS",
        default="zlib-stream",
        meaning="transport compression asked of the upstream: zlib-stream or none",
        parse=one_of("zlib-stream", "none"),
    ),
    Variable(
        name="IDENTIFY_BUDGET",
        default="200",
        unit="in 24 h",
        meaning="new upstream sessions at most; Discord resets a bot's token at 1000",
        parse=integer(1, 1000),
    ),
    Variable(
        name="BACKFILL_MAX",
        default="1000",
        unit="messages",
        meaning="messages of one channel read over REST after a lost session, at most; what lies beyond becomes a gap record (limit)",
        parse=integer(0, 1_000_000),
    ),
    Variable(
        name="BACKFILL_MAX_AGE_S",
        default_note="SIDECAR_RETENTION_S",
        unit="s",
        meaning="messages older than this are not read back; they become a gap record (limit)",
        parse=seconds(1, 10 * 365 * 86400),
        example="7d",
    ),
)


def settings_for(values: Mapping[str, Any]) -> DiscordSettings:
    """The knobs as a struct, from parsed values by short name; those without a value keep their default."""
    given = {name.lower(): value for name, value in values.items() if value is not None}
    return msgspec.convert(given, DiscordSettings)
