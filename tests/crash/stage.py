"""The stage of the crash tests: a reference upstream that publishes without pause, a sidecar to be killed, two kinds of agents.

Events are channel messages `m0`, `m1`, …: what was published is known by its count, and any loss, repeat or disorder of what an agent
handled shows in its numbers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.clients.processes import AgentProcess, SidecarProcess, _Child, until

__all__ = ["WINDOW", "Crashable", "Stage", "StatingAgent", "opened", "until"]

HERE = Path(__file__).parent
WINDOW = 256
"""SIDECAR_WINDOW's default."""
BURST, PACED, RATE = 260, 260, 400
"""What the flow repeats: so many events at once, which fills the window, then so many at this rate: some 700 a second to each agent."""
SDK = [sys.executable, str(HERE.parent / "clients" / "python_agent.py")]
SINCE_4_2 = "&origin_client=%40relaycast%2Fsdk&origin_version=4.2.0"


class Reference(_Child):
    """The reference upstream as its own process, told what to do over its control port."""

    def __init__(self) -> None:
        super().__init__()
        self.url = ""
        self._control = ""
        self._session = aiohttp.ClientSession()

    async def start(self) -> None:
        await self._spawn([sys.executable, "-m", "sidecar.demo.server", "--port", "0"], {"PATH": "/usr/bin:/bin"})
        await until(lambda: bool(self.lines) or not self.alive, "the reference upstream does not start")
        told = json.loads(self.lines[0])
        self.url, self._control = told["url"], f"http://127.0.0.1:{told['control']}"

    async def call(self, method: str, **told: Any) -> dict[str, Any]:
        """One control call. Raises AssertionError if it is refused."""
        async with self._session.post(f"{self._control}/_/{method}", json=told) as answer:
            body: dict[str, Any] = await answer.json()
            assert answer.status == 200, f"{method}: {body}"
            return body

    async def close(self) -> None:
        await self._session.close()
        await self.kill()


class Crashable(SidecarProcess):
    """A sidecar process; with `arm` set, its next start is one that kills itself (failpoints.py). `pids`: of its lives."""

    def __init__(self, upstream: str, data_dir: Path, env: Mapping[str, str], report: Path, dialect: str = "relaycast") -> None:
        super().__init__(upstream, data_dir, env, dialect)
        self.report = report
        self.arm: Sequence[str] = ()
        self.pids: list[int] = []

    async def _spawn(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        armed = [sys.executable, "-m", "tests.crash.failpoints", str(self.report), *self.arm]
        await super()._spawn(armed if self.arm else command, env)
        assert self.process is not None
        self.pids.append(self.process.pid)

    async def get(self, path: str) -> Any:
        """One of its own pages: JSON, or text."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/_sidecar/{path}") as answer:
            text = await answer.text()
            return json.loads(text) if answer.content_type == "application/json" else text

    async def streams(self) -> dict[str, dict[str, Any]]:
        """The status page's streams by name."""
        return {stream["name"]: stream for stream in (await self.get("status"))["streams"]}

    def said(self) -> list[dict[str, Any]]:
        """What its armed lives left word of."""
        return [json.loads(line) for line in self.report.read_text().splitlines()] if self.report.exists() else []


class StatingAgent:
    """A client that states its cursor after each reconnect, as npm `@relaycast/sdk` from 3.1 on: `last_seen_seq` is the number of the
    last frame it handled. `handled`: the messages' numbers; `acks`: the acknowledgements it got; `opens`: its connections."""

    def __init__(self, base: str, token: str) -> None:
        self.base = base
        self.token = token
        self.handled: list[int] = []
        self.acks: list[dict[str, Any]] = []
        self.opens = self.closes = 0
        self.last_seq: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientError, OSError):
                    async with session.ws_connect(f"{self.base}/v1/ws?token={self.token}{SINCE_4_2}", max_msg_size=0) as line:
                        self.opens += 1
                        await self._converse(line)
                    self.closes += 1
                await asyncio.sleep(0.1)

    async def _converse(self, line: aiohttp.ClientWebSocketResponse) -> None:
        if self.last_seq is not None:
            await line.send_json({"type": "resync", "last_seen_seq": self.last_seq})
        async for message in line:
            event = json.loads(message.data)
            if event["type"] == "resync_ack":
                self.acks.append(event)
            elif "agent_seq" in event:
                self.handled.append(number_of(event))
                self.last_seq = event["agent_seq"]

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task


