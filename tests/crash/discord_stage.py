"""The stage of the Discord crash tests: an unmodified bot, a sidecar to be killed, and a reference gateway that posts without pause."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from tests.clients.processes import SidecarProcess, until
from tests.crash.stage import Crashable
from tests.discord.clients.bots import BotClients
from tests.discord.clients.door import Door
from tests.discord.clients.stage import Stage
from tests.discord.upstream.world import Settings

__all__ = ["BURST", "RATE", "CrashStage"]

RATE = 320
"""Messages a second, at least."""
BURST, BURST_S = 300, 1.5
"""And so many at once, so often: they fill the window."""
STEP_S = 0.02
KEPT = 20_000
"""Frames that the reference keeps for a replay: more than any outage here takes."""
MORE: dict[str, dict[str, Any]] = {"carbon": {"reconnect": {"maxAttempts": 1000, "baseDelay": 200, "maxDelay": 1000}}}
"""The library's own option: by default it gives up after five tries."""


class CrashStage(Stage):
    """`arm`: see `Crashable`. With `door` the bot comes through a port that stays."""

    def __init__(self, clients: BotClients, kind: str, folder: Path, *, door: bool = True, **more: Any) -> None:
        settings = more.pop("settings", None) or Settings(heartbeat_interval_ms=3000, replay_limit=KEPT)
        super().__init__(clients, kind, folder, settings=settings, more=MORE.get(kind), **more)
        self.kind = kind
        self.crashable: Crashable
        self.door = Door(lambda: self.sidecar.url) if door else None
        self._flow: asyncio.Task[None] | None = None

    def _process(self) -> SidecarProcess:
        self.crashable = Crashable(self.upstream.url, self._folder / "journal", self._knobs, self._folder / "report.jsonl", "discord")
        return self.crashable

    async def __aenter__(self) -> CrashStage:
        await super().__aenter__()
        if self.door is not None:
            await self.door.open()
        return self

    async def _end(self) -> None:
        await self.ebb()
        if self.door is not None and self.door.url:
            await self.door.close()
        await super()._end()

    @property
    def address(self) -> str:
        return self.door.url if self.door is not None else self.sidecar.url

    def flow(self, *, bursts: bool = True) -> None:
        """Post without pause from now on: RATE a second by the clock, and bursts."""

        async def run() -> None:
            loop = asyncio.get_running_loop()
            begun, paced, burst = loop.time(), 0, 0
            while True:
                gone = loop.time() - begun
                due = int(gone * RATE) - paced
                self.post(due)
                paced += due
                if bursts and gone >= (burst + 1) * BURST_S:
                    burst += 1
                    self.post(BURST)
                await asyncio.sleep(STEP_S)

        self._flow = asyncio.get_running_loop().create_task(run())

    async def ebb(self) -> None:
        """End the flow."""
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.cancel()
            await asyncio.gather(flow, return_exceptions=True)

    async def served(self, drawn: random.Random, least: int = 1, most: int = 200) -> None:
        """Wait until the bot has handled some more messages."""
        wanted = len(self.bot.contents()) + drawn.randint(least, most)
        await until(lambda: len(self.bot.contents()) >= wanted, lambda: f"nothing flows: {self.bot.states}\n{self.bot.tail()}")

    def check(self) -> None:
        """0 lost, 0 twice, in order; the upstream session is the first one, and the upstream had nothing to complain of."""
        got, posted = self.bot.contents(), self.posted
        assert len(got) == len(set(got)), f"{self.kind}: {len(got) - len(set(got))} came twice"
        assert got == posted, f"{self.kind}: {len(posted) - len(got)} of {len(posted)} are lost, or the order is another"
        ledger = self.world.ledger
        assert [i.answer for i in ledger.identifies] == ["ready"], ledger.identifies
        assert {r.answer for r in ledger.resumes} <= {"resumed"}, ledger.resumes
        assert ledger.wrongs == [], ledger.wrongs
        assert self.bot.states["ready"] == 1, self.bot.states
