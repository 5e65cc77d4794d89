"""The demo's processes: two agents and a sidecar, on leashes, with an environment of their own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .tally import Tally, key_of

__all__ = ["AgentProcess", "DemoError", "SidecarProcess", "until"]

START_S = 30.0
STOP_S = 15.0
LINE_LIMIT = 1 << 22
_LISTENING = re.compile(r"listening on (http://\S+)")


class DemoError(Exception):
    """The demo's own stage broke down: what did not start or stop."""


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without its SIDECAR_ variables and proxies, and with these."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_") and not k.lower().endswith("_proxy")}
    return kept | settings


class _Child:
    """A process on a leash: what it reads from is closed when this process ends, and it ends with that."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def _spawn(self, stdout: int, stderr: int, env: dict[str, str]) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=env,
            limit=LINE_LIMIT,
            start_new_session=True,  # Ctrl-C is for the demo, which ends its children in order
        )
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class AgentProcess(_Child):
    """One agent; what it handles goes into its tally."""

    def __init__(self, base: str, token: str, tally: Tally) -> None:
        super().__init__("sidecar.demo.agent", base, token)
        self.tally = tally
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; it connects by itself."""
        process = await self._spawn(asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL, environment())
        assert process.stdout is not None
        self._reader = asyncio.create_task(self._read(process.stdout))

    async def _read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            if line == b"open\n":
                self.tally.connections += 1
            elif line.endswith(b"\n"):  # a killed process may leave half a line: that event was not handled
                self.tally.take(key_of(line))

    async def kill(self) -> None:
        """SIGKILL; what it had handled until then is counted."""
        await super().kill()
        if self._reader is not None:
            await self._reader


class SidecarProcess(_Child):
    """`python -m sidecar run` beside the agent, on a port that stays the same when it is started again. `url` after `start`."""

    def __init__(self, upstream: str, folder: Path) -> None:
        super().__init__("sidecar.demo.leash", "run")
        self.url = ""
        self._upstream = upstream
        self._folder = folder
        self._log = folder / "sidecar.log"

    async def start(self) -> None:
        """Start it and wait until it listens. Raises DemoError with its last lines if it does not."""
        begun = self._log.stat().st_size if self._log.exists() else 0
        settings = environment(
            SIDECAR_DIALECT="relaycast",
            SIDECAR_UPSTREAM=self._upstream,
            SIDECAR_LISTEN=self.url.removeprefix("http://") or "127.0.0.1:0",
            SIDECAR_DATA_DIR=str(self._folder / "journal"),
        )
        with self._log.open("ab") as log:
            await self._spawn(asyncio.subprocess.DEVNULL, log.fileno(), settings)
        if not await until(lambda: bool(self._listening(begun)) or not self.running, START_S) or not self.running:
            raise DemoError(f"the sidecar did not start; its last lines:\n{self.last_lines()}")
        self.url = self._listening(begun)

    def _listening(self, begun: int) -> str:
        found = _LISTENING.search(self._log.read_bytes()[begun:].decode(errors="replace"))
        return found[1] if found else ""

    def last_lines(self, count: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-count:])

    async def stop(self) -> None:
        """SIGTERM, and wait until it has stopped cleanly. Raises DemoError if it does not."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            code = None
        if code != 0:
            raise DemoError(f"the sidecar did not stop cleanly (exit code {code}); its last lines:\n{self.last_lines()}")


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; False if it did not come true in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
