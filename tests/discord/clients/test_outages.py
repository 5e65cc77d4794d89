"""Unmodified bots over the sidecar, while Discord drops them: 0 lost, 0 twice, in order."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.discord.clients.bots import BotClients
from tests.discord.clients.stage import Stage
from tests.discord.upstream.world import Settings


def test_login_ready_and_a_thousand_messages(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with Stage(bot_clients, kind, tmp_path) as at:
            await at.connect()
            at.post(1000)
            await at.has_all()
            await at.known()
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


def test_five_cuts_in_a_burst_of_a_thousand(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with Stage(bot_clients, kind, tmp_path, settings=Settings(heartbeat_interval_ms=3000, replay_limit=1000)) as at:
            await at.connect()
            for cut in range(5):
                at.post(100)
                await at.connected()
                at.world.cut((None, 4000, 1000, 1001, None)[cut])
                for _ in range(10):
                    at.post(10)
                    await asyncio.sleep(0.01)
            await at.has_all()
            assert len(at.world.ledger.identifies) == 1
            assert at.world.ledger.wrongs == []

    asyncio.run(play())
