"""The Relaycast downstream half on its own: upgrades, identity, frames, resync, receipts (relaycast R20 to R28)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.record import GAP, Run
from sidecar.dialects.base import StreamFacts
from sidecar.dialects.relaycast.downstream import ASK_S, LINK_S, MUTE_S, PONG, DownstreamHalf
from sidecar.dialects.relaycast.identity import REFUSED_S, VERIFY_S

BASE = 1_790_000_000_000
ALICE = b'{"ok":true,"data":{"id":"alice"}}'
BOB = b'{"ok":true,"data":{"id":"bob"}}'
SDK4 = "&origin_client=@relaycast/sdk&origin_version=4.2.0"


class Local:
    """The half, what it may see, and a book of what it did."""

    def __init__(self, credential: str | None = None, **vouched: str) -> None:
        self.streams = {name: StreamFacts(10, 10, 1, BASE, "e") for name in ("alice", "bob")}
        self.half = DownstreamHalf(None, self)  # type: ignore[arg-type]
        self.now = 1000.0
        self.linked: set[str] | None = set()
        """Accounts whose first link came up, as one does at once when it is owned; None: no link comes up."""
        self.did: list[act.Action] = []
        self.timers: dict[str, float] = {}
        self.tell(ev.Started({"token:" + self.keyed_hash(k): v.encode() for k, v in vouched.items()}, credential))

    def facts(self, stream: str) -> StreamFacts | None:
        return self.streams.get(stream)

    def keyed_hash(self, secret: str) -> str:
        return "h" + secret[::-1]

    def tell(self, event: ev.Input) -> Sequence[act.Action]:
        actions = self.half.handle(ev.Moment(self.now, 0.0, 0.5), event)
        for action in actions:
            if isinstance(action, act.StartTimer):
                self.timers[action.timer] = self.now + action.seconds
            elif isinstance(action, act.CancelTimer):
                self.timers.pop(action.timer, None)
        self.did += actions
        fresh = {a.account for a in actions if isinstance(a, act.Own)} - self.linked if self.linked is not None else ()
        for account in sorted(fresh):
            self.linked = (self.linked or set()) | {account}
            actions = [*actions, *self.tell(ev.MessageFromUpstream(account, {"link": "up"}))]
        return actions

    def open(self, conn: str = "c1", token: str = "t1", query: str = "", agent: str = "node", target: str = "") -> Sequence[act.Action]:
        head = ev.Head("GET", target or f"/v1/ws?token={token}{query}", [("User-Agent", agent)])
        return self.tell(ev.ConnOpened(conn, head))

    def asked(self) -> list[act.Request]:
        return [a for a in self.did if isinstance(a, act.Request)]

    def answer(self, status: int = 200, body: bytes = ALICE, which: int = -1) -> Sequence[act.Action]:
        return self.tell(ev.ResponseReceived(self.asked()[which].request, status, [], body))

    def fail(self) -> Sequence[act.Action]:
        return self.tell(ev.RequestFailed(self.asked()[-1].request, "connection refused"))

    def fire(self, timer: str) -> Sequence[act.Action]:
        self.now = max(self.now, self.timers.pop(timer))
        return self.tell(ev.TimerFired(timer))

    def attached(self, conn: str = "c1", **options: Any) -> Sequence[act.Action]:
        self.open(conn, **options)
        return self.answer()

    def send(self, *frames: bytes, conn: str = "c1") -> Sequence[act.Action]:
        return self.tell(ev.ConnFrames(conn, frames))

    def records(self, *payloads: bytes, first: int = 1, conn: str = "c1") -> Sequence[act.Action]:
        return self.tell(ev.RecordsReady(conn, [Run(first, first, 0, list(payloads))], first + len(payloads) - 1))

    def ping(self) -> bytes:
        return next(a.payload for a in reversed(self.did) if isinstance(a, act.PingConn))


def of(kind: type, actions: Sequence[act.Action]) -> list[Any]:
    return [a for a in actions if type(a) is kind]


def only(kind: type, actions: Sequence[act.Action]) -> Any:
    (found,) = of(kind, actions)
    return found


# --- R20, R28: upgrades ----------------------------------------------------------------------------------------------------------------


def test_r20_an_unknown_token_is_verified_before_anything_is_accepted() -> None:
    local = Local()
    assert not of(act.Accept, local.open())
    actions = local.answer()
    assert only(act.Own, actions) == act.Own("alice", "t1", "", ["alice"])
    assert only(act.Accept, actions).conn == "c1"
    attach = only(act.Attach, actions)
    assert (attach.session, attach.stream, attach.consumer, attach.quality) == ("c1", "alice", "agent", "handled")
    assert attach.after_ordinal is None and attach.fresh == "oldest"


@pytest.mark.parametrize("status", [401, 403, 426])
def test_r20_a_refused_token_gets_the_upstreams_own_status_bare(status: int) -> None:
    local = Local()
    local.open()
    local.open("c2")
    actions = local.answer(status)
    assert [(a.conn, a.status, a.body) for a in of(act.Refuse, actions)] == [("c1", status, b""), ("c2", status, b"")]
    assert not of(act.Accept, local.did) and not of(act.CloseConn, local.did)


def test_r20_without_upstream_a_token_vouched_for_is_let_in_and_an_unknown_one_gets_503() -> None:
    local = Local(t1="alice")
    local.open("c1", "t1")
    assert only(act.Accept, local.fail()).conn == "c1"
    local.open("c2", "t2")
    assert only(act.Refuse, local.fail()).status == 503


def test_r20_an_upstream_that_takes_too_long_is_away() -> None:
    local = Local(t1="alice")
    local.open("c1", "t1")
    local.open("c2", "t2")
    assert local.timers["give-up:c1"] == 1000.0 + VERIFY_S
    assert only(act.Accept, local.fire("give-up:c1")).conn == "c1"
    assert only(act.Refuse, local.fire("give-up:c2")).status == 503
    late = local.answer(which=0)
    assert not of(act.Accept, late) and not of(act.Refuse, late)


@pytest.mark.parametrize("target", ["/v1/ws", "/v1/ws?token=", "/v1/ws?origin_surface=sdk"])
def test_r20_no_token_is_401(target: str) -> None:
    assert only(act.Refuse, Local().open(target=target)).status == 401


@pytest.mark.parametrize(
    "target", ["/v1/ws?token=rk_live_1", "/v1/ws?token=ot_live_1", "/v1/node/ws?token=nt_1", "/v1/stream?token=t", "/v1/ws/"]
)
def test_r31_what_is_not_protected_is_tunnelled(target: str) -> None:
    assert list(Local().open(target=target)) == [act.Tunnel("c1")]


def test_the_first_token_of_the_query_counts_and_the_rest_is_passed_on_as_it_came() -> None:
    local = Local()
    local.open(token="t1&token=t2&harness=a%2Fb&origin_client=x")
    assert ("Authorization", "Bearer t1") in local.asked()[0].headers
    assert only(act.Own, local.answer()).hints == "harness=a%2Fb&origin_client=x"


def test_a_bearer_is_a_token_and_the_query_wins() -> None:
    local = Local()
    local.tell(ev.ConnOpened("c1", ev.Head("GET", "/v1/ws", [("authorization", "bearer  b1 ")])))
    assert ("Authorization", "Bearer b1") in local.asked()[0].headers
    local.tell(ev.ConnOpened("c2", ev.Head("GET", "/v1/ws?token=q1", [("Authorization", "Bearer b2")])))
    assert ("Authorization", "Bearer q1") in local.asked()[1].headers


def test_a_client_that_leaves_while_it_is_verified_is_forgotten() -> None:
    local = Local()
    local.open()
    local.tell(ev.ConnClosed("c1", None))
    assert not of(act.Accept, local.answer()) and not of(act.Own, local.did)


def test_r28_each_token_leads_to_its_own_stream_alone() -> None:
    local = Local()
    local.attached("c1", token="t1")
    local.open("c2", "t2")
    actions = local.answer(body=BOB)
    assert only(act.Attach, actions).stream == "bob" and only(act.Own, actions).account == "bob"
    assert [a.stream for a in of(act.Attach, local.did)] == ["alice", "bob"]


def test_r28_only_a_keyed_hash_is_put_down() -> None:
    local = Local()
    local.attached(token="at_live_secret")
    commit = only(act.Commit, local.did)
    assert commit.ops == [act.PutState("token:" + local.keyed_hash("at_live_secret"), b"alice")]
    assert "at_live_secret" not in repr(commit)


def test_r28_a_token_vouched_for_is_verified_as_soon_as_the_upstream_is_back_and_closed_on_401() -> None:
    local = Local(t1="alice")
    local.linked = None
    local.open()
    local.fail()
    before = len(local.asked())
    local.tell(ev.MessageFromUpstream("alice", {"link": "up"}))
    assert len(local.asked()) == before + 1
    actions = local.answer(401)
    assert only(act.CloseConn, actions).conn == "c1" and only(act.Detach, actions).session == "c1"
    assert act.Commit([act.PutState("token:" + local.keyed_hash("t1"), None)]) in actions
    local.open("c2")
    local.fail()
    assert only(act.Refuse, local.did).status == 503, "it is vouched for no more"


def test_r28_it_is_verified_also_without_a_link() -> None:
    local = Local(t1="alice")
    local.linked = None
    local.open()
    local.fail()
    first = local.timers["verify"]
    local.fire("verify")
    local.fail()
    assert local.timers["verify"] - local.now > first - 1000.0, "less and less often"
    for _ in range(20):
        local.fire("verify")
        local.fail()
    assert local.timers["verify"] - local.now <= 30.0
    local.fire("verify")
    local.answer()
    assert "verify" not in local.timers and not of(act.CloseConn, local.did)


def test_r28_a_token_of_another_agent_now_loses_the_first_ones_sockets() -> None:
    local = Local(t1="alice")
    local.open()
    local.fail()
    local.fire("verify")
    actions = local.answer(body=BOB)
    assert only(act.CloseConn, actions).conn == "c1"
    assert not of(act.Attach, actions)


def test_r28_a_rotated_token_continues_the_stream_and_ends_the_one_before() -> None:
    local = Local()
    local.attached("c1", token="t1")
    local.open("c2", "t2")
    actions = local.answer()
    assert only(act.Attach, actions).consumer == "agent" and only(act.Attach, actions).stream == "alice"
    assert ("Authorization", "Bearer t1") in only(act.Request, actions).headers, "is the first one still good?"
    actions = local.answer(401)
    assert only(act.CloseConn, actions).conn == "c1"
    local.open("c3", "t1")
    assert not of(act.Accept, local.did[-2:])
    before = len(local.asked())
    local.open("c4", "t2")
    assert len(local.asked()) == before, "t2 stays known, and asking ends"


def test_r28_two_good_tokens_of_one_agent_do_not_ask_for_ever() -> None:
    local = Local()
    local.attached("c1", token="t1")
    local.open("c2", "t2")
    local.answer()
    local.answer()
    assert len(local.asked()) == 3 and not of(act.CloseConn, local.did)


def test_a_token_that_the_socket_refuses_is_refused_at_its_upgrade() -> None:
    """Never accept and then close: from engine 5.0.1 on REST knows a token that the socket refuses."""
    local = Local()
    local.attached()
    actions = local.tell(ev.MessageFromUpstream("alice", {"refused": "t1", "status": 401}))
    assert only(act.CloseConn, actions).conn == "c1"
    assert only(act.Refuse, local.open("c2")).status == 401
    local.now += REFUSED_S + 1
    assert not of(act.Refuse, local.open("c3"))
    actions = local.answer()
    assert only(act.Own, actions).credential == "t1" and not of(act.Accept, actions), "the link itself must tell"
    assert only(act.Refuse, local.tell(ev.MessageFromUpstream("alice", {"refused": "t1", "status": 401}))).conn == "c3"


def test_r20_a_first_socket_waits_for_the_word_of_the_link() -> None:
    """Never accept and then close, not even the first socket."""
    local = Local()
    local.linked = None
    local.open()
    assert not of(act.Accept, local.answer())
    assert not of(act.Accept, local.open("c2")), "verified, but the link has still not told"
    actions = local.tell(ev.MessageFromUpstream("alice", {"refused": "t1", "status": 401}))
    assert [(a.conn, a.status) for a in of(act.Refuse, actions)] == [("c1", 401), ("c2", 401)]
    assert not of(act.Accept, local.did) and not of(act.CloseConn, local.did)


def test_r20_a_first_socket_is_let_in_when_the_link_is_up_or_tells_nothing_for_a_second() -> None:
    local = Local()
    local.linked = None
    local.open()
    local.answer()
    assert local.timers["give-up:c1"] == local.now + LINK_S
    assert only(act.Accept, local.fire("give-up:c1")).conn == "c1"
    local.open("c2")
    assert only(act.Accept, local.tell(ev.MessageFromUpstream("alice", {"link": "up"}))).conn == "c2"
    assert only(act.Accept, local.open("c3")).conn == "c3", "from then on at once"


def test_a_token_that_the_socket_accepts_again_is_let_in() -> None:
    local = Local()
    local.attached()
    local.tell(ev.MessageFromUpstream("alice", {"refused": "t1"}))
    local.now += REFUSED_S + 1
    local.open("c2")
    local.answer()
    assert only(act.Accept, local.tell(ev.MessageFromUpstream("alice", {"link": "up"}))).conn == "c2"
    assert only(act.Accept, local.open("c3")).conn == "c3"


def test_a_refused_token_whose_link_tells_nothing_is_not_let_in() -> None:
    local = Local()
    local.attached()
    local.tell(ev.MessageFromUpstream("alice", {"refused": "t1"}))
    local.now += REFUSED_S + 1
    local.open("c2")
    local.answer()
    assert only(act.Refuse, local.fire("give-up:c2")).status == 503


# --- the token of the environment ------------------------------------------------------------------------------------------------------


def test_a_held_token_is_verified_at_start_and_owned_at_once_if_it_was_vouched_for() -> None:
    assert only(act.Own, Local("t1", t1="alice").did).account == "alice"
    local = Local("t1")
    assert not of(act.Own, local.did)
    assert only(act.Own, local.answer()).account == "alice"
    assert only(act.Accept, local.open()).conn == "c1"


def test_a_held_token_is_tried_until_the_upstream_answers() -> None:
    local = Local("t1")
    for _ in range(5):
        local.fail()
        local.fire("verify")
    assert only(act.Own, local.answer()).account == "alice"


def test_a_held_token_refused_once_is_tried_again_and_the_mend_is_told() -> None:
    local = Local("t1")
    actions = local.answer(401)
    assert "SIDECAR_UPSTREAM_TOKEN" in only(act.Log, actions).text
    assert local.timers["verify"] == local.now + REFUSED_S
    local.fire("verify")
    assert only(act.Own, local.answer()).account == "alice"


def test_a_held_token_that_the_socket_refused_is_tried_again() -> None:
    local = Local("t1")
    local.answer()
    local.tell(ev.MessageFromUpstream("alice", {"refused": "t1", "status": 401}))
    local.tell(ev.MessageFromUpstream("bob", {"link": "up"}))
    assert len(local.asked()) == 1, "not at once"
    local.fire("verify")
    assert only(act.Own, local.answer()).credential == "t1"
    local.tell(ev.MessageFromUpstream("alice", {"link": "up"}))
    assert only(act.Accept, local.open()).conn == "c1"


# --- R21, R22: frames --------------------------------------------------------------------------------------------------------------------


def test_r21_a_ping_is_answered_at_once() -> None:
    local = Local()
    local.attached()
    assert list(local.send(b'{"type":"ping"}', b'{"type":"ping","x":1}')) == [act.SendConn("c1", [PONG])] * 2


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"ping"',
        b'{"type":1}',
        b'{"type":"subscribe","channels":["general"]}',
        b'{"type":"unsubscribe"}',
        b'{"type":"unknown"}',
        b'{"type":"resync"}',
        b'{"type":"resync","last_seen_seq":null}',
        b'{"type":"resync","last_seen_seq":true}',
        b'{"type":"resync","last_seen_seq":"5"}',
        b'{"type":"resync","last_seen_seq":[5]}',
        b'{"type":"resync","last_seen_seq":1e999}',
        b'{"type":"ping","x":' + b"[" * 20_000,
        b"\xff\xfe",
        b'{"type":"ping\xff"}',
        ev.Binary(b'{"type":"ping"}'),
    ],
)
def test_r21_junk_is_ignored_and_the_socket_stays(junk: bytes) -> None:
    local = Local()
    local.attached()
    assert list(local.send(junk)) == []
    assert list(local.send(b'{"type":"ping"}')) == [act.SendConn("c1", [PONG])]


def test_r22_own_numbers_from_the_streams_birth_on() -> None:
    local = Local()
    local.attached()
    actions = local.records(b'{"type":"a","agent_seq":7}', b'{"type":"b"}', first=5)
    assert only(act.SendConn, actions).frames == [
        b'{"type":"a","agent_seq":%d}' % (BASE + 5),
        b'{"type":"b","agent_seq":%d}' % (BASE + 6),
    ]


def test_gap_records_are_not_shown_but_passed() -> None:
    local = Local()
    local.attached()
    actions = local.tell(ev.RecordsReady("c1", [Run(4, 3, GAP, [b"{}"])], 4))
    assert not of(act.SendConn, actions) and only(act.PingConn, actions)
    assert list(local.tell(ev.ConnPong("c1", local.ping()))) == [act.Receipt("c1", 4)]


def test_live_frames_of_conns_that_are_gone_are_nothing() -> None:
    local = Local()
    local.attached()
    assert act.Detach("c1") in local.tell(ev.ConnClosed("c1", 1000))
    for event in (
        ev.RecordsReady("c1", [Run(1, 1, 0, [b"{}"])], 1),
        ev.ConnPong("c1", b"x"),
        ev.ConnFrames("c1", [b'{"type":"ping"}']),
        ev.ConnDrained("c1", "1"),
        ev.SeekDone("c1", "1", 0, 0, False),
        ev.ConnClosed("c1", None),
        ev.Ousted("c1", "x"),
        ev.TimerFired("mute:c1"),
    ):
        assert list(local.tell(event)) == []


# --- R23, R25: where it begins ------------------------------------------------------------------------------------------------------------


def ack(local: Local) -> dict[str, Any]:
    frame = next(f for a in reversed(local.did) if isinstance(a, act.SendConn) for f in a.frames)
    return dict(json.loads(frame))


def test_r25_sdks_that_resync_get_a_moment_to_ask_first() -> None:
    local = Local()
    local.attached(query=SDK4)
    assert not of(act.Attach, local.did) and local.timers["ask:c1"] == local.now + ASK_S
    actions = local.send(b'{"type":"resync","last_seen_seq":%d,"since":"2026-01-01T00:00:00Z"}' % (BASE + 4))
    attach = only(act.Attach, actions)
    assert attach.after_ordinal == 4 and attach.mark and "ask:c1" not in local.timers
    local.tell(ev.SeekDone("c1", attach.mark, 6, 10, False))
    assert ack(local) == {
        "type": "resync_ack",
        "last_seen_seq": BASE + 4,
        "current_seq": BASE + 10,
        "replayed": 6,
        "gap_detected": False,
    }


@pytest.mark.parametrize("version", ["2.6.0", "3.0.9", "", "x.y", "3"])
def test_r25_others_begin_at_once(version: str) -> None:
    local = Local()
    local.attached(query=f"&origin_client=@relaycast/sdk&origin_version={version}")
    assert of(act.Attach, local.did)


def test_r25_who_does_not_ask_begins_at_the_cursor() -> None:
    local = Local()
    local.attached(query=SDK4)
    assert only(act.Attach, local.fire("ask:c1")).after_ordinal is None
    seek = only(act.Seek, local.send(b'{"type":"resync","last_seen_seq":%d}' % (BASE + 4)))
    assert seek.on_wire, "its question crossed what is on its way"
    seek = only(act.Seek, local.send(b'{"type":"resync","last_seen_seq":%d}' % (BASE + 4)))
    assert not seek.on_wire


@pytest.mark.parametrize(
    ("stated", "ordinal"),
    [(BASE + 3, 3), (BASE + 3.7, 3), (BASE - 1, -1), (0, -BASE), (-1, -BASE - 1), (-2.5, -BASE - 3), (BASE + 10, 10), (57, 57 - BASE)],
)
def test_r25_any_number_is_a_place(stated: float, ordinal: int) -> None:
    local = Local()
    local.attached()
    assert only(act.Seek, local.send(json.dumps({"type": "resync", "last_seen_seq": stated}).encode())).after_ordinal == ordinal


@pytest.mark.parametrize("stated", [BASE + 11, BASE + 10.5, 9007199254740991, 10**30, 1e300])
@pytest.mark.parametrize("query", ["", SDK4])
def test_r25_above_the_head_nothing_is_replayed_and_the_backlog_is_not_skipped(stated: float, query: str) -> None:
    local = Local()
    local.attached(query=query)
    actions = local.send(json.dumps({"type": "resync", "last_seen_seq": stated}).encode())
    assert not of(act.Seek, actions)
    assert ack(local) == {
        "type": "resync_ack",
        "last_seen_seq": stated,
        "current_seq": BASE + 10,
        "replayed": 0,
        "gap_detected": False,
    }
    assert [a.after_ordinal for a in of(act.Attach, local.did)] == [None]


@pytest.mark.parametrize(
    ("stated", "trimmed", "gap"), [(BASE + 4, False, False), (BASE + 4, True, True), (57, False, True), (BASE, False, False)]
)
def test_r25_a_gap_is_told_if_retention_dropped_some_or_the_cursor_is_from_a_lost_journal(stated: int, trimmed: bool, gap: bool) -> None:
    local = Local()
    local.attached()
    mark = only(act.Seek, local.send(b'{"type":"resync","last_seen_seq":%d}' % stated)).mark
    local.tell(ev.SeekDone("c1", mark, 6, 10, trimmed))
    assert ack(local)["gap_detected"] is gap


def test_r25_two_at_once_are_answered_each_with_its_own() -> None:
    local = Local()
    local.attached()
    first, second = (only(act.Seek, local.send(b'{"type":"resync","last_seen_seq":%d}' % (BASE + n))).mark for n in (2, 5))
    local.tell(ev.SeekDone("c1", first, 8, 10, False))
    assert ack(local)["last_seen_seq"] == BASE + 2
    local.tell(ev.SeekDone("c1", second, 5, 11, False))
    assert ack(local)["last_seen_seq"] == BASE + 5 and ack(local)["current_seq"] == BASE + 11


# --- R24: receipts -----------------------------------------------------------------------------------------------------------------------


def test_r24_one_ping_behind_each_batch_and_its_pong_is_the_receipt() -> None:
    local = Local()
    local.attached()
    actions = local.records(b'{"a":1}', b'{"a":2}')
    assert [type(a) for a in actions] == [act.SendConn, act.PingConn]
    assert list(local.tell(ev.ConnPong("c1", only(act.PingConn, actions).payload))) == [act.Receipt("c1", 2)]


def test_r24_a_pong_of_another_connection_proves_nothing() -> None:
    local = Local()
    local.attached("c1")
    local.records(b"{}")
    theirs = local.ping()
    local.open("c2")
    local.records(b"{}", conn="c2")
    assert theirs != local.ping()
    assert list(local.tell(ev.ConnPong("c2", theirs))) == []


def test_r24_pongs_are_cumulative_and_late_ones_do_no_harm() -> None:
    local = Local()
    local.attached()
    local.records(b"{}")
    first = local.ping()
    local.records(b"{}", first=2)
    assert list(local.tell(ev.ConnPong("c1", local.ping()))) == [act.Receipt("c1", 2)]
    assert list(local.tell(ev.ConnPong("c1", first))) == [act.Receipt("c1", 1)], "the core knows better"


@pytest.mark.parametrize("agent", ["Python/3.11 websockets/14.2", "Mozilla/5.0 (X11) Chrome/131"])
def test_weak_stacks_are_told_by_their_name(agent: str) -> None:
    local = Local()
    local.attached(agent=agent)
    assert only(act.Attach, local.did).quality == "buffered"


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"1", b":1", b"80.c1:99"])
def test_r24_three_wrong_pongs_and_none_right_downgrade(payload: bytes) -> None:
    local = Local()
    local.attached()
    local.records(b"{}")
    for _ in range(2):
        assert list(local.tell(ev.ConnPong("c1", payload))) == []
    actions = local.tell(ev.ConnPong("c1", payload))
    assert list(actions) == [act.Downgrade("c1", "written"), act.AwaitDrain("c1", "1")]
    assert list(local.tell(ev.ConnDrained("c1", "1"))) == [act.Receipt("c1", 1)]
    actions = local.records(b"{}", first=2)
    assert only(act.AwaitDrain, actions).token == "2" and not of(act.PingConn, actions)
    assert list(local.tell(ev.ConnPong("c1", payload))) == [], "once is enough"


def test_r24_wrong_pongs_beside_right_ones_are_nothing() -> None:
    local = Local()
    local.attached()
    local.tell(ev.ConnPong("c1", local.ping()))
    for _ in range(10):
        assert list(local.tell(ev.ConnPong("c1", b"nonsense"))) == []
        assert list(local.tell(ev.ConnPong("c1", b""))) == []


def test_r24_a_client_that_never_pongs_is_downgraded_after_a_while() -> None:
    local = Local()
    local.attached()
    local.records(b"{}")
    assert local.timers["mute:c1"] == local.now + MUTE_S
    assert act.Downgrade("c1", "written") in local.fire("mute:c1")


def test_r24_a_client_that_ponged_once_and_froze_is_not() -> None:
    local = Local()
    local.attached()
    assert list(local.tell(ev.ConnPong("c1", local.ping()))) == [], "nothing was sent yet: no receipt"
    local.records(b"{}")
    assert list(local.fire("mute:c1")) == []


def test_a_drained_socket_proves_nothing_for_a_client_that_pongs() -> None:
    local = Local()
    local.attached()
    local.records(b"{}")
    assert list(local.tell(ev.ConnDrained("c1", "1"))) == []


# --- R26, R27 -----------------------------------------------------------------------------------------------------------------------------


def test_r26_sockets_of_one_agent_are_sessions_of_one_consumer() -> None:
    local = Local()
    local.attached("c1")
    local.open("c2")
    assert [(a.session, a.consumer) for a in of(act.Attach, local.did)] == [("c1", "agent"), ("c2", "agent")]


def test_r27_goodbye_is_1012_and_no_upgrade_is_accepted_any_more() -> None:
    local = Local()
    local.attached("c1")
    local.open("c2", "t2")
    actions = local.tell(ev.Draining())
    assert [(a.conn, a.code) for a in of(act.CloseConn, actions)] == [("c1", 1012)]
    assert only(act.Refuse, actions).conn == "c2"
    assert not of(act.Accept, local.answer(body=BOB)), "refused is refused"
    assert only(act.Refuse, local.open("c3")).status == 503


def test_a_socket_that_comes_during_a_planned_stop_is_refused_before_the_half_says_goodbye() -> None:
    local = Local()
    local.attached("c1")
    head = ev.Head("GET", "/v1/ws?token=t1", [("User-Agent", "node")])
    assert only(act.Refuse, local.tell(ev.ConnOpened("c2", head, stopping=True))).status == 503
    assert not of(act.CloseConn, local.did)


def test_a_reset_consumer_begins_anew() -> None:
    local = Local()
    local.attached()
    actions = local.tell(ev.Ousted("c1", "consumer was reset"))
    assert only(act.CloseConn, actions).code == 1012


def test_http_passes() -> None:
    head = ev.Head("POST", "/v1/dm", [])
    assert list(Local().tell(ev.HttpRequested("x1", head))) == [act.Route("x1")]
