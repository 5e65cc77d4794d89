"""The reference upstream itself: as strict as the wire page says, and each switch does what its name says. No ports."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from tests.discord.upstream.faults import ALWAYS, Greeting, RestFault
from tests.discord.upstream.gateway import Ending, Socket
from tests.discord.upstream.places import EPOCH_MS
from tests.discord.upstream.rest import Answer, Rest
from tests.discord.upstream.session import MESSAGE_CONTENT
from tests.discord.upstream.world import HANG, Settings, World

INTENTS = 1 | 1 << 9 | 1 << 10 | 1 << 12 | MESSAGE_CONTENT
TOKEN = "reference-token"
PROPERTIES = {"os": "linux", "browser": "test", "device": "test"}


class Bench:
    """A world on a clock that stands still until it is told."""

    def __init__(self, **settings: Any) -> None:
        self.clock = 1_700_000_000.0
        self.world = World(lambda: self.clock, settings=Settings(**settings))
        self.faults = self.world.faults
        self.ledger = self.world.ledger
        self.rest = Rest(self.world)

    def wait(self, seconds: float) -> None:
        """Let time pass, with every timer at its moment."""
        end = self.clock + seconds
        while (due := self.world.next_timer()) is not None and due <= end:
            self.clock = max(self.clock, due)
            self.world.tick()
        self.clock = end

    def plug(self, *, door: str = "gateway", **query: str) -> Plug:
        socket = self.world.connect(door, "/", {"v": "10", "encoding": "json", **query}, {"user-agent": "test"})
        assert isinstance(socket, Socket)
        return Plug(socket)

    def ready(self, *, intents: int = INTENTS, **more: Any) -> Plug:
        """A plug that has READY and its guilds, all read."""
        plug = self.plug()
        plug.identify(intents=intents, **more)
        assert [frame["t"] for frame in plug.read() if frame["op"] == 0][:1] == ["READY"]
        return plug

    def call(self, method: str, path: str, body: Any = None, token: str = f"Bot {TOKEN}", **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.rest.answer(method, f"/api/v10{path}", {"authorization": token, **headers}, raw)

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status == 200, answer
        return json.loads(answer.body)


class Plug:
    """A client that does what it is told."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket

    def read(self) -> list[dict[str, Any]]:
        """All frames that came since."""
        frames = [json.loads(frame) for frame in self.socket.outbox]
        self.socket.outbox.clear()
        return frames

    def events(self) -> list[tuple[str, int]]:
        return [(frame["t"], frame["s"]) for frame in self.read() if frame["op"] == 0]

    def contents(self) -> list[str]:
        return [frame["d"]["content"] for frame in self.read() if frame["t"] == "MESSAGE_CREATE"]

    def send(self, op: int, d: Any) -> None:
        self.socket.receive(json.dumps({"op": op, "d": d}))

    def identify(self, **more: Any) -> None:
        self.send(2, {"token": TOKEN, "properties": PROPERTIES, "intents": INTENTS} | more)

    def resume(self, session: str | None, seq: int | None, token: str = TOKEN) -> None:
        self.send(6, {"token": token, "session_id": session, "seq": seq})

    @property
    def session(self) -> str:
        assert self.socket.session is not None
        return self.socket.session.id

    @property
    def closed(self) -> int | str | None:
        """The close code, "cut" or the like; None: it is open."""
        ending = self.socket.ending
        return None if ending is None else ending.code if ending.kind == "close" else ending.kind


def test_hello_then_ready_then_guilds_then_events_in_order() -> None:
    bench = Bench()
    plug = bench.plug()
    (hello,) = plug.read()
    assert (hello["op"], hello["d"]["heartbeat_interval"], hello["s"], hello["t"]) == (10, 41250, None, None)
    plug.identify()
    ready, guild = plug.read()
    assert (ready["t"], ready["s"], guild["t"], guild["s"]) == ("READY", 1, "GUILD_CREATE", 2)
    assert ready["d"]["guilds"] == [{"id": str(bench.world.guild.id), "unavailable": True}]
    assert ready["d"]["resume_gateway_url"] == bench.world.resume_url
    assert "shard" not in ready["d"]
    assert guild["d"]["channels"][0]["last_message_id"] is None
    sent = [bench.world.post(str(n)) for n in range(3)]
    frames = plug.read()
    assert [(f["t"], f["s"], f["d"]["id"]) for f in frames] == [("MESSAGE_CREATE", 3 + n, m["id"]) for n, m in enumerate(sent)]
    assert frames[0]["d"]["guild_id"] == str(bench.world.guild.id)
    assert "user" not in frames[0]["d"]["member"]
    assert bench.ledger.wrongs == []


