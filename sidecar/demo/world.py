"""The reference upstream as a pure model: a self-hosted Relaycast server, its loss modes included.

Clean-room from the wire page `relaycast`, sections 2 to 7. There is no I/O, no clock and no randomness in here: time
is injected, ids follow from it, and the same calls give the same bytes. `server` puts it on a port; the simulation
uses it as it is.

    world = World(clock)
    team = world.add_workspace()
    ann, bob = world.add_agent(team, "Ann"), world.add_agent(team, "Bob")
    world.add_channel(team, "general", [ann, bob])
    socket = world.connect(f"/v1/ws?token={bob.token}")
    world.post(ann, "general", "hello")         # socket.outbox now holds the frame for Bob
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from . import frames, world_rest
from .answers import HttpAnswer, error
from .fanout import Fanout
from .ids import Snowflakes, http_date
from .rows import Agent, Channel, Conversation, Membership, Message, Reaction, Workspace
from .sockets import Socket

__all__ = ["Asked", "HttpAnswer", "World"]

MOVED = "Agent realtime WebSockets have moved to node transport"


class Asked(NamedTuple):
    """One thing a client asked: REST call, upgrade (`method` "UPGRADE") or socket frame ("WS", status 0)."""

    at: float
    method: str
    target: str
    token: str
    status: int
    body: bytes


class World(Fanout):
    """All state of one server. Every method takes effect at once and never waits.

    Args:
        clock: wall time in seconds, not before 2025-01-01.

    Attributes:
        log: everything clients asked, in order.
        on_replay: called with (socket, "ring" | "database" | "ack", rows sent of that part) before each row of a
            replay and before its acknowledgement, so that live events can be put in between.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.log: list[Asked] = []
        self.on_replay: Callable[[Socket, str, int], None] = lambda socket, part, index: None
        self.messages: dict[int, Message] = {}  # by id
        self.idempotent: dict[tuple[str, str, str, str], HttpAnswer] = {}
        self._ids = Snowflakes(clock)
        self._issued = 0

    def now(self) -> int:
        """The wall time in whole seconds, as rows store it."""
        return int(self.clock() // 1)

    def note(self, method: str, target: str, token: str, status: int, body: bytes) -> None:
        """Add to `log`."""
        self.log.append(Asked(self.clock(), method, target, token, status, body))

    # Setting up

    def add_workspace(self, name: str = "ws") -> Workspace:
        workspace = Workspace(f"ws_{self._ids.next()}", name, self._secret("rk"), self.now())
        self.workspaces[workspace.id] = self.keys[workspace.key] = workspace
        return workspace

    def add_agent(self, workspace: Workspace, name: str, **fields: Any) -> Agent:
        """Register an agent; `fields` are `type`, `persona`, `metadata`.

        Raises:
            ValueError: the name is taken in this workspace.
        """
        if name in workspace.agents:
            raise ValueError(f"agent {name!r} already exists in {workspace.name!r}")
        agent = Agent(str(self._ids.next()), name, workspace, self._secret("at"), self.now(), **fields)
        agent.seen_at = agent.created_at
        workspace.agents[name] = self.tokens[agent.token] = agent
        return agent

    def rotate_token(self, agent: Agent) -> str:
        """A new token; the old one is void and the agent's sockets are closed with 1000 (section 7)."""
        del self.tokens[agent.token]
        agent.token = self._secret("at")
        self.tokens[agent.token] = agent
        self.force_disconnect(agent)
        return agent.token

    def add_channel(self, workspace: Workspace, name: str, members: Iterable[Agent] = (), **fields: Any) -> Channel:
        """Create a channel; the first member owns it. `fields` are `topic`, `metadata`.

        Raises:
            ValueError: the name is taken in this workspace.
        """
        if name in workspace.channels:
            raise ValueError(f"channel {name!r} already exists in {workspace.name!r}")
        channel = Channel(str(self._ids.next()), name, workspace, self.now(), **fields)
        workspace.channels[name] = channel
        for agent in members:
            self.join(agent, channel)
        return channel

    def join(self, agent: Agent, channel: Channel | str) -> bool:
        """Make the agent a member; False if it was one. Pushes `member.joined` with `announce` only."""
        channel = self.channel(agent.workspace, channel)
        if agent.id in channel.members:
            return False
        role = "member" if channel.members else "owner"
        channel.members[agent.id] = Membership(agent, role, self.now())
        self._announce(channel, "member.joined", agent)
        return True

    def leave(self, agent: Agent, channel: Channel | str) -> None:
        channel = self.channel(agent.workspace, channel)
        if channel.members.pop(agent.id, None) is not None:
            self._announce(channel, "member.left", agent)

    def mute(self, agent: Agent, channel: Channel | str, muted: bool = True) -> None:
        """Mute or unmute: no live events of the channel, no numbers for them; replays do not care (section 5).

        Raises:
            KeyError: the agent is not a member.
        """
        channel = self.channel(agent.workspace, channel)
        channel.members[agent.id].muted = muted
        self._announce(channel, "member.channel_muted" if muted else "member.channel_unmuted", agent)

    def channel(self, workspace: Workspace, channel: Channel | str) -> Channel:
        return workspace.channels[channel.lstrip("#")] if isinstance(channel, str) else channel

    # What agents do

    def post(self, agent: Agent, channel: Channel | str, text: str, **fields: Any) -> Message:
        """Post to a channel. `fields` are `mode`, `attachments`, `blocks`, `metadata`."""
        place = self.channel(agent.workspace, channel)
        row = self._store(agent, text, place, **fields)
        place.roots.append(row)
        agent.workspace.messages.append(row)
        self.publish(place, frames.created(self, row))
        return row

    def reply(self, agent: Agent, message: Message | int | str, text: str, **fields: Any) -> Message:
        """Reply in a thread; a reply to a reply is stored under the root.

        Raises:
            ValueError: the message is a direct message, which has no thread.
        """
        parent = self.message(message)
        root = parent.root or parent
        if not isinstance(root.place, Channel):
            raise ValueError("direct messages have no threads")
        row = self._store(agent, text, root.place, root=root, **fields)
        if root.replies is None:
            root.replies = []
        root.replies.append(row)
        agent.workspace.messages.append(row)
        self.publish(root.place, frames.replied(self, row))
        return row

    def dm(self, agent: Agent, to: Iterable[Agent] | Conversation, text: str, **fields: Any) -> Message:
        """Send a direct message, to one (1:1) or several (group); the conversation is found or made."""
        talk = to if isinstance(to, Conversation) else self.conversation(agent, to)
        row = self._store(agent, text, talk, **fields)
        talk.messages.append(row)
        agent.workspace.dms.append(row)
        self.publish(talk, frames.direct(self, row))
        return row

    def conversation(self, agent: Agent, to: Iterable[Agent], *, fresh: bool = False, name: str | None = None) -> Conversation:
        """The conversation of exactly these agents and `agent`; made if there is none or `fresh` is set."""
        people = {agent.id: agent} | {other.id: other for other in to}
        kind = "1:1" if len(people) <= 2 and not fresh else "group"
        if not fresh:
            for talk in agent.workspace.conversations.values():
                if talk.type == kind and talk.participants.keys() == people.keys():
                    return talk
        number = self._ids.next()
        talk = Conversation(f"dm_{number}", str(number), agent.workspace, kind, name, self.now(), people)
        agent.workspace.conversations[talk.id] = talk
        return talk

    def react(self, agent: Agent, message: Message | int | str, emoji: str, action: str = "added") -> Reaction | None:
        """Add or remove a reaction. One that stands already, or does not, is left as it is and pushes nothing.

        The database keeps only adds that stand: a removed one is in no later replay.
        """
        row = self.message(message)
        key = (emoji, agent.id)
        if row.reactions is None:
            row.reactions = {}
        if action == "added":
            if key in row.reactions:
                return row.reactions[key]
            reaction = row.reactions[key] = Reaction(self._ids.next(), row, agent, emoji, self.now())
            agent.workspace.reactions.append(reaction)
        else:
            found = row.reactions.pop(key, None)
            if found is None:
                return None
            reaction = found
            reaction.action = "removed"
            agent.workspace.reactions.remove(reaction)
        self.publish(row.place, frames.reacted(self, reaction))
        return reaction

    def update(self, agent: Agent, message: Message | int | str, text: str) -> Message:
        """Change a message's text: `message.updated`, which no database replay repeats."""
        row = self.message(message)
        row.text = text
        self.publish(row.place, frames.updated(self, row))
        return row

    def presence(self, agent: Agent, status: str = "active") -> None:
        """Push `agent.status.<status>` to every agent of the workspace; nothing is stored (section 4)."""
        agent.status = {"active": "online", "offline": "offline"}.get(status, "away")
        self.emit(agent.workspace.agents.values(), frames.presence(self, agent, status, self.clock()))

    def message(self, message: Message | int | str) -> Message:
        """The row of a message.

        Raises:
            KeyError: there is none (any more).
        """
        return message if isinstance(message, Message) else self.messages[int(message)]

    # Sockets and REST

    def connect(self, target: str) -> Socket | HttpAnswer:
        """Accept the upgrade of `target` (path and query), or refuse it."""
        path, _, query = target.partition("?")
        token = next((value for key, value in parse_qsl(query) if key == "token"), "")
        answer = self._refusal(path, token)
        self.note("UPGRADE", target, token, 101 if answer is None else answer.status, b"")
        if answer is not None:
            return answer
        agent = self.tokens.get(token)
        workspace = self.keys[token] if agent is None else agent.workspace
        socket = Socket(self, target, token, workspace, agent)
        (workspace.firehoses if agent is None else agent.sockets).append(socket)
        return socket

    def http(self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes) -> HttpAnswer:
        """Answer one REST call (section 6), `Date` included."""
        token = world_rest.bearer(headers)
        answer = world_rest.answer(self, method, target, headers, body, token)
        self.note(method, target, token, answer.status, body)
        return answer._replace(headers=[("Date", http_date(self.clock())), *answer.headers])

    def _refusal(self, path: str, token: str) -> HttpAnswer | None:
        if self.upgrade_refusals:
            status, body = self.upgrade_refusals.popleft()
            return HttpAnswer(status, [("Content-Type", "application/json")] if body else [], body)
        if path != "/v1/ws":
            return self._refused(404, "not_found", "Not found")
        if self.take_token_refusal(token):
            return self._refused(401, "unauthorized", "Unauthorized")
        if token in self.tokens:
            if not self.moved:
                return None
            return error(401, "unauthorized", MOVED)
        if token in self.keys:
            enabled = self.keys[token].stream_enabled
            return None if enabled else self._refused(404, "not_found", "Workspace stream is not enabled")
        return self._refused(401, "invalid_token", "Invalid token")

    def _refused(self, status: int, code: str, message: str) -> HttpAnswer:
        return error(status, code, message) if self.json_refusals else HttpAnswer(status, [], b"")

    # Misdeeds to the database (to pushes: `Fanout`; to answers: `Faults`)

    def restart(self, counter: int | Mapping[str, int] = 0) -> None:
        """Crash and come back: sockets cut, counters and rings gone, the database kept (L4, L5).

        Args:
            counter: where counters begin, for all agents or by agent name. Above 0 it stands for events of the new
                life that the ring no longer has.
        """
        self.cut_all()
        self.life += 1
        for agent in self.tokens.values():
            agent.seq = counter if isinstance(counter, int) else counter.get(agent.name, 0)
            agent.ring.clear()
            agent.held = None
        for workspace in self.workspaces.values():
            for channel in workspace.channels.values():
                channel.seq = 0

    def forget(self, messages: Iterable[Message | int | str]) -> None:
        """Delete messages (with their replies and reactions) from REST and database: a true gap."""
        gone: set[int] = set()
        for message in messages:
            row = self.message(message)
            gone |= {row.id, *(reply.id for reply in row.replies or ())}
        for workspace in self.workspaces.values():
            workspace.messages = [row for row in workspace.messages if row.id not in gone]
            workspace.dms = [row for row in workspace.dms if row.id not in gone]
            workspace.reactions = [row for row in workspace.reactions if row.message.id not in gone]
            for channel in workspace.channels.values():
                channel.roots = [row for row in channel.roots if row.id not in gone]
            for talk in workspace.conversations.values():
                talk.messages = [row for row in talk.messages if row.id not in gone]
        for number in gone:
            row = self.messages.pop(number)
            if row.root is not None and row.root.replies is not None and row.root.id not in gone:
                row.root.replies.remove(row)

    # Inside

    def _store(self, agent: Agent, text: str, place: Channel | Conversation, **fields: Any) -> Message:
        row = Message(self._ids.next(), agent, text, self.now(), place, **fields)
        self.messages[row.id] = row
        return row

    def _announce(self, channel: Channel, kind: str, agent: Agent) -> None:
        if self.announce:
            event = {"type": kind, "channel": channel.name, "agent_name": agent.name}
            self.emit([member.agent for member in channel.members.values()], event)

    def _secret(self, kind: str) -> str:
        self._issued += 1
        return f"{kind}_live_{sha256(f'{kind}{self._issued}'.encode()).hexdigest()[:32]}"
