"""The upstream half's sockets: R25 to R31 and the U scenarios that are about them."""

from __future__ import annotations

import itertools
import random
import zlib
from typing import Any

import msgspec
import pytest

from sidecar.core.events import (
    Attached,
    Binary,
    CredentialSeen,
    Detached,
    Draining,
    FramesReceived,
    LinkClosed,
    LinkOpened,
    TimerFired,
)
from sidecar.dialects.discord.shard import UNPRIVILEGED
from tests.dialects.discord.bench import BOT_METADATA, GATEWAY_URL, RESUME_URL, SHARD, STREAM, TOKEN, Bench, Link, at, channel, guild

G = guild(1, channel(11))


def bench(**knobs: Any) -> Bench:
    return Bench(**knobs).start()


# --- opening ----------------------------------------


def test_r26_a_first_session_is_identified_and_its_state_rides_with_the_events() -> None:
    b = bench()
    assert b.asked == ["/api/v10/gateway/bot"]
    assert b.link.action.target == GATEWAY_URL + "/?v=10&encoding=json"
    assert ("User-Agent", "DiscordBot (sidecar, 0.1)") in b.link.action.headers
    b.open()
    assert b.link.sent == []
    b.hello()
    (identify,) = b.sent(2)
    assert (identify["token"], identify["shard"], identify["intents"]) == (TOKEN, [0, 1], UNPRIVILEGED)
    assert identify["large_threshold"] == 250
    assert identify["properties"].keys() == {"os", "browser", "device"} and "compress" not in identify
    b.ready(G)
    assert b.phase() == "live"
    b.message(at(1), "11")
    row = b.committed()
    assert (row["session_id"], row["resume_url"], row["seq"], row["intents"]) == ("up1", RESUME_URL, 3, UNPRIVILEGED)
    assert b.state["mark:0/1/11"] == f"{at(1)} 1".encode()
    assert len(msgspec.json.decode(b.state["budget"])["times"]) == 1
    assert {"ready": SHARD} in b.told and {"metadata": {"shards": 1}} in b.told


def test_u16_a_commit_that_admits_an_event_carries_its_number_and_watermark() -> None:
    b = bench().live(G)
    seen = []
    commit = b._commit
    b._commit = lambda ops: (seen.append({type(op).__name__: op for op in ops}), commit(ops))[1]  # type: ignore[method-assign]
    b.message(at(1), "11")
    (ops,) = seen
    assert ops.keys() == {"AdmitRun", "PutState"}
    assert b.committed()["seq"] == 3


def test_r29_the_attempt_is_on_disk_before_its_identify_goes_out() -> None:
    b = bench().open()
    b.disk_works = False
    b.hello()
    assert b.sent(2) == []
    b.disk_works = True
    b.feed(b.waiting.popleft())
    assert len(b.sent(2)) == 1


@pytest.mark.parametrize(("knobs", "upstream", "wanted"), [
    ({}, "https://discord.com", "wss://gateway.discord.gg/?v=10&encoding=json"),
    ({}, "http://127.0.0.1:9000", "ws://127.0.0.1:9000/?v=10&encoding=json"),
    ({"gateway_url": "ws://127.0.0.1:1/x"}, "https://discord.com", "ws://127.0.0.1:1/x?v=10&encoding=json"),
    ({"compress": "zlib-stream"}, "https://discord.com", "wss://gateway.discord.gg/?v=10&encoding=json&compress=zlib-stream"),
])  # fmt: skip
@pytest.mark.parametrize("answer", [(0, b"", {}), (500, {}, {}), (429, {}, {}), (200, b"junk", {}), (200, {"url": 5}, {})])
def test_u11_without_metadata_the_known_gateway_is_dialled(knobs: dict[str, Any], upstream: str, wanted: str, answer: Any) -> None:
    b = Bench(upstream=upstream, **knobs)
    b.rest = lambda target: answer
    b.start()
    assert b.link.action.target == wanted
    assert len(b.asked) == 1


def test_u11_metadata_are_remembered_for_the_next_session_and_restart() -> None:
    b = bench().live(G).close(4009)
    b.rest = lambda target: (503, {}, {})
    b.run(6)
    assert b.links[1].action.target.startswith(GATEWAY_URL)
    assert len(b.asked) == 2
    b.crash()
    assert b.current[SHARD].action.target.startswith(RESUME_URL)
    b.open().close(4009).run(6)
    assert b.link.action.target.startswith(GATEWAY_URL)


def test_u11_metadata_that_hang_are_waited_for_five_seconds_and_not_behind_other_calls() -> None:
    b = Bench()
    b.rest = lambda target: None
    b.start()
    (asked,) = b.requests.values()
    assert (asked.timeout, asked.urgent, b.links) == (5.0, True, [])


def test_u11_401_on_metadata_is_fatal_for_the_identity() -> None:
    b = Bench()
    b.rest = lambda target: (401, {"message": "401: Unauthorized"}, {})
    b.start().run(3600)
    assert b.links == [] and len(b.asked) == 1
    assert [f.code for f in b.fatal] == ["4004"]
    assert {"refused": TOKEN, "code": 4004} in b.told


