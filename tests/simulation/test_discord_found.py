"""What seeds of the Discord simulation found, each distilled to the few steps that show it."""

from __future__ import annotations

from sidecar.core.actions import Request
from sidecar.core.events import ResponseReceived
from sidecar.core.record import LATE, REPLAYED
from sidecar.dialects.discord.identity import Identities
from tests.dialects.discord.bench import GATEWAY_URL, RESUME_URL, SHARD, WALL, Bench, History, at, channel, guild


def test_R36_a_commit_while_the_upstream_is_away_is_no_sign_of_life_of_it() -> None:
    b = Bench().start()
    b.tell(intents=33281, shard=SHARD)
    b.live(guild(1, channel(11)))
    b.message(at(1), "11").run(10)
    b.close(None)
    gone = b.wall
    # An agent comes, and comes again: its shard's row is written while nobody hears the upstream.
    b.run(0.3).refuse()
    for _ in range(3):
        b.tell(intents=33281, shard=SHARD).tell(snapshot="x", shard=SHARD).run(7)
        if SHARD in b.current:
            b.refuse()
    b.crash()
    b.tell(intents=33281, shard=SHARD)
    b.open().hello().op(9, False).run(6)
    b.open().hello().ready(guild(1, channel(11, at(1))), session="up2")
    (entry,) = b.gaps
    assert entry.gap is not None and entry.gap.from_ <= gone * 1000 < b.wall * 1000 <= entry.gap.to + 1


def test_R29_five_seconds_between_two_identifies_also_across_a_kill() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11)))
    b.run(1).crash().open().hello().op(9, False)
    sent: list[float] = []
    for _ in range(60):
        b.run(0.25)
        if SHARD in b.current and not b.link.is_open:
            b.open().hello()
        if b.sent(2, b.links[-1]):
            sent.append(b.wall)
            break
    assert sent and sent[0] - WALL >= 5.0


def test_U15_a_ready_that_comes_twice_begins_nothing() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11)))
    b.message(at(1), "11")
    top = b.link.s
    b.event("READY", {"v": 10, "user": {"id": "42"}, "session_id": "up1", "guilds": [{"id": "1", "unavailable": True}]}, 1)
    b.message(at(1), "11", top)
    b.event("MESSAGE_REACTION_ADD", {"channel_id": "11", "guild_id": "1", "message_id": "5"}, top + 1)
    b.event("MESSAGE_REACTION_ADD", {"channel_id": "11", "guild_id": "1", "message_id": "5"}, top + 1)
    assert not b.gaps
    assert b.names.count("MESSAGE_REACTION_ADD 5") == 1
    assert b.committed()["top"] == top + 1


def test_R23_more_intents_while_the_resume_url_is_dialled_lead_to_the_gateway() -> None:
    b = Bench().start()
    b.tell(intents=33281, shard=SHARD)
    b.live(guild(1, channel(11)))
    b.run(10).close(None).run(0.6)
    assert b.link.action.target.startswith(RESUME_URL)
    b.tell(intents=33281 | 1 << 10, shard=SHARD).run(6)
    assert b.link.action.target.startswith(GATEWAY_URL)
    b.open().hello()
    assert [d["intents"] for d in b.sent(2, b.link)] == [33281 | 1 << 10]


def test_R33_the_gap_of_a_channel_that_was_empty_begins_with_the_channel() -> None:
    made, first, last = at(2), at(12), at(19)
    b = Bench().start()
    b.live(guild(1, channel(made))).run(10)
    history = History()
    history.special = {"/messages?": [(403, {}, {})]}
    b.rest = history
    b.close(4009).run(10)
    b.open().hello().ready(guild(1, channel(made, last)), session="up2").run(5)
    (gap,) = [entry.gap for entry in b.gaps if entry.domain == str(made)]
    assert gap is not None and gap.reason == "denied"
    times = [(number >> 22) + 1_420_070_400_000 for number in (made, first, last)]
    assert all(gap.from_ <= ms <= gap.to for ms in times)


