"""Guild state: GUILD_CREATE as it would come now, kept up to date with what changed it (discord R14).

A guild is kept as the JSON that its GUILD_CREATE had. A change decodes the top level only, replaces what it names, and writes it
anew: changes are rare beside messages. `last_message_id` is not kept here but comes from the watermarks when a snapshot is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from sidecar.dialects.discord import frames

NO_HISTORY = frozenset([4, 14, 15, 16])
"""Channel types without messages of their own: category, directory, forum, media (their `last_message_id` names a thread)."""
THREADS = frozenset([10, 11, 12])
"""Channel types of threads."""

_Object = dict[str, msgspec.Raw]
_Objects = list[msgspec.Raw]
_object = msgspec.json.Decoder(_Object).decode
_objects = msgspec.json.Decoder(_Objects).decode
_encode = msgspec.json.encode
_NULL = msgspec.Raw(b"null")


class Place(NamedTuple):
    """A channel or thread that holds messages. `last`: its `last_message_id`, 0 if it has none."""

    id: str
    last: int
    type: int | None


class _Named(msgspec.Struct):
    id: frames.Id | int = ""
    last_message_id: str | int | None = None
    type: int | None = None
    parent_id: str | int | None = None
    sound_id: str | int = ""


class _Member(msgspec.Struct):
    class User(msgspec.Struct):
        id: str | int = ""

    user: User | None = None


_decode_named = msgspec.json.Decoder(_Named).decode
_member = msgspec.json.Decoder(_Member).decode


def _named(row: msgspec.Raw) -> _Named:
    """What names an object; nothing of one with an odd shape: it stays as it is, and whatever else is in its list works."""
    try:
        return _decode_named(row)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Named()


def places(rows: Iterable[msgspec.Raw]) -> list[Place]:
    """Those of some channel objects that hold messages."""
    found = []
    for each in map(_named, rows):
        if each.id and each.type not in NO_HISTORY:
            found.append(Place(str(each.id), frames.snowflake(each.last_message_id), each.type))
    return found


def objects(raw: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """The items of a JSON array, none if it is none."""
    try:
        return _objects(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []


def member(raw: bytes, name: str) -> msgspec.Raw:
    """A member of a JSON object, verbatim; `null` if there is none."""
    try:
        return _object(raw).get(name, _NULL)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NULL


def _id(row: msgspec.Raw) -> str:
    found = _named(row)
    return str(found.id or found.sound_id)


def _is_away(top: _Object) -> bool:
    return bytes(top.get("unavailable", b"")) == b"true"


class Guilds:
    """Guilds of one shard. `changed`: those whose row must be written; None in `rows` stands for a deleted one."""

    def __init__(self, rows: Mapping[str, bytes], own: str) -> None:
        self._rows = dict(rows)
        self._own = own
        self._away = {guild for guild, raw in rows.items() if _is_away(_object(raw))}
        self.changed: set[str] = set()

    def __contains__(self, guild: str) -> bool:
        return guild in self._rows

    def ids(self) -> list[str]:
        """Guilds whose state is known."""
        return list(self._rows)

    def is_away(self, guild: str) -> bool:
        """Were agents told that it is in an outage?"""
        return guild in self._away

    def row(self, guild: str) -> bytes | None:
        """The durable row."""
        return self._rows.get(guild)

    def places(self, guild: str) -> list[Place]:
        """Its channels and active threads that hold messages, as of its state."""
        raw = self._rows.get(guild)
        if raw is None:
            return []
        top = _object(raw)
        return places([*objects(top.get("channels", b"[]")), *objects(top.get("threads", b"[]"))])

    def threads(self, guild: str) -> list[str]:
        """Its active threads."""
        return [place.id for place in self.places(guild) if place.type in THREADS]

    def members(self, guild: str) -> dict[str, dict[str, Any]]:
        """Members known by user id, as a message event carries them: without the user."""
        raw = self._rows.get(guild)
        found = {}
        for row in objects(_object(raw).get("members", b"[]")) if raw else ():
            member = frames.fields(row)
            user = member.pop("user", None)
            if isinstance(user, dict) and user.get("id"):
                found[str(user["id"])] = member
        return found

    # --- what comes ----------------------------------------------------------------------------------------------------------------

    def create(self, guild: str, d: bytes) -> bool:
        """GUILD_CREATE. True: agents are to hear of it, for it is new or comes back from an outage that they were told of."""
        try:
            top = _object(d)
        except msgspec.MsgspecError:
            return True
        if not guild or (_is_away(top) and "channels" not in top):
            return True
        news = guild not in self._rows or guild in self._away
        self._put(guild, top)
        self._away.discard(guild)
        return news

    def delete(self, guild: str, d: bytes) -> None:
        """GUILD_DELETE: an outage keeps the state, else the bot is out of it."""
        if frames.fields(d).get("unavailable") is True:
            if guild in self._rows:
                self._away.add(guild)
                self._put(guild, _object(self._rows[guild]) | {"unavailable": msgspec.Raw(b"true")})
        else:
            self.remove(guild)

    def remove(self, guild: str) -> None:
        """The bot is in this guild no more."""
        if self._rows.pop(guild, None) is not None:
            self._away.discard(guild)
            self.changed.add(guild)

    def apply(self, kind: str, guild: str, d: bytes) -> None:
        """Any other event of a guild; those that do not change its state change nothing here."""
        change = _CHANGES.get(kind)
        raw = self._rows.get(guild)
        if change is None or raw is None:
            return
        try:
            top, fields = _object(raw), _object(d)
            if change(self, top, fields):
                self._put(guild, top)
        except msgspec.MsgspecError:
            return

    def _put(self, guild: str, top: _Object) -> None:
        self._rows[guild] = _encode(top)
        self.changed.add(guild)

    # --- what is asked -------------------------------------------------------------------------------------------------------------

    def snapshot(self, guild: str, marks: Callable[[str], int]) -> bytes | None:
        """GUILD_CREATE's `d` as of now, None in an outage. `marks`: the highest message id admitted in a channel, 0 if none was."""
        raw = self._rows.get(guild)
        if raw is None or guild in self._away:
            return None
        top = _object(raw)
        touched = False
        for name in ("channels", "threads"):
            rows = objects(top.get(name, b"[]"))
            for at, row in enumerate(rows):
                each = _named(row)
                mark = marks(str(each.id))
                if mark > frames.snowflake(each.last_message_id) and each.type not in NO_HISTORY:
                    rows[at] = _raw(_object(row) | {"last_message_id": _raw(str(mark))})
                    touched = True
            if touched:
                top[name] = _raw(rows)
        return _encode(top) if touched else raw

    # --- changes: they edit the top level and say whether they did --------------------------------------------------------------------

    def _update(self, top: _Object, d: _Object) -> bool:
        top.update({name: value for name, value in d.items() if name not in ("channels", "threads", "members")})
        return True

    def _own_member(self, top: _Object, d: _Object) -> bool:
        user = _member(_encode(d)).user
        if user is None or str(user.id) != self._own:
            return False
        rows = objects(top.get("members", b"[]"))
        for at, row in enumerate(rows):
            found = _member(row).user
            if found is not None and str(found.id) == self._own:
                rows[at] = _raw(_object(row) | {k: v for k, v in d.items() if k != "guild_id"})
        top["members"] = _raw(rows)
        return True

    def _channel_gone(self, top: _Object, d: _Object) -> bool:
        gone = _id(_raw(d))
        _remove(top, "channels", gone)
        threads = objects(top.get("threads", b"[]"))
        top["threads"] = _raw([row for row in threads if str(_named(row).parent_id) != gone])
        return True

    def _thread(self, top: _Object, d: _Object) -> bool:
        metadata = frames.fields(d.get("thread_metadata", _NULL))
        if metadata.get("archived") is True:
            return _remove(top, "threads", _id(_raw(d)))
        return _upsert(top, "threads", {k: v for k, v in d.items() if k != "newly_created"})

    def _thread_list(self, top: _Object, d: _Object) -> bool:
        found = frames.fields(_encode(d)).get("channel_ids")
        parents = set(map(str, found)) if isinstance(found, list) else set()
        kept = [row for row in objects(top.get("threads", b"[]")) if parents and str(_named(row).parent_id) not in parents]
        top["threads"] = _raw([*kept, *objects(d.get("threads", b"[]"))])
        return True

    def _thread_member(self, top: _Object, d: _Object) -> bool:
        """The bot's own membership in a thread."""
        return _patch(top, "threads", _id(_raw(d)), {"member": _raw({k: v for k, v in d.items() if k != "guild_id"})})

    def _thread_members(self, top: _Object, d: _Object) -> bool:
        return "member_count" in d and _patch(top, "threads", _id(_raw(d)), {"member_count": d["member_count"]})

    def _role(self, top: _Object, d: _Object) -> bool:
        return "role" in d and _upsert(top, "roles", _object(d["role"]))

    def _role_gone(self, top: _Object, d: _Object) -> bool:
        return _remove(top, "roles", str(frames.fields(_encode(d)).get("role_id")))


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _upsert(top: _Object, name: str, item: _Object) -> bool:
    """Put an object into a list by its id: it replaces what it names of the old one."""
    rows = objects(top.get(name, b"[]"))
    wanted = _id(_raw(item))
    item = {k: v for k, v in item.items() if k != "guild_id"}
    for at, row in enumerate(rows):
        if _id(row) == wanted:
            rows[at] = _raw(_object(row) | item)
            break
    else:
        rows.append(_raw(item))
    top[name] = _raw(rows)
    return True