def test_r12_nothing_is_dialled_before_somebody_wants_it_and_all_who_do_share_one_attempt() -> None:
    b = Bench(operators=False).start()
    assert b.links == [] and b.asked == []
    b.tell(intents=33281, shard=SHARD).tell(intents=33281, shard=SHARD)
    b.feed(CredentialSeen(TOKEN)).tell(snapshot="s1", shard=SHARD)
    assert len(b.links) == 1
    assert b.told[-1] == {"snapshot": "s1", "ready": None, "guilds": [], "offset": 0}
    b.open().hello()
    assert [d["intents"] for d in b.sent(2)] == [33281]


def test_section_8_linger_holds_the_upstream_and_then_lets_go_without_ending_the_session() -> None:
    b = Bench(operators=False, linger_s=100).start()
    b.tell(intents=33281, shard=SHARD).feed(Attached(STREAM, 1)).live(G)
    for _ in range(8):
        b.op(11).run(20)
    b.feed(Detached(STREAM, 0))
    for _ in range(10):
        b.op(11).run(9)
    assert b.phase() == "live"
    b.op(11).run(20)
    assert b.phase() == "idle" and b.links[0].ended == 4000
    b.feed(Attached(STREAM, 1)).again(2)
    assert [d["session_id"] for d in b.sent(6)] == ["up1"]


def test_section_8_with_the_operators_token_the_upstream_is_held_without_agents_for_ever() -> None:
    b = Bench(linger_s=10).start().feed(Attached(STREAM, 1)).live(G).feed(Detached(STREAM, 0))
    for _ in range(100):
        b.op(11).run(20)
    assert b.phase() == "live" and len(b.links) == 1


def test_section_8_shards_that_agents_asked_for_lately_are_held_after_a_restart() -> None:
    b = Bench(linger_s=1000).start().live(G)
    b.tell(intents=513, shard="1/2").run(5.1).open("1/2").hello(name="1/2").ready(name="1/2")
    b.crash()
    assert b.current.keys() == {SHARD, "1/2"}
    b = Bench(linger_s=1000).start().live(G)
    b.tell(intents=513, shard="1/2").run(5.1).open("1/2").hello(name="1/2").ready(name="1/2")
    b.mono += 2000
    b.wall += 2000
    b.crash()
    assert b.current.keys() == {SHARD}


# --- deadlines ----------------------------------------


def test_u2_no_hello_is_a_new_connect_within_30_s() -> None:
    b = bench().open().run(19.9)
    assert b.links[0].ended == ""
    b.run(0.2)
    assert b.links[0].ended == 4000
    b.run(6)
    assert len(b.links) == 2


def test_u4_no_ready_is_a_new_connect_within_the_budget() -> None:
    b = bench().open().hello()
    for _ in range(3):
        b.op(11).run(8.4)
    assert b.links[0].ended == 4000 and b.phase() == "waiting"
    b.run(4.9).run(1)
    b.open().hello().ready(G)
    assert len(b.sent(2)) == 2 and b.phase() == "live"


def test_u5_no_answer_to_resume_is_a_new_connect() -> None:
    b = bench().live(G).close(None).run(1).again(2)
    for _ in range(2):
        b.op(11).run(9.9)
    assert b.phase() == "resuming"
    b.run(0.3)
    assert b.links[1].ended == 4000
    b.run(1.1)
    assert len(b.links) == 3


def test_r27_a_replay_that_flows_moves_the_deadline_and_one_that_stops_does_not() -> None:
    b = bench().live(G).close(None).run(1).again(2)
    for n in range(6):
        b.op(11).run(9).message(at(n), "11")
    assert b.phase() == "resuming" and len(b.sent(6)) == 1
    b.op(11).run(10).op(11).run(9.9)
    assert b.phase() == "resuming"
    b.op(11).run(0.2)
    assert b.links[1].ended == 4000


def test_r27_a_socket_that_does_not_open_is_the_drivers_ten_seconds() -> None:
    assert bench().link.action.timeout == 10.0


# --- what replaces HELLO, and the close-code table --------------------------------------------------------------------


@pytest.mark.parametrize("what", ["op7", "op9", "close"])
def test_u3_op7_op9_or_close_instead_of_hello(what: str) -> None:
    b = bench().live(G).close(None).run(1).open()
    if what == "close":
        b.close(1000)
    else:
        b.op(7) if what == "op7" else b.op(9, True)
        assert b.links[1].ended == 4000
    b.run(5.1).again(2)
    assert len(b.links) == 3 and len(b.sent(6, b.link)) == 1
    b.resumed()
    assert b.phase() == "live" and len(b.sent(2)) == 1


@pytest.mark.parametrize("code", [None, 1000, 1001, 1005, 1006, 4000, 4001, 4002, 4008, 4099])
def test_u9_these_close_codes_resume_at_the_resume_url_with_the_same_version_and_encoding(code: int | None) -> None:
    b = bench().live(G).message(at(1), "11").close(code)
    b.run(10)
    assert b.link.action.target == RESUME_URL + "/?v=10&encoding=json"
    b.again(3)
    assert b.sent(6) == [{"token": TOKEN, "session_id": "up1", "seq": 3}]


@pytest.mark.parametrize("code", [4003, 4005, 4006, 4007, 4009])
def test_these_close_codes_identify_at_the_gateway(code: int) -> None:
    b = bench().live(G).close(code).run(10)
    assert b.link.action.target.startswith(GATEWAY_URL)
    b.open().hello()
    assert b.sent(6) == [] and len(b.sent(2)) == 2