def test_ids_rise_and_carry_their_time() -> None:
    bench = Bench()
    first, second = (int(bench.world.post("x")["id"]) for _ in range(2))
    assert first < second
    assert (first >> 22) + EPOCH_MS == int(bench.clock * 1000)


def test_resume_replays_what_followed_then_resumed() -> None:
    bench = Bench()
    plug = bench.ready()
    name = plug.session
    bench.world.post("seen")
    assert plug.events() == [("MESSAGE_CREATE", 3)]
    bench.world.cut()
    assert plug.closed == "cut"
    for n in range(3):
        bench.world.post(f"missed {n}")
    again = bench.plug(door="resume")
    again.resume(name, 3)
    assert again.events() == [("MESSAGE_CREATE", 4), ("MESSAGE_CREATE", 5), ("MESSAGE_CREATE", 6), ("RESUMED", 7)]
    assert [(r.session, r.seq, r.answer, r.replayed) for r in bench.ledger.resumes] == [(name, 3, "resumed", 3)]
    assert len(bench.ledger.identifies) == 1
    assert bench.ledger.wrongs == []


@pytest.mark.parametrize(("code", "kept"), [(None, True), (1006, True), (4000, True), (1005, True), (1000, False), (1001, False)])
def test_a_client_that_closes_with_1000_or_1001_invalidates_its_session(code: int | None, kept: bool) -> None:
    bench = Bench()
    plug = bench.ready()
    name = plug.session
    plug.socket.gone(code)
    again = bench.plug()
    again.resume(name, 2)
    assert [(f["op"], f["d"]) for f in again.read()[1:]] == ([(0, {"_trace": ["reference"]})] if kept else [(9, False)])


SERVER_CLOSES = [
    (1000, True),
    (1001, True),
    (4000, True),
    (4001, True),
    (4002, True),
    (4008, True),
    (4005, False),
    (4006, False),
    (4009, False),
]


@pytest.mark.parametrize(("code", "kept"), SERVER_CLOSES)
def test_which_codes_of_the_server_end_the_session(code: int, kept: bool) -> None:
    bench = Bench()
    name = bench.ready().session
    bench.world.cut(code)
    again = bench.plug()
    again.resume(name, 2)
    assert again.read()[-1]["op"] == (0 if kept else 9)


def test_a_session_expires_and_its_buffer_is_bounded() -> None:
    bench = Bench(resume_window_s=60)
    plug = bench.ready()
    name = plug.session
    bench.world.cut()
    bench.wait(59)
    back = bench.plug()
    back.resume(name, 2)
    assert back.events() == [("RESUMED", 3)]
    bench.wait(2)
    assert back.socket.session is not None

    bench = Bench(resume_window_s=60)
    name = bench.ready().session
    bench.world.cut()
    bench.wait(50)
    back = bench.plug()
    back.resume(name, 2)
    bench.world.cut()
    bench.wait(20)
    back = bench.plug()
    back.resume(name, 3)  # the first absence's timer must not end the second
    assert back.events() == [("RESUMED", 4)]
    bench.world.cut()
    bench.wait(61)
    late = bench.plug()
    late.resume(name, 4)
    assert late.read()[-1]["op"] == 9

    bench = Bench(replay_limit=5)
    plug = bench.ready()
    name = plug.session
    bench.world.cut()
    for n in range(6):
        bench.world.post(str(n))
    short = bench.plug()
    short.resume(name, 3)
    assert short.contents() == ["1", "2", "3", "4", "5"]

    bench = Bench(replay_limit=5)
    plug = bench.ready()
    name = plug.session
    bench.world.cut()
    for n in range(6):
        bench.world.post(str(n))
    older = bench.plug()
    older.resume(name, 2)
    assert older.read()[-1]["op"] == 9
    assert name not in bench.world.sessions


def test_the_buffer_has_the_size_of_the_wire_page() -> None:
    bench = Bench()
    assert bench.world.new_session(bench.world.bot, (0, 1), 0, False).buffer.maxlen == 100
    for n in range(9):
        bench.world.add_guild(f"guild {n}")
    assert bench.world.new_session(bench.world.bot, (0, 1), 0, False).buffer.maxlen == 750