def test_R32_a_number_missing_between_held_events_is_looked_for_and_merged_in_its_place() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11, at(0)))).run(10)
    b.rest = history = History()
    history.guilds = {"1": [channel(11, at(23))]}
    history.put("11", at(21), at(22), at(23))
    b.close(4009).run(10)
    ready = {"v": 10, "user": {"id": "42"}, "session_id": "up2", "resume_gateway_url": RESUME_URL, "guilds": [{"id": "1"}]}
    b.open().hello().event("READY", ready, 1)
    # The guild is in question until its GUILD_CREATE comes: what happens in it is held, with number 3 missing; then we are killed.
    b.message(at(21), "11", 2).message(at(23), "11", 4)
    assert not b.messages
    b.crash().open().hello()
    assert [d["seq"] for d in b.sent(6, b.link)] == [1]
    b.message(at(21), "11", 2).message(at(23), "11", 4).resumed(5)
    b.run(70)
    assert b.messages == [at(21), at(22), at(23)]
    assert not [entry for entry in b.journal if entry.flags & 4], "none is late"


def test_R36_what_two_kills_took_is_gone_since_it_came_first() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11, at(0)))).run(10)
    b.close(4009).run(10)
    ready = {"v": 10, "user": {"id": "42"}, "session_id": "up2", "resume_gateway_url": RESUME_URL, "guilds": [{"id": "1"}]}
    b.open().hello().event("READY", ready, 1)
    came = b.wall
    reaction = {"channel_id": "11", "guild_id": "1", "message_id": "5"}
    b.event("MESSAGE_REACTION_ADD", reaction, 2).run(1)
    b.crash().run(5).open().hello()
    b.event("MESSAGE_REACTION_ADD", reaction, 2).resumed(3)
    assert not b.names, "it is held again"
    # Something that is not held: from here the upstream was heard.
    b.run(2).message(at(40), "77", 4, guild=None)
    b.crash().run(5).open().hello().op(9, False).run(10)
    b.open().hello().ready(guild(1, channel(11, at(0))), session="up3")
    gap = [entry.gap for entry in b.gaps if not entry.domain][-1]
    assert gap is not None and gap.detail and gap.from_ <= came * 1000


def test_R26_an_older_RESUMED_within_a_replay_is_not_its_end() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11, at(0)))).run(10)
    b.rest = history = History()
    history.put("11", at(21)).guilds = {"1": [channel(11, at(21))]}
    b.close(4009).run(10)
    ready = {"v": 10, "user": {"id": "42"}, "session_id": "up2", "resume_gateway_url": RESUME_URL, "guilds": [{"id": "1"}]}
    b.open().hello().event("READY", ready, 1).message(at(21), "11", 2)
    b.close(None).run(1).open().hello()
    b.message(at(21), "11", 2).resumed(3)
    reaction = {"channel_id": "11", "guild_id": "1", "message_id": "5"}
    b.event("MESSAGE_REACTION_ADD", reaction, 4)
    b.close(None).run(2).open().hello()
    assert [d["seq"] for d in b.sent(6, b.link)] == [1], "what is held is in memory only"
    b.message(at(21), "11", 2).resumed(3).event("MESSAGE_REACTION_ADD", reaction, 4).resumed(5)
    b.event("GUILD_CREATE", guild(1, channel(11, at(21))), 6).run(70)
    assert b.names == [f"MESSAGE_CREATE {at(21)}", "MESSAGE_REACTION_ADD 5"]
    assert len(b.gaps) == 1, "that of the first session"


def test_R34_a_guild_that_is_away_at_the_first_ready_is_not_read_back_from_before_our_time() -> None:
    old = at(-86400)
    b = Bench().start()
    b.open().hello().ready()
    b.rest = history = History()
    history.put(str(old), old + 1, old + 2)
    b.run(10).close(4009).run(10)
    away = {"v": 10, "user": {"id": "42"}, "session_id": "up2", "resume_gateway_url": RESUME_URL, "guilds": [{"id": "1"}]}
    b.open().hello().event("READY", away, 1).run(3)
    b.event("GUILD_CREATE", guild(1, channel(old, old + 2)), 2).run(10)
    assert not b.messages
    assert not [target for target in b.asked if "/messages" in target]


def test_U11_a_token_is_not_asked_for_again_before_a_429s_time_is_over() -> None:
    asking = Identities({}, str)
    (request,) = asking.ask("tok")
    assert isinstance(request, Request)
    outcome, _ = asking.answered(ResponseReceived(request.request, 429, [("Retry-After", "7")], b"{}"))
    assert outcome is not None and outcome.verdict == "unknown"
    assert asking.retry_s >= 7.0 and not asking.ask("tok"), "an agent that comes meanwhile changes nothing"
    asking.told_s = 0.0
    assert asking.ask("tok")