@pytest.mark.parametrize("code", [4004, 4010, 4011, 4012, 4013, 4014])
def test_u10_fatal_codes_stop_and_are_told(code: int) -> None:
    b = bench().live(G)
    b.close(code).run(86400)
    assert len(b.links) == 1 and b.timers == {}
    assert {"refused": TOKEN, "code": code} in b.told
    assert [f.code for f in b.fatal] == [str(code)]
    assert b.facts_["upstream"] == "refused"
    assert f"refuses this bot ({code}" in b.said[-1]


@pytest.mark.parametrize("code", [4004, 4010, 4011, 4012])
def test_r31_other_intents_are_no_reason_to_try_again_what_was_not_about_them(code: int) -> None:
    b = bench().live(G).close(code).tell(intents=1, shard=SHARD).run(1)
    assert b.current == {}


def test_r31_a_new_token_ends_a_fatal_stop_and_the_old_one_does_not() -> None:
    b = bench().live(G).close(4004).feed(CredentialSeen(TOKEN))
    assert b.current == {}
    b.feed(CredentialSeen("Bot other")).again(2)
    assert b.sent(6, b.link)[0]["token"] == "other"


def test_r31_other_intents_end_a_fatal_stop_for_intents_and_the_same_ones_only_after_a_while() -> None:
    b = Bench(operators=False).start().tell(intents=33280 + 32768, shard=SHARD).open().hello().close(4014)
    b.tell(intents=33280 + 32768, shard=SHARD)
    assert b.current == {}
    b.tell(intents=512, shard=SHARD).run(5).open().hello()
    assert b.sent(2, b.link)[0]["intents"] == 512
    b.close(4014).tell(intents=512, shard=SHARD)
    assert b.current == {}
    b.run(130).tell(intents=512, shard=SHARD).run(20)
    assert len(b.links) == 3


@pytest.mark.parametrize("code", [4004, 4012, 4014])
def test_r31_a_restart_is_a_person_who_asks_and_many_of_them_are_no_loop(code: int) -> None:
    b = bench().open().hello().close(code)
    assert "restart the sidecar" in b.fatal[0].mend
    for _ in range(60):
        b.crash().run(1)
        if b.current:
            b.open().hello().close(code)
    # Each life tries once, and what earlier ones spent counts: 0, 5, 15, 35 s.
    assert len(b.sent(2)) == 4
    b.crash().run(3600)
    b.open().hello().close(code).run(86400)
    assert b.current == {} and b.timers == {}


def test_r31_status_says_refused_until_it_is_tried_again() -> None:
    b = bench().live(G).close(4014)
    assert b.facts_["upstream"] == "refused" and b.fatal[0].code == "4014"
    b.tell(intents=512, shard=SHARD)
    assert b.facts_["upstream"] != "refused" and b.facts_["fatal"] is None


def test_r22_whoever_asks_within_the_cool_down_is_told_and_the_upstream_is_not_asked() -> None:
    b = Bench(operators=False).start().tell(intents=513, shard=SHARD).open().hello().close(4014)
    b.run(61).tell(intents=513, shard=SHARD).run(1)
    b.open().hello().close(4014)
    b.told.clear()
    # The second cool-down is longer than the minute for which agents are refused without asking here.
    b.run(61).tell(intents=513, shard=SHARD).tell(snapshot="s", shard=SHARD)
    assert b.told[0] == {"refused": TOKEN, "code": 4014} and b.current == {}
    b.run(60).tell(intents=513, shard=SHARD).run(21)
    assert len(b.links) == 3


def test_r22_the_cool_down_grows_up_to_an_hour_and_begins_anew_after_a_good_while() -> None:
    b = Bench(operators=False).start().tell(intents=513, shard=SHARD)
    pauses = []
    for _ in range(9):
        b.open().hello().close(4014)
        began = b.mono
        while not b.current and b.mono < began + 8000:
            b.run(10).tell(intents=513, shard=SHARD)
        pauses.append(round(b.mono - began, -1))
    assert pauses[:4] == [60, 120, 240, 480] and max(pauses) <= 3900
    b.open().hello().ready(G).close(None).run(1)
    b.mono += 8000
    b.wall += 8000
    b.again(2).close(4014).run(60).tell(intents=513, shard=SHARD).run(5)
    assert len(b.current) == 1


def test_u7_op9_false_waits_1_to_5_s_and_identifies_at_the_gateways_own_url() -> None:
    for draw, early, late in ((0.0, 0.9, 1.1), (0.999, 4.9, 5.1)):
        b = bench().live(G).run(10).close(None).run(1).again(2)
        b.draw = draw
        b.op(9, False)
        assert b.link_gone()
        b.run(early)
        assert b.current == {}
        b.run(late - early)
        assert b.link.action.target.startswith(GATEWAY_URL)
        b.open().hello()
        assert len(b.sent(2)) == 2


def test_r30_op9_true_resumes_after_1_to_5_s() -> None:
    b = bench().live(G).close(None).run(1).again(2).op(9, True).run(0.9)
    assert b.current == {}
    b.run(4.2).again(2)
    assert len(b.sent(6)) == 2 and len(b.sent(2)) == 1