def _patch(top: _Object, name: str, wanted: str, fields: _Object) -> bool:
    """Set members of an object in a list, if it is there."""
    rows = objects(top.get(name, b"[]"))
    hits = [at for at, row in enumerate(rows) if _id(row) == wanted]
    for at in hits:
        rows[at] = _raw(_object(rows[at]) | fields)
    if hits:
        top[name] = _raw(rows)
    return bool(hits)


def _remove(top: _Object, name: str, gone: str) -> bool:
    rows = objects(top.get(name, b"[]"))
    kept = [row for row in rows if _id(row) != gone]
    top[name] = _raw(kept)
    return len(kept) != len(rows)


_Change = Callable[[Guilds, _Object, _Object], bool]


def _put_into(name: str) -> _Change:
    return lambda _, top, d: _upsert(top, name, d)


def _gone_from(name: str) -> _Change:
    return lambda _, top, d: _remove(top, name, _id(_raw(d)))


def _list_of(name: str) -> _Change:
    def change(_: Guilds, top: _Object, d: _Object) -> bool:
        if name in d:
            top[name] = d[name]
        return name in d

    return change


def _many_into(name: str) -> _Change:
    def change(_: Guilds, top: _Object, d: _Object) -> bool:
        # Those that changed: the others stay.
        rows = objects(d.get(name, b"[]"))
        for row in rows:
            _upsert(top, name, _object(row))
        return bool(rows)

    return change


