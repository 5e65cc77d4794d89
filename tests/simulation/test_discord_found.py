"""What seeds of the Discord simulation found, each distilled to the few steps that show it."""

from __future__ import annotations

from tests.dialects.discord.bench import SHARD, WALL, Bench, at, channel, guild


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
