"""`sidecar demo`: the same agent twice, once direct and once through a sidecar, while everything is cut and restarted.

Theory of operation
-------------------
This process is the upstream (the reference server in `server.py`), which also knows what was published. Two agents and the sidecar
are processes of their own, so that a SIGKILL is one. While messages are posted, misdeeds happen one after the other; then all is
left in peace until the sidecar's agent has everything or nothing more comes. The verdict compares what was published to each agent
with what its handler wrote down. Nothing leaves this machine, and nothing stays on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from .children import AgentProcess, DemoError, SidecarProcess, until
from .rows import Agent, Message
from .server import ReferenceServer
from .tally import Tally, key_of

WINDOW = 256
"""SIDECAR_WINDOW's default, which the demo's sidecar runs with."""
POST_S = 0.02
OUTAGE_MESSAGES = 700
READY_S = 30.0
QUIET_S = 8.0
EMOJI = "👍👀🎉✅🚀"
HEAD = f"{'':>7} {'':>10}   {'agent, direct':^23}   {'agent, through sidecar':^23}\n" + (
    f"{'time':>7} {'published':>10}   " + "   ".join([f"{'received':>8} {'lost':>7} {'twice':>6}"] * 2)
)


class Misdeed(NamedTuple):
    """Something that happens to the two agents or their connections."""

    what: str
    carry_out: Callable[[Demo], Awaitable[None]]


class Demo:
    """One run of the demo. `say` prints a line."""

    def __init__(self, seconds: float, seed: int, resync: bool, say: Callable[[str], None]) -> None:
        self.seconds = seconds
        self.resync = resync
        self.say = say
        self.random = random.Random(seed)
        self.upstream = ReferenceServer()
        self.direct_tally, self.sidecar_tally = Tally(), Tally()
        self.gaps = 0
        self.author: Agent
        self.people: list[Agent] = []
        self.direct: AgentProcess
        self.through: AgentProcess
        self.sidecar: SidecarProcess
        self.begun = 0.0
        self._published = 0
        self._posted: list[Message] = []

    async def run(self) -> bool:
        """The whole demo; True if the sidecar's agent missed nothing and all promises were kept."""
        with tempfile.TemporaryDirectory(prefix="sidecar-demo-") as folder:
            tasks: list[asyncio.Task[None]] = []
            try:
                await self._set_up(Path(folder))
                tasks = [asyncio.create_task(self._post_for_ever()), asyncio.create_task(self._show_for_ever())]
                await self._misdeeds()
                tasks[0].cancel()
                await self._settle()
            finally:
                for task in tasks:
                    task.cancel()
                await self._tear_down()
        return self._verdict()

    # --- the stage -----------------------------------------------------------------------------------------------------------------

    async def _set_up(self, folder: Path) -> None:
        await self.upstream.start()
        world = self.upstream.world
        team = world.add_workspace("demo")
        self.author = world.add_agent(team, "author")
        self.people = [world.add_agent(team, "agent-direct"), world.add_agent(team, "agent-beside-sidecar")]
        world.add_channel(team, "general", [self.author, *self.people])
        self.sidecar = SidecarProcess(self.upstream.url, folder)
        await self.sidecar.start()
        self.direct = AgentProcess(self.upstream.url, self.people[0].token, self.direct_tally)
        self.through = AgentProcess(self.sidecar.url, self.people[1].token, self.sidecar_tally)
        await asyncio.gather(self.direct.start(), self.through.start())
        await self._wait_ready()
        self.begun = time.monotonic()
        if not self.resync:
            # What is cut is gone: every resync is acknowledged and hollow, and history is refused.
            world.hollow_resync(1 << 40)
            for prefix in ("/v1/channels", "/v1/messages", "/v1/dm"):
                world.fail_rest(1 << 40, 403, prefix=prefix)
        self.say(f"upstream   {self.upstream.url}   the reference server" + ("" if self.resync else "; --no-resync: gives nothing again"))
        self.say(f"sidecar    {self.sidecar.url}   python -m sidecar run")
        self.say("agents     two processes, one client code: reconnects, never asks for what it missed\n")
        self.say(HEAD)

    async def _wait_ready(self) -> None:
        """Both agents are connected and the sidecar holds the upstream: from now on everything counts."""
        if not await until(lambda: all(t.connections for t in (self.direct_tally, self.sidecar_tally)), READY_S):
            raise DemoError(f"the agents did not connect; the sidecar's last lines:\n{self.sidecar.last_lines()}")
        for _ in range(int(READY_S / 0.05)):
            if any(stream["upstream"] == "live" for stream in await self._streams()):
                return
            await asyncio.sleep(0.05)
        raise DemoError(f"the sidecar does not hold the upstream; its last lines:\n{self.sidecar.last_lines()}")

    async def _streams(self) -> list[dict[str, Any]]:
        """What the sidecar's own status says."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.sidecar.url}/_sidecar/status") as answer:
            streams: list[dict[str, Any]] = json.loads(await answer.read())["streams"]
        return streams

    async def _tear_down(self) -> None:
        for name in ("direct", "through", "sidecar"):
            child = getattr(self, name, None)
            if child is not None:
                await child.kill()
        await self.upstream.stop()

    # --- what is published -----------------------------------------------------------------------------------------------------------

    async def _post_for_ever(self) -> None:
        while True:
            self._post()
            await asyncio.sleep(POST_S * self.random.uniform(0.5, 1.5))

    def _post(self) -> None:
        """One event for both agents: most are channel messages, some replies, direct messages and reactions."""
        world, kind, recent = self.upstream.world, self.random.random(), self._posted[-20:]
        text = f"message {self._published}"
        if kind < 0.1 and recent:
            world.react(self.author, self.random.choice(recent), self.random.choice(EMOJI))
        elif kind < 0.2 and recent:
            world.reply(self.author, self.random.choice(recent), text)
        elif kind < 0.3:
            world.dm(self.author, self.people, text)
        else:
            self._posted.append(world.post(self.author, "general", text))
        for agent, tally in zip(self.people, (self.direct_tally, self.sidecar_tally), strict=True):
            for pushed in agent.history:
                tally.publish(key_of(pushed.frame))
            agent.history.clear()
        self._published = self.sidecar_tally.expected

    # --- what goes wrong ---------------------------------------------------------------------------------------------------------------

    async def _misdeeds(self) -> None:
        """All of them, in an order drawn by the seed, spread over the time."""
        plan = [*MISDEEDS, *[CUT] * 4]
        self.random.shuffle(plan)
        for number, misdeed in enumerate(plan):
            due = self.begun + self.seconds * (number + self.random.uniform(0.3, 0.9)) / len(plan)
            await asyncio.sleep(max(0.2, due - time.monotonic()))
            self.say(f"{time.monotonic() - self.begun:6.1f}s  * {misdeed.what}")
            await misdeed.carry_out(self)

    async def cut(self) -> None:
        """Every upstream socket ends without a word, and some messages follow at once."""
        self.upstream.cut_all()
        for _ in range(5):
            self._post()

    async def outage(self) -> None:
        """The network is away while the upstream goes on: more messages than its ring keeps."""
        self.upstream.pause_listening()
        self.upstream.cut_all()
        for index in range(OUTAGE_MESSAGES):
            self._post()
            if index % 50 == 0:
                await asyncio.sleep(0.02)
        await self.upstream.resume_listening()

    async def restart_upstream(self) -> None:
        """A crash of the upstream: counters begin anew, rings are empty; what is posted before anyone is back counts, too."""
        self.upstream.world.restart()
        for _ in range(20):
            self._post()

    async def kill_agents(self) -> None:
        await asyncio.gather(self.direct.kill(), self.through.kill())
        self._allow_repeats(self.direct_tally, self.sidecar_tally)
        await asyncio.sleep(0.5)
        await asyncio.gather(self.direct.start(), self.through.start())

    async def kill_sidecar(self) -> None:
        await self.sidecar.kill()
        self._allow_repeats(self.sidecar_tally)
        await asyncio.sleep(0.3)
        await self.sidecar.start()

    async def restart_sidecar(self) -> None:
        await self.sidecar.stop()
        await self.sidecar.start()

    def _allow_repeats(self, *tallies: Tally) -> None:
        for tally in tallies:
            tally.killed(WINDOW)

    async def _settle(self) -> None:
        """Peace: until the sidecar's agent has everything, or nothing more has come for a while."""
        self.say(f"{time.monotonic() - self.begun:6.1f}s  * no more misdeeds, nothing more is posted: everybody may catch up")
        received, since = -1, time.monotonic()
        while self.sidecar_tally.missing and time.monotonic() - since < QUIET_S:
            if self.sidecar_tally.received != received:
                received, since = self.sidecar_tally.received, time.monotonic()
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # whoever sends something twice may do so now
        self.gaps = sum(stream["gaps"] for stream in await self._streams())
        self._show()

    # --- telling -------------------------------------------------------------------------------------------------------------------------

    async def _show_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._show()

    def _show(self) -> None:
        sides = [f"{t.received:8} {t.overtaken:7} {t.twice:6}" for t in (self.direct_tally, self.sidecar_tally)]
        self.say(f"{time.monotonic() - self.begun:6.1f}s {self._published:10}   " + "   ".join(sides))

    def _verdict(self) -> bool:
        tally = self.sidecar_tally
        good = tally.within_promise and tally.received > 0
        self.say("\nverdict")
        for name, t in (("agent, direct", self.direct_tally), ("agent, through sidecar", tally)):
            self.say(f"  {name:<23} received {t.received} of {t.expected}, lost {t.missing}, twice {t.twice}")
        self.say(
            f"  the latter: {tally.disordered} out of order, {tally.strange} never published; the sidecar itself reports {self.gaps} gaps"
        )
        kills = tally.allowed // WINDOW
        self.say(f"  promised: nothing lost, in order, nothing twice but at most {WINDOW} (a window) after each of {kills} kill -9")
        self.say("  GREEN: the agent beside the sidecar missed nothing" if good else "  RED: a promise was broken")
        return good