BAD_FIRST = [
    ('{"op":', 4002),
    ("[]", 4002),
    ('{"d":1}', 4002),
    ('{"op":1,"d":"3"}', 4002),
    ('{"op":99,"d":null}', 4001),
    ('{"op":3,"d":{}}', 4003),
    ('{"op":8,"d":{}}', 4003),
    ('{"op":2,"d":{"token":"reference-token"}}', 4002),
    ('{"op":6,"d":{"token":"reference-token"}}', 4002),
    (json.dumps({"op": 1, "d": None, "pad": "x" * 4096}), 4002),
    (b'{"op":1,"d":null}', 4002),
]


@pytest.mark.parametrize(("frame", "code"), BAD_FIRST)
def test_close_codes_for_what_cannot_be_understood(frame: str | bytes, code: int) -> None:
    plug = Bench().plug()
    plug.socket.receive(frame)
    assert plug.closed == code


BAD_IDENTIFIES: list[tuple[dict[str, Any], int]] = [
    ({"token": "other"}, 4004),
    ({"token": f"Bot {TOKEN}"}, 4004),
    ({"shard": [1, 1]}, 4010),
    ({"shard": [0]}, 4010),
    ({"shard": "0/1"}, 4010),
    ({"intents": 1 << 30}, 4013),
    ({"intents": "all"}, 4013),
    ({"large_threshold": 10}, 4002),
]


@pytest.mark.parametrize(("told", "code"), BAD_IDENTIFIES)
def test_close_codes_for_a_bad_identify(told: dict[str, Any], code: int) -> None:
    bench = Bench()
    plug = bench.plug()
    plug.identify(**told)
    assert plug.closed == code
    assert bench.world.sessions == {}


def test_disallowed_intents_and_required_shards() -> None:
    bench = Bench()
    bench.world.bot.granted = 0
    plug = bench.plug()
    plug.identify(intents=1 | MESSAGE_CONTENT)
    assert plug.closed == 4014
    bench = Bench(shards_required=2)
    plug = bench.plug()
    plug.identify()
    assert plug.closed == 4011


def test_a_second_identify_or_resume_is_4005_and_ends_the_session() -> None:
    for second in ("identify", "resume"):
        bench = Bench()
        plug = bench.ready()
        name = plug.session
        plug.identify() if second == "identify" else plug.resume(name, 1)
        assert plug.closed == 4005
        assert name not in bench.world.sessions


def test_version_and_encoding() -> None:
    assert Bench().plug(encoding="etf").closed == 4012
    assert Bench().plug(v="8").closed == 4012
    assert Bench().plug(v="9").closed is None


def test_resume_with_a_wrong_seq_or_token() -> None:
    bench = Bench()
    name = bench.ready().session
    bench.world.cut()
    plug = bench.plug()
    plug.resume(name, 2, token="other")
    assert plug.closed == 4004
    plug = bench.plug()
    plug.resume(name, 99)
    assert plug.closed == 4007
    plug = bench.plug()
    plug.resume(name, 2)
    assert plug.read()[-1]["op"] == 9  # 4007 ended it
    plug = bench.plug()
    plug.resume(None, None)
    assert plug.read()[-1] == {"op": 9, "d": False, "s": None, "t": None}
    plug.identify()
    assert plug.closed is None  # the socket stayed open for it


def test_120_frames_a_minute_then_4008_and_the_session_lives() -> None:
    bench = Bench()
    plug = bench.ready()
    name = plug.session
    for _ in range(119):
        plug.send(1, 2)
    assert plug.closed is None
    plug.send(1, 2)
    assert plug.closed == 4008
    assert name in bench.world.sessions
    plug = bench.plug()
    for _ in range(130):
        plug.send(1, None)
        bench.wait(0.51)
    assert plug.closed is None


def test_missed_beats_are_4009_and_the_session_is_gone() -> None:
    bench = Bench(heartbeat_interval_ms=10_000)
    plug = bench.ready()
    name = plug.session
    bench.wait(14)
    plug.send(1, 2)
    assert [f["op"] for f in plug.read()] == [11]
    bench.wait(14)
    assert plug.closed is None
    bench.wait(2)
    assert plug.closed == 4009
    assert name not in bench.world.sessions


def test_identify_spacing_per_key() -> None:
    bench = Bench(max_concurrency=2)
    for shard in (0, 1):
        plug = bench.plug()
        plug.identify(shard=[shard, 4])
        assert plug.events()[0][0] == "READY"
    plug = bench.plug()
    plug.identify(shard=[2, 4])
    assert plug.read()[-1]["op"] == 9
    bench.wait(5)
    plug.identify(shard=[2, 4])
    assert plug.events()[0][0] == "READY"
    assert [i.answer for i in bench.ledger.identifies] == ["ready", "ready", "op9", "ready"]
    assert len(bench.ledger.wrongs) == 1


