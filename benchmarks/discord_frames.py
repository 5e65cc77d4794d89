"""Load of the Discord dialect: READY, GUILD_CREATE and MESSAGE_CREATE as a gateway writes them (wire page, sections 1.1 and 1.2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

BOT = "900000000000000001"
EPOCH_MS = 1_420_070_400_000
_PER_MS = 40  # messages on one millisecond of the snowflake clock
_WORDS = (
    "the a and then deploy server channel thanks again tomorrow build failed passing review please look at this ticket customer "
    "said it works now but only after restart maybe we should roll back or wait for metrics dashboards alert noisy quiet morning"
).split()


def _draws(seed: int) -> Iterator[int]:
    """A fixed sequence of numbers: every run has the same load."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        yield state >> 33


def guild_id(guild: int) -> str:
    return str(200_000_000_000_000_000 + guild)


def channel_id(guild: int, channel: int) -> str:
    return str(300_000_000_000_000_000 + guild * 1000 + channel)


def _user(number: int) -> dict[str, Any]:
    return {
        "username": f"person{number}", "public_flags": 0, "id": str(400_000_000_000_000_000 + number), "global_name": f"Person {number}",
        "discriminator": "0", "clan": None, "avatar_decoration_data": None, "avatar": f"{number * 2654435761 & (1 << 64) - 1:032x}",
    }  # fmt: skip


def ready(session: str, url: str, guilds: int) -> dict[str, Any]:
    """READY's `d`."""
    return {
        "v": 10,
        "user": {
            "verified": True, "username": "bench", "mfa_enabled": False, "id": BOT, "flags": 0, "discriminator": "0000", "bot": True,
            "avatar": None,
        },
        "session_id": session,
        "resume_gateway_url": url,
        "relationships": [],
        "private_channels": [],
        "guilds": [{"unavailable": True, "id": guild_id(n)} for n in range(guilds)],
        "geo_ordered_rtc_regions": [],
        "application": {"id": BOT, "flags": 565248},
        "shard": [0, 1],
    }  # fmt: skip


def _role(number: int, role: str) -> dict[str, Any]:
    return {
        "version": 1700000000000 + number, "unicode_emoji": None, "tags": {}, "position": number, "permissions": "1071698660929",
        "name": f"role {number}", "mentionable": False, "managed": False, "id": role, "icon": None, "hoist": False, "flags": 0,
        "color": number * 4095, "colors": {"tertiary_color": None, "secondary_color": None, "primary_color": number * 4095},
    }  # fmt: skip


def _channel(guild: int, number: int, roles: list[str]) -> dict[str, Any]:
    """Every tenth is a category, the others are text channels in it."""
    is_category = number % 10 == 0
    overwrites = [{"type": 0, "id": role, "deny": "2048", "allow": "1071698660929"} for role in roles[: number % 4]]
    return {
        "version": 1700000000000 + number, "type": 4 if is_category else 0, "rate_limit_per_user": 0, "position": number,
        "topic": f"What channel {number} is for, told in one line" if number % 3 else None, "permission_overwrites": overwrites,
        "parent_id": None if is_category else channel_id(guild, number - number % 10), "nsfw": False, "name": f"channel-{number}",
        "last_message_id": None if is_category else str(600_000_000_000_000_000 + number), "id": channel_id(guild, number),
        "icon_emoji": {"name": "📎", "id": None}, "flags": 0,
    }  # fmt: skip


def _emoji(number: int) -> dict[str, Any]:
    return {
        "roles": [], "require_colons": True, "name": f"emoji{number}", "managed": False, "id": str(700_000_000_000_000_000 + number),
        "available": True, "animated": False,
    }  # fmt: skip


def guild(number: int, channels: int, roles: int) -> dict[str, Any]:
    """GUILD_CREATE's `d`: about 30 KB with 50 channels and 20 roles."""
    own = guild_id(number)
    role_ids = [own, *(str(500_000_000_000_000_000 + number * 100 + n) for n in range(1, roles))]
    member = {"user": {**_user(0), "id": BOT, "bot": True}, "roles": role_ids[1:2], "mute": False, "deaf": False}
    return {
        "id": own,
        "name": f"Guild number {number}",
        "unavailable": False,
        "member_count": 250,
        "joined_at": "2024-01-01T00:00:00.000000+00:00",
        "owner_id": _user(number)["id"],
        "large": False,
        "features": ["COMMUNITY", "NEWS"],
        "roles": [_role(n, role) for n, role in enumerate(role_ids)],
        "channels": [_channel(number, n, role_ids) for n in range(channels)],
        "members": [member | {"joined_at": "2024-01-01T00:00:00+00:00"}],
        "emojis": [_emoji(n) for n in range(20)],
        "threads": [],
        "presences": [],
        "voice_states": [],
        "stickers": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
    }


class Messages:
    """MESSAGE_CREATE frames of about 900 bytes, numbered in their content (`#7 …`), over `channels` of the guilds at random, the
    busiest quarter of which has nearly two thirds of them; ids rise with the clock."""

    def __init__(self, guilds: int, channels: int) -> None:
        self.number = 0
        self._draws = _draws(7)
        self._next_ms = 0
        self._places = [(n % guilds, 1 + n // guilds % 9) for n in range(channels)]
        self._texts = [" ".join(_WORDS[next(self._draws) % len(_WORDS)] for _ in range(10)) for _ in range(512)]

    def build(self, count: int, first_s: int, now_ms: int) -> list[bytes]:
        """The next `count`, `s` from `first_s` on, with ids of now (Unix milliseconds) or later."""
        start = self._next_ms = max(self._next_ms, now_ms)
        self._next_ms += count // _PER_MS + 1
        return [self._one(first_s + i, (start + i // _PER_MS - EPOCH_MS << 22) | i % _PER_MS) for i in range(count)]

    def _one(self, s: int, number: int) -> bytes:
        self.number += 1
        draws = self._draws
        guild, channel = self._places[int(len(self._places) * (next(draws) % 4096 / 4096) ** 3)]
        author = next(draws) % 5000
        text = f"#{self.number} {self._texts[next(draws) & 511]}"
        d = {
            "type": 0, "tts": False, "timestamp": "2026-11-21T06:00:00.000000+00:00", "pinned": False, "nonce": str(number - 12345),
            "mentions": [], "mention_roles": [], "mention_everyone": False,
            "member": {
                "roles": [str(500_000_000_000_000_000 + guild * 100 + n) for n in (1, 2, 3)], "premium_since": None, "pending": False,
                "nick": None, "mute": False, "joined_at": "2024-01-01T00:00:00.000000+00:00", "flags": 0, "deaf": False,
                "communication_disabled_until": None, "banner": None, "avatar": None,
            },
            "id": str(number), "flags": 0, "embeds": [], "edited_timestamp": None, "content": text, "components": [],
            "channel_type": 0, "channel_id": channel_id(guild, channel), "author": _user(author), "attachments": [],
            "guild_id": guild_id(guild),
        }  # fmt: skip
        return dispatch("MESSAGE_CREATE", s, d)


def dispatch(kind: str, s: int, d: dict[str, Any]) -> bytes:
    """An op 0 frame."""
    return json.dumps({"t": kind, "s": s, "op": 0, "d": d}, separators=(",", ":"), ensure_ascii=False).encode()
