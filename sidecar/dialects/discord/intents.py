"""Gateway intents (discord R23, section 1.7): which events an agent may see that asked for less than the upstream session has.

An event that this table does not know is shown: whoever adds one upstream must not see it vanish here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sidecar.dialects.discord import frames
from sidecar.dialects.discord.guilds import objects

GUILDS, MEMBERS, MODERATION, EXPRESSIONS, INTEGRATIONS, WEBHOOKS, INVITES, VOICE, PRESENCES = range(9)
MESSAGES, REACTIONS, TYPING, DM_MESSAGES, DM_REACTIONS, DM_TYPING, CONTENT, SCHEDULED = range(9, 17)
AUTOMOD_CONFIG, AUTOMOD_RUN, POLLS, DM_POLLS = 20, 21, 24, 25

_BY_BIT: Final[dict[int, str]] = {
    GUILDS: "GUILD_CREATE GUILD_UPDATE GUILD_DELETE GUILD_ROLE_CREATE GUILD_ROLE_UPDATE GUILD_ROLE_DELETE CHANNEL_CREATE CHANNEL_UPDATE"
    " CHANNEL_DELETE THREAD_CREATE THREAD_UPDATE THREAD_DELETE THREAD_LIST_SYNC THREAD_MEMBER_UPDATE STAGE_INSTANCE_CREATE"
    " STAGE_INSTANCE_UPDATE STAGE_INSTANCE_DELETE",
    MEMBERS: "GUILD_MEMBER_ADD GUILD_MEMBER_REMOVE",
    MODERATION: "GUILD_AUDIT_LOG_ENTRY_CREATE GUILD_BAN_ADD GUILD_BAN_REMOVE",
    EXPRESSIONS: "GUILD_EMOJIS_UPDATE GUILD_STICKERS_UPDATE GUILD_SOUNDBOARD_SOUND_CREATE GUILD_SOUNDBOARD_SOUND_UPDATE"
    " GUILD_SOUNDBOARD_SOUND_DELETE GUILD_SOUNDBOARD_SOUNDS_UPDATE",
    INTEGRATIONS: "GUILD_INTEGRATIONS_UPDATE INTEGRATION_CREATE INTEGRATION_UPDATE INTEGRATION_DELETE",
    WEBHOOKS: "WEBHOOKS_UPDATE",
    INVITES: "INVITE_CREATE INVITE_DELETE",
    VOICE: "VOICE_CHANNEL_EFFECT_SEND",
    PRESENCES: "PRESENCE_UPDATE",
    SCHEDULED: "GUILD_SCHEDULED_EVENT_CREATE GUILD_SCHEDULED_EVENT_UPDATE GUILD_SCHEDULED_EVENT_DELETE GUILD_SCHEDULED_EVENT_USER_ADD"
    " GUILD_SCHEDULED_EVENT_USER_REMOVE",
    AUTOMOD_CONFIG: "AUTO_MODERATION_RULE_CREATE AUTO_MODERATION_RULE_UPDATE AUTO_MODERATION_RULE_DELETE",
    AUTOMOD_RUN: "AUTO_MODERATION_ACTION_EXECUTION",
}
_TWO_PLACES: Final[dict[tuple[int, int], str]] = {
    (GUILDS, DM_MESSAGES): "CHANNEL_PINS_UPDATE",
    (MESSAGES, DM_MESSAGES): "MESSAGE_CREATE MESSAGE_UPDATE MESSAGE_DELETE MESSAGE_DELETE_BULK",
    (REACTIONS, DM_REACTIONS): "MESSAGE_REACTION_ADD MESSAGE_REACTION_REMOVE MESSAGE_REACTION_REMOVE_ALL MESSAGE_REACTION_REMOVE_EMOJI",
    (TYPING, DM_TYPING): "TYPING_START",
    (POLLS, DM_POLLS): "MESSAGE_POLL_VOTE_ADD MESSAGE_POLL_VOTE_REMOVE",
}
_SINGLE: Final = {kind: bit for bit, kinds in _BY_BIT.items() for kind in kinds.split()}
_DOUBLE: Final = {kind: bits for bits, kinds in _TWO_PLACES.items() for kind in kinds.split()}

_Fields = dict[str, Any]
_RawFields = dict[str, msgspec.Raw]
_raw_fields = msgspec.json.Decoder(_RawFields).decode
_fields = msgspec.json.Decoder(_Fields).decode
_NULL = msgspec.Raw(b"null")


class Allowance:
    """What one agent may see. `intents`: as it asked; `own`: the bot's user id, of whose own doings it always hears."""

    def __init__(self, intents: int, own: str) -> None:
        self.intents = intents
        self._own = own
        self._dropped = {kind for kind, bit in _SINGLE.items() if not self.has(bit)}
        self._dropped |= {kind for kind, bits in _DOUBLE.items() if not any(map(self.has, bits))}
        self._by_place = {kind: bits for kind, bits in _DOUBLE.items() if self.has(bits[0]) != self.has(bits[1])}
        self._looked_at: set[str] = set(self._by_place)
        if not self.has(MEMBERS):
            self._looked_at |= {"GUILD_MEMBER_UPDATE", "THREAD_MEMBERS_UPDATE"}
        if not self.has(VOICE):
            self._looked_at.add("VOICE_STATE_UPDATE")
        if not self.has(CONTENT):
            self._looked_at |= {"MESSAGE_CREATE", "MESSAGE_UPDATE"} - self._dropped
        if not self.has(PRESENCES):
            self._looked_at |= {"GUILD_CREATE"} - self._dropped

    def has(self, bit: int) -> bool:
        """Did it ask for this intent?"""
        return bool(self.intents >> bit & 1)

    def drops(self, kind: str) -> bool:
        """Are all events of this type hidden from it?"""
        return kind in self._dropped

    def looks_at(self, kind: str) -> bool:
        """Does it depend on the event itself: is `shown` to be asked?"""
        return kind in self._looked_at

    def shown(self, kind: str, d: bytes) -> bytes | None:
        """An event's `d` as this agent may see it, None if it may not.

        Raises msgspec.DecodeError if it is no JSON object."""
        if kind == "GUILD_CREATE":
            return msgspec.json.encode(self.guild(_raw_fields(d)))
        fields = _fields(d)
        if bits := self._by_place.get(kind):
            if not self.has(bits[0] if fields.get("guild_id") else bits[1]):
                return None
        elif kind == "GUILD_MEMBER_UPDATE":
            return d if _id(fields.get("user")) == self._own else None
        elif kind == "VOICE_STATE_UPDATE":
            return d if fields.get("user_id") == self._own else None
        elif kind == "THREAD_MEMBERS_UPDATE":
            return d if self.has(GUILDS) and self._is_among(fields) else None
        if kind in ("MESSAGE_CREATE", "MESSAGE_UPDATE") and not self.has(CONTENT) and self._blank(fields):
            return msgspec.json.encode(fields)
        return d

    def guild(self, fields: _RawFields) -> _RawFields:
        """GUILD_CREATE's `d` without others' presences, and without members other than the bot and those in voice, if presences were
        not asked for."""
        if self.has(PRESENCES):
            return fields
        fields = fields | {"presences": msgspec.Raw(b"[]")} if "presences" in fields else dict(fields)
        if "members" in fields:
            in_voice = {str(state.get("user_id")) for state in _objects(fields.get("voice_states"))}
            kept = [m for m in _objects(fields["members"]) if (user := _id(m.get("user"))) == self._own or (user and user in in_voice)]
            fields["members"] = msgspec.Raw(msgspec.json.encode(kept))
        return fields

    def _is_among(self, fields: _Fields) -> bool:
        """Did the bot itself enter or leave this thread?"""
        added = [member.get("user_id") for member in fields.get("added_members") or [] if isinstance(member, dict)]
        return self._own in added or self._own in (fields.get("removed_member_ids") or [])

    def _blank(self, message: _Fields) -> bool:
        """Empty what the message content intent covers; False if there is nothing to hide. The bot's own messages, those in DMs and
        those that mention it stay whole."""
        if not message.get("guild_id"):
            return False
        changed = False
        forwarded = [part.get("message") for part in message.get("message_snapshots") or [] if isinstance(part, dict)]
        for part in (message, message.get("referenced_message"), *forwarded):
            if not isinstance(part, dict) or _id(part.get("author")) == self._own:
                continue
            if any(_id(user) == self._own for user in part.get("mentions") or []):
                continue
            for name in ("content", "embeds", "attachments", "components"):
                if part.get(name):
                    part[name] = "" if name == "content" else []
                    changed = True
            if part.pop("poll", None) is not None:
                changed = True
        return changed


def _id(user: Any) -> str:
    found = user.get("id") if isinstance(user, dict) else None
    return found if isinstance(found, str) else ""


def _objects(raw: msgspec.Raw | None) -> list[_Fields]:
    return [each for each in map(frames.fields, objects(raw or _NULL)) if each]
