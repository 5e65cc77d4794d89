"""Sessions of the reference upstream: numbering, a bounded replay buffer, intents."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.discord.upstream.gateway import Socket
    from tests.discord.upstream.world import Bot

__all__ = ["INTENT_OF", "KNOWN_INTENTS", "MESSAGE_CONTENT", "PRIVILEGED", "Session", "dumps"]

_GUILD = (
    "GUILD_CREATE GUILD_UPDATE GUILD_DELETE GUILD_ROLE_CREATE GUILD_ROLE_UPDATE GUILD_ROLE_DELETE CHANNEL_CREATE CHANNEL_UPDATE "
    "CHANNEL_DELETE CHANNEL_PINS_UPDATE THREAD_CREATE THREAD_UPDATE THREAD_DELETE THREAD_LIST_SYNC THREAD_MEMBER_UPDATE "
    "STAGE_INSTANCE_CREATE STAGE_INSTANCE_UPDATE STAGE_INSTANCE_DELETE"
)
INTENT_OF: dict[str, int] = dict.fromkeys(_GUILD.split(), 0) | {
    "GUILD_MEMBER_ADD": 1,
    "GUILD_MEMBER_UPDATE": 1,
    "GUILD_MEMBER_REMOVE": 1,
    "GUILD_AUDIT_LOG_ENTRY_CREATE": 2,
    "GUILD_BAN_ADD": 2,
    "GUILD_BAN_REMOVE": 2,
    "GUILD_EMOJIS_UPDATE": 3,
    "GUILD_STICKERS_UPDATE": 3,
    "GUILD_INTEGRATIONS_UPDATE": 4,
    "INTEGRATION_CREATE": 4,
    "INTEGRATION_UPDATE": 4,
    "INTEGRATION_DELETE": 4,
    "WEBHOOKS_UPDATE": 5,
    "INVITE_CREATE": 6,
    "INVITE_DELETE": 6,
    "VOICE_STATE_UPDATE": 7,
    "PRESENCE_UPDATE": 8,
    "MESSAGE_CREATE": 9,
    "MESSAGE_UPDATE": 9,
    "MESSAGE_DELETE": 9,
    "MESSAGE_DELETE_BULK": 9,
    "MESSAGE_REACTION_ADD": 10,
    "MESSAGE_REACTION_REMOVE": 10,
    "MESSAGE_REACTION_REMOVE_ALL": 10,
    "MESSAGE_REACTION_REMOVE_EMOJI": 10,
    "TYPING_START": 11,
    "GUILD_SCHEDULED_EVENT_CREATE": 16,
    "GUILD_SCHEDULED_EVENT_UPDATE": 16,
    "GUILD_SCHEDULED_EVENT_DELETE": 16,
    "AUTO_MODERATION_RULE_CREATE": 20,
    "AUTO_MODERATION_RULE_UPDATE": 20,
    "AUTO_MODERATION_RULE_DELETE": 20,
    "AUTO_MODERATION_ACTION_EXECUTION": 21,
    "MESSAGE_POLL_VOTE_ADD": 24,
    "MESSAGE_POLL_VOTE_REMOVE": 24,
}
"""Bit of each intent-bound event in a guild (section 1.7); what is not here is bound to none."""
_DIRECT = {9: 12, 10: 13, 11: 14, 24: 25}
"""The same event in a direct message."""
MESSAGE_CONTENT = 1 << 15
PRIVILEGED = 1 << 1 | 1 << 8 | MESSAGE_CONTENT
KNOWN_INTENTS = (1 << 17) - 1 | 1 << 20 | 1 << 21 | 1 << 24 | 1 << 25


def dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class Session:
    """One session: its events are numbered from 1 and the last `limit` of them are kept.

    Attributes:
        seq: the last number given.
        told: the highest `d` of the client's heartbeats.
        alive: it may be resumed.
        poison: what a RESUME of it gets instead of an answer: "cut", "empty_close" or "silence".
    """

    def __init__(self, name: str, bot: Bot, shard: tuple[int, int], intents: int, limit: int, sharded: bool) -> None:
        self.id = name
        self.bot = bot
        self.shard = shard
        self.sharded = sharded
        self.intents = intents
        self.seq = 0
        self.told = 0
        self.buffer: deque[tuple[int, str]] = deque(maxlen=limit)
        self.socket: Socket | None = None
        self.detached: object = None
        self.alive = True
        self.poison = ""

    def wants(self, event: str, *, direct: bool) -> bool:
        bit = INTENT_OF.get(event)
        if bit is None:
            return True
        return bool(self.intents >> (_DIRECT.get(bit, bit) if direct else bit) & 1)

    def dispatch(self, event: str, d: str, *, live: bool = True) -> None:
        """Number an event, keep it, send it if someone is connected.

        Args:
            d: the event's `d`, as JSON.
            live: it may be hit by the switches for living events.
        """
        faults = self.bot.world.faults
        if live and faults.take("lose_live"):
            return
        self.seq += 1
        frame = f'{{"t":"{event}","s":{self.seq},"op":0,"d":{d}}}'
        if live and faults.take("skip_live"):
            return
        self.buffer.append((self.seq, frame))
        if self.socket is None:
            return
        self.socket.send(frame)
        if live and faults.take("duplicate_live"):
            self.socket.send(frame)
        if live and faults.take("repeat_live"):
            self.dispatch(event, d, live=False)

    def missed(self, seq: int) -> list[str] | None:
        """The frames behind `seq`; None: the buffer does not reach back so far."""
        lost = self.buffer[0][0] - 1 if self.buffer else self.seq
        return None if seq < lost else [frame for number, frame in self.buffer if number > seq]