def test_r30_op9_true_for_ever_ends_in_an_identify_ever_more_slowly() -> None:
    b = bench().live(G).message(at(1), "11").close(None)
    for n in range(10):
        assert len(b.sent(2)) == 1, n
        b.run(31).again(3).op(9, True)
    b.run(31)
    assert b.link.action.target.startswith(GATEWAY_URL)
    b.open().hello()
    assert len(b.sent(6)) == 10 and len(b.sent(2)) == 2
    # In between it waits longer and longer: a storm of RESUMEs helps nobody.
    b = bench().live(G).close(None)
    began = b.mono
    for _ in range(9):
        while not b.current:
            b.run(0.5)
        b.again(2).op(9, True)
    assert b.mono - began > 60
    # One that is kept at last takes nothing away from the next.
    b.run(31).again(2).resumed().close(None)
    for _ in range(9):
        b.run(31).again(2).op(9, True)
    assert len(b.sent(2)) == 1


def test_u3_op9_true_instead_of_hello_for_ever_is_asked_ever_more_slowly() -> None:
    b = bench().live(G).close(None)
    for _ in range(600):
        b.run(1)
        if b.current and not b.link.is_open:
            b.open().op(9, True)
    assert len(b.links) < 40 and len(b.sent(2)) == 1


@pytest.mark.parametrize("ends", [1005, 1006, None, "deadline"])
def test_u6_a_resume_without_an_answer_three_times_identifies(ends: Any) -> None:
    b = bench().live(G).close(None)
    for _ in range(3):
        b.run(5).again(2)
        if ends == "deadline":
            b.op(11).run(15).op(11).run(5.1)
        else:
            b.close(ends)
    b.run(10).again(0)
    assert len(b.sent(6)) == 3 and len(b.sent(2, b.link)) == 1


def test_r30_a_resume_that_was_answered_by_a_replay_is_no_failure() -> None:
    b = bench().live(G).close(None)
    for n in range(5):
        b.run(31).again(2 + n).message(at(n), "11").close(None)
    assert len(b.sent(6)) == 5 and len(b.sent(2)) == 1


def test_r30_a_replay_that_stops_half_way_three_times_is_no_answer() -> None:
    b = bench().live(G).close(None)
    for n in range(3):
        b.run(31).again(2 + n).message(at(n), "11").op(11).run(15).op(11).run(5.1)
        assert b.link_gone()
    b.run(31).open().hello()
    assert len(b.sent(6)) == 3 and len(b.sent(2)) == 2


def test_r30_u12_a_socket_that_dies_during_resume_three_times_is_no_answer() -> None:
    b = bench().live(G).close(None)
    for _ in range(3):
        b.run(31).open().hello(3000).run(3.1)
        assert b.link_gone()
    b.run(31).open().hello()
    assert b.counted["zombies"] == 3 and len(b.sent(6)) == 3 and len(b.sent(2)) == 2
    assert (b.counted["resumes_upstream"], b.counted["identifies_upstream"]) == (3, 2)


def test_r23_an_agent_that_wants_more_during_a_resume_gets_it() -> None:
    b = Bench(operators=False).start().tell(intents=513, shard=SHARD).live(G).close(None).run(1).again(2)
    b.tell(intents=32768, shard=SHARD).run(6).open().hello()
    assert [d["intents"] for d in b.sent(2)] == [513, 513 | 32768]


@pytest.mark.parametrize(
    "url", ["wss://user:word@gateway.example", "https://gateway.example", "wss://", 5, None, "wss://[", "gateway.example"]
)
def test_section_1_2_a_resume_url_that_is_none_is_not_dialled(url: Any) -> None:
    b = bench().open().hello()
    b.event("READY", {"session_id": "up1", "resume_gateway_url": url, "guilds": []})
    if url == 5:
        assert b.phase() != "live"
        return
    b.close(None).run(1)
    assert b.link.action.target.startswith(GATEWAY_URL)


@pytest.mark.parametrize("interval", [0, -5, None, "x", True, 1e12])
def test_r27_a_heartbeat_interval_that_is_none_brings_no_storm_and_no_silence(interval: Any) -> None:
    b = bench().open().op(10, {"heartbeat_interval": interval}).ready(G)
    for _ in range(1000):
        b.run(0.9)
        if b.current:
            b.op(11)
    assert 1 <= len(b.sent(1)) <= 25 and len(b.links) == 1


def test_r30_a_server_that_is_away_does_not_poison_the_session() -> None:
    b = bench().live(G).close(None).run(1)
    targets = []
    for _ in range(8):
        targets.append(b.link.action.target.split("/?")[0])
        b.refuse(503).run(31)
    assert targets == [RESUME_URL] * 3 + [GATEWAY_URL] * 3 + [RESUME_URL] * 2
    b.again(2)
    assert len(b.sent(6)) == 1 and len(b.sent(2)) == 1


# --- back-off and budget --------------------------------------------------------------------------------------------


def test_u8_backoff_grows_and_an_open_socket_does_not_reset_it() -> None:
    b = bench().live(G)
    waits = []
    for _ in range(9):
        b.close(None)
        waits.append(round(b.timers["redial:0/1"] - b.mono, 3))
        b.run(31).again(2).resumed()
    assert waits == [0.25, 0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5, 22.5]


def test_r28_one_acknowledged_beat_after_resumed_resets_the_backoff() -> None:
    b = bench().live(G)
    for _ in range(4):
        b.close(None).run(31).again(2).resumed()
    b.run(41.25 / 2 + 0.1).op(11).close(None)
    assert b.timers["redial:0/1"] - b.mono == pytest.approx(0.25)


