"""The REST half of the reference upstream (wire page sections 6 and 8), as functions over the world.

`answer` is the whole entrance: armed faults, credentials, repeats by Idempotency-Key, then the routes. Reads are here,
writes in `world_writes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import msgspec

from . import world_writes
from .answers import HttpAnswer, Refusal, error, success
from .ids import iso_seconds
from .rows import Agent, Channel, Conversation, Membership, Message, Workspace

if TYPE_CHECKING:
    from .world import World

__all__ = ["Call", "answer", "bearer"]


@dataclass(slots=True)
class Call:
    """One authenticated REST call: who asks for what."""

    world: World
    method: str
    parts: list[str]
    query: dict[str, str]
    body: dict[str, Any]
    token: str
    workspace: Workspace | None
    agent: Agent | None

    def me(self) -> Agent:
        if self.agent is None:
            raise Refusal(403, "forbidden", "An agent token is required")
        return self.agent

    def team(self) -> Workspace:
        if self.workspace is None:
            raise Refusal(401, "unauthorized", "Missing or invalid token")
        return self.workspace

    def owned(self) -> Workspace:
        """The workspace, for calls that need the workspace key."""
        if self.workspace is None or self.agent is not None:
            raise Refusal(401 if self.workspace is None else 403, "unauthorized", "A workspace key is required")
        return self.workspace

    def text(self, key: str) -> str:
        value = self.body.get(key)
        if not isinstance(value, str) or not value:
            raise Refusal(400, "invalid_request", f"{key} is required")
        return value

    def named(self, name: str) -> Agent:
        found = self.team().agents.get(name)
        if found is None:
            raise Refusal(404, "agent_not_found", f"Agent {name} not found")
        return found

    def channel(self, name: str) -> Channel:
        found = self.team().channels.get(name)
        if found is None:
            raise Refusal(404, "channel_not_found", f"Channel {name} not found")
        return found

    def talk(self, number: str) -> Conversation:
        found = self.team().conversations.get(number)
        if found is None:
            raise Refusal(404, "conversation_not_found", "Conversation not found")
        if self.me().id not in found.participants:
            raise Refusal(403, "forbidden", "Not a participant of this conversation")
        return found

    def message(self, number: str) -> Message:
        found = self.world.messages.get(int(number)) if number.isascii() and number.isdigit() else None
        if found is None or found.place.workspace is not self.team():
            raise Refusal(404, "message_not_found", "Message not found")
        if isinstance(found.place, Conversation):
            self.talk(found.place.id)
        return found


def bearer(headers: Sequence[tuple[str, str]]) -> str:
    """The Bearer token of a call, or an empty text."""
    value = header(headers, "authorization")
    return value[7:].strip() if value[:7].lower() == "bearer " else ""


def header(headers: Sequence[tuple[str, str]], name: str) -> str:
    return next((value for key, value in headers if key.lower() == name), "")


def answer(world: World, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes, token: str) -> HttpAnswer:
    """Answer one call; never raises for whatever a client sends."""
    fault = world.take_rest_fault(method, target)
    if fault is not None:
        return error(fault.status, fault.code, "Injected fault", fault.headers)
    if token and world.take_token_refusal(token):
        return error(401, "unauthorized", "Missing or invalid token")
    path, _, query = target.partition("?")
    agent = world.tokens.get(token)
    workspace = agent.workspace if agent is not None else world.keys.get(token)
    key = header(headers, "idempotency-key") or header(headers, "x-idempotency-key")
    repeat = (token, method, path, key)
    if key and repeat in world.idempotent:
        known = world.idempotent[repeat]
        return known._replace(headers=[*known.headers, ("Idempotency-Replayed", "true")])
    try:
        content = msgspec.json.decode(body) if body.strip() else {}
        if not isinstance(content, dict):
            raise Refusal(400, "invalid_request", "The body must be a JSON object")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:1] != ["v1"]:
            raise Refusal(404, "not_found", "Not found")
        call = Call(world, method, parts[1:], dict(parse_qsl(query)), content, token, workspace, agent)
        if workspace is None and parts[1:2] != ["workspaces"]:
            raise Refusal(401, "unauthorized", "Missing or invalid token")
        found = _read(call) if method == "GET" else world_writes.write(call)
    except Refusal as refusal:
        return refusal.answer
    except (msgspec.DecodeError, UnicodeDecodeError):
        return error(400, "invalid_request", "The body is not JSON")
    if key and found.status < 300:
        world.idempotent[repeat] = found
    return found


def _read(call: Call) -> HttpAnswer:
    world = call.world
    match call.parts:
        case ["workspaces", "by-name", name]:
            for team in world.workspaces.values():
                if team.name == name:
                    return success({"id": team.id, "name": team.name, "created_at": iso_seconds(team.created_at)})
            raise Refusal(404, "workspace_not_found", "Workspace not found")
        case ["workspace"]:
            return success(workspace_row(call.team()))
        case ["workspace", "stream"]:
            return success(stream_row(call.team()))
        case ["agent"]:
            if world.agent_endpoint == "missing":
                raise Refusal(404, "not_found", "Not found")
            return success(agent_row(call.me(), channels=world.agent_endpoint == "channels"))
        case ["agents"]:
            wanted = call.query.get("status", "all")
            people = call.owned().agents.values()
            return success([agent_row(one) for one in people if wanted in ("all", one.status)])
        case ["agents", "presence"]:
            return success(
                [
                    {"agent_id": one.id, "agent_name": one.name, "status": "online" if one.sockets else "offline"}
                    for one in call.team().agents.values()
                ]
            )
        case ["agents", name]:
            call.owned()
            return success(agent_row(call.named(name), channels=True))
        case ["channels"]:
            everything = call.query.get("include_archived") == "true"
            places = call.team().channels.values()
            return success([channel_row(one) for one in places if everything or not one.archived])
        case ["channels", name]:
            return success(channel_row(call.channel(name), members=True))
        case ["channels", name, "members"]:
            return success([member_row(one) for one in call.channel(name).members.values()])
        case ["channels", name, "messages"]:
            return success([message_row(one) for one in newest_page(call, call.channel(name).roots)])
        case ["messages", number]:
            return success(message_row(call.message(number)))
        case ["messages", number, "replies"]:
            parent = call.message(number)
            replies = oldest_page(call, parent.replies or [])
            return success({"parent": message_row(parent), "replies": [message_row(one) for one in replies]})
        case ["messages", number, "reactions"]:
            return success(reaction_groups(call.message(number)))
        case ["messages", number, "readers"]:
            call.message(number)
            return success([])
        case ["dm", "conversations"]:
            me = call.me()
            talks = [one for one in call.team().conversations.values() if me.id in one.participants]
            return success([conversation_row(one) for one in reversed(talks)])
        case ["dm", number, "messages"]:
            return success([message_row(one) for one in newest_page(call, call.talk(number).messages)])
        case ["inbox"]:
            call.me()
            return success({"unread_channels": [], "mentions": [], "unread_dms": [], "recent_reactions": []})
    raise Refusal(404, "not_found", "Not found")


# Pages


def _bounds(call: Call) -> tuple[int, Callable[[Message], bool]]:
    numbers = {}
    for key in ("limit", "before", "after"):
        value = call.query.get(key)
        if value is not None and not (value.isascii() and value.isdigit()):
            raise Refusal(400, "invalid_request", f"{key} must be a number")
        numbers[key] = None if value is None else int(value)
    limit, before, after = numbers["limit"], numbers["before"], numbers["after"]

    def within(row: Message) -> bool:
        return (before is None or row.id < before) and (after is None or row.id > after)

    return 50 if limit is None else min(max(limit, 1), 100), within


def newest_page(call: Call, rows: Sequence[Message]) -> list[Message]:
    """Id descending; with `after` the newest page above it, not the one next to it (section 6)."""
    limit, within = _bounds(call)
    page: list[Message] = []
    for row in reversed(rows):
        if len(page) == limit:
            break
        if within(row):
            page.append(row)
    return page


def oldest_page(call: Call, rows: Sequence[Message]) -> list[Message]:
    """Id ascending; `after` pages forward (section 6)."""
    limit, within = _bounds(call)
    return [row for row in rows if within(row)][:limit]


# Rows


def workspace_row(team: Workspace) -> dict[str, Any]:
    return {
        "id": team.id, "name": team.name, "api_key_hash": "", "system_prompt": None, "plan": "free",
        "created_at": iso_seconds(team.created_at), "metadata": {},
    }  # fmt: skip


def stream_row(team: Workspace) -> dict[str, Any]:
    return {"enabled": team.stream_enabled, "default_enabled": False, "override": team.stream_enabled or None}


def agent_row(agent: Agent, *, channels: bool = False) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": agent.id, "workspace_id": agent.workspace.id, "name": agent.name, "type": agent.type, "token_hash": "",
        "status": agent.status, "persona": agent.persona, "metadata": agent.metadata,
        "last_seen": iso_seconds(agent.seen_at), "created_at": iso_seconds(agent.created_at),
    }  # fmt: skip
    if channels:
        row["channels"] = [
            {"id": place.id, "name": place.name, "role": mine.role, "joined_at": iso_seconds(mine.joined_at)}
            for place in agent.workspace.channels.values()
            if (mine := place.members.get(agent.id)) is not None
        ]
    return row


def member_row(member: Membership) -> dict[str, Any]:
    return {
        "agent_id": member.agent.id, "agent_name": member.agent.name, "role": member.role,
        "joined_at": iso_seconds(member.joined_at), "is_muted": member.muted,
    }  # fmt: skip


def channel_row(place: Channel, *, members: bool = False) -> dict[str, Any]:
    row = {
        "id": place.id, "workspace_id": place.workspace.id, "name": place.name, "channel_type": 0,
        "topic": place.topic, "metadata": place.metadata, "created_by": place.created_by,
        "created_at": iso_seconds(place.created_at), "is_archived": place.archived,
        "member_count": len(place.members),
    }  # fmt: skip
    if members:
        row["members"] = [member_row(one) for one in place.members.values()]
    return row


def reaction_groups(row: Message) -> list[dict[str, Any]]:
    groups: dict[str, list[str]] = {}
    for reaction in (row.reactions or {}).values():
        groups.setdefault(reaction.emoji, []).append(reaction.agent.name)
    return [{"emoji": emoji, "count": len(agents), "agents": agents} for emoji, agents in groups.items()]


def message_row(row: Message) -> dict[str, Any]:
    """A row as its place has it: direct messages are short, replies lack the counters (section 6)."""
    base = {"id": str(row.id), "agent_id": row.author.id, "agent_name": row.author.name, "text": row.text}
    created = iso_seconds(row.created_at)
    if isinstance(row.place, Conversation):
        return {**base, "injection_mode": row.mode, "attachments": row.attachments, "created_at": created}
    full: dict[str, Any] = {
        "id": base["id"], "channel_id": row.place.id, **base, "blocks": row.blocks, "metadata": row.metadata or {},
        "has_attachments": bool(row.attachments), "thread_id": None if row.root is None else str(row.root.id),
        "created_at": created,
    }  # fmt: skip
    if row.root is None:
        full |= {"reply_count": len(row.replies or ()), "reactions": reaction_groups(row), "read_by_count": 0}
    return {**full, "attachments": row.attachments, "injection_mode": row.mode}


def conversation_row(talk: Conversation) -> dict[str, Any]:
    last = None
    if talk.messages:
        row = talk.messages[-1]
        last = {
            "id": str(row.id), "text": row.text, "agent_id": row.author.id, "created_at": iso_seconds(row.created_at),
        }  # fmt: skip
    return {
        "id": talk.id, "type": talk.type, "name": talk.name,
        "participants": [{"agent_id": one.id, "agent_name": one.name} for one in talk.participants.values()],
        "last_message": last, "unread_count": 0, "created_at": iso_seconds(talk.created_at),
    }  # fmt: skip
