"""Unmodified agents that are killed, frozen, slow or given another token: each goes on where it was."""

from __future__ import annotations

import asyncio
import signal

from tests.clients.conftest import Judged
from tests.clients.processes import until
from tests.clients.stage import Open, Stage

WINDOW = 256


async def killed_at_rest(open_stage: Open) -> None:
    async with open_stage(raw=True) as stage:
        await stage.connect()
        stage.mix(60)
        await stage.settled()
        await stage.agent.kill()
        stage.mix(60, 60)
        await stage.connect()
        stage.mix(10, 120)
        await stage.whole()
        assert stage.verdict(run=1, since=60).whole, "the second run was handed what came after the first one's receipts, no more"


def test_killed_when_all_is_receipted_nothing_comes_again(judged: Judged) -> None:
    judged(killed_at_rest)


async def killed_in_the_flow(open_stage: Open) -> None:
    """The handler takes 2 ms an event: kills meet frames on the way, in the library and in the handler."""
    async with open_stage() as stage:
        await stage.connect(busy_ms=2)
        for kill in range(3):
            behind = len(stage.bot.history)
            stage.mix(400, behind)
            await _handled(stage, behind + 60)
            await stage.agent.kill()
            taken = await _cursor(stage)
            assert taken <= len(set(stage.agent.handled())), "the cursor stands beyond what the handler was done with"
            stage.mix(20, len(stage.bot.history))
            await stage.connect(busy_ms=0.5)
            await stage.settled()
            again = set(stage.agent.handled(kill + 1)) & {key for run in range(kill + 1) for key in stage.agent.handled(run)}
            assert not again & set(stage.published()[:taken]), "what was receipted comes again"
            assert len(again) <= WINDOW
        verdict = stage.verdict()
        assert not verdict.lost and not verdict.foreign, str(verdict)
        for run in range(4):
            assert not stage.verdict(run=run).disordered and not stage.verdict(run=run).twice


async def _handled(stage: Stage, count: int) -> None:
    await until(lambda: len(set(stage.agent.handled())) > count, lambda: f"the flow stands: {stage.verdict()}")


async def _cursor(stage: Stage) -> int:
    stream = await stage.stream()
    return min(int(row["cursor"]) for row in stream["consumers"])


def test_killed_in_the_flow_nothing_is_lost_and_the_receipted_not_repeated(judged: Judged) -> None:
    judged(killed_in_the_flow)


async def frozen(open_stage: Open) -> None:
    async with open_stage() as stage:
        await stage.connect()
        stage.mix(60)
        await stage.settled()
        stage.process.signal(signal.SIGSTOP)
        stage.mix(600, 60)
        await until(lambda: _journaled(stage, 660), "the sidecar does not go on without its agent")
        assert await stage.lag() == 600, "a frozen agent has taken nothing"
        await stage.agent.kill()
        assert len(stage.agent.handled()) == 60
        await stage.connect()
        stage.mix(10, 660)
        await stage.whole()


async def _journaled(stage: Stage, count: int) -> bool:
    return bool((await stage.stream())["head"] == count)


def test_frozen_and_then_killed_what_it_had_not_taken_comes_again(judged: Judged) -> None:
    judged(frozen)


async def thawed(open_stage: Open) -> None:
    async with open_stage() as stage:
        await stage.connect()
        stage.mix(60)
        await stage.settled()
        stage.process.signal(signal.SIGSTOP)
        stage.mix(600, 60)
        await until(lambda: _journaled(stage, 660), "the sidecar does not go on without its agent")
        stage.process.signal(signal.SIGCONT)
        stage.mix(10, 660)
        await stage.whole()
        assert stage.agent.states["open"] == 1, "it was cut off for being frozen"


def test_frozen_and_thawed_it_goes_on_over_the_same_socket(judged: Judged) -> None:
    judged(thawed)


async def rotated(open_stage: Open) -> None:
    async with open_stage() as stage:
        await stage.connect()
        stage.mix(60)
        await stage.settled()
        old = stage.bot.token
        assert stage.world.rotate_token(stage.bot) != old
        await until(lambda: stage.agent.states["close"] > 0, "the old token's socket stays open")
        await until(lambda: _refusals(stage, old) > 0, "nobody tried the old token again")
        stage.mix(10, 60)
        await stage.agent.kill()
        assert stage.agent.states["open"] == 1, "an agent with a token that ended was let in"
        stage.mix(30, 70)
        await stage.connect()
        stage.mix(10, 100)
        await stage.whole()
        assert [row["name"] for row in (await stage.status())["streams"]] == [stage.bot.id], "one agent, one stream (R1)"
        assert len((await stage.stream())["consumers"]) == 1


def _refusals(stage: Stage, token: str) -> int:
    return sum(asked.token == token and asked.status == 401 for asked in stage.world.log)


def test_a_rotated_token_continues_the_same_stream_and_cursor(judged: Judged) -> None:
    judged(rotated)


async def born_late(open_stage: Open) -> None:
    """A second agent of its own stream, met while the first one's runs: neither hears of the other."""
    async with open_stage() as stage:
        stage.mix(30)
        before = len(stage.bot.history)
        await stage.connect()
        stage.mix(30, 30)
        await until(lambda: len(stage.agent.handled()) == 30, lambda: str(stage.verdict(since=before)))
        await asyncio.sleep(0)
        assert stage.verdict(since=before).whole, "nothing older than the stream's birth (R4, R23)"


def test_a_new_consumer_starts_with_the_birth_of_its_stream(judged: Judged) -> None:
    judged(born_late)