def test_r28_a_beat_acknowledged_before_ready_or_resumed_does_not_reset_it() -> None:
    b = bench().live(G)
    for _ in range(3):
        b.close(None).run(31).again(2).op(1).op(11)
    b.close(None)
    assert b.timers["redial:0/1"] - b.mono == pytest.approx(3.0)


def test_section_1_3_rate_limited_resumes_slowly() -> None:
    b = bench().live(G).close(4008).run(4.9)
    assert b.current == {}
    b.run(1).again(2)
    assert len(b.sent(6)) == 1


def test_r28_a_beat_from_before_resumed_does_not_reset_it() -> None:
    b = bench().live(G)
    b.close(None).run(31).again(2).op(1).resumed().op(11).close(None)
    assert b.timers["redial:0/1"] - b.mono == pytest.approx(0.75)


def test_u18_twenty_forced_reconnects_cost_one_identify() -> None:
    b = bench().live(G)
    for n in range(20):
        b.close((None, 1000, 4000, 1006)[n % 4]) if n % 5 else b.op(7)
        b.run(31).again(2).resumed()
    assert len(b.sent(2)) == 1 and len(b.sent(6)) == 20


def test_u18_failed_identifies_wait_5_10_20_up_to_300_s_and_not_longer_than_the_ceiling_allows() -> None:
    b = bench(identify_budget=12)
    times = []
    for _ in range(12):
        b.open().hello()
        times.append(b.mono)
        b.op(9, False).run(301)
    assert [round(b - a) for a, b in itertools.pairwise(times)] == [301] * 11
    assert b.current == {} and len(b.sent(2)) == 12
    b.run(86400 - (b.mono - times[0]) - 10)
    assert b.current == {}
    b.run(20)
    assert len(b.current) == 1


def test_u18_the_waits_between_failed_identifies() -> None:
    b = bench()
    waits = []
    for _ in range(9):
        b.open().hello().close(4000)
        began = b.mono
        while not b.current:
            b.run(0.5)
        waits.append(round(b.mono - began))
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_r29_the_budget_survives_a_restart() -> None:
    b = bench(identify_budget=3)
    for _ in range(3):
        b.open().hello().crash().run(60)
    assert len(b.sent(2)) == 3 and b.current == {}


def test_r29_none_remaining_waits_for_reset_after() -> None:
    limit = {"total": 1000, "remaining": 0, "reset_after": 600_000, "max_concurrency": 1}
    b = Bench()
    b.rest = lambda target: (200, {**BOT_METADATA, "session_start_limit": limit}, {})
    b.start()
    assert b.current == {}
    b.run(599)
    assert b.current == {}
    b.rest = lambda target: (200, BOT_METADATA, {})
    b.run(2)
    assert len(b.current) == 1


def test_r29_shards_of_one_bucket_identify_five_seconds_apart() -> None:
    b = bench(shards=("0/3", "1/3", "2/3"))
    times = []
    for _ in range(3):
        (name,) = b.current.keys() - {"up"} if len(b.current) == 1 else [n for n in b.current if not b.current[n].is_open]
        b.open(name).hello(name=name)
        times.append(b.mono)
        assert len(b.sent(2, b.current[name])) == 1
        b.ready(session=name, name=name)
        b.run(5.01)
    assert [round(y - x) for x, y in itertools.pairwise(times)] == [5, 5]
    assert {n: b.current[n].sent[0]["d"]["shard"] for n in b.current} == {"0/3": [0, 3], "1/3": [1, 3], "2/3": [2, 3]}
    assert b.facts_["streams"].keys() == {f"discord:42:{n}/3" for n in range(3)}


def test_r29_a_slow_hello_does_not_bring_two_identifies_of_a_bucket_together() -> None:
    b = bench(shards=("0/2", "1/2")).run(5.01)
    b.open("0/2").open("1/2").run(1).hello(name="0/2").hello(name="1/2")
    assert len(b.sent(2)) == 1
    b.op(11, name="1/2").run(4.9)
    assert len(b.sent(2)) == 1
    b.run(0.2)
    assert len(b.sent(2)) == 2


def test_r29_with_concurrency_shards_of_different_buckets_go_together() -> None:
    limit = {"total": 1000, "remaining": 900, "reset_after": 0, "max_concurrency": 2}
    b = Bench(shards=("0/2", "1/2"))
    b.rest = lambda target: (200, {**BOT_METADATA, "session_start_limit": limit}, {})
    b.start().open("0/2").open("1/2").hello(name="0/2").hello(name="1/2")
    assert len(b.sent(2)) == 2


# --- heartbeats ----------------------------------------


def test_r27_beats_come_after_a_part_of_the_interval_and_then_each_interval_with_the_committed_number() -> None:
    b = bench().open()
    b.draw = 0.25
    b.hello(40000).run(10.1)
    assert b.sent(1) == [None]
    b.op(11).ready(G).message(at(1), "11").run(40)
    assert b.sent(1) == [None, 3]
    b.op(11)
    b.disk_works = False
    b.message(at(2), "11").run(40)
    assert b.sent(1) == [None, 3, 3]
    while b.waiting:
        b.feed(b.waiting.popleft())
    b.op(11).run(40)
    assert b.sent(1)[-1] == 4


def test_u12_a_half_open_socket_is_replaced_within_one_and_a_half_intervals() -> None:
    b = bench().live(G).run(20.7)
    b.op(11).run(41.25)
    silent_since = b.mono
    assert len(b.sent(1)) == 2
    b.run(20.5)
    assert b.links[0].ended == ""
    b.run(0.2)
    assert b.links[0].ended == 4000 and b.counted["zombies"] == 1
    b.run(0.3).again(2)
    assert len(b.sent(6)) == 1 and b.mono - silent_since < 1.5 * 41.25


