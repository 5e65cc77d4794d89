"""Unmodified agents over the sidecar, while their server drops, restarts, forgets and truncates: 0 lost, 0 twice, in order."""

from __future__ import annotations

import asyncio

from tests.clients.conftest import Judged
from tests.clients.processes import until
from tests.clients.stage import Open


async def ten_cuts(open_stage: Open) -> None:
    async with open_stage(raw=True) as stage:
        await stage.connect()
        for cut in range(10):
            stage.mix(50, cut * 100)
            await stage.held()  # a cut that finds no socket is none
            stage.world.cut_all(*((), (1012,), (1001,))[cut % 3])
            for step in range(10):
                stage.mix(5, cut * 100 + 50 + step * 5)
                await asyncio.sleep(0.01)
        assert len(stage.bot.history) == 1000
        await stage.whole()


def test_a_thousand_mixed_messages_and_ten_cuts(judged: Judged) -> None:
    judged(ten_cuts)


async def outage_of_660(open_stage: Open) -> None:
    async with open_stage() as stage:
        await stage.connect()
        stage.mix(20)
        await stage.settled()
        await stage.drop()
        stage.post(660, "missed", over_s=30)
        await stage.back()
        await stage.held()
        stage.post(3, "after")
        await stage.whole()


def test_an_outage_of_660_messages(judged: Judged) -> None:
    judged(outage_of_660)


async def outage_of_1800(open_stage: Open) -> None:
    """Spread over minutes: the database replay's first thousand and the ring's last five hundred leave 300 out (L3)."""
    async with open_stage() as stage:
        await stage.connect()
        root = stage.post(20, "before")[0]
        await stage.settled()
        await stage.drop()
        stage.post(500, "missed a", over_s=60)
        stage.world.react(stage.helper, root, "👍")
        stage.post(700, "missed b", over_s=60)
        stage.world.react(stage.helper, stage.post()[0], "🎉")
        stage.post(599, "missed c", over_s=60)
        await stage.back()
        await stage.held()
        stage.post(3, "after")
        await stage.whole(reactions_move=True)


def test_an_outage_of_1800_messages_and_2_reactions(judged: Judged) -> None:
    judged(outage_of_1800)


async def outage_within_a_second(open_stage: Open) -> None:
    """All of it in one second of the server's clock: resync cannot page past it, only REST can (R8)."""
    async with open_stage() as stage:
        await stage.connect()
        root = stage.post(20, "before")[0]
        await stage.settled()
        await stage.drop()
        stage.clock.ahead += 60
        stage.clock.stop()
        stage.post(900, "missed a")
        for index in range(5):
            stage.world.reply(stage.helper, root, f"missed reply {index}")
            stage.world.dm(stage.author, [stage.bot], f"missed dm {index}")
        stage.post(900, "missed b")
        await stage.back()
        await stage.held()
        stage.post(3, "after")
        await stage.whole()


def test_an_outage_of_1810_messages_within_one_second(judged: Judged) -> None:
    judged(outage_within_a_second)


async def new_counter_below(open_stage: Open) -> None:
    async with open_stage() as stage:
        await stage.connect()
        stage.mix(60)
        await stage.settled()
        await stage.drop()
        stage.mix(15, 60)
        stage.world.restart()
        stage.mix(10, 75)
        await stage.back()
        await stage.held()
        assert stage.bot.seq < 60
        stage.mix(10, 85)
        await stage.whole(reactions_move=True)


def test_a_counter_reset_that_ends_below_our_cursor(judged: Judged) -> None:
    judged(new_counter_below)


async def new_counter_above(open_stage: Open) -> None:
    async with open_stage() as stage:
        await stage.connect()
        stage.mix(40)
        await stage.settled()
        await stage.drop()
        stage.mix(15, 40)
        stage.world.restart()
        stage.mix(95, 55)
        assert stage.bot.seq > 40
        await stage.back()
        await stage.held()
        stage.mix(10, 150)
        await stage.whole(reactions_move=True)


def test_a_counter_reset_that_ends_above_our_cursor(judged: Judged) -> None:
    judged(new_counter_above)


async def no_ack(open_stage: Open) -> None:
    async with open_stage(relaycast_ack_timeout_s="0.5") as stage:
        await stage.connect()
        root = stage.post(20, "before")[0]
        await stage.settled()
        await stage.drop()
        stage.world.swallow_resync(100)
        stage.post(120, "missed")
        stage.world.reply(stage.helper, root, "missed reply")
        stage.world.dm(stage.author, [stage.bot], "missed dm")
        await stage.back()
        await until(lambda: stage.world.swallow_resyncs < 100, "nobody asked for a resync")
        stage.post(10, "meanwhile")
        await stage.held()
        stage.post(3, "after")
        await stage.whole()


def test_an_acknowledgement_that_never_comes(judged: Judged) -> None:
    judged(no_ack)


async def hole(open_stage: Open) -> None:
    async with open_stage() as stage:
        await stage.connect()
        stage.mix(20)
        await stage.settled()
        connects = _connects(stage)
        for lost in (1, 3, 20):
            stage.world.lose_pushes(lost, stage.bot)
            stage.mix(lost + 20, len(stage.bot.history))
            await stage.settled()
        await stage.whole()
        assert _connects(stage) == connects, "a hole is filled on the same socket (R13)"


def _connects(stage: object) -> int:
    return sum(asked.method == "UPGRADE" for asked in stage.world.log)  # type: ignore[attr-defined]


def test_a_hole_on_a_live_socket(judged: Judged) -> None:
    judged(hole)


async def too_many_requests(open_stage: Open) -> None:
    async with open_stage(relaycast_ack_timeout_s="0.5") as stage:
        await stage.connect()
        stage.post(20, "before")
        await stage.settled()
        await stage.drop()
        stage.world.swallow_resync(100)
        stage.post(350, "missed")
        stage.world.dm(stage.author, [stage.bot], "missed dm")
        stage.world.rate_limit(1, "1", method="GET")
        stage.world.rate_limit(2, "1", method="GET", prefix="/v1/channels/general/messages")
        stage.world.rate_limit(1, None, method="GET", prefix="/v1/dm/")
        await stage.back()
        await stage.held()
        assert not stage.world.rest_faults, "the backfill met no 429"
        stage.post(3, "after")
        await stage.whole()


def test_too_many_requests_during_backfill(judged: Judged) -> None:
    judged(too_many_requests)
