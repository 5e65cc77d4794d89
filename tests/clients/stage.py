"""A stage: a reference upstream, the sidecar in front of it (or not), and one agent on an unmodified client."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from sidecar.demo.rows import Message, Pushed
from sidecar.demo.server import ReferenceServer
from sidecar.demo.world import World
from tests.clients.ledger import Verdict, key_of
from tests.clients.plain import PlainAgent
from tests.clients.processes import DEADLINE_S, AgentProcess, SidecarProcess, until

__all__ = ["Clock", "Open", "Scenario", "Stage"]

KNOBS = {
    "SIDECAR_RELAYCAST_PING_S": "0.5",
    "SIDECAR_RELAYCAST_DEAD_S": "5",
    "SIDECAR_RELAYCAST_ACK_TIMEOUT_S": "3",
}


class Clock:
    """The server's wall clock: the machine's plus `ahead` seconds, or standing still once `stopped`."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._stopped: float | None = None

    def __call__(self) -> float:
        return (time.time() if self._stopped is None else self._stopped) + self.ahead

    def stop(self) -> None:
        """Stand still in the middle of the present second."""
        self._stopped = int(time.time()) + 0.5


class Stage:
    """`async with Stage(…) as stage:` starts the upstream and the sidecar; `connect` starts the agent.

    Attributes:
        author, helper, bot: agents of one workspace, all members of #general; `bot` is the one that runs.

    Args:
        raw: note what the agent's sockets carried, too: SDK 4.2.0 drops doubles before its handlers see them.
    """

    def __init__(self, sdk: str, command: Sequence[str], folder: Path, *, direct: bool = False, raw: bool = False, **knobs: str) -> None:
        self.sdk = sdk
        self.direct = direct
        self.clock = Clock()
        self.up = ReferenceServer(World(self.clock))
        self.world = self.up.world
        self.team = self.world.add_workspace()
        self.author, self.helper, self.bot = (self.world.add_agent(self.team, name) for name in ("author", "helper", "bot"))
        self.world.add_channel(self.team, "general", [self.author, self.helper, self.bot])
        self.agent: AgentProcess | PlainAgent = AgentProcess(command, folder, raw=raw) if command else PlainAgent()
        self.sidecar: SidecarProcess | None = None
        self._folder = folder
        self._knobs = {**KNOBS, **{f"SIDECAR_{name.upper()}": value for name, value in knobs.items()}}
        self._http: aiohttp.ClientSession
        self._resynced = 0

    async def __aenter__(self) -> Self:
        await self.up.start()
        self._http = aiohttp.ClientSession()
        try:
            if not self.direct:
                self.sidecar = SidecarProcess(self.up.url, self._folder / "journal", self._knobs)
                await self.sidecar.start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end()
        if error is not None:
            sidecar = "" if self.sidecar is None else f"\nthe sidecar's last lines:\n{self.sidecar.tail()}"
            error.add_note(f"client {self.sdk}; the agent's last lines:\n{self.agent.tail()}{sidecar}")

    async def _end(self) -> None:
        await self.agent.kill()
        if self.sidecar is not None:
            await self.sidecar.kill()
        await self._http.close()
        await self.up.stop()

    @property
    def process(self) -> AgentProcess:
        """The agent, which must be one on an SDK."""
        assert isinstance(self.agent, AgentProcess)
        return self.agent

    @property
    def url(self) -> str:
        """Where the agent is pointed at."""
        return self.up.url if self.sidecar is None else self.sidecar.url

    async def connect(self, *, busy_ms: float = 0) -> None:
        """Start the agent, and wait until it is open and the upstream held."""
        opens = self.agent.states["open"]
        await self.agent.start(self.bot.token, self.url, busy_ms=busy_ms)
        await until(lambda: self.agent.states["open"] > opens, lambda: f"the agent never opened: {self.agent.tail()}")
        await self.held()

    async def held(self) -> None:
        """Wait until the upstream is connected and (sidecar) its resync done."""
        await until(lambda: bool(self.bot.sockets), "nobody holds the upstream socket")
        if not self.direct:
            await until(self._live, "the sidecar's upstream is not live")

    async def _live(self) -> bool:
        return (await self.stream()).get("upstream") == "live"

    async def status(self) -> dict[str, Any]:
        async with self._http.get(f"{self.url}/_sidecar/status") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def metrics(self) -> str:
        async with self._http.get(f"{self.url}/_sidecar/metrics") as answer:
            return await answer.text()

    async def stream(self) -> dict[str, Any]:
        """The status of the bot's stream; empty if there is none yet."""
        streams = (await self.status())["streams"]
        return next((row for row in streams if row["name"] == self.bot.id), {})

    async def records(self) -> list[dict[str, Any]]:
        """All frames of the native stream, from the first kept to the head."""
        head = int((await self.stream())["head"])
        found: list[dict[str, Any]] = []
        async with self._http.ws_connect(f"{self.url}/_sidecar/stream?stream={self.bot.id}&after=0") as line:
            while not found or found[-1].get("offset", 0) < head:
                found.append(await line.receive_json(timeout=DEADLINE_S))
        return found[1:]

    async def lag(self) -> int:
        """Records that the agent is not yet known to have taken."""
        consumers = (await self.stream()).get("consumers", [])
        return min((row["lag"] for row in consumers), default=1)

    # What happens

    def post(self, count: int = 1, text: str = "m", over_s: float = 0.0) -> list[Message]:
        """Post to #general; the server's clock goes on by `over_s` meanwhile."""
        rows = []
        for index in range(count):
            rows.append(self.world.post(self.author, "general", f"{text}{index}"))
            self.clock.ahead += over_s / count
        return rows

    def mix(self, count: int, first: int = 0) -> None:
        """A mixture: channel, thread, direct, group and reactions, none like another."""
        general = self.world.channel(self.team, "general").roots
        for index in range(first, first + count):
            match index % 10:
                case 4 | 5:
                    self.world.reply(self.helper, general[-1 - index % min(7, len(general))], f"reply {index}")
                case 6:
                    self.world.dm(self.author, [self.bot], f"dm {index}")
                case 7:
                    self.world.dm(self.author, [self.bot, self.helper], f"group dm {index}")
                case 8:
                    self.world.react(self.helper, general[-1], f"e{index}")
                case _:
                    self.world.post(self.author, "general", f"post {index}")

    async def drop(self) -> None:
        """The upstream is gone: sockets cut, connections refused."""
        self._resynced = self.agent.states["resynced"]
        self.up.pause_listening()
        self.world.cut_all()
        await until(lambda: not self.bot.sockets, "a cut socket is still there")

    async def back(self) -> None:
        """The upstream is there again."""
        await self.up.resume_listening()

    # What came of it

    def published(self, since: int = 0) -> list[str]:
        """The keys of everything pushed to the bot, in order."""
        return [key_of(frame) for frame in map(_decoded, self.bot.history[since:])]

    async def settled(self, *, deadline_s: float | None = None) -> None:
        """Wait until the agent has been handed all that was published and the sidecar knows it."""
        limit = {} if deadline_s is None else {"deadline_s": deadline_s}
        await until(
            lambda: len(self.bot.history) <= len(set(self.agent.handled())),
            lambda: f"{self.verdict()}",
            **limit,
        )
        if not self.direct:
            await until(self._known, "the sidecar never got the receipts", **limit)

    async def _known(self) -> bool:
        return await self.lag() == 0

    async def ended(self, *, resync: bool = False) -> None:
        """Wait until all that will ever come has come: a last message went through behind it.

        Args:
            resync: the agent itself, connected directly, asks for a resync after `drop` and gets its acknowledgement.
        """
        if self.direct and resync:
            await until(lambda: self.agent.states["resynced"] > self._resynced, "the agent got no resync_ack")
        await self.held()
        self.post(1, "the end")
        last = key_of(_decoded(self.bot.history[-1]))
        await until(lambda: last in self.agent.handled(), lambda: f"the last message never came: {self.verdict()}")
        if not self.direct:
            await until(self._known, "the sidecar never got the receipts")

    def verdict(self, *, reactions_move: bool = False, run: int | None = None, since: int = 0) -> Verdict:
        return Verdict.of(self.published(since), self.agent.handled(run), reactions_move=reactions_move)

    def wire(self) -> list[dict[str, Any]]:
        """The events as they came over the agent's sockets."""
        if self.process.raw is None:
            return [event for _, event in self.process.events()]  # the Python client hands frames out as they come
        frames = map(json.loads, self.process.raw.read_text().splitlines())
        return [frame for frame in frames if frame["type"] not in ("pong", "resync_ack")]

    async def whole(self, *, reactions_move: bool = False) -> None:
        """Assert: nothing lost, nothing twice, in order, and the journal holds each event once."""
        await self.settled()
        verdict = self.verdict(reactions_move=reactions_move)
        assert verdict.whole, str(verdict)
        if not self.direct:
            stream = await self.stream()
            assert stream["head"] - stream["gaps"] == len(self.bot.history), f"the journal's own count: {stream}"
            if isinstance(self.agent, AgentProcess) and (self.agent.raw is not None or self.sdk == "python"):
                numbers = [int(event["agent_seq"]) for event in self.wire()]
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "each number once, in order, without holes (R22)"


Open = Callable[..., Stage]
"""Opens a stage; keywords are `raw` and variables of the sidecar without SIDECAR_."""
Scenario = Callable[[Open], Awaitable[None]]


def _decoded(pushed: Pushed) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(pushed.frame)
    return found
