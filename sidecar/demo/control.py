"""Control of a reference upstream from another process: `POST /_/<method>` with a JSON object.

Agents are named by name (workspace by name or id, default the first), messages by id. `state` dumps what each agent was
sent, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .rows import Agent, Message, Workspace

if TYPE_CHECKING:
    from .server import ReferenceServer

__all__ = ["control"]

_SWITCHES = {
    "half_open", "deaf", "announce", "extra_keys", "spaced_json", "json_refusals", "moved", "old_kinds",
    "joined_event_ids", "agent_endpoint", "rest_delay", "keep_history",
}  # fmt: skip
_ARMED = {"swallow_resync", "break_resync", "hollow_resync", "rate_limit", "fail_rest", "refuse_connects"}
_PUSHES = {"lose_pushes", "duplicate_pushes", "reorder_pushes", "burn_seq"}
_POSTS_PER_TURN = 200


async def control(server: ReferenceServer, method: str, told: dict[str, Any]) -> dict[str, Any]:
    """Carry out one control call.

    Raises:
        KeyError: an unknown method, name or id.
        TypeError, ValueError: arguments that do not fit.
    """
    world = server.world
    if method == "post":
        return await _post(server, told)
    if method == "pause_listening":
        server.pause_listening(told.get("seconds"))
        return {}
    if method == "resume_listening":
        await server.resume_listening()
        return {}
    if method == "set":
        for name, value in told.items():
            if name not in _SWITCHES:
                raise KeyError(name)
            setattr(world, name, value)
        return {}
    if method in _ARMED:
        getattr(world, method)(**told)
        return {}
    if method in _PUSHES:
        agent = told.pop("agent", None)
        getattr(world, method)(agent=None if agent is None else _agent(server, told, agent), **_plain(told))
        return {}
    return _CALLS[method](server, told)


async def _post(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    """Post `count` messages `<text>0`, `<text>1`, … to a channel, at `rate` a second (0: as fast as may be)."""
    author = _agent(server, told, told["agent"])
    count, text, first = int(told.get("count", 1)), str(told.get("text", "m")), int(told.get("first", 0))
    pause = 1 / float(told["rate"]) if told.get("rate") else 0.0
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ids: list[str] = []
    for index in range(count):
        ids.append(str(server.world.post(author, told["channel"], f"{text}{first + index}").id))
        if pause:
            await asyncio.sleep(max(0.0, begun + pause * (index + 1) - loop.time()))
        elif index % _POSTS_PER_TURN == _POSTS_PER_TURN - 1:
            await asyncio.sleep(0)  # let the sockets drain
    return {"ids": ids}


def _workspace(server: ReferenceServer, told: dict[str, Any]) -> Workspace:
    wanted = told.get("workspace")
    for workspace in server.world.workspaces.values():
        if wanted in (None, workspace.name, workspace.id):
            return workspace
    raise KeyError(f"workspace {wanted!r}")


def _agent(server: ReferenceServer, told: dict[str, Any], name: str) -> Agent:
    return _workspace(server, told).agents[name]


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key != "workspace"}


def _row(row: Message) -> dict[str, Any]:
    return {"id": str(row.id), "created_at": row.created_at}


def _add_workspace(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    workspace = server.world.add_workspace(**told)
    return {"id": workspace.id, "key": workspace.key}


def _add_agent(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    agent = server.world.add_agent(_workspace(server, told), told["name"])
    return {"id": agent.id, "token": agent.token}


def _add_channel(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    members = [_agent(server, told, name) for name in told.get("members", [])]
    return {"id": server.world.add_channel(_workspace(server, told), told["name"], members).id}


def _join(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    return {"joined": server.world.join(_agent(server, told, told["agent"]), told["channel"])}


def _leave(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.leave(_agent(server, told, told["agent"]), told["channel"])
    return {}


def _mute(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.mute(_agent(server, told, told["agent"]), told["channel"], told.get("muted", True))
    return {}


def _reply(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    return _row(server.world.reply(_agent(server, told, told["agent"]), told["message"], told["text"]))


def _dm(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    people = [_agent(server, told, name) for name in told["to"]]
    return _row(server.world.dm(_agent(server, told, told["agent"]), people, told["text"]))


def _react(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    agent = _agent(server, told, told["agent"])
    server.world.react(agent, told["message"], told["emoji"], told.get("action", "added"))
    return {}


def _update(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    return _row(server.world.update(_agent(server, told, told["agent"]), told["message"], told["text"]))


def _presence(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.presence(_agent(server, told, told["agent"]), told.get("status", "active"))
    return {}


def _emit(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.emit([_agent(server, told, name) for name in told["agents"]], told["event"])
    return {}


def _rotate(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    return {"token": server.world.rotate_token(_agent(server, told, told["agent"]))}


def _force_disconnect(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.force_disconnect(_agent(server, told, told["agent"]))
    return {}


def _refuse_token(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.refuse_token(_agent(server, told, told["agent"]), told.get("times", 1))
    return {}


def _cut_all(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.cut_all(**told)
    return {}


def _go_silent(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.go_silent(**told)
    return {}


def _restart(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.restart(told.get("counter", 0))
    return {"life": server.world.life}


def _forget(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    server.world.forget(told["messages"])
    return {}


def _state(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    """All agents with their events `[life, seq, frame]` in the order of pushing, from index `since` on."""
    since = int(told.get("since", 0))
    agents = [
        {
            "id": agent.id, "name": agent.name, "workspace": workspace.name, "token": agent.token, "seq": agent.seq,
            "sockets": len(agent.sockets), "events": [list(event) for event in agent.history[since:]],
        }
        for workspace in server.world.workspaces.values()
        for agent in workspace.agents.values()
    ]  # fmt: skip
    return {"life": server.world.life, "agents": agents}


def _log(server: ReferenceServer, told: dict[str, Any]) -> dict[str, Any]:
    asked = server.world.log[int(told.get("since", 0)) :]
    return {"log": [[*entry[:5], entry.body.decode(errors="replace")] for entry in asked]}


_CALLS: dict[str, Callable[[ReferenceServer, dict[str, Any]], dict[str, Any]]] = {
    "add_workspace": _add_workspace,
    "add_agent": _add_agent,
    "add_channel": _add_channel,
    "join": _join,
    "leave": _leave,
    "mute": _mute,
    "reply": _reply,
    "dm": _dm,
    "react": _react,
    "update": _update,
    "presence": _presence,
    "emit": _emit,
    "rotate_token": _rotate,
    "force_disconnect": _force_disconnect,
    "refuse_token": _refuse_token,
    "cut_all": _cut_all,
    "go_silent": _go_silent,
    "restart": _restart,
    "forget": _forget,
    "state": _state,
    "log": _log,
}
