"""`sidecar demo` as a user starts it: its verdict, its exit code, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEADLINE_S = 120.0
COMMAND = (sys.executable, "-m", "sidecar", "demo", "--seed", "7", "--seconds")


def environment(folder: Path) -> dict[str, str]:
    """Its temporary files in `folder`, and a variable that would break a sidecar which inherits it."""
    return os.environ | {"TMPDIR": str(folder), "SIDECAR_DIALECT": "nonsense"}


def demo(folder: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, *options], check=False, env=environment(folder), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stderr == ""
    return done.returncode, done.stdout


def processes_of(folder: Path) -> list[int]:
    """Running processes that were started with this TMPDIR."""
    mark = f"TMPDIR={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # gone meanwhile, or not ours
    return found


def assert_nothing_is_left(folder: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of(folder)
    assert list(folder.iterdir()) == []


def figures(output: str, side: str) -> tuple[int, int, int, int]:
    """(received, published, lost, twice) of a side in the verdict."""
    found = re.search(rf"agent, {side} +received (\d+) of (\d+), lost (\d+), twice (\d+)", output)
    assert found is not None, output
    received, published, lost, twice = map(int, found.groups())
    return received, published, lost, twice


def test_the_verdict_is_green_and_the_direct_agent_shows_why_it_matters(tmp_path: Path) -> None:
    code, output = demo(tmp_path, "6")
    assert "GREEN" in output, output
    assert "RED" not in output
    assert code == 0
    for misdeed in ("outage", "crashes", "both agents are killed", "sidecar is killed", "restarted as planned", "cuts all"):
        assert f"{misdeed}" in output
    received, published, lost, twice = figures(output, "through sidecar")
    assert received == published > 700
    assert lost == 0
    assert twice <= 512
    assert figures(output, "direct")[2] > 500
    assert_nothing_is_left(tmp_path)


def test_the_verdict_is_red_when_resync_is_switched_off(tmp_path: Path) -> None:
    code, output = demo(tmp_path, "6", "--no-resync")
    assert "RED" in output, output
    assert "GREEN" not in output
    assert code == 1
    assert figures(output, "through sidecar")[2] > 500
    gaps = re.search(r"sidecar itself reports (\d+) gaps", output)
    assert gaps is not None
    assert int(gaps[1]) > 0
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_told_to_stop_it_takes_everything_with_it(tmp_path: Path, name: str) -> None:
    # A shell's background job, as CI may be, is started with SIGINT ignored, and hands that on.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        running = subprocess.Popen([*COMMAND, "60"], env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert running.stdout is not None
    for line in running.stdout:
        if "* " in line:
            break
    assert len(processes_of(tmp_path)) >= 4
    running.send_signal(signal.Signals[name])
    rest = running.communicate(timeout=DEADLINE_S)[0]
    assert running.returncode != 0
    assert "GREEN" not in rest
    assert_nothing_is_left(tmp_path)


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    running = subprocess.Popen([*COMMAND, "60"], env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if "* " in line:
            break
    running.kill()
    running.communicate(timeout=DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of(tmp_path)
