"""What must hold at every moment of a simulated run, and what the judge will want to know: the wires to either side, and the disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from sidecar.core.layout import Batch, Table
from tests.simulation.discord_agents import UNSTORED, SessionLog, identity

if TYPE_CHECKING:
    from tests.simulation.discord_client import Client
    from tests.simulation.discord_sim import DiscordSim

decode = msgspec.json.decode
FRAME = {"op", "d", "s", "t"}
ANSWER_S = {"identify": 1.2, "resume": 2.0}
"""R12 (1 s, and what the model's lags add), R16."""
DISK_S = 8.0
"""After trouble with the disk an IDENTIFY may wait: the upstream half, which knows the guilds, begins anew."""


class Watch:
    """`sessions`: downstream sessions by id; `on_disk`: identities of journaled events by stream; `marks`, `guilds`: since when a channel's
    watermark or a guild's state is on disk, by (stream, id); `rows`: (time, intents) of each session row, by stream; `loaded`: streams
    from whose state an IDENTIFY can be answered; `high`: highest offset handled by an agent, by stream; `claims`: (stream, `high`, cursor)
    whenever the cursor stood beyond that; `released`: live went on while history was still being read (invariant 9)."""

    def __init__(self, sim: DiscordSim) -> None:
        self.sim = sim
        self.sessions: dict[str, SessionLog] = {}
        self.on_disk: dict[str, set[str]] = {}
        self.marks: dict[tuple[str, str], float] = {}
        self.guilds: dict[tuple[str, str], float] = {}
        self.rows: dict[str, list[tuple[float, int]]] = {}
        self.loaded: set[str] = set()
        self.high: dict[str, int] = {}
        self.claims: set[tuple[str, int, int]] = set()
        self.released = False
        self._seqs: dict[tuple[str, str], tuple[str, int]] = {}
        self._ready: set[str] = set()

    # --- towards agents

    def sent(self, client: Client, frame: Mapping[str, Any]) -> None:
        """A frame goes to an agent."""
        assert set(frame) == FRAME, f"not the four keys: {sorted(frame)}"
        op, kind, s = frame["op"], frame["t"], frame["s"]
        if op == 10:
            client.hellos += 1
        elif op == 11:
            client.acks += 1
        elif op == 9:
            client.answered = True
        elif op == 0:
            client.answered = True
            self._dispatch(client, kind, s, frame["d"])

    def _dispatch(self, client: Client, kind: str, s: int, d: Mapping[str, Any]) -> None:
        agent = client.agent
        if kind == "READY":
            session = self.sim.engine.halves["dialect"]._sessions.get(d["session_id"])  # type: ignore[attr-defined]
            assert session is not None and session.id not in self.sessions
            self.sessions[session.id] = SessionLog(session.id, session.base, session.k, agent.lives)
            client.k = session.k
            self.high[agent.stream] = max(self.high.get(agent.stream, 0), session.base)
            consumer = self.sim.engine.courier.consumers.get((agent.stream, "agent"))
            assert consumer is None or session.base <= consumer.cursor, "a session that begins beyond the cursor"
        if kind in UNSTORED and kind != "READY":
            assert client.last_s in (0, s), f"{kind} took number {s} after {client.last_s}"
        else:
            assert s > client.last_s, f"{kind} has number {s} after {client.last_s}"
            if s > client.k and kind != "READY":
                assert identity(kind, d) in self.on_disk.get(agent.stream, ()), f"{kind} was sent before it was on disk"
        client.last_s = s

    def closed(self, client: Client, code: int | None) -> None:
        """The sidecar closes an agent's socket."""
        client.answered = True
        assert code not in (1000, 1001), "discord.js would identify"

    def asked(self, client: Client, what: str) -> None:
        """An IDENTIFY or RESUME arrives."""
        sim = self.sim
        book = sim.engine.admission.books.get(client.agent.stream)
        client.asked, client.answered = what, False
        client.head = book.committed if book else 0
        if what == "resume" or client.agent.stream in self.loaded:
            self._expect(client, what)

    def _expect(self, client: Client, what: str) -> None:
        """An answer is due soon."""
        sim, ports = self.sim, self.sim.ports

        def look() -> None:
            excused = sim.stopping or sim.disk_full or sim.clock.now - sim.disk_failed < DISK_S
            if sim.ports is ports and not ports.dead and not client.over and not client.leaving and not client.answered:
                assert excused, f"{what} of {client.agent.name} has no answer after {ANSWER_S[what]} s"

        sim.clock.after(ANSWER_S[what], look)

    def receipted(self, client: Client) -> None:
        """A pong or a beat was taken in: what does it claim that the agent took?"""
        stream = client.agent.stream
        consumer = self.sim.engine.courier.consumers.get((stream, "agent"))
        high = self.high.get(stream, 0)
        if consumer is not None and consumer.cursor > high and not client.agent.weak:
            self.claims.add((stream, high, consumer.cursor))

    # --- upstream

    def going_up(self, account: str, link: str, frame: bytes) -> None:
        """A frame to the gateway: a heartbeat tells only of what is on disk (R26)."""
        found = decode(frame)
        if found["op"] == 1 and found["d"] is not None:
            _, seq = self._seqs.get((account, link), ("", 0))
            assert found["d"] <= seq, f"a heartbeat says {found['d']}, {seq} is on disk"

    def log(self, text: str) -> None:
        """The sidecar's log."""
        self.released = self.released or "history is still being read" in text

    # --- disk

    def written(self, batch: Batch) -> None:
        """A batch is on disk."""
        now = self.sim.clock.now
        names = {book.sid: name for name, book in self.sim.engine.admission.books.items()}
        for sid, run in batch.runs:
            if not run.is_gap:
                found = self.on_disk.setdefault(names[sid], set())
                for payload in run.payloads:
                    frame = decode(payload)
                    found.add(identity(frame["t"], frame["d"]))
        for table, key in batch.deletes:
            owner, _, name = key.decode(errors="replace").partition("\0")
            kind, _, rest = name.partition(":")
            shard, _, last = rest.rpartition("/")
            if table is Table.STATE and kind in ("mark", "guild"):
                kept = self.marks if kind == "mark" else self.guilds
                kept.pop((f"discord:{owner[3:]}:{shard}", last), None)
        for key, value in batch.puts.get(Table.STATE, ()):
            owner, _, name = key.decode().partition("\0")
            if owner.startswith("up:"):
                self._state(owner[3:], name, value, now)

    def _state(self, account: str, name: str, value: bytes, now: float) -> None:
        kind, _, rest = name.partition(":")
        if kind in ("mark", "guild"):
            shard, _, last = rest.rpartition("/")
            kept = self.marks if kind == "mark" else self.guilds
            kept.setdefault((f"discord:{account}:{shard}", last), now)
        elif kind == "ready":
            self._ready.add(f"discord:{account}:{rest}")
        elif kind == "shard":
            stream, row = f"discord:{account}:{rest}", decode(value)
            self._seqs["up:" + account, rest] = (row.get("session_id", ""), row.get("seq", 0))
            if row.get("began"):
                rows = self.rows.setdefault(stream, [])
                if not rows or rows[-1][1] != row.get("intents", 0):
                    rows.append((now, row.get("intents", 0)))
                if not row.get("loading") and stream in self._ready and stream not in self.loaded:
                    # R12: whoever waited for it is answered now.
                    self.loaded.add(stream)
                    for client in self.sim.ports.conns.values():
                        if client.agent.stream == stream and client.asked == "identify" and not client.answered:
                            self._expect(client, "identify")
