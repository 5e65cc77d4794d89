"""What a bot finds when it comes: guilds that changed while it was away, an upstream that is away; and what it asks over the gateway and
over REST (discord R4, R7, R12 to R14, R21). On unmodified clients."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clients.processes import until
from tests.discord.clients.bots import BotClients
from tests.discord.clients.stage import Stage
from tests.discord.upstream.faults import ALWAYS, RestFault
from tests.discord.upstream.places import Channel
from tests.discord.upstream.world import Settings

GUILDS, MEMBERS, VOICE, MESSAGES, CONTENT = 1 << 0, 1 << 1, 1 << 7, 1 << 9, 1 << 15


def ready(at: Stage) -> dict[str, Any]:
    """What the bot told when it was ready the last time."""
    return [told for told in at.bot.told if told["type"] == "ready"][-1]


async def journaled(at: Stage, count: int) -> None:
    """Wait until the stream has so many records."""

    async def so() -> bool:
        return int((await at.stream())["head"]) >= count

    await until(so, "not in the journal")


def test_R12_R13_R14_U19_ready_with_the_upstream_away_shows_what_changed_meanwhile_and_no_message_is_missed(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with Stage(bot_clients, kind, tmp_path) as at:
            world = at.world
            left, out = world.add_guild("left"), world.add_guild("in an outage")
            world.add_channel("general", left)
            await at.connect()
            assert set(ready(at)["guilds"]) == {str(world.guild.id), str(left.id), str(out.id)}
            at.post(5)
            await at.has_all()
            await at.known()
            await at.bot.kill()
            before = int((await at.stream())["head"])
            # While the bot is away: a guild joined, one left, one in an outage, a channel and a thread made just before a message.
            joined = world.add_guild("joined")
            places: list[Channel] = [world.add_channel("new", joined)]
            places.append(world.add_channel("made"))
            at.post(1, channel=places[-1])
            places.append(world.add_thread("thread"))
            at.post(1, channel=places[-1])
            at.post(1, channel=places[0])
            world.guild_outage(out)
            world.leave_guild(left)
            at.post(3)
            await journaled(at, before + 12)
            # discord.py asks REST who it is before anything else: for it only the gateway is away.
            away = ("resume",) if kind == "python" else ("gateway", "resume")
            world.faults.refuse_connect = ALWAYS
            for door in away:
                at.upstream.stop_listening(door)
            world.cut()
            count = at.bot.states["ready"]
            await at.bot.start("reference-token", at.address)
            await at.states("ready", count + 1)
            assert set(ready(at)["guilds"]) == {str(world.guild.id), str(joined.id), str(out.id)}
            await at.has_all()
            channels = [row["channel"] for row in at.bot.seen()[5:8]]
            assert channels == [str(places[1].id), str(places[2].id), str(places[0].id)]
            world.faults.refuse_connect = 0
            for door in away:
                await at.upstream.listen(door)
            await at.connected()
            world.guild_back(out)
            at.post(3)
            await at.has_all()
            assert len(world.ledger.identifies) == 1

    asyncio.run(play())


def test_R12_C1_the_first_start_with_the_upstream_refusing_for_long_is_held_and_served_when_it_comes(
    bot_clients: BotClients, kinds: list[str], tmp_path: Path
) -> None:
    async def play(kind: str) -> None:
        folder = tmp_path / kind
        folder.mkdir()
        async with Stage(bot_clients, kind, folder) as at:
            at.world.faults.refuse_connect = ALWAYS
            at.world.faults.metadata_status.extend([503] * 4)
            await at.bot.start("reference-token", at.address)
            await until(lambda: len(at.world.ledger.connects) >= 3, "no retries")
            assert at.bot.states["ready"] == 0
            assert at.bot.alive
            at.world.faults.refuse_connect = 0
            await at.states("ready", 1)
            at.post(10)
            await at.has_all()
            assert len(at.world.ledger.identifies) == 1
            assert at.world.ledger.wrongs == []

    async def all_at_once() -> None:
        await asyncio.gather(*map(play, kinds))

    asyncio.run(all_at_once())


def test_R21_commands_reach_the_upstream_also_those_that_were_asked_while_it_was_away(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        intents = GUILDS | MEMBERS | VOICE | MESSAGES | CONTENT
        async with Stage(bot_clients, kind, tmp_path, more={"intents": intents}) as at:
            world = at.world
            world.guild.members += [world.add_user(f"member{n}") for n in range(100)]
            await at.connect()

            def commands(op: int) -> list[Any]:
                return [command.d for command in world.ledger.commands if command.op == op]

            if kind == "python":
                # discord.py fetches all members of its guilds before it is ready.
                assert ready(at)["members"] == 102
                assert [str(d["guild_id"]) for d in commands(8)] == [str(world.guild.id)]
            world.post("!presence one")
            await until(lambda: bool(commands(3)), lambda: f"no presence\n{at.bot.tail()}")
            assert commands(3)[-1]["activities"][0]["name"] == "one"
            world.post("!members")
            await until(lambda: at.bot.states["members"] > 0, lambda: f"no members\n{at.bot.tail()}")
            assert next(told["count"] for told in at.bot.told if told["type"] == "members") >= 100
            # What waited for the bot makes it ask while the upstream is away.
            await at.known()
            await at.bot.kill()
            before = int((await at.stream())["head"])
            world.post("!presence two")
            world.post("!voice")
            await journaled(at, before + 2)
            world.faults.refuse_connect = ALWAYS
            world.cut()
            count = at.bot.states["ready"]
            await at.bot.start("reference-token", at.address)
            await at.states("ready", count + 1)
            await until(lambda: len(at.bot.contents()) == 4, lambda: f"{at.bot.contents()}\n{at.bot.tail()}")
            assert (len(commands(3)), commands(4)) == (1, [])
            world.faults.refuse_connect = 0
            await until(lambda: len(commands(3)) >= 2 and bool(commands(4)), lambda: f"{world.ledger.commands}\n{at.bot.tail()}")
            assert commands(3)[-1]["activities"][0]["name"] == "two"
            assert str(commands(4)[-1]["channel_id"]) == str(world.channel.id)
            assert world.ledger.wrongs == []

    asyncio.run(play())


def test_R7_an_answer_over_rest_and_429_500_and_503_are_the_upstreams_own_and_nothing_is_retried_by_us(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with Stage(bot_clients, kind, tmp_path, settings=Settings(heartbeat_interval_ms=3000)) as at:
            await at.connect()
            at.world.post("!say hail")
            await until(lambda: "hail" in at.bot.contents(), lambda: f"no echo\n{at.bot.tail()}")
            path = f"/channels/{at.world.channel.id}/messages"
            limited = {"message": "You are being rate limited.", "retry_after": 0.3, "global": False}
            headers = {"Retry-After": "1", "X-RateLimit-Scope": "user", "X-RateLimit-Bucket": "b", "Via": "1.1 edge"}
            at.world.faults.rest.append(RestFault(path, "POST", 429, limited, headers))
            at.world.post("!say again")
            await until(lambda: "again" in at.bot.contents(), lambda: f"no echo after 429\n{at.bot.tail()}")
            assert [call.status for call in at.world.ledger.called(path, "POST")] == [200, 429, 200]
            assert all(call.headers.get("user-agent") for call in at.world.ledger.calls)
            answers = []
            async with aiohttp.ClientSession(headers={"Authorization": "Bot reference-token"}) as http:
                for url in (at.upstream.url, at.sidecar.url):
                    for status, told in ((429, limited), (500, {"message": "500: Internal Server Error", "code": 0}), (503, {})):
                        at.world.faults.rest.append(RestFault(path, "POST", status, told, headers))
                        async with http.post(f"{url}/api/v10{path}", json={"content": "raw"}) as answer:
                            shown = {name: value for name, value in answer.headers.items() if name in {*headers, "Content-Type"}}
                            answers.append((answer.status, shown, await answer.read()))
            assert answers[:3] == answers[3:]
            assert [call.status for call in at.world.ledger.called(path, "POST")[3:]] == [429, 500, 503] * 2

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["djs"], indirect=True)
def test_R4_R12_a_bot_that_needs_two_shards_begins_with_two_on_its_very_first_start(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        settings = Settings(heartbeat_interval_ms=3000, shards=2, shards_required=2, identify_spacing_s=2)
        async with Stage(bot_clients, kind, tmp_path, settings=settings, more={"shards": "auto"}) as at:
            world = at.world
            world.faults.metadata_delay_s = 0.3
            while {guild.shard(2) for guild in world.guilds.values()} != {0, 1}:
                world.add_channel("general", world.add_guild("other"))
            await at.connect()
            assert set(ready(at)["guilds"]) == {str(number) for number in world.guilds}
            for n in range(20):
                for channel in list(world.channels.values()):
                    world.post(f"{n} in {channel.id}", channel)
            await until(
                lambda: len(at.bot.contents()) >= 20 * len(world.channels), lambda: f"{len(at.bot.contents())} came\n{at.bot.tail()}"
            )
            for channel in world.channels.values():
                assert [row["content"] for row in at.bot.seen() if row["channel"] == str(channel.id)] == [
                    f"{n} in {channel.id}" for n in range(20)
                ]
            assert sorted(i.shard for i in world.ledger.identifies) == [(0, 2), (1, 2)]
            assert {row["name"].rpartition(":")[2] for row in (await at.status())["streams"]} == {"0/2", "1/2"}

    asyncio.run(play())