def test_the_budget_of_24_hours_and_the_reset_of_the_token() -> None:
    bench = Bench(identify_total=3)
    for left in (3, 2, 1):
        assert bench.get("/gateway/bot")["session_start_limit"]["remaining"] == left
        plug = bench.ready()
        plug.socket.gone(1000)
        bench.wait(6)
    start = bench.get("/gateway/bot")["session_start_limit"]
    assert (start["remaining"], start["total"]) == (0, 3)
    assert 0 < start["reset_after"] <= 24 * 3600 * 1000
    bench.wait(24 * 3600)
    bench.ready()
    for _ in range(2):
        bench.wait(6)
        bench.plug().identify()
    living = [socket for socket in bench.world.open() if socket.session]
    bench.wait(6)
    plug = bench.plug()
    plug.identify()
    assert plug.closed == 4004
    assert living
    assert all(socket.ending == Ending("close", 4004) for socket in living)
    assert bench.call("GET", "/users/@me").status == 401


def test_intents_and_message_content_are_honoured() -> None:
    bench = Bench()
    blind = bench.ready(intents=1 | 1 << 9)
    bench.wait(6)
    deaf = bench.ready(intents=1)
    message = bench.world.post("secret")
    bench.world.react(message, "🙂")
    bench.world.post("own", author=bench.world.bot.user)
    bench.world.post("direct", bench.world.add_direct())
    bench.world.interact("hail")
    assert [(f["t"], f["d"].get("content")) for f in blind.read()] == [
        ("MESSAGE_CREATE", ""),
        ("MESSAGE_CREATE", "own"),
        ("INTERACTION_CREATE", None),
    ]
    assert [t for t, _ in deaf.events()] == ["INTERACTION_CREATE"]
    bench.wait(6)
    direct = bench.ready(intents=1 << 12)
    bench.world.post("direct", bench.world.add_direct())
    (frame,) = direct.read()
    assert (frame["d"]["content"], "guild_id" in frame["d"], frame["d"]["channel_type"]) == ("direct", False, 1)


def test_shards_get_their_guilds_and_shard_0_the_direct_messages() -> None:
    bench = Bench(max_concurrency=2)
    for n in range(3):
        bench.world.add_guild(f"guild {n}")
    plugs = [bench.ready(shard=[n, 2]) for n in range(2)]
    for guild in bench.world.guilds.values():
        bench.world.post(str(guild.shard(2)), bench.world.add_channel("talk", guild))
    bench.world.post("direct", bench.world.add_direct())
    heard = [plug.contents() for plug in plugs]
    assert set(heard[0]) == {"0", "direct"}
    assert set(heard[1]) == {"1"}
    assert len(heard[0]) + len(heard[1]) == 5


def test_zlib_stream_has_one_context_and_ends_each_message_with_the_mark() -> None:
    bench = Bench()
    plug = bench.plug(compress="zlib-stream")
    plug.identify()
    bench.world.post("packed")
    inflate = zlib.decompressobj()
    pieces = list(plug.socket.outbox)
    frames = []
    for piece in pieces:
        assert isinstance(piece, bytes)
        assert piece.endswith(b"\x00\x00\xff\xff")
        frames.append(json.loads(inflate.decompress(piece)))
    assert [f["op"] for f in frames] == [10, 0, 0, 0]
    assert frames[-1]["d"]["content"] == "packed"


# -- the switches


def test_connect_faults_and_their_door() -> None:
    bench = Bench()
    bench.faults.refuse_connect, bench.faults.only_door = 1, "resume"
    bench.plug(door="gateway")
    assert bench.world.connect("resume", "/", {}, {}) == 503
    bench.plug(door="resume")
    bench.faults.hang_connect, bench.faults.only_door = 1, ""
    assert bench.world.connect("gateway", "/", {}, {}) == HANG
    assert [c.status for c in bench.ledger.connects] == [101, 503, 101, 0]
    assert [c.open_before for c in bench.ledger.connects] == [0, 1, 1, 2]


