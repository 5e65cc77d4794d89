"""What a fresh IDENTIFY is answered with (discord R5, R13): READY as the upstream's last one, with our own session, then the guilds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sidecar.dialects.discord.encoder import Encoder
from sidecar.dialects.discord.intents import GUILDS

_Fields = dict[str, msgspec.Raw]
_decode = msgspec.json.Decoder(_Fields).decode
_encode = msgspec.json.encode

_NO = msgspec.Raw(b"false")


def snapshot(
    ready: bytes, guilds: Sequence[bytes], *, session_id: str, url: str, shard: Sequence[int] | None, encoder: Encoder
) -> list[bytes]:
    """READY and one dispatch a guild, numbered 1, 2, … `ready`: the upstream's `d`, with all guilds of the bot; `guilds`: the `d` of a
    GUILD_CREATE for each that is no outage (the others get a GUILD_DELETE, as at Discord: agents wait for either); `url`: our own
    gateway; `shard`: as the agent named it, None if it did not.

    Raises msgspec.DecodeError if what the upstream said is no JSON object."""
    known = {_id(fields): fields for fields in map(_decode, guilds) if "id" in fields}
    own = _decode(ready)
    own.pop("shard", None)
    listed = msgspec.json.decode(own.get("guilds", b"[]"), type=list[_Fields])
    away = [guild for guild in map(_id, listed) if guild not in known]
    there = [{"id": guild, "unavailable": True} for guild in [*known, *away]]
    own |= {"session_id": _raw(session_id), "resume_gateway_url": _raw(url), "guilds": _raw(there)}
    if shard is not None:
        own["shard"] = _raw(shard)
    frames = [encoder.dispatch("READY", 1, _encode(own))]
    if encoder.allowance.has(GUILDS):
        for s, fields in enumerate(known.values(), 2):
            d = encoder.allowance.guild(fields | {"unavailable": _NO})
            frames.append(encoder.dispatch("GUILD_CREATE", s, _encode(d)))
        for s, guild in enumerate(away, len(frames) + 1):
            frames.append(encoder.dispatch("GUILD_DELETE", s, _encode({"id": guild, "unavailable": True})))
    return frames


def _id(guild: _Fields) -> str:
    return str(msgspec.json.decode(guild["id"]))


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))
