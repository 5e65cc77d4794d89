"""A stage: the reference upstream, the real sidecar in front of it, and bots on unmodified clients."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.clients.processes import SidecarProcess, until
from tests.discord.clients.bots import BotClients, BotProcess
from tests.discord.upstream.server import ReferenceDiscord
from tests.discord.upstream.world import Settings, World

__all__ = ["TOKEN", "Stage"]

TOKEN = "reference-token"


class Stage:
    """`async with Stage(…) as at:` starts the upstream and the sidecar; `connect` starts the bot.

    Args:
        settings: of the reference upstream; default: heartbeats each 3 s.
        more: of the bot's runner.
        knobs: variables of the sidecar without `SIDECAR_`, in lower case.

    Attributes:
        posted: texts of the messages posted so far, in order.
    """

    def __init__(
        self,
        clients: BotClients,
        kind: str,
        folder: Path,
        *,
        settings: Settings | None = None,
        world: World | None = None,
        more: dict[str, Any] | None = None,
        **knobs: str,
    ) -> None:
        self.upstream = ReferenceDiscord(world, settings if settings or world else Settings(heartbeat_interval_ms=3000))
        self.world = self.upstream.world
        self.bot = BotProcess(clients.command(kind), folder, {"clientId": str(self.world.bot.application_id)} | (more or {}))
        self.sidecar: SidecarProcess
        self.posted: list[str] = []
        self._folder = folder
        self._knobs = {f"SIDECAR_{name.upper()}": value for name, value in knobs.items()}
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        await self.upstream.__aenter__()
        self._http = aiohttp.ClientSession()
        self.sidecar = self._process()
        try:
            await self.sidecar.start()
        except BaseException:
            await self._end()
            raise
        return self

    def _process(self) -> SidecarProcess:
        """The sidecar, not started yet."""
        return SidecarProcess(self.upstream.url, self._folder / "journal", self._knobs, "discord")

    @property
    def address(self) -> str:
        """Where the bot is pointed at."""
        return self.sidecar.url

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end()
        if error is not None:
            error.add_note(f"the bot's last lines:\n{self.bot.tail()}\nthe sidecar's last lines:\n{self.sidecar.tail()}")

    async def _end(self) -> None:
        await self.bot.kill()
        await self.sidecar.kill()
        await self._http.close()
        await self.upstream.__aexit__()

    async def connect(self, *, busy_ms: float = 0) -> None:
        """Start the bot (again), and wait until it is ready and the upstream has a session's socket."""
        before = self.bot.states["ready"]
        await self.bot.start(TOKEN, self.address, busy_ms=busy_ms)
        await self.states("ready", before + 1)
        await self.connected()

    async def states(self, name: str, count: int) -> None:
        """Wait until the bot has told a state so often."""
        await until(
            lambda: self.bot.states[name] >= count or not self.bot.alive,
            lambda: f"no {count} × {name}: {self.bot.states}\n{self.bot.tail()}",
        )
        assert self.bot.states[name] >= count, f"the bot ended:\n{self.bot.tail()}"

    async def connected(self) -> None:
        """Wait until the upstream has a socket with a session."""
        await until(lambda: any(s.session for s in self.world.open()), "nobody holds an upstream session")

    def post(self, count: int = 1, **more: Any) -> None:
        """Post numbered messages."""
        for _ in range(count):
            text = f"message {len(self.posted)}"
            self.world.post(text, **more)
            self.posted.append(text)

    async def has_all(self) -> None:
        """Wait until as many came as were posted; then they are these: none lost, none twice, in order."""
        await until(
            lambda: len(set(self.bot.contents())) >= len(self.posted), lambda: f"{len(self.bot.contents())} of {len(self.posted)} came"
        )
        got = self.bot.contents()
        assert got == self.posted, [(n, *pair) for n, pair in enumerate(zip(got, self.posted, strict=False)) if pair[0] != pair[1]][:3]

    async def status(self) -> dict[str, Any]:
        async with self._http.get(f"{self.sidecar.url}/_sidecar/status") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def stream(self) -> dict[str, Any]:
        """The status of the bot's stream; empty if there is none yet."""
        return next(iter((await self.status())["streams"]), {})

    async def metrics(self) -> str:
        async with self._http.get(f"{self.sidecar.url}/_sidecar/metrics") as answer:
            return await answer.text()

    async def known(self) -> None:
        """Wait until the sidecar has receipts for all there is."""

        async def so() -> bool:
            consumers = (await self.stream()).get("consumers", [])
            return bool(consumers) and min(row["lag"] for row in consumers) == 0

        await until(so, "the sidecar never got the receipts")
