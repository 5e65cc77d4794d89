"""Guilds, channels, threads, direct messages, messages and users of the reference upstream: the data, and its JSON shapes."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = ["EPOCH_MS", "Channel", "Guild", "Payload", "Snowflakes", "User", "stamp"]

Payload = dict[str, Any]
EPOCH_MS = 1420070400000
TEXT, DM, THREAD = 0, 1, 11


def stamp(at: float) -> str:
    """Seconds since 1970 as Discord writes times."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


class Snowflakes:
    """Ids: unique, rising, their time is `(id >> 22) + 1420070400000` ms (section 1.6)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, (int(self._clock() * 1000) - EPOCH_MS) << 22)
        return self._last


@dataclass(frozen=True)
class User:
    id: int
    name: str
    bot: bool = False

    def shape(self) -> Payload:
        return {
            "id": str(self.id),
            "username": self.name,
            "discriminator": "0000" if self.bot else "0",
            "global_name": None if self.bot else self.name.title(),
            "avatar": None,
            "bot": self.bot,
            "public_flags": 0,
            "clan": None,
            "avatar_decoration_data": None,
        }


@dataclass
class Channel:
    """A text channel, a thread (`parent` set) or a direct message (`recipient` set).

    Attributes:
        denied: every REST call about it is 403, code 50001.
        history_hidden: READ_MESSAGE_HISTORY is missing: the list of messages is empty.
    """

    id: int
    name: str
    guild: Guild | None
    parent: Channel | None = None
    recipient: User | None = None
    owner: User | None = None
    made_at: float = 0.0
    archived: bool = False
    denied: bool = False
    history_hidden: bool = False
    last_message_id: int | None = None
    position: int = 0
    messages: dict[int, Payload] = field(default_factory=dict)
    """As REST shows them, oldest first."""
    ids: list[int] = field(default_factory=list)

    @property
    def type(self) -> int:
        return THREAD if self.parent is not None else TEXT if self.guild is not None else DM

    def shape(self) -> Payload:
        last = None if self.last_message_id is None else str(self.last_message_id)
        if self.guild is None:
            assert self.recipient is not None
            return {"id": str(self.id), "type": DM, "last_message_id": last, "flags": 0, "recipients": [self.recipient.shape()]}
        common = {
            "id": str(self.id),
            "guild_id": str(self.guild.id),
            "name": self.name,
            "type": self.type,
            "flags": 0,
            "last_message_id": last,
        }
        if self.parent is None:
            return common | {
                "parent_id": None,
                "position": self.position,
                "topic": None,
                "nsfw": False,
                "rate_limit_per_user": 0,
                "permission_overwrites": [],
            }
        assert self.owner is not None
        return common | {
            "parent_id": str(self.parent.id),
            "owner_id": str(self.owner.id),
            "rate_limit_per_user": 0,
            "message_count": len(self.messages),
            "total_message_sent": len(self.messages),
            "member_count": 1,
            "thread_metadata": {
                "archived": self.archived,
                "auto_archive_duration": 1440,
                "archive_timestamp": stamp(self.made_at),
                "create_timestamp": stamp(self.made_at),
                "locked": False,
            },
        }

    def add(self, message: Payload) -> None:
        number = int(message["id"])
        self.messages[number] = message
        self.ids.append(number)
        self.last_message_id = number

    def remove(self, number: int) -> Payload:
        """Take a message out; `last_message_id` stays, as Discord's does.

        Raises:
            KeyError: there is none of that id.
        """
        self.ids.remove(number)
        return self.messages.pop(number)

    def page(self, *, after: int | None, before: int | None, around: int | None, limit: int) -> list[Payload]:
        """A page of history, newest first: the oldest `limit` behind `after`, or the newest before `before`."""
        if self.history_hidden:
            return []
        if after is not None:
            start = bisect.bisect_right(self.ids, after)
            picked = self.ids[start : start + limit]
        elif around is not None:
            middle = bisect.bisect_left(self.ids, around)
            picked = self.ids[max(0, middle - limit // 2) : middle + (limit + 1) // 2]
        else:
            end = len(self.ids) if before is None else bisect.bisect_left(self.ids, before)
            picked = self.ids[max(0, end - limit) : end]
        return [self.messages[number] for number in reversed(picked)]


@dataclass
class Guild:
    id: int
    name: str
    owner: User
    made_at: float
    members: list[User] = field(default_factory=list)
    channels: dict[int, Channel] = field(default_factory=dict)
    """Threads too."""
    unavailable: bool = False

    def shard(self, count: int) -> int:
        """The shard that gets its events (`(guild_id >> 22) % count`)."""
        return (self.id >> 22) % count

    def member(self, user: User, *, with_user: bool = True) -> Payload:
        shape: Payload = {
            "roles": [],
            "nick": None,
            "avatar": None,
            "premium_since": None,
            "joined_at": stamp(self.made_at),
            "communication_disabled_until": None,
            "pending": False,
            "mute": False,
            "deaf": False,
            "flags": 0,
        }
        return shape | {"user": user.shape()} if with_user else shape

    def threads(self) -> list[Channel]:
        return [channel for channel in self.channels.values() if channel.parent is not None and not channel.archived]

    def plain(self) -> list[Channel]:
        return [channel for channel in self.channels.values() if channel.parent is None]

    def rest_shape(self) -> Payload:
        return {
            "id": str(self.id),
            "name": self.name,
            "icon": None,
            "splash": None,
            "discovery_splash": None,
            "banner": None,
            "description": None,
            "owner_id": str(self.owner.id),
            "region": "deprecated",
            "afk_channel_id": None,
            "afk_timeout": 300,
            "system_channel_id": None,
            "system_channel_flags": 0,
            "widget_enabled": False,
            "widget_channel_id": None,
            "verification_level": 0,
            "default_message_notifications": 0,
            "explicit_content_filter": 0,
            "mfa_level": 0,
            "nsfw_level": 0,
            "premium_tier": 0,
            "premium_subscription_count": 0,
            "premium_progress_bar_enabled": False,
            "preferred_locale": "en-US",
            "application_id": None,
            "rules_channel_id": None,
            "public_updates_channel_id": None,
            "safety_alerts_channel_id": None,
            "vanity_url_code": None,
            "max_members": 500000,
            "max_video_channel_users": 25,
            "features": [],
            "emojis": [],
            "stickers": [],
            "roles": [
                {
                    "id": str(self.id),
                    "name": "@everyone",
                    "color": 0,
                    "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
                    "hoist": False,
                    "icon": None,
                    "unicode_emoji": None,
                    "position": 0,
                    "permissions": str(0x7FFFFFFFFFFF),
                    "managed": False,
                    "mentionable": False,
                    "flags": 0,
                }
            ],
        }

    def create_shape(self, bot: User) -> Payload:
        """The `d` of GUILD_CREATE for one bot."""
        return self.rest_shape() | {
            "joined_at": stamp(self.made_at),
            "large": False,
            "unavailable": False,
            "member_count": len(self.members),
            "members": [self.member(user) for user in self.members],
            "channels": [channel.shape() for channel in self.plain()],
            "threads": [thread.shape() for thread in self.threads()],
            "presences": [],
            "voice_states": [],
            "stage_instances": [],
            "guild_scheduled_events": [],
            "soundboard_sounds": [],
        }
