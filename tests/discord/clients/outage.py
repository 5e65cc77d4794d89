"""An outage before a real bot: what was posted where, what the bot was handed of it, and whether it noticed anything."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clients.processes import until
from tests.discord.clients.bots import BotClients
from tests.discord.clients.stage import Stage
from tests.discord.upstream.faults import Faults
from tests.discord.upstream.ledger import Ledger
from tests.discord.upstream.places import Channel, Payload
from tests.discord.upstream.world import Settings, World

__all__ = ["BEAT_MS", "Act", "Outage", "Outcomes", "Scenario", "judge", "play", "play_all"]

BEAT_MS = 1500
"""The upstream's heartbeat interval, unless a scenario has another: a dead socket is found within 2.25 s."""
PATIENCE_S = 90.0
"""The longest deadline of R27 is 25 s; the machine may be busy."""
AT_ONCE = 14
"""Bots and sidecars at a time."""


class Outage:
    """One bot on a stage, connected and in rest. `made`: texts by channel, in order."""

    def __init__(self, at: Stage) -> None:
        self.at = at
        self.made: dict[str, list[str]] = {}
        self._count = 0
        self._states: Counter[str] = Counter()

    @property
    def world(self) -> World:
        return self.at.world

    @property
    def faults(self) -> Faults:
        return self.world.faults

    @property
    def ledger(self) -> Ledger:
        return self.world.ledger

    async def begin(self) -> None:
        """The bot logs in, and something comes."""
        await self.at.connect()
        self.post(3)
        await self.came()
        self._states = Counter(self.at.bot.states)

    def post(self, count: int = 1, *channels: Channel) -> list[Payload]:
        """Post numbered messages, in each of these channels. Returns them."""
        made = []
        for _ in range(count):
            for channel in channels or (self.world.channel,):
                text = f"message {self._count}"
                self._count += 1
                made.append(self.world.post(text, channel))
                self.made.setdefault(str(channel.id), []).append(text)
        return made

    def got(self) -> dict[str, list[str]]:
        """What the handlers were handed: texts by channel, in order."""
        found: dict[str, list[str]] = {}
        for row in self.at.bot.seen():
            found.setdefault(row["channel"], []).append(row["content"])
        return found

    async def came(self) -> None:
        """Wait until as many came as were posted; then they are these: none lost, none twice, each channel's in its order."""
        await until(
            lambda: sum(map(len, self.got().values())) >= self._count or not self.at.bot.alive,
            lambda: f"{sum(map(len, self.got().values()))} of {self._count} came",
            PATIENCE_S,
        )
        assert self.got() == self.made

    async def unnoticed(self) -> None:
        """More comes, and the bot heard of no end, no return and no guild since `begin`; upstream saw good manners."""
        self.post(3)
        await self.came()
        assert Counter(self.at.bot.states) == self._states, f"the bot noticed: {self.at.bot.states} after {self._states}"
        assert self.ledger.wrongs == []

    async def once(self, condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
        await until(condition, what, PATIENCE_S)

    async def live(self) -> None:
        """Wait until the upstream has a session's socket, and a beat was acknowledged on it: the back-off begins anew."""

        def so() -> bool:
            sockets = {socket.id for socket in self.world.open() if socket.session and not socket.muted}
            return any(beat.socket in sockets and beat.acked and beat.d for beat in self.ledger.beats)

        await self.once(so, "nobody holds a session")

    def answers(self) -> Counter[str]:
        """How RESUMEs and IDENTIFYs were answered, so often."""
        resumes = [f"resume {each.answer}" for each in self.ledger.resumes]
        return Counter(resumes + [f"identify {each.answer}" for each in self.ledger.identifies])

    async def answered(self, wanted: Mapping[str, int]) -> None:
        """Wait for these answers at least."""
        await self.once(lambda: all(self.answers()[answer] >= count for answer, count in wanted.items()), f"no {wanted}")

    async def gaps(self) -> list[dict[str, Any]]:
        """The gap records, as the status tells of them."""
        found: list[dict[str, Any]] = (await self.at.stream())["last_gaps"]
        return found

    async def reasons(self) -> list[str]:
        """Why there are gap records, in order."""
        return [gap["reason"] for gap in await self.gaps()]

    async def native(self) -> list[dict[str, Any]]:
        """All frames of the native stream up to the head."""
        name, head = (row := await self.at.stream())["name"], row["head"]
        found: list[dict[str, Any]] = []
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{self.at.sidecar.url}/_sidecar/stream", params={"stream": name, "after": "0"}) as line,
        ):
            while not found or found[-1].get("offset", 0) < head:
                found.append(await line.receive_json(timeout=PATIENCE_S))
        return found


Act = Callable[[Outage], Awaitable[None]]
Outcomes = dict[str, BaseException | None]
"""What scenarios came to, by name; None: all is well."""


@dataclass(frozen=True)
class Scenario:
    """What happens to a bot's upstream. `kind`: the client; `first`: it takes so long that it is begun early."""

    act: Act
    kind: str = "carbon"
    settings: Mapping[str, Any] = field(default_factory=dict)
    knobs: Mapping[str, str] = field(default_factory=dict)
    first: bool = False
    is_noticed: bool = False


async def play(scenario: Scenario, clients: BotClients, folder: Path) -> None:
    """Play one."""
    # The reference's loop is shared by all stages: it may see IDENTIFYs that were sent 5 s apart a little closer.
    settings = Settings(**({"heartbeat_interval_ms": BEAT_MS, "identify_spacing_s": 4.0} | dict(scenario.settings)))
    async with Stage(clients, scenario.kind, folder, settings=settings, **scenario.knobs) as at:
        outage = Outage(at)
        await outage.begin()
        await scenario.act(outage)
        if not scenario.is_noticed:
            await outage.unnoticed()


async def _play_all(scenarios: Mapping[str, Scenario], names: Iterable[str], clients: BotClients, folder: Path) -> Outcomes:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, name: str) -> BaseException | None:
        place = folder / str(number)
        place.mkdir()
        async with turn:
            try:
                await play(scenarios[name], clients, place)
            except Exception as error:
                return error
        return None

    order = sorted(names, key=lambda name: not scenarios[name].first)
    return dict(zip(order, await asyncio.gather(*(one(n, name) for n, name in enumerate(order))), strict=True))


def play_all(scenarios: Mapping[str, Scenario], request: pytest.FixtureRequest, clients: BotClients, folder: Path) -> Outcomes:
    """Play those that this run selects (parameter `name` of the tests of the module), several at once in one event loop: most of the
    time is waiting. A client that is missing is a failure where CI=true, else its scenarios are left out."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module]
    chosen = [item.callspec.params["name"] for item in here if hasattr(item, "callspec") and "name" in item.callspec.params]
    missing = {kind: clients.missing(kind) for kind in sorted({scenarios[name].kind for name in chosen})}
    if any(missing.values()) and os.environ.get("CI", "").lower() == "true":
        pytest.fail(str(missing), pytrace=False)
    return asyncio.run(_play_all(scenarios, [name for name in chosen if not missing[scenarios[name].kind]], clients, folder))


def judge(name: str, outcomes: Outcomes) -> None:
    """Let out what a scenario came to."""
    if name not in outcomes:
        pytest.skip("the client is not installed")
    if error := outcomes[name]:
        raise error