def test_hello_faults() -> None:
    bench = Bench()
    bench.faults.swallow_hello = 1
    assert bench.plug().read() == []
    bench.faults.late_hello_s = 3
    plug = bench.plug()
    assert plug.read() == []
    bench.wait(3)
    assert [f["op"] for f in plug.read()] == [10]
    bench.faults.late_hello_s = 0
    greetings = [
        Greeting("op7"),
        Greeting("op9"),
        Greeting("op9", True),
        Greeting("close", code=1000),
        Greeting("empty_close"),
        Greeting("cut"),
    ]
    bench.faults.instead_of_hello.extend(greetings)
    plugs = [bench.plug() for _ in greetings]
    assert [[(f["op"], f["d"]) for f in plug.read()] for plug in plugs[:3]] == [[(7, None)], [(9, False)], [(9, True)]]
    assert [plug.closed for plug in plugs[3:]] == [1000, "empty_close", "cut"]
    assert [f["op"] for f in bench.plug().read()] == [10]


def test_a_swallowed_identify_gets_nothing_but_acks() -> None:
    bench = Bench()
    bench.faults.swallow_identify = 1
    plug = bench.plug()
    plug.read()
    plug.identify()
    plug.send(1, None)
    assert [f["op"] for f in plug.read()] == [11]
    assert [(i.answer, i.counted) for i in bench.ledger.identifies] == [("swallowed", 1)]


def test_identify_may_be_answered_late_refused_or_closed() -> None:
    bench = Bench(identify_spacing_s=0)
    bench.faults.late_ready_s, bench.faults.late_guilds_s = 20, 5
    plug = bench.plug()
    plug.read()
    plug.identify()
    plug.send(1, None)
    bench.wait(19)
    assert [f["op"] for f in plug.read()] == [11]
    bench.wait(1)
    assert plug.events() == [("READY", 1)]
    bench.world.post("between")
    bench.wait(5)
    assert [t for t, _ in plug.events()] == ["MESSAGE_CREATE", "GUILD_CREATE"]
    bench.faults.late_ready_s = 0
    bench.faults.refuse_identify = 1
    bench.faults.close_identify.extend([4000, None, 4004])
    found = []
    for _ in range(4):
        plug = bench.plug()
        plug.identify()
        found.append(plug.closed)
    assert found == [4000, "cut", 4004, None]
    assert [i.answer for i in bench.ledger.identifies] == ["ready", "4000", "cut", "4004", "op9"]


def test_resume_may_be_swallowed_refused_or_closed() -> None:
    bench = Bench()
    name = bench.ready().session
    bench.world.cut()
    bench.faults.swallow_resume = 1
    bench.faults.close_resume.extend([None, 4000, 1005])
    found = []
    for _ in range(4):
        plug = bench.plug()
        plug.read()
        plug.resume(name, 2)
        found.append((plug.closed, plug.read()))
        bench.world.cut()
    assert found == [(None, []), ("cut", []), (4000, []), ("empty_close", [])]
    bench.faults.refuse_resume.extend([True, False])
    for resumable in (True, False):
        plug = bench.plug()
        plug.resume(name, 2)
        assert (plug.read()[-1]["op"], name in bench.world.sessions) == (9, resumable)
    assert [r.answer for r in bench.ledger.resumes] == ["swallowed", "cut", "4000", "1005", "op9 true", "op9"]


@pytest.mark.parametrize("kind", ["cut", "empty_close", "silence"])
def test_a_poisoned_session_never_answers_but_a_fresh_identify_works(kind: str) -> None:
    bench = Bench()
    name = bench.ready().session
    bench.world.poison(kind)
    bench.world.cut()
    for _ in range(3):
        plug = bench.plug()
        plug.read()
        plug.resume(name, 2)
        assert (plug.closed, plug.read()) == (None if kind == "silence" else kind, [])
        bench.world.cut()
    bench.wait(6)
    bench.ready()


def replay(switch: str, value: Any) -> tuple[Bench, Plug]:
    """Six missed messages (s 3 to 8), then a RESUME from 2 with a switch on."""
    bench = Bench()
    name = bench.ready().session
    bench.world.cut()
    for n in range(6):
        bench.world.post(str(n))
    setattr(bench.faults, switch, value)
    plug = bench.plug()
    plug.read()
    plug.resume(name, 2)
    return bench, plug


def test_replay_faults() -> None:
    _, plug = replay("resumed_without_replay", 1)
    assert plug.events() == [("RESUMED", 9)]
    bench, plug = replay("resumed_renumbered", 1)
    assert plug.events() == [("RESUMED", 3)]
    bench.world.post("next")
    assert plug.events() == [("MESSAGE_CREATE", 4)]
    _, plug = replay("hole_in_replay", 2)
    assert [s for _, s in plug.events()] == [3, 4, 7, 8, 9]
    _, plug = replay("duplicate_replay", 1)
    assert [s for _, s in plug.events()] == [1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9]
    bench, plug = replay("cut_replay_after", 2)
    assert [s for _, s in plug.events()] == [3, 4]
    bench.wait(1)
    assert plug.closed == "cut"
    (name,) = bench.world.sessions
    again = bench.plug()
    again.resume(name, 4)
    assert [s for _, s in again.events()] == [5, 6, 7, 8, 9]


