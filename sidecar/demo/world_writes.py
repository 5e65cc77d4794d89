"""What agents change over REST: registration, channels, messages, reactions, presence (wire page section 8).

The answers carry what the unmodified SDKs require of them, and no more behaviour than they use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import world_rest as rest
from .answers import HttpAnswer, Refusal, success
from .ids import iso_seconds
from .rows import Agent, Channel, Conversation, Message

if TYPE_CHECKING:
    from .world_rest import Call

__all__ = ["write"]


def write(call: Call) -> HttpAnswer:
    """Answer a POST, PUT, PATCH or DELETE.

    Raises:
        Refusal: the call ends in an error envelope.
    """
    match call.parts:
        case ["workspaces" | "workspace", *_]:
            return _workspace(call)
        case ["agents" | "agent", *_]:
            return _agents(call)
        case ["channels", *_]:
            return _channels(call)
        case ["messages", number, *_]:
            return _messages(call, call.message(number))
        case ["dm", *_]:
            return _direct(call)
    raise Refusal(404, "not_found", "Not found")


def _nothing() -> HttpAnswer:
    return HttpAnswer(204, [], b"")


def _workspace(call: Call) -> HttpAnswer:
    world = call.world
    match call.method, call.parts:
        case "POST", ["workspaces"]:
            name = call.text("name")
            team = next((one for one in world.workspaces.values() if one.name == name), None)
            status = 200 if team else 201
            team = team or world.add_workspace(name)
            created = iso_seconds(team.created_at)
            return success({"workspace_id": team.id, "api_key": team.key, "created_at": created}, status)
        case "PUT", ["workspace", "stream"]:
            team = call.owned()
            team.stream_enabled = call.body.get("enabled") is True
            return success(rest.stream_row(team))
        case "PATCH", ["workspace"]:
            return success(rest.workspace_row(call.owned()))
    raise Refusal(404, "not_found", "Not found")


def _agents(call: Call) -> HttpAnswer:
    world = call.world
    match call.method, call.parts:
        case "POST", ["agents"]:
            team, name = call.owned(), call.text("name")
            if name in team.agents:
                raise Refusal(409, "agent_already_exists", f"Agent {name} already exists")
            fields = {key: call.body[key] for key in ("type", "persona", "metadata") if call.body.get(key) is not None}
            agent = world.add_agent(team, name, **fields)
            row = {"id": agent.id, "name": name, "token": agent.token, "status": agent.status}
            return success({**row, "created_at": iso_seconds(agent.created_at)}, 201)
        case "POST", ["agents", "heartbeat"]:
            agent = call.me()
            _presence(call, agent, "active")
            agent.seen_at = world.now()
            return success({"agent_id": agent.id, "status": "online"})
        case "POST", ["agents", "disconnect"]:
            agent = call.me()
            _presence(call, agent, "offline")
            world.force_disconnect(agent)
            return success({"agent_id": agent.id, "status": "offline"})
        case "POST", ["agents", name, "rotate-token"]:
            call.owned()
            return success({"name": name, "token": world.rotate_token(call.named(name))})
        case "PATCH", ["agents", name]:
            call.owned()
            agent = call.named(name)
            agent.persona = call.body.get("persona", agent.persona)
            agent.metadata = call.body.get("metadata", agent.metadata)
            return success(rest.agent_row(agent))
    raise Refusal(404, "not_found", "Not found")


def _presence(call: Call, agent: Agent, status: str) -> None:
    known = agent.status == ("offline" if status == "offline" else "online")
    agent.status = "offline" if status == "offline" else "online"
    if call.world.announce and not known:
        call.world.presence(agent, status)


def _channels(call: Call) -> HttpAnswer:
    world = call.world
    match call.method, call.parts:
        case "POST", ["channels"]:
            team, name = call.team(), call.text("name")
            if name in team.channels:
                raise Refusal(409, "channel_already_exists", f"Channel {name} already exists")
            members = [] if call.agent is None else [call.agent]
            place = world.add_channel(team, name, members, topic=call.body.get("topic"))
            place.metadata = call.body.get("metadata") or {}
            place.created_by = None if call.agent is None else call.agent.id
            if world.announce:
                event = {"type": "channel.created", "channel": {"name": name, "topic": place.topic}}
                world.emit(team.agents.values(), event)
            return success(rest.channel_row(place), 201)
        case "POST", ["channels", name, "messages"]:
            row = world.post(call.me(), call.channel(name), call.text("text"), **_content(call))
            return success(rest.message_row(row), 201)
        case "POST", ["channels", name, "join"]:
            joined = world.join(call.me(), call.channel(name))
            return success({"channel": name, "agent_id": call.me().id, "already_member": not joined})
        case "POST", ["channels", name, "leave"]:
            world.leave(call.me(), call.channel(name))
            return _nothing()
        case "POST", ["channels", name, "invite"]:
            agent = call.named(call.text("agent_name"))
            world.join(agent, call.channel(name))
            return success({"channel": name, "agent": agent.name})
        case "POST", ["channels", name, ("mute" | "unmute") as wish]:
            place = call.channel(name)
            if call.me().id not in place.members:
                raise Refusal(403, "forbidden", "Not a member of this channel")
            world.mute(call.me(), place, wish == "mute")
            return success({"channel": name, "agent_id": call.me().id, "muted": wish == "mute"})
        case "PATCH", ["channels", name] | ["channels", name, "topic"]:
            place = call.channel(name)
            place.topic = call.body.get("topic", place.topic)
            place.metadata = call.body.get("metadata", place.metadata)
            _tell(call, place, {"type": "channel.updated", "channel": {"name": name, "topic": place.topic}})
            return success(rest.channel_row(place))
        case "DELETE", ["channels", name]:
            place = call.channel(name)
            place.archived = True
            _tell(call, place, {"type": "channel.archived", "channel": {"name": name}})
            return _nothing()
    raise Refusal(404, "not_found", "Not found")


def _tell(call: Call, place: Channel, event: dict[str, Any]) -> None:
    if call.world.announce:
        call.world.emit([member.agent for member in place.members.values()], event)


def _content(call: Call) -> dict[str, Any]:
    """The optional parts of a message: mode, blocks, attachments (ids become bare descriptions), data."""
    fields: dict[str, Any] = {}
    if call.body.get("mode") in ("wait", "steer"):
        fields["mode"] = call.body["mode"]
    if isinstance(call.body.get("blocks"), list):
        fields["blocks"] = call.body["blocks"]
    if isinstance(call.body.get("data"), dict):
        fields["metadata"] = call.body["data"]
    names = call.body.get("attachments")
    if isinstance(names, list) and names:
        fields["attachments"] = [
            {"file_id": str(name), "filename": str(name), "content_type": "application/octet-stream", "size_bytes": 0,
             "url": "", "size": 0}
            for name in names
        ]  # fmt: skip
    return fields


def _messages(call: Call, row: Message) -> HttpAnswer:
    world, me = call.world, call.me()
    match call.method, call.parts[2:]:
        case "POST", ["replies"]:
            if isinstance(row.place, Conversation):
                raise Refusal(400, "invalid_request", "Direct messages have no threads")
            fields = {key: value for key, value in _content(call).items() if key in ("blocks", "metadata")}
            return success(rest.message_row(world.reply(me, row, call.text("text"), **fields)), 201)
        case "POST", ["reactions"]:
            found = world.react(me, row, call.text("emoji"))
            assert found is not None  # an add always gives the row
            answer = {"id": str(found.id), "message_id": str(row.id), "agent_id": me.id, "agent_name": me.name}
            return success({**answer, "emoji": found.emoji, "created_at": iso_seconds(found.created_at)}, 201)
        case "DELETE", ["reactions", emoji]:
            world.react(me, row, emoji, "removed")
            return _nothing()
        case "POST", ["read"]:
            at = iso_seconds(world.now())
            if world.announce:
                world.emit([me], {"type": "message.read", "message_id": str(row.id), "agent_name": me.name, "read_at": at})
            return success({"message_id": str(row.id), "agent_id": me.id, "read_at": at})
        case "PATCH", []:
            if row.author is not me:
                raise Refusal(403, "forbidden", "Not your message")
            return success(rest.message_row(world.update(me, row, call.text("text"))))
    raise Refusal(404, "not_found", "Not found")


def _direct(call: Call) -> HttpAnswer:
    world, me = call.world, call.me()
    match call.method, call.parts:
        case "POST", ["dm"]:
            return _sent(world.dm(me, [call.named(call.text("to"))], call.text("text"), **_content(call)))
        case "POST", ["dm", "group"]:
            names = call.body.get("participants")
            if not isinstance(names, list) or not names:
                raise Refusal(400, "invalid_request", "participants is required")
            talk = world.conversation(me, [call.named(str(name)) for name in names], fresh=True, name=call.body.get("name"))
            if call.body.get("text"):
                world.dm(me, talk, call.text("text"))
            people = [{"agent_id": number} for number in talk.participants]
            row = {"id": talk.id, "channel_id": talk.channel_id, "dm_type": "group", "name": talk.name}
            return success({**row, "participants": people, "created_at": iso_seconds(talk.created_at)}, 201)
        case "POST", ["dm", number, "messages"]:
            return _sent(world.dm(me, call.talk(number), call.text("text"), **_content(call)))
        case "POST", ["dm", number, "participants"]:
            talk = call.talk(number)
            agent = call.named(call.text("agent_name" if "agent_name" in call.body else "agent"))
            known = agent.id in talk.participants
            talk.participants[agent.id] = agent
            return success({"conversation_id": talk.id, "agent": agent.name, "already_member": known})
        case "DELETE", ["dm", number, "participants", name]:
            call.talk(number).participants.pop(call.named(name).id, None)
            return _nothing()
    raise Refusal(404, "not_found", "Not found")


def _sent(row: Message) -> HttpAnswer:
    assert isinstance(row.place, Conversation)  # it was sent to one
    message = rest.message_row(row)
    created = message.pop("created_at")
    return success({"conversation_id": row.place.id, "message": message, "created_at": created}, 201)