def test_r27_events_do_not_stand_in_for_an_ack() -> None:
    b = bench().live(G).run(20.7)
    for n in range(21):
        b.message(at(n), "11").run(1) if b.current else None
    assert b.links[0].ended == 4000


def test_u12_an_ack_in_time_keeps_the_socket() -> None:
    b = bench().live(G)
    for _ in range(20):
        b.run(20.7).op(11).run(20.55)
    assert len(b.links) == 1


def test_u13_a_beat_more_than_two_intervals_late_is_a_zombie() -> None:
    b = bench().live(G).run(20.7).op(11)
    b.mono += 83
    b.wall += 83
    b.feed(TimerFired("beat:0/1"))
    assert b.links[0].ended == 4000
    b.run(1).again(2)
    assert len(b.sent(6)) == 1


def test_u13_the_wall_clock_may_jump() -> None:
    for jump in (-1e6, 1e6):
        b = bench().live(G).run(20.7).op(11)
        b.wall += jump
        b.run(41.25).op(11).run(41.25).op(11)
        assert len(b.links) == 1 and len(b.sent(1)) == 3


def test_section_1_1_a_beat_that_the_server_asks_for_is_sent_at_once() -> None:
    b = bench().live(G).op(1)
    assert b.sent(1) == [2]


# --- one at a time ----------------------------------------


def test_u1_overlapping_wishes_and_stale_timers_never_make_two_sockets() -> None:
    # The bench refuses a second socket of a shard and frames on one that is not open.
    lots = random.Random(7)
    b = bench()
    names = ("redial", "wait", "spacing", "beat", "ack", "commands", "hold", "audit", "pump", "load")
    for _ in range(3000):
        match lots.randrange(9):
            case 0:
                b.feed(CredentialSeen(TOKEN))
            case 1:
                b.tell(intents=33281, shard=SHARD)
            case 2:
                b.feed(TimerFired(f"{lots.choice(names)}:0/1"))
            case 3 if b.current and not b.link.is_open:
                b.open()
            case 4 if b.current and b.link.is_open:
                b.hello()
            case 5 if b.current and b.link.is_open:
                b.op(lots.choice((7, 11, 1)))
            case 6 if b.current and b.link.is_open:
                b.close(lots.choice((None, 1000, 4000, 4009)))
            case 7 if b.current and b.link.is_open and b.phase() in ("identifying", "resuming"):
                b.ready(G) if b.phase() == "identifying" else b.resumed(0)
            case _:
                b.run(lots.choice((0.1, 1, 10)))
    assert len(b.links) > 20


def test_r25_timers_and_inputs_of_an_old_socket_do_nothing() -> None:
    b = bench().live(G).op(7)
    before = len(b.links)
    old = [LinkOpened(SHARD), FramesReceived(SHARD, [b'{"op":10,"d":{"heartbeat_interval":1000}}']), LinkClosed(SHARD, 4004)]
    for event in [*old, *(TimerFired(f"{kind}:0/1") for kind in ("beat", "ack", "wait", "commands", "spacing"))]:
        b.feed(event)
    assert len(b.links) == before and b.fatal == [] and b.phase() == "waiting"


def test_r24_a_planned_stop_leaves_with_4000_and_nothing_comes_after() -> None:
    b = bench().live(G).feed(Draining())
    assert b.links[0].ended == 4000
    b.run(3600)
    assert len(b.links) == 1
    b.feed(CredentialSeen("other")).tell(intents=32768, shard=SHARD).feed(Attached(STREAM, 1)).run(60)
    assert len(b.links) == 1
    b.crash().again(2)
    assert b.sent(6, b.link) == [{"token": TOKEN, "session_id": "up1", "seq": 2}]


def test_we_never_close_with_1000_or_1001() -> None:
    b = bench().live(G).op(7).run(1).again(2).op(9, True).run(6).again(2).run(25)
    assert [link.ended for link in b.links[:3]] == [4000] * 3


def test_u1_an_open_question_of_an_old_socket_is_none_of_the_new_one() -> None:
    b = bench().live(G)
    for n in range(1, 4):
        # Each socket's first beat goes unanswered: each is replaced for its own, half an interval after it.
        b.run(20.7).run(20.4)
        assert b.link.ended == "" and b.counted.get("zombies", 0) == n - 1
        b.run(0.3)
        assert b.counted["zombies"] == n
        b.run(31).again(2).resumed()
    for _ in range(4):
        b.run(20.7).op(11).run(20.55)
    assert b.counted["zombies"] == 3 and len(b.links) == 4


def test_r25_what_stands_behind_op_7_in_one_batch_does_nothing() -> None:
    b = bench().live(G)
    behind = [b.dispatch("MESSAGE_CREATE", {"id": str(at(1)), "channel_id": "11"}), {"op": 10, "d": {"heartbeat_interval": 9}}, {"op": 1}]
    b.say({"t": None, "s": None, "op": 7, "d": None}, *behind)
    assert b.messages == [] and b.link_gone() and b.phase() == "waiting"


def test_r25_a_second_hello_opens_no_second_session() -> None:
    b = bench().open().hello().hello().ready(G).hello()
    assert len(b.sent(2)) == 1 and b.sent(6) == []
    b.close(None).run(1).again(2).hello()
    assert len(b.sent(6)) == 1


