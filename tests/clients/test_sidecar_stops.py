"""The sidecar stops, or is killed, under unmodified agents in the middle of the flow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.clients.conftest import Judged
from tests.clients.processes import until
from tests.clients.stage import Open, Stage

WINDOW = 64


@asynccontextmanager
async def flow(stage: Stage) -> AsyncIterator[None]:
    """Messages all the while, a few hundred a second."""
    ended = False

    async def post() -> None:
        while not ended:
            stage.mix(4, len(stage.bot.history))
            await asyncio.sleep(0.02)

    task = asyncio.get_running_loop().create_task(post())
    try:
        yield
    finally:
        ended = True
        await task


async def more(stage: Stage, count: int) -> None:
    """Wait until `count` further events were handed to the agent's handler."""
    wanted = len(stage.agent.handled()) + count
    await until(lambda: len(stage.agent.handled()) >= wanted, lambda: f"the flow stands: {stage.verdict()}")


async def reopened(stage: Stage, opens: int) -> None:
    await until(lambda: stage.agent.states["open"] > opens, "the agent did not come back")


async def stopped(open_stage: Open) -> None:
    async with open_stage(raw=True) as stage:
        assert stage.sidecar is not None
        await stage.connect(busy_ms=2)
        async with flow(stage):
            for _ in range(2):
                await more(stage, 100)
                opens = stage.agent.states["open"]
                assert await stage.sidecar.stop() == 0
                await stage.sidecar.start()
                await reopened(stage, opens)
            await more(stage, 100)
        await stage.whole(reactions_move=True)  # a stop may last longer than the ring


def test_a_planned_restart_of_the_sidecar_loses_and_repeats_nothing(judged: Judged) -> None:
    judged(stopped)


async def killed(open_stage: Open) -> None:
    async with open_stage(raw=True, window=str(WINDOW)) as stage:
        assert stage.sidecar is not None
        await stage.connect()
        async with flow(stage):
            for _ in range(2):
                await more(stage, 100)
                opens = stage.agent.states["open"]
                await stage.sidecar.kill()
                await stage.sidecar.start()
                await reopened(stage, opens)
            await more(stage, 100)
        await stage.settled()
        verdict = stage.verdict()
        assert not verdict.lost and not verdict.foreign, str(verdict)
        assert len(verdict.twice) <= 2 * WINDOW, str(verdict)
        if stage.sdk == "v4":
            numbers = Counter(event["agent_seq"] for event in stage.wire())
            assert max(numbers.values()) == 1, "a client that states a cursor gets nothing twice"


def test_a_killed_sidecar_loses_nothing_and_repeats_at_most_a_window(judged: Judged) -> None:
    judged(killed)


async def away(open_stage: Open) -> None:
    """Stopped while the agent is dead, too, and while the upstream forgets its counter."""
    async with open_stage() as stage:
        assert stage.sidecar is not None
        await stage.connect()
        stage.mix(60)
        await stage.settled()
        await stage.agent.kill()
        await stage.sidecar.stop()
        stage.mix(40, 60)
        stage.world.restart()
        stage.mix(40, 100)
        await stage.sidecar.start()
        await stage.connect()
        stage.mix(10, 140)
        await stage.whole(reactions_move=True)


def test_all_three_down_at_once(judged: Judged) -> None:
    judged(away)