class Stage:
    """One test's processes. `published`: how many messages there have been."""

    def __init__(
        self, reference: Reference, sidecar: Crashable, sdk: AgentProcess, stating: StatingAgent, agents: Sequence[dict[str, Any]]
    ) -> None:
        self.reference = reference
        self.sidecar = sidecar
        self.sdk = sdk
        self.stating = stating
        self.sdk_id, self.stating_id = (str(agent["id"]) for agent in agents)
        self.sdk_token = str(agents[0]["token"])
        self.published = 0
        self._flow: asyncio.Task[None] | None = None
        self._flowing = False

    async def post(self, count: int, rate: float = 0) -> None:
        """Publish `count` messages to both agents, at `rate` a second or as fast as may be."""
        first, self.published = self.published, self.published + count
        await self.reference.call("post", agent="author", channel="general", text="m", first=first, count=count, rate=rate)

    def flow(self) -> None:
        """Publish without pause from now on."""

        async def run() -> None:
            while self._flowing:
                await self.post(BURST)
                await self.post(PACED, RATE)

        self._flowing = True
        self._flow = asyncio.get_running_loop().create_task(run())

    async def ebb(self) -> None:
        """End the flow behind the messages it is publishing."""
        flow, self._flow = self._flow, None
        self._flowing = False
        if flow is not None:
            await flow

    async def connect(self) -> None:
        """Start both agents and wait until the sidecar holds both streams; from then on everything counts."""
        self.stating.base = self.sidecar.url
        self.stating.start()
        await self.sdk.start(self.sdk_token, self.sidecar.url)
        await until(self._live, self.sidecar.tail)

    async def _live(self) -> bool:
        streams = await self.sidecar.streams()
        return len(streams) == 2 and all(s["upstream"] == "live" and s["consumers"] for s in streams.values())

    def numbers(self) -> list[int]:
        """What the unmodified client's handler got, in order."""
        return [number_of(event) for _, event in self.sdk.events()]

    async def caught_up(self) -> None:
        """Wait until both agents handled the last message."""
        last = self.published - 1
        await until(
            lambda: self.numbers()[-1:] == [last] and self.stating.handled[-1:] == [last],
            lambda: (
                f"published up to {last}; the SDK's last is {self.numbers()[-1:]}, the stating client's {self.stating.handled[-1:]};"
                f" the sidecar said:\n{self.sidecar.tail()}"
            ),
            120.0,
        )


def number_of(event: Mapping[str, Any]) -> int:
    """The number in a message's text."""
    return int(event["message"]["text"][1:])


@asynccontextmanager
async def opened(folder: Path, **env: str) -> AsyncIterator[Stage]:
    """A stage whose sidecar is not started yet. The SDK agent's token is the one in the sidecar's environment."""
    reference = Reference()
    await reference.start()
    await reference.call("set", keep_history=False)
    await reference.call("add_workspace")
    _, *agents = [await reference.call("add_agent", name=name) for name in ("author", "sdk", "stating")]
    await reference.call("add_channel", name="general", members=["author", "sdk", "stating"])
    told = {"SIDECAR_UPSTREAM_TOKEN": agents[0]["token"], "SIDECAR_RELAYCAST_SINCE_BIAS_S": "1", **env}
    sidecar = Crashable(reference.url, folder / "journal", told, folder / "report.jsonl")
    sdk = AgentProcess(SDK, folder)
    stage = Stage(reference, sidecar, sdk, StatingAgent("", agents[1]["token"]), agents)
    try:
        yield stage
    finally:
        await stage.ebb()
        await stage.stating.stop()
        for child in (sdk, sidecar):
            await child.kill()
        await reference.close()