_CHANGES: dict[str, _Change] = {
    "GUILD_UPDATE": Guilds._update,
    "GUILD_MEMBER_UPDATE": Guilds._own_member,
    "CHANNEL_CREATE": _put_into("channels"),
    "CHANNEL_UPDATE": _put_into("channels"),
    "CHANNEL_DELETE": Guilds._channel_gone,
    "THREAD_CREATE": Guilds._thread,
    "THREAD_UPDATE": Guilds._thread,
    "THREAD_DELETE": _gone_from("threads"),
    "THREAD_LIST_SYNC": Guilds._thread_list,
    "THREAD_MEMBER_UPDATE": Guilds._thread_member,
    "THREAD_MEMBERS_UPDATE": Guilds._thread_members,
    "GUILD_ROLE_CREATE": Guilds._role,
    "GUILD_ROLE_UPDATE": Guilds._role,
    "GUILD_ROLE_DELETE": Guilds._role_gone,
    "GUILD_EMOJIS_UPDATE": _list_of("emojis"),
    "GUILD_STICKERS_UPDATE": _list_of("stickers"),
    "GUILD_SCHEDULED_EVENT_CREATE": _put_into("guild_scheduled_events"),
    "GUILD_SCHEDULED_EVENT_UPDATE": _put_into("guild_scheduled_events"),
    "GUILD_SCHEDULED_EVENT_DELETE": _gone_from("guild_scheduled_events"),
    "STAGE_INSTANCE_CREATE": _put_into("stage_instances"),
    "STAGE_INSTANCE_UPDATE": _put_into("stage_instances"),
    "STAGE_INSTANCE_DELETE": _gone_from("stage_instances"),
    "GUILD_SOUNDBOARD_SOUND_CREATE": _put_into("soundboard_sounds"),
    "GUILD_SOUNDBOARD_SOUND_UPDATE": _put_into("soundboard_sounds"),
    "GUILD_SOUNDBOARD_SOUND_DELETE": _gone_from("soundboard_sounds"),
    "GUILD_SOUNDBOARD_SOUNDS_UPDATE": _many_into("soundboard_sounds"),
}
STATEFUL = frozenset([*_CHANGES, "GUILD_CREATE", "GUILD_DELETE"])
"""Events that change guild state."""


def updated_user(ready: bytes, d: bytes) -> bytes:
    """READY's `d` after a USER_UPDATE."""
    try:
        top = _object(ready)
        user = _object(top["user"]) | _object(d)
    except (msgspec.MsgspecError, KeyError):
        return ready
    return _encode(top | {"user": _raw(user)})


def with_guilds(ready: bytes, guilds: Iterable[str]) -> bytes:
    """READY's `d` with these guilds beside its own, which may be in an outage since before it; all unavailable."""
    top = _object(ready)
    listed = dict.fromkeys([*map(_id, objects(top.get("guilds", b"[]"))), *guilds])
    return _encode(top | {"guilds": _raw([{"id": guild, "unavailable": True} for guild in listed if guild])})


def without_guild(ready: bytes, guild: str) -> bytes:
    """READY's `d` after the bot left a guild."""
    top = _object(ready)
    _remove(top, "guilds", guild)
    return _encode(top)
