"""One server-side agent socket as pure state: what the client sent goes in, what the server answers waits in a queue.

Section 3 (client to server), section 5 (resync, to the letter) and section 7 (closing) of the wire page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .frames import dumps, layout, replayed
from .ids import parse_since
from .rows import Agent, Message, Reaction, Workspace

if TYPE_CHECKING:
    from .world import World

__all__ = ["DATABASE_LIMIT", "Socket", "replay"]

DATABASE_LIMIT = 1000


class Socket:
    """One accepted WebSocket.

    Attributes:
        outbox: server frames that nobody has taken yet, oldest first.
        closed: `(code, reason)` once either side closed it, code None for an abrupt cut; None while it is open.
        on_output: called after the outbox grew or the socket closed.
        half_open: this socket alone is silent; `deaf` likewise (see `Faults`).
    """

    __slots__ = (
        "agent", "closed", "deaf", "half_open", "on_output", "outbox", "target", "token", "workspace", "world",
    )  # fmt: skip

    def __init__(self, world: World, target: str, token: str, workspace: Workspace, agent: Agent | None) -> None:
        self.world = world
        self.target = target
        self.token = token
        self.workspace = workspace
        self.agent = agent
        self.outbox: deque[str] = deque()
        self.closed: tuple[int | None, str] | None = None
        self.on_output: Callable[[Socket], None] | None = None
        self.half_open = False
        self.deaf = False

    @property
    def answers_pings(self) -> bool:
        """Whether WebSocket pings are answered on it: only a half-open socket does not."""
        return not (self.half_open or self.world.half_open)

    @property
    def silent(self) -> bool:
        return self.half_open or self.deaf or self.world.half_open or self.world.deaf

    def send(self, frame: str) -> None:
        """Queue one server frame, unless the socket is closed or silent."""
        if self.closed is None and not self.silent:
            self.outbox.append(frame)
            if self.on_output is not None:
                self.on_output(self)

    def send_json(self, payload: dict[str, Any]) -> None:
        self.send(layout(self.world, dumps(payload)))

    def close(self, code: int | None, reason: str = "", *, flush: bool = False) -> None:
        """End the socket from either side; `code` None is an abrupt cut, which loses what waits in the outbox, unless
        `flush` lets it arrive first."""
        if self.closed is not None:
            return
        self.closed = (code, reason)
        if code is None and not flush:
            self.outbox.clear()
        among = self.workspace.firehoses if self.agent is None else self.agent.sockets
        if self in among:
            among.remove(self)
        if self.on_output is not None:
            self.on_output(self)

    def receive(self, frame: str | bytes) -> None:
        """Take one client frame. Whatever it does not understand it ignores in silence (section 3)."""
        text = frame.decode(errors="replace") if isinstance(frame, bytes) else frame
        self.world.note("WS", self.target, self.token, 0, text.encode())
        if self.closed is not None or self.silent:
            return
        try:
            message = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return
        if not isinstance(message, dict):
            return
        match message.get("type"):
            case "ping":
                if self.agent is not None:
                    self.agent.seen_at = self.world.now()
                self.send_json({"type": "pong"})
            case "resync":
                asked = message.get("last_seen_seq")
                if self.agent is not None and isinstance(asked, int | float) and not isinstance(asked, bool):
                    self._resync(self.agent, asked, message.get("since"))

    def _resync(self, agent: Agent, asked: float, since: object) -> None:
        world = self.world
        if world.swallow_resyncs:
            world.swallow_resyncs -= 1
            return
        current = agent.seq  # the counter when the request came in, whatever is pushed meanwhile
        sent, gap = 0, False
        rows: Iterator[str] = iter(())
        if asked < current:
            first = agent.ring[0].seq if agent.ring else current + 1
            gap = asked < first - 1
            if world.hollow_resyncs:
                world.hollow_resyncs -= 1
            else:
                rows = replay(world, self, agent, asked, parse_since(since) if gap else None)
        limit, cut = world.broken_resyncs.popleft() if world.broken_resyncs else (None, False)
        for row in rows:
            if sent == limit:
                break
            self.send(row)
            sent += 1
        world.on_replay(self, "ack", sent)
        if limit is not None:
            if cut:
                self.close(None, flush=True)
            return
        echoed = int(asked) if float(asked).is_integer() else asked
        ack = {"type": "resync_ack", "last_seen_seq": echoed, "current_seq": current, "replayed": sent}
        self.send_json({**ack, "gap_detected": gap})


def replay(world: World, socket: Socket, agent: Agent, asked: float, since: int | None) -> Iterator[str]:
    """The rows of one resync: ring rows above `asked` first, then, with `since` (whole seconds), database rows.

    The database is read when the ring rows are out, as the server does; `world.on_replay` is called before each row,
    so that a test can push live events in between.
    """
    for index, pushed in enumerate([row for row in agent.ring if row.seq > asked]):
        world.on_replay(socket, "ring", index)
        yield pushed.frame
    if since is None:
        return
    for index, frame in enumerate(database_rows(world, agent, since)):
        world.on_replay(socket, "database", index)
        yield frame


def database_rows(world: World, agent: Agent, since: int) -> list[str]:
    """Three queries of at most 1000 rows each, later than the second `since`, oldest first, merged by second.

    Memberships count as they are now; mutes are not honoured (section 5).
    """
    workspace = agent.workspace
    channels = {id(place) for place in workspace.channels.values() if agent.id in place.members}
    talks = {id(place) for place in workspace.conversations.values() if agent.id in place.participants}
    both = channels | talks
    merged = [
        *_oldest([row for row in workspace.messages if row.created_at > since and id(row.place) in channels]),
        *_oldest([row for row in workspace.dms if row.created_at > since and id(row.place) in talks]),
        *_oldest([row for row in workspace.reactions if row.created_at > since and id(row.message.place) in both]),
    ]
    merged.sort(key=lambda row: row.created_at)
    return [replayed(world, row) for row in merged]


def _oldest(rows: Sequence[Message | Reaction]) -> list[Message | Reaction]:
    return sorted(rows, key=lambda row: (row.created_at, row.id))[:DATABASE_LIMIT]