def test_R36_what_an_earlier_session_lost_is_no_evidence_against_an_empty_replay() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11, at(0)))).run(10)
    b.rest = history = History()
    history.put("11", at(12)).guilds = {"1": [channel(11, at(12))]}
    b.close(4009).run(10)
    ready = {"v": 10, "user": {"id": "42"}, "session_id": "up2", "resume_gateway_url": RESUME_URL, "guilds": [{"id": "1"}]}
    b.open().hello().event("READY", ready, 1)
    # Killed before its GUILD_CREATE; the RESUME brings nothing, for nothing happened since.
    b.run(1).crash().run(1).open().hello().resumed(2)
    b.run(70)
    assert b.messages == [at(12)]
    assert len(b.gaps) == 1, "that of the first session"


def test_U15_a_replay_that_begins_with_an_older_RESUMED_brings_nothing_twice() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11, at(0)))).run(10)
    b.close(None).run(1).again(3).resumed(4)
    reaction = {"channel_id": "11", "guild_id": "1", "message_id": "5"}
    b.event("MESSAGE_REACTION_ADD", reaction, 5)
    b.close(None).run(3).again(5)
    b.resumed(4).event("MESSAGE_REACTION_ADD", reaction, 5).resumed(6).run(5)
    assert b.names.count("MESSAGE_REACTION_ADD 5") == 1


def test_R33_what_was_read_of_a_guild_that_is_left_meanwhile_keeps_its_guild_and_is_late() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11, at(0)), channel(12, at(0)))).run(10)
    b.rest = history = History()
    history.put("11", at(12)).put("12", at(12)).special["channels/12"] = [None]
    b.close(4009).run(10)
    b.open().hello().ready(guild(1, channel(11, at(12)), channel(12, at(12))), session="up2")
    # 30 s: what is held goes on, and 11 waits for 12 no more.
    b.message(at(20), "12", 3).run(20).op(11).run(11)
    assert b.messages == [at(12), at(20)]
    b.event("GUILD_DELETE", {"id": "1"}, 4).message(at(60), "12", 5).let().run(5)
    assert b.messages == [at(12), at(20), at(60), at(12)]
    late = b.journal[-1]
    assert late.frame["d"]["guild_id"] == "1" and late.frame["d"]["channel_type"] == 0
    assert late.flags == LATE | REPLAYED
    assert not [key for key in b.state if key.startswith("mark:")], "nothing is read of it again"


def test_R34_a_guild_that_is_left_and_joined_again_while_history_is_read_starts_anew() -> None:
    b = Bench().start()
    b.live(guild(1, channel(11, at(0)))).run(10)
    b.rest = history = History()
    history.put("11", at(12)).special["channels/11"] = [None]
    b.close(4009).run(10)
    b.open().hello().ready(guild(1, channel(11, at(12))), session="up2").run(20).op(11).run(11)
    b.event("GUILD_DELETE", {"id": "1"}, 4).event("GUILD_CREATE", guild(1, channel(11, at(40))), 5)
    assert b.state[f"mark:{SHARD}/11"] == f"{at(40)} 1".encode()
    b.message(at(50), "11", 6).let().run(5)
    assert b.state[f"mark:{SHARD}/11"] == f"{at(50)} 1".encode()


def test_R34_what_an_audit_shows_of_one_guild_makes_no_channel_of_another_older_than_the_gateways_silence() -> None:
    born = at(30)
    b = Bench().start()
    b.live(guild(1, channel(11, at(0))), guild(2, channel(21, at(0)))).run(10)
    b.rest = history = History()
    history.special["guilds/2"] = [(403, {}, {})] * 2
    # Two jumps: an audit at once, and one a minute later. From then on the gateway says nothing, of the new channel neither.
    b.message(at(10), "21", b.link.s + 2, guild="2").run(1).message(at(11), "21", b.link.s + 2, guild="2")
    history.guilds = {"1": [channel(11, at(40))]}
    history.put("11", at(40)).put(str(born), at(50))
    for _ in range(4):
        b.op(11).run(16)
    assert b.messages == [at(10), at(11), at(40)]
    b.close(4009).run(20)
    b.open().hello().ready(guild(1, channel(11, at(40))), guild(2, channel(21, at(11)), channel(born, at(50))), session="up2").run(5)
    assert b.messages == [at(10), at(11), at(40), at(50)], "its channel was made while nothing was heard"
