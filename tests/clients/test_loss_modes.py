"""Every way in which resync loses, doubles and disorders (relaycast section 5, L1 to L9, D1, O1), each over both routes.

Connected directly, the same client in the same scenario must show the fault: so each test is known to be able to go red.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sidecar.demo.rows import Message
from sidecar.demo.sockets import Socket
from tests.clients.conftest import Clients, Judges
from tests.clients.plain import PlainAgent
from tests.clients.processes import until
from tests.clients.stage import Open, Scenario, Stage

Over = Callable[[Scenario], None]


@pytest.fixture(params=["sidecar", "direct"])
def route(request: pytest.FixtureRequest) -> str:
    """Through the sidecar, or straight to the upstream."""
    name: str = request.param
    return name


@pytest.fixture
def sdk_over(judges: Judges, clients: Clients, route: str) -> Over:
    """Runs a scenario with @relaycast/sdk 4.2.0, the client that resyncs."""
    clients.need("v4")
    return lambda scenario: asyncio.run(judges.one(scenario, "v4", direct=route == "direct"))


@pytest.fixture
def plain_over(judges: Judges, route: str) -> Over:
    """Runs a scenario with the small client of these tests."""
    return lambda scenario: asyncio.run(judges.one(scenario, "plain", direct=route == "direct"))


def keys(rows: list[Message], kind: str = "message.created") -> list[str]:
    return [f"{kind} {row.id}" for row in rows]


async def whole(stage: Stage, *, reactions_move: bool = False) -> None:
    assert (await stage.stream())["gaps"] == 0, "a gap is told where nothing is lost"
    await stage.whole(reactions_move=reactions_move)


def test_l1_what_shares_its_second_with_since_and_left_the_ring(sdk_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            stage.clock.stop()
            await stage.connect()
            stage.post(1, "before")
            await stage.settled()
            await stage.drop()
            missed = stage.post(660, "missed")
            await stage.back()
            await stage.ended(resync=True)
            if stage.direct:
                assert stage.verdict().lost == keys(missed[:160])
            else:
                await whole(stage)

    sdk_over(scenario)


def test_l2_more_than_the_ring_holds_and_no_since(plain_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            await stage.connect()
            stage.post(1, "before")
            await stage.settled()
            await stage.agent.kill()
            missed = stage.post(660, "missed")
            await stage.connect()
            await stage.ended(resync=True)
            if stage.direct:
                assert stage.verdict().lost == keys(missed[:160])
            else:
                await whole(stage)

    plain_over(scenario)


def test_l3_more_than_ring_and_database_replay_hold(sdk_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            await stage.connect()
            stage.post(1, "before")
            await stage.settled()
            await stage.drop()
            stage.clock.ahead += 2
            missed = stage.post(1800, "missed", over_s=180)
            for emoji in "👍🎉":
                stage.world.react(stage.helper, missed[-1], emoji)
            await stage.back()
            await stage.ended(resync=True)
            if stage.direct:
                assert stage.verdict().lost == keys(missed[1000:1302])
            else:
                await whole(stage, reactions_move=True)

    sdk_over(scenario)


def test_l4_a_new_counter_below_the_cursor(sdk_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            await stage.connect()
            stage.post(50, "before")
            await stage.settled()
            await stage.drop()
            stage.world.restart()
            missed = stage.post(10, "missed")
            await stage.back()
            await stage.ended(resync=True)
            if stage.direct:
                assert stage.verdict().lost == keys(missed)
            else:
                await whole(stage)

    sdk_over(scenario)


def test_l5_a_new_counter_above_the_cursor(sdk_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            await stage.connect()
            stage.post(50, "before")
            await stage.settled()
            await stage.drop()
            stage.world.restart()
            missed = stage.post(100, "missed")
            await stage.back()
            await stage.ended(resync=True)
            if stage.direct:
                assert stage.verdict().lost == keys(missed[:50])
            else:
                await whole(stage)

    sdk_over(scenario)


def test_l6_a_replay_that_stops_half_way_without_acknowledgement(sdk_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage(relaycast_ack_timeout_s="0.5") as stage:
            await stage.connect()
            stage.post(20, "before")
            await stage.settled()
            await stage.drop()
            missed = stage.post(120, "missed")
            stage.world.break_resync(30, times=50, cut=False)
            opens = stage.agent.states["open"]
            await stage.back()
            if stage.direct:
                await until(lambda: stage.agent.states["open"] > opens, "the agent did not come back")
                await until(lambda: len(stage.world.broken_resyncs) == 49, "nobody asked for a resync")
                await stage.ended()
                assert stage.verdict().lost == keys(missed[30:])
            else:
                await stage.ended()
                await whole(stage)

    sdk_over(scenario)


def test_l7_a_push_lost_on_a_live_socket(sdk_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            await stage.connect()
            stage.post(20, "before")
            await stage.settled()
            stage.world.lose_pushes(5, stage.bot)
            missed = stage.post(5, "missed")
            await stage.ended()
            if stage.direct:
                assert stage.verdict().lost == keys(missed)
            else:
                await whole(stage)

    sdk_over(scenario)


def test_l8_kinds_without_a_database_row_older_than_the_ring(sdk_over: Over) -> None:
    """The one true gap: nothing upstream has them any more. The sidecar cannot heal it, but tells it, in its place."""

    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            await stage.connect()
            before = stage.post(3, "before")
            await stage.settled()
            await stage.drop()
            for _ in range(3):
                stage.clock.ahead += 1
                stage.world.presence(stage.helper, "idle")
            gone = stage.published()[3:]
            missed = stage.post(600, "missed", over_s=30)
            await stage.back()
            await stage.ended(resync=True)
            verdict = stage.verdict()
            assert verdict.lost == gone and not (verdict.twice or verdict.foreign), str(verdict)
            if stage.direct:
                return
            assert not verdict.disordered, str(verdict)
            assert (await stage.stream())["gaps"] == 1
            records = await stage.records()
            gaps = [record for record in records if record["type"] == "gap"]
            assert [(gap["reason"], gap.get("count")) for gap in gaps] == [("lost", 3)], gaps
            texts = [record["event"]["message"]["text"] if record["type"] == "event" else None for record in records]
            assert texts.index(None) >= len(before), "the gap stands before what was there before it"
            assert [text for text in texts if text] == [row.text for row in (*before, *missed)] + ["the end0"]
            counted = [line for line in (await stage.metrics()).splitlines() if line.startswith("sidecar_gaps_total")]
            assert sum(float(line.rsplit(" ", 1)[1]) for line in counted) == 1, counted
            assert stage.sidecar is not None
            assert any("gap" in line and "lost" in line for line in stage.sidecar.lines), "no log line tells of the gap"

    sdk_over(scenario)


def test_l9_a_socket_that_answers_pings_and_nothing_else(plain_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage(relaycast_ping_s="0.2", relaycast_dead_s="1") as stage:
            assert isinstance(stage.agent, PlainAgent)
            await stage.connect()
            stage.post(10, "before")
            await stage.settled()
            deaf = list(stage.bot.sockets)
            stage.world.go_silent("deaf")
            missed = stage.post(10, "missed")
            if stage.direct:
                await stage.agent.passed()  # what was sent before this pong has arrived
                assert stage.verdict().lost == keys(missed)
                assert stage.agent.states["pong"] == 0 and stage.agent.states["open"] == 1, "open for ever, and deaf"
            else:
                await until(lambda: not any(socket in stage.bot.sockets for socket in deaf), "the deaf socket is still held")
                await stage.ended()
                await whole(stage)
                assert stage.agent.states["open"] == 1, "the agent noticed"

    plain_over(scenario)


def test_d1_a_reaction_in_ring_and_database(sdk_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            await stage.connect()
            stage.post(1, "before")
            await stage.settled()
            await stage.drop()
            stage.clock.ahead += 2
            missed = stage.post(600, "missed", over_s=30)
            stage.world.react(stage.helper, missed[-1], "👍")
            await stage.back()
            await stage.ended(resync=True)
            if stage.direct:
                assert stage.verdict().twice == [f"message.reacted {missed[-1].id} 👍 added"]
            else:
                await whole(stage)

    sdk_over(scenario)


def test_o1_ring_before_database_and_live_in_between(sdk_over: Over) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            await stage.connect()
            stage.post(1, "before")
            await stage.settled()
            await stage.drop()
            stage.clock.ahead += 2
            missed = stage.post(600, "missed", over_s=30)
            live: list[Message] = []

            def between(socket: Socket, part: str, index: int) -> None:
                if part == "database" and index == 50 and not live:
                    live.extend(stage.post(1, "live"))

            stage.world.on_replay = between
            await stage.back()
            await stage.ended(resync=True)
            assert live, "nothing came in between"
            if stage.direct:
                verdict = stage.verdict()
                assert not verdict.lost
                assert verdict.disordered[:100] == keys(missed[:100])
            else:
                await whole(stage)

    sdk_over(scenario)
