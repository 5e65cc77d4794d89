"""A seeded walk: a small Discord of our own against the upstream half, with faults at every turn. At the end every message is in the
journal once, in the order of its channel unless it is marked late, and what a session lost beside messages is a gap record."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from sidecar.core.record import LATE
from tests.dialects.discord.bench import BOT, RESUME_URL, SHARD, Bench, History, Link, channel, guild, row

BUFFER = 40


class Discord:
    """One bot's server: sessions with a bounded replay, channels with history."""

    def __init__(self, bench: Bench, lots: random.Random) -> None:
        self.bench = bench
        self.lots = lots
        self.history = History()
        self.channels: dict[str, str] = {"11": "1", "12": "1", "21": "2"}
        self.direct = "77"
        self.session = ""
        self.sessions = 0
        self.s = 0
        self.buffer: list[dict[str, Any]] = []
        self.on: Link | None = None
        self.seen = 0
        self.last: dict[str, int] = {}
        self.made: list[tuple[str, int]] = []
        self.reactions: list[tuple[int, int]] = []
        self.owed: set[int] = set()
        self.serial = 0
        bench.rest = self.rest

    def rest(self, target: str) -> Any:
        if "gateway" not in target and self.lots.random() < 0.1:
            return self.lots.choice([(500, {}, {}), (429, {"retry_after": 1.5}, {}), (0, {}, {}), None])
        self.history.guilds = {g: self.places(g) for g in ("1", "2")}
        return self.history(target)

    def places(self, g: str) -> list[dict[str, Any]]:
        return [channel(c, self.last.get(c)) for c, of in self.channels.items() if of == g]

    def number(self) -> int:
        self.serial += 1
        return (int(self.bench.wall * 1000) - 1_420_070_400_000) << 22 | self.serial & 0x3FFFFF

    # --- what happens on the server

    def post(self) -> None:
        place = self.lots.choice([*self.channels, *([self.direct] if self.made else [])])
        number = self.number()
        self.history.put(place, number)
        self.last[place] = number
        self.made.append((place, number))
        of = self.channels.get(place)
        self.push("MESSAGE_CREATE", row(number, place) | ({"guild_id": of} if of else {}))

    def react(self) -> None:
        place, number = self.lots.choice(self.made)
        self.push("MESSAGE_REACTION_ADD", {"message_id": str(number), "channel_id": place, "n": len(self.reactions)})
        self.reactions.append((self.sessions, self.s))

    def create(self) -> None:
        fresh = str(self.number())
        self.channels[fresh] = "1"
        self.push("CHANNEL_CREATE", {"id": fresh, "guild_id": "1", "type": 0, "last_message_id": None})

    def push(self, kind: str, d: dict[str, Any]) -> None:
        if self.session:
            self.s += 1
            frame = {"t": kind, "s": self.s, "op": 0, "d": d}
            self.buffer = [*self.buffer, frame][-BUFFER:]
            self.deliver(frame)

    def deliver(self, *frames: dict[str, Any]) -> None:
        if self.on is not None and self.bench.current.get(SHARD) is self.on:
            self.bench.say(*frames)

    # --- the socket

    def serve(self) -> None:
        """Accept, greet, and answer what was sent."""
        link = self.bench.current.get(SHARD)
        if link is None:
            return
        if not link.is_open:
            self.on, self.seen = None, 0
            self.bench.open().hello(41250)
        while self.bench.current.get(SHARD) is link and self.seen < len(link.sent):
            frame = link.sent[self.seen]
            self.seen += 1
            if frame["op"] == 1:
                self.bench.op(11)
            elif frame["op"] == 2:
                self.begin(link)
            elif frame["op"] == 6:
                self.resume(link, frame["d"])

    def begin(self, link: Link) -> None:
        self.sessions += 1
        self.session, self.s, self.buffer, self.on = f"up{self.sessions}", 0, [], link
        listed = [{"id": g, "unavailable": True} for g in ("1", "2")]
        self.push("READY", {"session_id": self.session, "resume_gateway_url": RESUME_URL, "guilds": listed, "user": {"id": BOT}})
        for g in ("1", "2"):
            self.push("GUILD_CREATE", guild(g, *self.places(g)))

    def resume(self, link: Link, d: dict[str, Any]) -> None:
        first = self.buffer[0]["s"] if self.buffer else self.s + 1
        if d["session_id"] != self.session or d["seq"] < first - 1:
            self.session = ""
            self.bench.op(9, False)
            return
        self.on = link
        self.s += 1
        replay = [frame for frame in self.buffer if frame["s"] > d["seq"]]
        self.bench.say(*replay, {"t": "RESUMED", "s": self.s, "op": 0, "d": {}})

    def fault(self) -> None:
        bench, lots = self.bench, self.lots
        is_open = SHARD in bench.current and bench.link.is_open
        match lots.randrange(7):
            case 0 | 1 if is_open:
                bench.close(lots.choice((None, 1000, 4000, 1006)))
            case 2 if is_open:
                bench.op(7)
            case 3:
                self.session = ""
                if is_open:
                    bench.close(4009)
            case 4 if is_open:
                # Events vanish from the replay: nobody is told but by the numbers.
                bench.close(None)
                self.post()
                self.post()
                self.buffer = [frame for frame in self.buffer if frame["t"] != "MESSAGE_CREATE" or lots.random() < 0.5]
            case 5:
                bench.crash()
            case 6 if SHARD in bench.current and not is_open:
                bench.refuse(503)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_every_message_is_in_the_journal_once(seed: int) -> None:
    lots = random.Random(seed)
    bench = Bench(identify_budget=1000)
    bench.random = random.Random(seed)
    server = Discord(bench, lots)
    bench.start()
    while not server.session or bench.phase() != "live":
        server.serve()
        bench.run(0.1)
    server.made.clear()
    first_direct = server.number()
    server.history.put(server.direct, first_direct)
    server.push("MESSAGE_CREATE", row(first_direct, server.direct))
    for _ in range(400):
        server.serve()
        draw = lots.random()
        if draw < 0.45:
            server.post()
        elif draw < 0.55 and server.made:
            server.react()
        elif draw < 0.56:
            server.create()
        elif draw < 0.62:
            server.fault()
        bench.run(lots.choice((0.01, 0.1, 1.0, 3.0)))
        if lots.random() < 0.5:
            bench.let()
    for _ in range(400):
        server.serve()
        bench.let().run(1.0)
    story = f"seed {seed}\n" + "\n".join(bench.said[-40:])
    assert bench.phase() == "live", story
    counts = Counter(bench.messages)
    wanted = [number for _, number in server.made]
    assert [n for n in wanted if not counts[n]] == [], story
    assert [n for n, count in counts.items() if count > 1] == [], story
    for place in [*server.channels, server.direct]:
        found = [
            e for e in bench.journal if e.gap is None and e.domain == place and e.frame["t"] == "MESSAGE_CREATE" and not e.flags & LATE
        ]
        numbers = [int(e.frame["d"]["id"]) for e in found]
        assert numbers == sorted(numbers), story
    reactions = [e.frame["d"]["n"] for e in bench.journal if e.gap is None and e.frame["t"] == "MESSAGE_REACTION_ADD"]
    assert len(reactions) == len(set(reactions)), story
    assert not any(key.startswith(("fill:", "suspect:")) for key in bench.state), story
    lost = [e for e in bench.gaps if e.gap and e.gap.unit == "time" and not e.domain]
    assert len(lost) == server.sessions - 1, story
    assert len(bench.sent(2)) <= server.sessions + 3, story
