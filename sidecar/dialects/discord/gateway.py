"""The gateway's vocabulary: addresses, the frames that open a session, what a close code means (discord sections 1.2 and 1.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from sidecar.core.actions import Commit, RecordGap
from sidecar.core.events import LinkRefused
from sidecar.core.record import Gap
from sidecar.dialects.discord import frames

DEFAULT = "wss://gateway.discord.gg"
API = "/api/v10"
METADATA = f"{API}/gateway/bot"
USER_AGENT = "DiscordBot (sidecar, 0.1)"
COME_BACK = 4000
"""How we close: any code but 1000 and 1001 keeps the session (R24)."""
BAD_FRAME = 4002

Verdict = Literal["resume", "slowly", "identify", "fatal"]

FATAL: Mapping[int, tuple[str, str]] = {
    4004: ("authentication failed", "give the agent, or SIDECAR_UPSTREAM_TOKEN, a valid bot token"),
    4010: ("invalid shard", "let the agents, or SIDECAR_DISCORD_SHARDS, ask for shards index/count with index below count"),
    4011: ("sharding required", "the bot is in too many guilds for one shard: run it with the shards that /gateway/bot names"),
    4012: ("invalid API version", "the upstream takes no gateway version 10: a newer sidecar is needed"),
    4013: ("invalid intents", "correct the agent's intents, or SIDECAR_DISCORD_INTENTS"),
    4014: ("disallowed intents", "grant the privileged intents in the bot's settings, or let the agent ask for fewer"),
}
_IDENTIFY = frozenset([4003, 4005, 4006, 4007, 4009])


def verdict(code: int | None) -> Verdict:
    """What a close code asks for (section 1.3); None: without a close frame."""
    if code in FATAL:
        return "fatal"
    if code in _IDENTIFY:
        return "identify"
    return "slowly" if code == 4008 else "resume"


def retry_after(event: LinkRefused) -> float | None:
    """Seconds to wait that an answer to the upgrade names (429 and 503), None if it names none."""
    told = next((value for name, value in event.headers if name.lower() == "retry-after"), "")
    return float(told) if event.status in (429, 503) and told.isascii() and told.isdigit() and len(told) < 5 else None


def connect_url(url: str, *, zlib: bool) -> str:
    """Where to dial: the same version and encoding for a new session and a RESUME (section 1.2)."""
    parts = urlsplit(url)
    query = "v=10&encoding=json" + ("&compress=zlib-stream" if zlib else "")
    return f"{parts.scheme}://{parts.netloc}{parts.path or '/'}?{query}"


def usable(url: object) -> str:
    """A gateway address as the upstream named it, empty if it is none."""
    if not isinstance(url, str):
        return ""
    try:
        parts = urlsplit(url)
        return url if parts.scheme in ("ws", "wss") and parts.hostname and "@" not in parts.netloc else ""
    except ValueError:
        return ""


def home(upstream: str) -> str:
    """The gateway of an upstream that names none: its own origin; Discord's is known (R27)."""
    parts = urlsplit(upstream)
    if parts.hostname in ("discord.com", "discordapp.com"):
        return DEFAULT
    return f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}"


def headers(token: str = "") -> tuple[tuple[str, str], ...]:
    """Headers of a socket, and with a token of an own request: some servers refuse whoever names no User-Agent."""
    agent = ("User-Agent", USER_AGENT)
    return (agent, ("Authorization", f"Bot {token}")) if token else (agent,)


def identify(token: str, shard: str, intents: int, presence: Any) -> bytes:
    """op 2."""
    index, _, count = shard.partition("/")
    properties = {"os": "linux", "browser": "sidecar", "device": "sidecar"}
    d = {"token": token, "properties": properties, "intents": intents, "large_threshold": 250, "shard": [int(index), int(count)]}
    return frames.frame(frames.IDENTIFY, d | ({"presence": presence} if presence is not None else {}))


def resume(token: str, session_id: str, seq: int) -> bytes:
    """op 6."""
    return frames.frame(frames.RESUME, {"token": token, "session_id": session_id, "seq": seq})


def beat(seq: int) -> bytes:
    """op 1; `seq` 0: nothing was received yet."""
    return frames.frame(frames.BEAT, seq or None)


def interval(payload: bytes) -> float:
    """HELLO's heartbeat interval in seconds, within what is sane."""
    found = frames.fields(frames.body(payload)).get("heartbeat_interval")
    ms = found if isinstance(found, int | float) and not isinstance(found, bool) and found > 0 else 41250
    return max(min(ms, 600_000) / 1000, 0.05)


def bare(token: str) -> str:
    """A token without the scheme that some write before it."""
    return token.strip().removeprefix("Bot ").strip()


class Retry:
    """Delays between connects (R28): at once to 0.5 s, then up to 1, 2, 4 … 30 s, with jitter."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self, random: float) -> float:
        """Seconds to wait; `random` is one draw from [0, 1)."""
        n, self.failures = self.failures, self.failures + 1
        return 0.5 * random if n == 0 else min(30.0, float(1 << min(n - 1, 5))) * (0.5 + 0.5 * random)

    def reset(self) -> None:
        """READY or RESUMED, and one beat acknowledged after it."""
        self.failures = 0


class Metadata(msgspec.Struct):
    """The last good answer to /gateway/bot. `at`, `reset_at`: Unix seconds; `remaining`: new sessions left when it was given."""

    url: str = ""
    shards: int = 1
    concurrency: int = 1
    remaining: int = 1000
    at: float = 0.0
    reset_at: float = 0.0


def unreadable(stream: str, payload: bytes, wall: float) -> Commit:
    """The gap of a frame within a session that is no JSON. `wall`: Unix seconds."""
    ms = int(wall * 1000)
    return Commit([RecordGap(stream, Gap("lost", "time", ms, ms, 1, detail=f"a frame of {len(payload)} bytes that cannot be read"))])


def metadata(raw: bytes, wall: float) -> Metadata | None:
    """Read an answer to /gateway/bot; None if it is none."""
    found = frames.fields(raw)
    url = usable(found.get("url"))
    if not url:
        return None
    limit = found.get("session_start_limit")
    limit = limit if isinstance(limit, dict) else {}

    def number(value: object, default: int) -> int:
        return min(value, 1 << 53) if type(value) is int and value >= 0 else default

    return Metadata(
        url,
        max(number(found.get("shards"), 1), 1),
        max(number(limit.get("max_concurrency"), 1), 1),
        number(limit.get("remaining"), 1000),
        wall,
        wall + number(limit.get("reset_after"), 0) / 1000,
    )
