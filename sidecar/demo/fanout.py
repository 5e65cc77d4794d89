"""How the reference upstream pushes: who gets an event, its number, the ring, all sockets (wire page section 4).

The misdeeds that befall live pushes and open sockets happen here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import frames
from .faults import Faults
from .rows import Agent, Channel, Conversation, Pushed, Workspace
from .sockets import Socket

__all__ = ["Fanout"]


class Fanout(Faults):
    """The pushing half of a `World`.

    Attributes:
        workspaces: by id; `keys` has them by workspace key.
        tokens: the agents by their present token.
        life: how often the server has been started, from 1.
        keep_history: whether `Agent.history` records every push.
    """

    def __init__(self) -> None:
        super().__init__()
        self.workspaces: dict[str, Workspace] = {}
        self.keys: dict[str, Workspace] = {}
        self.tokens: dict[str, Agent] = {}
        self.life = 1
        self.keep_history = True

    def agents(self) -> list[Agent]:
        """All agents, in order of their present tokens."""
        return list(self.tokens.values())

    def emit(self, agents: Iterable[Agent], event: Mapping[str, Any]) -> None:
        """Push any event to these agents, of kinds that are not stored or not known at all."""
        self._push(agents, frames.dumps(event))

    def sockets(self) -> list[Socket]:
        """All open sockets, agents' first."""
        agents = [socket for agent in self.tokens.values() for socket in agent.sockets]
        return agents + [socket for workspace in self.workspaces.values() for socket in workspace.firehoses]

    def cut_all(self, code: int | None = None, reason: str = "") -> None:
        """Cut every socket, by default abruptly."""
        for socket in self.sockets():
            socket.close(code, reason)

    def go_silent(self, kind: str = "half_open") -> None:
        """Make all sockets that are open now "half_open" or "deaf" for good; new ones work."""
        for socket in self.sockets():
            setattr(socket, kind, True)

    def force_disconnect(self, agent: Agent) -> None:
        for socket in list(agent.sockets):
            socket.close(1000, "force-disconnect")

    def publish(self, place: Channel | Conversation, frame: str) -> None:
        """Push an event to all members who have not muted the channel, or to all who take part."""
        if isinstance(place, Channel):
            place.seq += 1
            members = [member.agent for member in place.members.values() if not member.muted]
            self._push(members, f'{frame[:-1]},"channel_seq":{place.seq}}}', place.workspace)
        else:
            self._push(place.participants.values(), frame, place.workspace)

    def _push(self, agents: Iterable[Agent], frame: str, workspace: Workspace | None = None) -> None:
        """Number the event for each agent, put it into the ring, send it to all of the agent's sockets."""
        for agent in list(agents):
            agent.seq += 1
            self._deliver(agent, frames.stamp(self, agent, self.life, frame))
        if workspace is not None:
            for socket in list(workspace.firehoses):
                socket.send(frames.layout(self, frame))

    def _deliver(self, agent: Agent, pushed: Pushed) -> None:
        if self.keep_history:
            agent.history.append(pushed)
        lost = agent.lose > 0
        agent.lose -= lost
        if not (lost and agent.lose_from_ring):
            agent.ring.append(pushed)
        if lost:
            return
        texts = [pushed.frame]
        if agent.double:
            agent.double -= 1
            texts *= 2
        if agent.held is not None:
            texts.append(agent.held)
            agent.held = None
        elif agent.swap:
            agent.swap -= 1
            agent.held = pushed.frame
            return
        for socket in list(agent.sockets):
            for text in texts:
                socket.send(text)
