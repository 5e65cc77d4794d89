"""The processes of these tests: the real sidecar, and agents on unmodified clients. All on loopback, all ended at the end."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.clients.ledger import key_of

__all__ = ["DEADLINE_S", "AgentProcess", "SidecarProcess", "until"]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 45.0
"""How long a condition may take to come true, on a machine that is busy with other things."""
POLL_S = 0.03
TAIL = 25


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str | Callable[[], str], deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition; AssertionError with `what` if it stays false."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        if loop.time() > end:
            raise AssertionError(f"still not so after {deadline_s:g} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(POLL_S)


class _Child:
    """A process whose output is read line by line; `lines` keeps it."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.lines: list[str] = []
        self._reading: list[asyncio.Task[None]] = []

    async def _spawn(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(env),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            self._reading.append(asyncio.get_running_loop().create_task(self._read(pipe)))

    async def _read(self, pipe: asyncio.StreamReader) -> None:
        async for line in pipe:
            self.lines.append(line.decode(errors="replace").rstrip())
            self._line(self.lines[-1])

    def _line(self, line: str) -> None:
        """One line of output came."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            assert self.process is not None
            self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end, with everything it printed read. Returns the exit code."""
        assert self.process is not None
        await asyncio.wait_for(self.process.wait(), DEADLINE_S)
        await asyncio.gather(*self._reading)
        self._reading.clear()
        assert self.process.returncode is not None
        return self.process.returncode

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            await self.ended()

    def tail(self) -> str:
        return "\n".join(self.lines[-TAIL:])


class SidecarProcess(_Child):
    """`python -m sidecar run` on one data directory; the port that the first start found is kept."""

    def __init__(self, upstream: str, data_dir: Path, env: Mapping[str, str], dialect: str = "relaycast") -> None:
        super().__init__()
        self.dialect = dialect
        self.upstream = upstream
        self.data_dir = data_dir
        self.env = dict(env)
        self.url = ""

    async def start(self) -> None:
        """Start, and wait until it listens."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith("SIDECAR_") and not key.lower().endswith("_proxy")}
        listen = self.url.removeprefix("http://") or "127.0.0.1:0"
        begun = len(self.lines)
        await self._spawn(
            [sys.executable, "-m", "sidecar", "run"],
            {
                **plain,
                "SIDECAR_DIALECT": self.dialect,
                "SIDECAR_UPSTREAM": self.upstream,
                "SIDECAR_LISTEN": listen,
                "SIDECAR_DATA_DIR": str(self.data_dir),
                **self.env,
            },
        )
        await until(lambda: not self.alive or bool(self._listening(begun)), lambda: f"the sidecar does not listen:\n{self.tail()}")
        found = self._listening(begun)
        assert found, f"the sidecar ended at its start:\n{self.tail()}"
        self.url = found

    def _listening(self, begun: int) -> str:
        found = (re.search(r"listening on (http://[^\s\"]+)", line) for line in self.lines[begun:])
        return next((match[1] for match in found if match), "")

    async def stop(self) -> int:
        """A planned stop (SIGTERM). Returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()


class AgentProcess(_Child):
    """An agent on an unmodified client. `runs` counts its starts, `states` the state changes it told (open, close, resynced, …)."""

    def __init__(self, command: Sequence[str], folder: Path, *, raw: bool = False) -> None:
        super().__init__()
        self.command = list(command)
        self.out = folder / "handled.jsonl"
        self.raw = folder / "raw.jsonl" if raw and "node" in command else None
        self.states: Counter[str] = Counter()
        self.pids: list[int] = []
        self._events: list[tuple[int, dict[str, Any]]] = []
        self._offset = 0

    async def start(self, token: str, base_url: str, *, busy_ms: float = 0) -> None:
        """Start it (again); it appends to the same file."""
        told: dict[str, Any] = {"token": token, "baseUrl": base_url, "out": str(self.out), "busyMs": busy_ms}
        if self.raw is not None:
            told["raw"] = str(self.raw)
        plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        await self._spawn([*self.command, json.dumps(told)], plain)
        assert self.process is not None
        self.pids.append(self.process.pid)

    def _line(self, line: str) -> None:
        if line.startswith("{"):
            self.states[json.loads(line).get("type")] += 1

    def events(self) -> list[tuple[int, dict[str, Any]]]:
        """All events any run was handed, in order, each with the run's pid."""
        if self.out.exists():
            with self.out.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    row = json.loads(line)
                    self._events.append((row["run"], row["event"]))
        return self._events

    def handled(self, run: int | None = None) -> list[str]:
        """The keys of all events, or of those of one run (0 is the first)."""
        wanted = None if run is None else self.pids[run]
        return [key_of(event) for pid, event in self.events() if wanted in (None, pid)]
