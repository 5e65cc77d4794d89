"""A client that cannot be had says why; a lock file names no place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.discord.clients.bots import CLIENTS, HERE, BotClients


@pytest.mark.parametrize("kind", ["djs", "carbon"])
def test_without_node_it_says_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert BotClients().missing(kind) == f"node and npm are needed for {CLIENTS[kind][0]}"


@pytest.mark.parametrize("kind", ["djs", "carbon"])
def test_the_pinned_version_stands_in_package_and_lock_file(kind: str) -> None:
    name, wanted = CLIENTS[kind]
    folder: Path = HERE / kind
    lock = (folder / "package-lock.json").read_text()
    assert f'"{name}": "{wanted}"' in (folder / "package.json").read_text()
    assert f'"{name}": "{wanted}"' in lock
    assert '"resolved"' not in lock