def test_ack_faults() -> None:
    bench = Bench()
    bench.faults.swallow_acks = 1
    plug = bench.ready()
    for _ in range(2):
        plug.send(1, 2)
    assert [f["op"] for f in plug.read()] == [11]
    bench.faults.late_ack_s = 2
    plug.send(1, 2)
    assert plug.read() == []
    bench.wait(2)
    assert [f["op"] for f in plug.read()] == [11]
    assert [(b.d, b.acked) for b in bench.ledger.beats] == [(2, False), (2, True), (2, True)]


LIVE = [
    ("duplicate_live", [("a", 3), ("a", 3), ("b", 4)]),
    ("repeat_live", [("a", 3), ("a", 4), ("b", 5)]),
    ("skip_live", [("b", 4)]),
    ("lose_live", [("b", 3)]),
]


@pytest.mark.parametrize(("switch", "seen"), LIVE)
def test_live_faults(switch: str, seen: list[tuple[str, int]]) -> None:
    bench = Bench()
    plug = bench.ready()
    setattr(bench.faults, switch, 1)
    bench.world.post("a")
    bench.world.post("b")
    assert [(f["d"]["content"], f["s"]) for f in plug.read()] == seen
    assert len(json.loads(bench.call("GET", f"/channels/{bench.world.channel.id}/messages").body)) == 2


def test_actions_on_living_sockets() -> None:
    bench = Bench()
    plug = bench.ready()
    name = plug.session
    bench.world.beat_now()
    bench.world.reconnect(close_after_s=1)
    assert [f["op"] for f in plug.read()] == [1, 7]
    bench.wait(1)
    assert plug.closed == 4000
    plug = bench.plug()
    plug.resume(name, 2)
    plug.read()
    bench.world.again(2)
    assert [s for _, s in plug.events()] == [2, 3]
    bench.world.invalidate(True)
    assert [(f["op"], f["d"]) for f in plug.read()] == [(9, True)]
    plug = bench.plug()
    plug.resume(name, 3)
    assert plug.events() == [("RESUMED", 4)]
    bench.world.expire()
    bench.world.post("still")
    assert plug.contents() == ["still"]
    for code, kind, closed in ((4009, "", 4009), (None, "torn", "torn"), (None, "empty_close", "empty_close")):
        assert plug.closed is None
        bench.world.cut(code, kind=kind)
        assert plug.closed == closed
        plug = bench.plug()
    plug.resume(name, 4)
    assert plug.read()[-1]["op"] == 9
    bench.world.silence()
    plug.send(1, None)
    bench.world.beat_now()
    bench.wait(100)
    assert (plug.read(), plug.closed) == ([], None)


def test_invalidate_false_ends_the_session_and_leaves_the_socket_open() -> None:
    bench = Bench()
    plug = bench.ready()
    bench.world.invalidate(False)
    assert (plug.read()[-1]["d"], plug.closed, bench.world.sessions) == (False, None, {})
    bench.wait(6)
    plug.identify()
    assert plug.events()[0] == ("READY", 1)


def test_guild_outage_threads_and_channels() -> None:
    bench = Bench()
    plug = bench.ready()
    world = bench.world
    world.guild_outage()
    world.guild_back()
    thread = world.add_thread("aside")
    world.rename_channel(world.channel, "main")
    new = world.add_guild("second")
    world.leave_guild(new)
    frames = [(f["t"], f["d"].get("unavailable")) for f in plug.read()]
    assert frames == [
        ("GUILD_DELETE", True),
        ("GUILD_CREATE", False),
        ("THREAD_CREATE", None),
        ("CHANNEL_UPDATE", None),
        ("GUILD_CREATE", False),
        ("GUILD_DELETE", None),
    ]
    assert [t["id"] for t in bench.get(f"/guilds/{world.guild.id}/threads/active")["threads"]] == [str(thread.id)]
    assert [c["name"] for c in bench.get(f"/guilds/{world.guild.id}/channels")] == ["main"]
    assert bench.call("GET", f"/guilds/{new.id}").status == 404


