"""Each unmodified client directly against the reference upstream: both are what the other tests take them for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.clients.processes import until
from tests.discord.clients.bots import BotClients, BotProcess
from tests.discord.upstream.server import ReferenceDiscord
from tests.discord.upstream.world import Settings, World

TOKEN = "reference-token"


class Scene:
    """The reference upstream and one bot that is ready on it."""

    def __init__(self, upstream: ReferenceDiscord, bot: BotProcess) -> None:
        self.upstream = upstream
        self.world: World = upstream.world
        self.bot = bot
        self.posted: list[str] = []

    def post(self, count: int) -> None:
        for _ in range(count):
            text = f"message {len(self.posted)}"
            self.world.post(text)
            self.posted.append(text)

    async def has_all(self) -> None:
        """Wait until as many came as were posted; then they are these, once each, in order."""
        await until(lambda: len(self.bot.contents()) >= len(self.posted), lambda: f"{len(self.bot.contents())} came\n{self.bot.tail()}")
        assert self.bot.contents() == self.posted

    async def states(self, name: str, count: int) -> None:
        await until(lambda: self.bot.states[name] >= count, lambda: f"no {count} × {name}: {self.bot.states}\n{self.bot.tail()}")

    async def connected(self) -> None:
        """Wait until the upstream has a socket with a session."""
        await until(lambda: any(s.session for s in self.world.open()), lambda: f"not connected\n{self.bot.tail()}")


@asynccontextmanager
async def scene(clients: BotClients, kind: str, folder: Path, **more: Any) -> AsyncIterator[Scene]:
    async with ReferenceDiscord(settings=Settings(heartbeat_interval_ms=3000)) as upstream:
        bot = BotProcess(clients.command(kind), folder, {"clientId": str(upstream.world.bot.application_id)} | more)
        try:
            await bot.start(TOKEN, upstream.url)
            await until(lambda: bot.states["ready"] > 0 or not bot.alive, lambda: f"not ready:\n{bot.tail()}")
            assert bot.states["ready"] == 1, bot.tail()
            yield Scene(upstream, bot)
        finally:
            await bot.kill()


def test_login_ready_and_a_hundred_messages_in_order(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(bot_clients, kind, tmp_path) as at:
            ready = next(told for told in at.bot.told if told["type"] == "ready")
            assert ready["user"] == str(at.world.bot.user.id)
            assert ready["guilds"] == [str(at.world.guild.id)]
            at.post(100)
            await at.has_all()
            row = at.bot.seen()[0]
            assert row["channel"] == str(at.world.channel.id)
            assert row["guild"] == str(at.world.guild.id)
            assert row["author"] == str(at.world.person.id)
            assert at.world.ledger.wrongs == []
            assert [i.answer for i in at.world.ledger.identifies] == ["ready"]

    asyncio.run(play())


def test_it_resumes_after_cuts_and_gets_what_it_missed(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(bot_clients, kind, tmp_path) as at:
            for round_, code in enumerate((None, 4000), start=1):
                at.post(20)
                await at.has_all()
                at.world.cut(code)
                at.post(20)
                await at.states("resumed", round_)
                at.post(20)
                await at.has_all()
            assert [(r.answer, r.replayed) for r in at.world.ledger.resumes] == [("resumed", 20)] * 2
            assert [c.door for c in at.world.ledger.connects] == ["gateway", "resume", "resume"]
            assert len(at.world.ledger.identifies) == 1
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


def test_op_7_is_a_resume_and_op_9_false_a_fresh_session(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(bot_clients, kind, tmp_path) as at:
            at.world.reconnect()
            at.world.cut(4000)
            at.post(5)
            await at.states("resumed", 1)
            at.world.settings.identify_spacing_s = 0
            at.world.invalidate(False)
            await until(lambda: len(at.world.ledger.identifies) == 2, lambda: f"no IDENTIFY\n{at.bot.tail()}")
            await at.connected()
            at.post(5)
            await at.has_all()

    asyncio.run(play())


def test_other_events_direct_messages_and_an_answer_over_rest(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(bot_clients, kind, tmp_path) as at:
            world = at.world
            message = world.post("!say hail")
            await until(lambda: "hail" in at.bot.contents(), lambda: f"no echo\n{at.bot.tail()}")
            world.edit(message, "changed")
            world.react(message, "🙂")
            world.react(message, "🙂", add=False)
            world.delete(message)
            world.post("direct", world.add_direct())
            interaction = world.interact("hail")
            kinds = ["MESSAGE_UPDATE", "MESSAGE_REACTION_ADD", "MESSAGE_REACTION_REMOVE", "MESSAGE_DELETE", "INTERACTION_CREATE"]
            await until(lambda: all(at.bot.seen(each) for each in kinds), lambda: f"{at.bot.events()}\n{at.bot.tail()}")
            assert [at.bot.seen(each)[0]["id"] for each in kinds] == [message["id"]] * 4 + [interaction["id"]]
            await until(lambda: at.bot.contents() == ["!say hail", "hail", "direct"], lambda: f"{at.bot.contents()}\n{at.bot.tail()}")
            (call,) = [call for call in world.ledger.calls if call.method == "POST"]
            assert (call.path, call.status) == (f"/channels/{world.channel.id}/messages", 200)

    asyncio.run(play())


def test_op_1_is_answered_with_the_last_s(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(bot_clients, kind, tmp_path) as at:
            at.post(10)
            await at.has_all()
            (session,) = at.world.sessions.values()
            before = len(at.world.ledger.beats)
            at.world.beat_now()
            await until(lambda: any(beat.d == session.seq for beat in at.world.ledger.beats[before:]), "no heartbeat with the last s")
            assert at.world.ledger.wrongs == []

    asyncio.run(play())
