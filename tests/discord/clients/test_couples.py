"""Several bots on one sidecar: two of one token, other intents, other tokens (discord C5, R9, R23), on unmodified clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.processes import until
from tests.discord.clients.bots import CLIENTS, BotClients, BotProcess
from tests.discord.clients.stage import TOKEN, Stage

GUILDS, MESSAGES, REACTIONS, CONTENT = 1 << 0, 1 << 9, 1 << 10, 1 << 15
OTHER = dict(zip(CLIENTS, [*list(CLIENTS)[1:], *CLIENTS], strict=False))
"""Each client goes together with another one."""


class Couple(Stage):
    """A stage with more bots than one."""

    def __init__(self, clients: BotClients, kind: str, folder: Path, **more: Any) -> None:
        super().__init__(clients, kind, folder, **more)
        self._clients = clients
        self.bots: list[BotProcess] = [self.bot]

    def another(self, kind: str, **more: Any) -> BotProcess:
        """One more bot, not started yet."""
        folder = self._folder / f"bot{len(self.bots)}"
        folder.mkdir()
        settings = {"clientId": str(self.world.bot.application_id)} | more
        self.bots.append(BotProcess(self._clients.command(kind), folder, settings))
        return self.bots[-1]

    async def start(self, bot: BotProcess, token: str = TOKEN) -> None:
        """Start it (again), and wait until it is ready."""
        before = bot.states["ready"]
        await bot.start(token, self.address)
        await until(lambda: bot.states["ready"] > before or not bot.alive, lambda: f"not ready:\n{bot.tail()}")
        assert bot.states["ready"] > before, f"the bot ended:\n{bot.tail()}"

    async def got(self, bot: BotProcess, expected: list[str]) -> None:
        """Wait until it has as many messages as these; then it has these."""
        await until(lambda: len(bot.contents()) >= len(expected), lambda: f"{bot.contents()}\n{bot.tail()}")
        assert bot.contents() == expected

    async def receipted(self) -> None:
        """Wait until the sidecar has receipts for all there is."""
        await self.known()

    async def _end(self) -> None:
        for bot in self.bots:
            await bot.kill()
        await super()._end()


@asynccontextmanager
async def couple(clients: BotClients, kind: str, folder: Path, **more: Any) -> AsyncIterator[Couple]:
    async with Couple(clients, kind, folder, **more) as at:
        assert isinstance(at, Couple)
        yield at


def test_C5_two_processes_of_one_token_are_both_served_and_each_outlives_the_other(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        intents = GUILDS | MESSAGES | CONTENT
        async with couple(bot_clients, kind, tmp_path, more={"intents": intents}) as at:
            one, two = at.bot, at.another(OTHER[kind], intents=intents)
            await at.start(one)
            await at.start(two)
            at.post(20)
            await at.got(one, at.posted)
            await at.got(two, at.posted)
            await at.receipted()
            assert [bot.states["disconnect"] + bot.states["resumed"] for bot in (one, two)] == [0, 0], "neither throws the other out"
            # The newer dies: the older goes on.
            await two.kill()
            at.post(20)
            await at.got(one, at.posted)
            await at.receipted()
            await at.start(two)
            await at.got(two, at.posted[:20])
            # The older dies: the newer goes on. What it gets was receipted by the other meanwhile: one durable cursor.
            await one.kill()
            at.post(20)
            await at.got(two, at.posted[:20] + at.posted[40:])
            await at.receipted()
            await at.start(one)
            at.post(20)
            await at.got(one, at.posted[:40] + at.posted[60:])
            await at.got(two, at.posted[:20] + at.posted[40:])
            assert (len(at.world.ledger.identifies), len(at.world.ledger.connects)) == (1, 1)
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["djs"], indirect=True)
def test_C13_R23_narrower_intents_see_less_and_wider_ones_cost_one_identify_and_nobody_a_message(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with couple(bot_clients, kind, tmp_path, more={"intents": GUILDS | MESSAGES | CONTENT}) as at:
            narrow, wide = (
                at.another(OTHER[kind], intents=GUILDS | MESSAGES),
                at.another(kind, intents=GUILDS | MESSAGES | CONTENT | REACTIONS),
            )
            at.world.settings.identify_spacing_s = 0.5
            await at.start(at.bot)
            await at.start(narrow)
            at.post(10)
            await at.got(at.bot, at.posted)
            await at.got(narrow, [""] * 10)
            assert [i.intents for i in at.world.ledger.identifies] == [GUILDS | MESSAGES | CONTENT]
            await at.start(wide)
            for _ in range(10):
                at.post(5)
                await asyncio.sleep(0.05)
            await until(lambda: len(at.world.ledger.identifies) == 2 and any(s.session for s in at.world.open()), "no second IDENTIFY")
            message = at.world.post("last")
            at.posted.append("last")
            at.world.react(message, "🙂")
            await at.got(at.bot, at.posted)
            await at.got(narrow, [""] * len(at.posted))
            await until(lambda: bool(wide.seen("MESSAGE_REACTION_ADD")), lambda: f"no reaction\n{wide.tail()}")
            assert wide.contents() == at.posted[10:]
            assert at.bot.seen("MESSAGE_REACTION_ADD") == narrow.seen("MESSAGE_REACTION_ADD") == []
            assert [i.intents for i in at.world.ledger.identifies][1:] == [GUILDS | MESSAGES | CONTENT | REACTIONS]
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["djs"], indirect=True)
def test_R9_bots_of_other_tokens_are_other_accounts_and_a_wrong_token_is_4004_and_gets_nothing(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with couple(bot_clients, kind, tmp_path) as at:
            mate = at.world.add_bot("mate", "another-token")
            own = at.world.add_guild("own", [mate])
            place = at.world.add_channel("own", own)
            other, wrong = at.another(OTHER[kind], clientId=str(mate.application_id)), at.another(kind)
            await at.start(at.bot)
            await at.start(other, "another-token")
            await wrong.start("wrong-token", at.address)
            at.post(10)
            for n in range(10):
                at.world.post(f"own {n}", place)
            await at.got(at.bot, at.posted)
            await at.got(other, [f"own {n}" for n in range(10)])
            await at.receipted()
            names = {row["name"] for row in (await at.status())["streams"]}
            assert names == {f"discord:{at.world.bot.user.id}:0/1", f"discord:{mate.user.id}:0/1"}
            await until(lambda: not wrong.alive or "4004" in wrong.tail(), lambda: f"not refused:\n{wrong.tail()}")
            assert wrong.contents() == []
            assert wrong.states["ready"] == 0
            assert sorted(i.token for i in at.world.ledger.identifies) == ["another-token", TOKEN]
            assert sum(call.status == 401 for call in at.world.ledger.calls) <= 3
            at.post(10)
            await at.got(at.bot, at.posted)

    asyncio.run(play())
