"""The unmodified clients, installed on demand; and scenarios run for all of them side by side."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.stage import Scenario, Stage

HERE = Path(__file__).parent
NODE = HERE / "node"
INSTALL_S = 300
CLIENTS = {"v2": "2.6.0", "v4": "4.2.0", "python": "0.2.0"}
"""npm @relaycast/sdk twice, PyPI relaycast-sdk."""

Judged = Callable[[Scenario], None]


class Clients:
    """Finds or installs the clients; `command` starts an agent on one, `rest` the script of REST calls."""

    def __init__(self) -> None:
        self._missing: dict[str, str] = {}

    def missing(self, sdk: str) -> str:
        """Why the client cannot be had; empty: it is there."""
        if sdk not in self._missing:
            self._missing[sdk] = _python_missing() if sdk == "python" else _install(NODE / sdk, CLIENTS[sdk])
        return self._missing[sdk]

    def need(self, sdk: str) -> None:
        """Make sure that the client is there; else skip, or fail where CI=true: there it must not pass unnoticed."""
        if why := self.missing(sdk):
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(why, pytrace=False)
            pytest.skip(why)

    def command(self, sdk: str) -> list[str]:
        if sdk == "python":
            return [sys.executable, str(HERE / "python_agent.py")]
        return ["node", "--no-warnings", "--experimental-websocket", str(NODE / "agent.mjs"), str(NODE / sdk)]

    def rest(self, sdk: str) -> list[str]:
        if sdk == "python":
            return [sys.executable, str(HERE / "python_rest.py")]
        return ["node", "--no-warnings", str(NODE / "rest.mjs"), str(NODE / sdk)]


def _python_missing() -> str:
    return "" if importlib.util.find_spec("relay_sdk") else f"relaycast-sdk {CLIENTS['python']} is not installed (extra: test)"


def _install(folder: Path, version: str) -> str:
    """Install what the lock file names. Returns why it cannot be had, or nothing."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are needed for @relaycast/sdk"
    with (folder / ".installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _installed(folder) == version:
            return ""
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            return f"npm ci did not end within {INSTALL_S} s"
        if done.returncode or _installed(folder) != version:
            return f"npm ci could not install @relaycast/sdk {version}: {done.stderr.strip()[-500:]}"
    return ""


def _installed(folder: Path) -> str:
    found = folder / "node_modules" / "@relaycast" / "sdk" / "package.json"
    return str(json.loads(found.read_text())["version"]) if found.exists() else ""


class Judges:
    """Runs a scenario once for all clients that this session selected, side by side, and keeps each one's outcome."""

    def __init__(self, clients: Clients, folders: pytest.TempPathFactory) -> None:
        self.clients = clients
        self._folders = folders
        self._outcomes: dict[Scenario, dict[str, BaseException | None]] = {}

    def judge(self, scenario: Scenario, sdk: str, selected: list[str]) -> None:
        """Raise what the scenario raised for this client."""
        if scenario not in self._outcomes:
            self._outcomes[scenario] = asyncio.run(self._all(scenario, selected))
        outcome = self._outcomes[scenario][sdk]
        if outcome is not None:
            raise outcome

    async def _all(self, scenario: Scenario, selected: list[str]) -> dict[str, BaseException | None]:
        found = await asyncio.gather(*(self.one(scenario, sdk) for sdk in selected), return_exceptions=True)
        return dict(zip(selected, found, strict=True))

    async def one(self, scenario: Scenario, sdk: str, *, direct: bool = False) -> None:
        """Run the scenario for one client (or "plain", the small client of these tests), in a folder of its own."""

        def opened(*, raw: bool = False, **knobs: str) -> Stage:
            folder = self._folders.mktemp(f"{sdk}{'-direct' if direct else ''}-")
            return Stage(sdk, [] if sdk == "plain" else self.clients.command(sdk), folder, direct=direct, raw=raw, **knobs)

        await scenario(opened)


@pytest.fixture(scope="session")
def clients() -> Clients:
    return Clients()


@pytest.fixture(scope="session")
def judges(clients: Clients, tmp_path_factory: pytest.TempPathFactory) -> Judges:
    return Judges(clients, tmp_path_factory)


@pytest.fixture(params=CLIENTS)
def sdk(request: pytest.FixtureRequest, clients: Clients) -> str:
    """Each unmodified client in turn."""
    name: str = request.param
    clients.need(name)
    return name


@pytest.fixture
def judged(request: pytest.FixtureRequest, judges: Judges, clients: Clients, sdk: str) -> Callable[[Scenario], None]:
    """`judged(scenario)`: the scenario's outcome for this client; it runs once for all clients of this test."""
    function = getattr(request.node, "function")  # noqa: B009 - pytest's Item does not declare it
    same = [item for item in request.session.items if getattr(item, "function", None) is function]
    selected = [item.callspec.params["sdk"] for item in same if hasattr(item, "callspec")]

    def judge(scenario: Scenario) -> None:
        judges.judge(scenario, sdk, [name for name in selected if not clients.missing(name)])

    return judge
