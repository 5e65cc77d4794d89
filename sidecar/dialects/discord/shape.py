"""A message of history as the gateway's event (discord R33): it lacks the guild, the channel's type and the member."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.dialects.discord import frames
from sidecar.dialects.discord.backfill import Found
from sidecar.dialects.discord.guilds import Guilds
from sidecar.dialects.discord.marks import Marks

DIRECT = 1
"""Channel type of direct messages: bots have them with one person only."""


class Shape:
    """One shard's. `types`: channel types by id, where they are known."""

    def __init__(self, guilds: Guilds, marks: Marks) -> None:
        self._guilds = guilds
        self._marks = marks
        self._members: dict[str, dict[str, dict[str, Any]]] = {}
        self.types: dict[str, int | None] = {}

    def forget(self) -> None:
        """What was looked up is not kept beyond a recovery."""
        self._members, self.types = {}, {}

    def event(self, found: Found) -> bytes:
        """The payload; nothing is added but what the gateway's own event has, as far as it is known."""
        guild = self._marks.guild(found.channel)
        d: dict[str, Any] = dict(found.row)
        kind = self.types.get(found.channel)
        if guild:
            d["guild_id"] = guild
            if guild not in self._members:
                self._members[guild] = self._guilds.members(guild)
            author = frames.fields(found.row.get("author", msgspec.Raw(b"null"))).get("id")
            member = self._members[guild].get(str(author))
            if member is not None and "member" not in d and "webhook_id" not in d:
                d["member"] = member
        else:
            kind = kind or DIRECT
        if kind is not None:
            d.setdefault("channel_type", kind)
        return frames.dispatch("MESSAGE_CREATE", d)