def test_members_are_chunked_and_the_whole_list_is_limited() -> None:
    bench = Bench()
    plug = bench.ready()
    ask = {"guild_id": str(bench.world.guild.id), "query": "", "limit": 0, "nonce": "n"}
    plug.send(8, ask)
    plug.send(8, ask)
    chunk, limited = plug.read()
    assert (chunk["t"], chunk["d"]["nonce"], chunk["d"]["chunk_count"], len(chunk["d"]["members"])) == ("GUILD_MEMBERS_CHUNK", "n", 1, 2)
    assert (limited["t"], limited["d"]["meta"]["nonce"]) == ("RATE_LIMITED", "n")
    assert [c.op for c in bench.ledger.commands] == [8, 8]


def test_bad_manners_are_recorded() -> None:
    bench = Bench()
    plug = bench.ready()
    name = plug.session
    plug.send(1, 9)
    other = bench.plug()
    other.resume(name, 2)
    assert plug.closed == 4000
    assert len(bench.ledger.wrongs) == 3  # a beat ahead of what was sent, a second socket, a RESUME behind its own beat

    bench = Bench()
    plug = bench.ready()
    name = plug.session
    plug.send(1, 2)
    plug.send(1, 1)
    assert len(bench.ledger.wrongs) == 1  # a beat that goes back
    bench.world.cut()
    for seq, wrongs in ((2, 1), (1, 2)):
        bench.plug().resume(name, seq)
        bench.world.cut()
        assert len(bench.ledger.wrongs) == wrongs


# -- REST


def test_metadata_faults_and_the_open_route() -> None:
    bench = Bench()
    assert bench.call("GET", "/gateway", token="").status == 200
    assert bench.call("GET", "/gateway/bot", token="").status == 401
    assert bench.call("GET", "/gateway/bot", token=f"Bearer {TOKEN}").status == 401
    bench.faults.metadata_status.extend([500, 429, 401])
    answers = [bench.call("GET", "/gateway/bot") for _ in range(4)]
    assert [a.status for a in answers] == [500, 429, 401, 200]
    assert answers[1].headers["Retry-After"] == "1"
    bench.faults.metadata_delay_s = 30
    assert bench.call("GET", "/gateway/bot").delay_s == 30
    assert bench.ledger.invalid_requests == 4
    assert [c.status for c in bench.ledger.called("/gateway/bot")] == [401, 401, 500, 429, 401, 200, 200]


def test_history_is_newest_first_with_after_before_and_limit() -> None:
    bench = Bench()
    sent = [bench.world.post(str(n))["id"] for n in range(130)]
    path = f"/channels/{bench.world.channel.id}/messages"

    def page(query: str) -> list[int]:
        return [int(m["content"]) for m in bench.get(f"{path}{query}")]

    assert page("") == list(range(129, 79, -1))
    assert page(f"?after={sent[9]}&limit=100") == list(range(109, 9, -1))
    assert page(f"?after={sent[109]}&limit=100") == list(range(129, 109, -1))
    assert page(f"?before={sent[5]}&limit=3") == [4, 3, 2]
    assert page(f"?after={sent[129]}") == []
    assert "guild_id" not in bench.get(f"{path}?limit=1")[0]
    assert bench.call("GET", f"{path}?limit=101").status == 400
    assert bench.get(f"/channels/{bench.world.channel.id}")["last_message_id"] == sent[-1]


def test_denied_and_hidden_channels() -> None:
    bench = Bench()
    bench.world.post("x")
    path = f"/channels/{bench.world.channel.id}/messages"
    bench.world.channel.history_hidden = True
    assert bench.get(path) == []
    bench.world.channel.denied = True
    answer = bench.call("GET", path)
    assert (answer.status, json.loads(answer.body)["code"]) == (403, 50001)
    assert bench.call("GET", "/channels/1/messages").status == 404


def test_a_posted_message_is_echoed_with_its_nonce() -> None:
    bench = Bench()
    plug = bench.ready()
    path = f"/channels/{bench.world.channel.id}/messages"
    posted = json.loads(bench.call("POST", path, {"content": "hail", "nonce": "7"}).body)
    (frame,) = plug.read()
    assert (frame["d"]["id"], frame["d"]["nonce"], frame["d"]["author"]["bot"]) == (posted["id"], "7", True)
    assert bench.call("PATCH", f"{path}/{posted['id']}", {"content": "changed"}).status == 200
    assert bench.call("PUT", f"{path}/{posted['id']}/reactions/%F0%9F%99%82/@me").status == 204
    assert bench.call("DELETE", f"{path}/{posted['id']}").status == 204
    changed, reacted, deleted = plug.read()
    assert (changed["t"], changed["d"]["content"]) == ("MESSAGE_UPDATE", "changed")
    assert (reacted["t"], reacted["d"]["emoji"]["name"]) == ("MESSAGE_REACTION_ADD", "🙂")
    assert (deleted["t"], deleted["d"]["id"]) == ("MESSAGE_DELETE", posted["id"])
    assert bench.call("POST", path, {"content": ""}).status == 400
    assert bench.call("POST", path, b"{").status == 400


