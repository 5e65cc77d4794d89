"""The race this project began with (wire page section 5): Carbon, metadata slow, `connect()` from a timer. Shown without a sidecar, and
gone with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.clients.processes import until
from tests.discord.clients.bots import BotClients, BotProcess
from tests.discord.clients.stage import Stage
from tests.discord.upstream.server import ReferenceDiscord

TOKEN = "reference-token"


@pytest.mark.parametrize("kind", ["carbon"], indirect=True)
def test_direct_a_failed_metadata_call_leaves_mute_sockets_for_ever(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with ReferenceDiscord() as upstream:
            world = upstream.world
            world.faults.metadata_delay_s = 2
            world.faults.metadata_status.append(500)
            bot = BotProcess(bot_clients.command(kind), tmp_path, {"race": {"readyTimeoutMs": 500}})
            try:
                await bot.start(TOKEN, upstream.url)
                await until(lambda: bot.states["unhandled"] > 0, lambda: f"the metadata call did not fail:\n{bot.tail()}")
                failed_at = len(world.ledger.connects)
                await until(lambda: len(world.ledger.connects) >= failed_at + 4, lambda: f"no more sockets:\n{bot.tail()}")
            finally:
                await bot.kill()
            assert world.ledger.identifies == []
            assert bot.states["opened"] > 4
            assert bot.states["ready"] == 0

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["carbon"], indirect=True)
def test_direct_a_prompt_metadata_answer_leaves_no_window(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with ReferenceDiscord() as upstream:
            bot = BotProcess(bot_clients.command(kind), tmp_path, {"race": {"readyTimeoutMs": 4000}})
            try:
                await bot.start(TOKEN, upstream.url)
                await until(lambda: bot.states["ready"] == 1, lambda: f"not ready:\n{bot.tail()}")
            finally:
                await bot.kill()
            ledger = upstream.world.ledger
            assert (len(ledger.connects), len(ledger.identifies)) == (1, 1)

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["carbon"], indirect=True)
def test_R4_R10_R12_through_the_sidecar_ready_comes_with_one_socket_and_one_identify(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    """Upstream's metadata come late or not at all, its READY 20 s late, and the lifecycle's timer pulls at the socket all the while."""

    async def play(name: str, timer_ms: int, *failing: int) -> None:
        folder = tmp_path / name
        folder.mkdir()
        async with Stage(bot_clients, kind, folder, more={"race": {"readyTimeoutMs": timer_ms}}) as at:
            at.world.faults.metadata_delay_s = 3
            at.world.faults.metadata_status.extend(failing)
            at.world.faults.late_ready_s = 20
            await at.connect()
            at.post(20)
            await at.has_all()
            assert (len(at.world.ledger.connects), len(at.world.ledger.identifies)) == (1, 1)
            assert at.bot.states["unhandled"] == 0
            assert at.world.ledger.wrongs == []

    async def all_at_once() -> None:
        await asyncio.gather(play("slow", 4000), play("failing", 4000, 500, 500), play("impatient", 400))

    asyncio.run(all_at_once())