def test_r27_a_late_hello_and_the_wait_for_its_bucket_are_no_missing_hello() -> None:
    b = bench(shards=("0/2", "1/2")).run(5.01)
    b.open("0/2").open("1/2").run(18).hello(name="0/2").hello(name="1/2").run(4.9)
    assert len(b.sent(2)) == 1
    b.op(11, name="1/2").op(11, name="0/2").run(0.2)
    assert len(b.sent(2)) == 2 and len(b.links) == 2


def test_r25_the_disks_answer_for_an_older_socket_sends_no_identify() -> None:
    b = bench().open()
    b.disk_works = False
    b.hello().close(None).run(31).open().hello()
    older, newer = (each for each in b.waiting if each.ticket.startswith("identify"))
    b.feed(older)
    assert b.sent(2) == []
    b.feed(newer)
    assert len(b.sent(2)) == 1


def test_r30_after_an_open_socket_the_resume_url_is_tried_first_again() -> None:
    b = bench().live(G).close(None).run(1)
    for _ in range(3):
        b.refuse(503).run(31)
    assert b.link.action.target.startswith(GATEWAY_URL)
    b.again(2).resumed().close(None).run(31)
    assert b.link.action.target.startswith(RESUME_URL)


# --- restart, intents, compression ----------------------------------------


def test_u17_killed_between_receive_and_commit_resumes_from_the_committed_number() -> None:
    b = bench().live(G).message(at(1), "11")
    b.disk_works = False
    b.message(at(2), "11").message(at(3), "11")
    b.crash().again(3)
    assert b.sent(6, b.link)[0]["seq"] == 3
    b.message(at(2), "11").message(at(3), "11").resumed()
    assert b.messages == [at(1), at(2), at(3)] and b.gaps == []


def test_r26_u14_the_number_of_resumed_is_on_disk_at_once_so_that_no_later_replay_begins_with_it() -> None:
    b = Bench().start().live(guild(1, channel(11))).close(None).run(1).again(2)
    b.message(at(1), "11").resumed()
    assert b.committed()["seq"] == 4
    b.crash().open().hello()
    assert b.sent(6)[-1]["seq"] == 4


def test_r26_after_a_restart_agents_state_is_there_before_the_upstream() -> None:
    b = bench().live(G).message(at(1), "11")
    b.told.clear()
    b.crash()
    assert {"ready": SHARD} in b.told
    b.tell(snapshot="s1", shard=SHARD)
    answer = b.told[-1]
    assert answer["snapshot"] == "s1" and answer["offset"] == len(b.journal)
    (shown,) = (msgspec.json.decode(d) for d in answer["guilds"])
    assert shown["channels"] == [channel(11, at(1))]
    assert msgspec.json.decode(answer["ready"])["guilds"] == [{"id": "1", "unavailable": True}]


def test_r23_more_intents_lead_to_one_identify_with_the_union_and_fewer_to_none() -> None:
    b = Bench(operators=False).start().tell(intents=513, shard=SHARD).feed(Attached(STREAM, 1)).live(G)
    b.tell(intents=512, shard=SHARD).run(1)
    assert len(b.links) == 1
    b.tell(intents=32768, shard=SHARD).tell(intents=32768, shard=SHARD).run(6)
    assert b.links[0].ended == 4000
    b.open().hello().ready(G, session="up2")
    assert [d["intents"] for d in b.sent(2)] == [513, 513 | 32768] and b.sent(6) == []
    b.tell(intents=32768, shard=SHARD).tell(intents=513, shard=SHARD).run(1)
    assert len(b.links) == 2


def test_r23_an_agent_that_asks_for_more_than_the_operators_session_gets_the_union() -> None:
    b = bench().live(G).tell(intents=32768, shard=SHARD).run(6).open().hello()
    assert [d["intents"] for d in b.sent(2)] == [UNPRIVILEGED, UNPRIVILEGED | 32768]


def test_r26_a_commit_of_an_old_session_does_not_move_the_new_ones_number() -> None:
    b = bench().live(G)
    b.disk_works = False
    b.message(at(1), "11").message(at(2), "11").close(4009).run(6).open().hello()
    *old, attempt = b.waiting
    b.feed(attempt).event("READY", {"session_id": "up2", "resume_gateway_url": RESUME_URL, "guilds": []})
    for event in old:
        b.feed(event)
    b.op(1)
    assert b.sent(1) == [None]


def test_r23_what_is_asked_while_an_identify_is_on_its_way_is_asked_for_after_it() -> None:
    b = Bench(operators=False).start().tell(intents=513, shard=SHARD).open().hello()
    b.tell(intents=32768, shard=SHARD)
    assert len(b.links) == 1
    b.ready().run(6).open().hello()
    assert [d["intents"] for d in b.sent(2)] == [513, 513 | 32768]


def test_section_8_the_operators_intents_and_shards() -> None:
    b = bench(intents=33281, shards=("0/2",)).open("0/2").hello(name="0/2")
    assert [(d["intents"], d["shard"]) for d in b.sent(2)] == [(33281, [0, 2])]


class Deflate:
    """A server's zlib-stream."""

    def __init__(self) -> None:
        self.context = zlib.compressobj()

    def __call__(self, frame: dict[str, Any]) -> Binary:
        return Binary(self.context.compress(msgspec.json.encode(frame)) + self.context.flush(zlib.Z_SYNC_FLUSH))