def test_attachments_by_multipart_and_by_upload_address() -> None:
    bench = Bench()
    path = f"/channels/{bench.world.channel.id}/messages"
    body = (
        b'--b\r\nContent-Disposition: form-data; name="payload_json"\r\nContent-Type: application/json\r\n\r\n{"content":"see"}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="files[0]"; filename="a.bin"\r\n'
        b"Content-Type: image/png\r\n\r\n\x00\xff\r\nz\r\n--b--\r\n"
    )
    answer = bench.call("POST", path, body, **{"content-type": "multipart/form-data; boundary=b"})
    (shape,) = json.loads(answer.body)["attachments"]
    assert shape["url"].startswith("https://cdn.discordapp.com/attachments/")
    assert shape["proxy_url"].startswith("https://media.discordapp.net/attachments/")
    got = bench.rest.answer("GET", shape["url"].removeprefix("https://cdn.discordapp.com"), {}, b"")
    assert (got.body, got.headers["Content-Type"]) == (b"\x00\xff\r\nz", "image/png")
    asked = bench.call(
        "POST", f"/channels/{bench.world.channel.id}/attachments", {"files": [{"id": "0", "filename": "b.txt", "file_size": 2}]}
    )
    (place,) = json.loads(asked.body)["attachments"]
    bench.rest.answer("PUT", place["upload_url"].removeprefix(bench.world.settings.uploads), {}, b"hi")
    told = {"attachments": [{"id": "0", "filename": "b.txt", "uploaded_filename": place["upload_filename"]}]}
    (shape,) = json.loads(bench.call("POST", path, told).body)["attachments"]
    assert (shape["filename"], shape["size"]) == ("b.txt", 2)


def test_rate_limits_have_their_headers_and_blind_repeats_are_recorded() -> None:
    bench = Bench(rest_bucket=(3, 2.0))
    answers = [bench.call("GET", "/users/@me") for _ in range(4)]
    assert [a.status for a in answers] == [200, 200, 200, 429]
    assert [a.headers["X-RateLimit-Remaining"] for a in answers] == ["2", "1", "0", "0"]
    assert answers[3].headers["Retry-After"] == "2"
    assert answers[3].headers["X-RateLimit-Scope"] == "user"
    assert json.loads(answers[3].body)["retry_after"] == 2.0
    assert bench.ledger.wrongs == []
    assert bench.call("GET", "/users/@me").status == 429
    assert len(bench.ledger.wrongs) == 1
    bench.wait(2)
    assert bench.call("GET", "/users/@me").status == 200
    bench = Bench(rest_per_s=2)
    found = [bench.call("GET", f"/{what}") for what in ("users/@me", "oauth2/applications/@me", "applications/@me")]
    assert (found[2].status, found[2].headers["X-RateLimit-Global"]) == (429, "true")


def test_rest_faults_hit_their_route_and_number() -> None:
    bench = Bench()
    bench.faults.rest.append(RestFault(r"/messages\?after", "GET", 429, {"retry_after": 0.5}, {"Retry-After": "0.5"}, times=2))
    bench.faults.rest.append(RestFault("/users/@me", delay_s=3, cut="within"))
    path = f"/channels/{bench.world.channel.id}/messages"
    assert bench.call("GET", path).status == 200
    assert [bench.call("GET", f"{path}?after=1").status for _ in range(3)] == [429, 429, 200]
    answer = bench.call("GET", "/users/@me")
    assert (answer.status, answer.delay_s, answer.cut) == (200, 3, "within")
    assert bench.call("GET", "/users/@me").cut == ""


def test_the_content_type_is_exact_unless_switched() -> None:
    bench = Bench()
    assert bench.call("GET", "/users/@me").headers["Content-Type"] == "application/json"
    assert bench.call("GET", "/nowhere").headers["Content-Type"] == "application/json"
    bench.faults.rest_charset = True
    assert bench.call("GET", "/users/@me").headers["Content-Type"] == "application/json; charset=utf-8"


def test_always_is_always() -> None:
    bench = Bench()
    bench.faults.swallow_hello = ALWAYS
    assert [bench.plug().read() for _ in range(50)] == [[]] * 50
