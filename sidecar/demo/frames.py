"""The text of server frames, live and replayed (wire page sections 4 and 5), without `agent_seq`.

Frames are put together by hand in the key order of the wire, since thousands of them are made and each is stamped per
agent by cutting off the last brace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from .faults import Faults
from .ids import event_id, iso_seconds
from .rows import Agent, Channel, Conversation, Message, Pushed, Reaction

__all__ = ["created", "direct", "dumps", "layout", "presence", "reacted", "replayed", "replied", "stamp", "updated"]


def dumps(value: Any) -> str:
    """Compact JSON, not ASCII only, as JSON.stringify makes it."""
    return msgspec.json.encode(value).decode()


def layout(faults: Faults, frame: str) -> str:
    """The frame as it is, or with blanks and line breaks when `spaced_json` is set."""
    if not faults.spaced_json:
        return frame
    return json.dumps(json.loads(frame), indent=1, separators=(" ,", " : "), ensure_ascii=False)


def stamp(faults: Faults, agent: Agent, life: int, frame: str) -> Pushed:
    """The event as this agent gets it, with the agent's present number."""
    keys = f',"workspaceId":"{agent.workspace.id}","agentId":"{agent.id}"' if faults.extra_keys else ""
    return Pushed(life, agent.seq, layout(faults, f'{frame[:-1]},"agent_seq":{agent.seq}{keys}}}'))


def created(faults: Faults, row: Message) -> str:
    extra = f'"attachments":{dumps(row.attachments)},"injection_mode":"{row.mode}"'
    if row.blocks is not None:
        extra += f',"blocks":{dumps(row.blocks)}'
    return "{" + _head(faults, row, "message.created") + f',"message":{_body(faults, row)},{extra}' + "}}"


def replied(faults: Faults, row: Message) -> str:
    return "{" + _head(faults, row, "thread.reply") + f',"message":{_body(faults, row)}' + "}}"


def direct(faults: Faults, row: Message) -> str:
    extra = f',"attachments":{dumps(row.attachments)}' if row.attachments else ""
    message = f'{_body(faults, row)}{extra},"injection_mode":"{row.mode}"'
    return "{" + _head(faults, row, _direct_kind(row)) + f',"message":{message}' + "}}"


def updated(faults: Faults, row: Message) -> str:
    return '{"type":"message.updated",' + f'{_where(row)},"message":{_body(faults, row)}' + "}}"


def reacted(faults: Faults, row: Reaction) -> str:
    kind, action = "message.reacted", f',"action":"{row.action}"'
    if faults.old_kinds:
        kind, action = f"reaction.{row.action}", ""
    who = f'"emoji":{dumps(row.emoji)},"agent_name":{dumps(row.agent.name)}'
    return f'{{"type":"{kind}","message_id":"{row.message.id}",{who}{action}}}'


def presence(faults: Faults, agent: Agent, status: str, at: float) -> Mapping[str, Any]:
    moment = iso_seconds(int(at)).replace(".000Z", f".{int(at * 1000) % 1000:03d}Z")
    if faults.old_kinds:
        kind = "agent.offline" if status == "offline" else "agent.online"
        return {"type": kind, "agent": {"name": agent.name}, "timestamp": moment}
    return {"type": f"agent.status.{status}", "agent": {"name": agent.name}, "status": status, "timestamp": moment}


def replayed(faults: Faults, row: Message | Reaction) -> str:
    """The database copy: no numbers, no `injection_mode`, `attachments` always empty (section 5)."""
    if isinstance(row, Reaction):
        return layout(faults, reacted(faults, row)[:-1] + ',"replayed":true}')
    if isinstance(row.place, Conversation):
        kind = _direct_kind(row)
    else:
        kind = "message.created" if row.root is None else "thread.reply"
    message = f'"message":{_body(faults, row)},"attachments":[]}}'
    return layout(faults, "{" + f'{_head(faults, row, kind)},{message},"replayed":true' + "}")


def _direct_kind(row: Message) -> str:
    return "dm.received" if isinstance(row.place, Conversation) and row.place.type == "1:1" else "group_dm.received"


def _where(row: Message) -> str:
    if isinstance(row.place, Channel):
        return f'"channel":{dumps(row.place.name)}'
    return f'"conversation_id":"{row.place.id}"'


def _head(faults: Faults, row: Message, kind: str) -> str:
    parent = "" if row.root is None else f',"parent_id":"{row.root.id}"'
    return f'"id":"{event_id(row.id, joined=faults.joined_event_ids)}","type":"{kind}",{_where(row)}{parent}'


def _body(faults: Faults, row: Message) -> str:
    """The common head of a message's payload, its brace still open."""
    kind = f',"agent_type":"{row.author.type}"' if faults.extra_keys else ""
    author = f'"agent_id":"{row.author.id}","agent_name":{dumps(row.author.name)}'
    return f'{{"id":"{row.id}",{author}{kind},"text":{dumps(row.text)}'