CUT = Misdeed("the upstream cuts all connections", Demo.cut)
MISDEEDS = (
    Misdeed(f"an outage: connections cut, none accepted, {OUTAGE_MESSAGES} messages meanwhile", Demo.outage),
    Misdeed("the upstream crashes and comes back: its counters begin anew", Demo.restart_upstream),
    Misdeed("both agents are killed (SIGKILL) and started again", Demo.kill_agents),
    Misdeed("the sidecar is killed (SIGKILL) and started again", Demo.kill_sidecar),
    Misdeed("the sidecar is restarted as planned (SIGTERM)", Demo.restart_sidecar),
)


def run(options: Sequence[str]) -> int:
    """The command: options as `--help` tells them. Exit code 0 only if the sidecar's agent missed nothing."""
    parser = argparse.ArgumentParser(prog="sidecar demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=22.0, metavar="S", help="how long things go wrong (%(default)g)")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="the order of what goes wrong; default: a new one")
    parser.add_argument("--no-resync", action="store_true", help="switch all recovery off, to see the verdict turn red")
    told = parser.parse_args(options)
    seed = random.SystemRandom().randrange(10_000) if told.seed is None else told.seed
    print(f"sidecar demo, {told.seconds:g} s, --seed {seed}", flush=True)
    demo = Demo(told.seconds, seed, not told.no_resync, lambda text: print(text, flush=True))
    try:
        good = asyncio.run(_until_told(demo))
    except DemoError as error:
        print(f"the demo could not go on: {error}", flush=True)
        return 1
    except asyncio.CancelledError:  # SIGTERM
        return 1
    return 0 if good else 1


async def _until_told(demo: Demo) -> bool:
    """Run the demo; SIGTERM ends it as Ctrl-C does, children and all."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await demo.run()
    except asyncio.CancelledError:
        demo.say("stopped")
        raise