def feed(b: Bench, *frames: bytes) -> Link:
    b.feed(FramesReceived(SHARD, list(frames)))
    return b.links[-1]


HELLO = {"t": None, "s": None, "op": 10, "d": {"heartbeat_interval": 41250}}


def test_r1_zlib_stream_one_context_a_connection_and_messages_in_pieces() -> None:
    b = bench(compress="zlib-stream").open()
    pack = Deflate()
    feed(b, pack(HELLO))
    ready = pack(b.dispatch("READY", {"session_id": "z", "resume_gateway_url": RESUME_URL, "guilds": []}))
    for at_ in range(0, len(ready), 3):
        feed(b, Binary(ready[at_ : at_ + 3]))
    d = {"id": str(at(1)), "channel_id": "11", "content": "ä"}
    feed(b, pack(b.dispatch("MESSAGE_CREATE", d)), pack(b.dispatch("MESSAGE_CREATE", {**d, "id": str(at(2))})))
    assert b.messages == [at(1), at(2)]
    assert b.journal[0].frame == {"t": "MESSAGE_CREATE", "s": 2, "op": 0, "d": d}
    b.close(None).run(1).open()
    assert feed(b, Deflate()(HELLO)).sent[-1]["op"] == 6


def test_r1_text_in_spite_of_the_request_is_taken() -> None:
    b = bench(compress="zlib-stream").open().hello().ready(G)
    assert b.phase() == "live"


def test_r1_a_broken_stream_is_left_and_resumed() -> None:
    b = bench(compress="zlib-stream").open()
    pack = Deflate()
    feed(b, pack(HELLO), pack(b.dispatch("READY", {"session_id": "z", "resume_gateway_url": RESUME_URL, "guilds": []})))
    feed(b, Binary(b"\xffgarbage\x00\x00\xff\xff"))
    assert b.links[0].ended == 4000
    b.run(1).open()
    assert feed(b, Deflate()(HELLO)).sent[-1]["op"] == 6


# --- commands (R21) ----------------------------------------


def test_r21_commands_wait_for_the_upstream_and_go_out_in_order() -> None:
    b = bench()
    for n in range(3):
        b.tell(command=b'{"op":4,"d":{"guild_id":"1","n":%d}}' % n, shard=SHARD, **{"from": "s1"})
    b.live(G)
    assert [d["n"] for d in b.sent(4)] == [0, 1, 2]
    b.tell(command=b'{"op":31,"d":{"guild_ids":["1"]}}', shard=SHARD, **{"from": "s1"})
    assert b.sent(31) == [{"guild_ids": ["1"]}]


def test_r21_no_more_than_120_frames_a_minute_and_beats_go_first() -> None:
    b = bench().live(G)
    for n in range(300):
        b.tell(command=b'{"op":4,"d":{"n":%d}}' % n, shard=SHARD, **{"from": "s1"})
    for _ in range(240):
        b.run(1).op(11)
    times = b.link.times
    assert [d["n"] for d in b.sent(4)] == list(range(300))
    assert max(sum(1 for t in times if since <= t < since + 60) for since in times) <= 120
    assert len(b.links) == 1 and len(b.sent(1)) >= 5


def test_r21_what_waits_for_the_upstream_is_bounded_and_what_is_dropped_is_told() -> None:
    b = bench()
    for n in range(1001):
        b.tell(command=b'{"op":4,"d":{"n":%d}}' % n, shard=SHARD, **{"from": "s1"})
    assert "dropped" in b.said[-1]
    b.live(G)
    for _ in range(1200):
        b.op(11).run(1)
    assert [d["n"] for d in b.sent(4)] == list(range(1000))


def test_r21_the_last_presence_wins_and_goes_into_the_next_identify() -> None:
    b = bench()
    b.tell(presence={"status": "idle"}, shard=SHARD).tell(presence={"status": "dnd"}, shard=SHARD).open().hello()
    assert b.sent(2)[0]["presence"] == {"status": "dnd"}
    b.ready(G)
    assert b.sent(3) == []
    b.tell(presence={"status": "online"}, shard=SHARD)
    assert b.sent(3) == [{"status": "online"}]
    b.close(4009).run(6).open().hello()
    assert b.sent(2)[1]["presence"] == {"status": "online"}


def test_r21_chunks_go_to_the_session_that_asked_and_are_not_journaled() -> None:
    b = bench().live(G)
    b.tell(command=b'{"op":8,"d":{"guild_id":"1","query":"","limit":0,"nonce":"x"}}', shard=SHARD, **{"from": "s1"})
    b.tell(command=b'{"op":8,"d":{"guild_id":"1","query":"","limit":0}}', shard=SHARD, **{"from": "s2"})
    b.event("GUILD_MEMBERS_CHUNK", {"guild_id": "1", "nonce": "x", "chunk_index": 0, "chunk_count": 1})
    b.event("GUILD_MEMBERS_CHUNK", {"guild_id": "1", "chunk_index": 0, "chunk_count": 1})
    b.event("RATE_LIMITED", {"opcode": 8, "retry_after": 5.0, "meta": {"guild_id": "1", "nonce": "y"}})
    chunks = [m["chunk"] for m in b.told if "chunk" in m]
    assert chunks == ["s1", "s2"] and b.journal == []
    assert b.committed()["seq"] in (2, 5)
