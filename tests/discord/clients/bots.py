"""Bots on the unmodified clients: had on demand, run as processes, and what their handlers got."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.clients.processes import AgentProcess

__all__ = ["CLIENTS", "BotClients", "BotProcess"]

HERE = Path(__file__).parent
INSTALL_S = 300
CLIENTS = {"python": ("discord.py", "2.7.1"), "djs": ("discord.js", "14.28.1"), "carbon": ("@buape/carbon", "0.16.0")}
"""Package and version of each; the first is from PyPI, the others from npm."""


class BotClients:
    """Finds or installs the clients."""

    def __init__(self) -> None:
        self._missing: dict[str, str] = {}

    def missing(self, kind: str) -> str:
        """Why the client cannot be had; empty: it is there."""
        if kind not in self._missing:
            self._missing[kind] = _python_missing() if kind == "python" else _install(kind)
        return self._missing[kind]

    def command(self, kind: str) -> list[str]:
        """What starts a bot on it; `BotProcess` adds the JSON."""
        if kind == "python":
            return [sys.executable, str(HERE / "python_bot.py")]
        return ["node", "--no-warnings", str(HERE / f"{kind}_bot.mjs"), str(HERE / kind)]


class BotProcess(AgentProcess):
    """A bot on an unmodified client. `states` counts what it told: ready, resumed, disconnect, guild_join, guild_available, …

    Args:
        command: of `BotClients.command`.
        folder: where `handled.jsonl` goes.
        more: further settings of the runner: `intents`, `clientId`, `reconnect`, `race`.
    """

    def __init__(self, command: list[str], folder: Path, more: Mapping[str, Any] | None = None) -> None:
        super().__init__(command, folder)
        self.more = dict(more or {})
        self.told: list[dict[str, Any]] = []

    async def start(self, token: str, base_url: str, *, busy_ms: float = 0) -> None:
        """Start it (again); it appends to the same file."""
        told = {"token": token, "baseUrl": base_url, "out": str(self.out), "busyMs": busy_ms} | self.more
        plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        await self._spawn([*self.command, json.dumps(told)], plain)
        assert self.process is not None
        self.pids.append(self.process.pid)

    def _line(self, line: str) -> None:
        super()._line(line)
        if line.startswith("{"):
            self.told.append(json.loads(line))

    def seen(self, event: str = "MESSAGE_CREATE", run: int | None = None) -> list[dict[str, str]]:
        """What the handlers of an event got, in order; of all runs, or of one (0 is the first)."""
        wanted = None if run is None else self.pids[run]
        return [row for pid, row in self.events() if row["t"] == event and wanted in (None, pid)]

    def contents(self, run: int | None = None) -> list[str]:
        """The texts of the messages, in order."""
        return [row["content"] for row in self.seen(run=run)]


def _python_missing() -> str:
    name, wanted = CLIENTS["python"]
    found = version(name) if importlib.util.find_spec("discord") else ""
    return "" if found == wanted else f"{name} {wanted} is not installed ({found or 'none'} is)"


def _install(kind: str) -> str:
    """Install what the lock file names. Returns why it cannot be had, or nothing."""
    name, wanted = CLIENTS[kind]
    folder = HERE / kind
    if shutil.which("node") is None or shutil.which("npm") is None:
        return f"node and npm are needed for {name}"
    with (folder / ".installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _installed(folder, name) == wanted:
            return ""
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            return f"npm ci did not end within {INSTALL_S} s"
        if done.returncode or _installed(folder, name) != wanted:
            return f"npm ci could not install {name} {wanted}: {done.stderr.strip()[-500:]}"
    return ""


def _installed(folder: Path, name: str) -> str:
    found = folder / "node_modules" / name / "package.json"
    return str(json.loads(found.read_text())["version"]) if found.exists() else ""
