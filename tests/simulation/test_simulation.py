"""The seeded simulation: thousands of short lives of upstream, sidecar and agents, in virtual time; a failure prints its seed.

`pytest tests/simulation --seeds 20000` runs more of them. One seed alone: `python -m tests.simulation.test_simulation KIND SEED`,
KIND being `all` (every family of faults, schedule.py) or `local` (the local side under pressure, local.py).
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sidecar.journal.model import ModelStore
from sidecar.journal.store import Store
from tests.simulation import local, schedule
from tests.simulation.sim import START, Sim

CHUNK = 25
WORKERS = 2
TINY = 30_000

REGRESSIONS = {
    # upstream: a flood over several cuts, a reset under a broken replay, reactions that no interface gives any more
    "all": [4, 18, 20, 35, 51, 60, 95, 138],
    # local: windows of one under a frozen reader, a stop while the disk is full
    "local": [33, 45, 78, 87, 186, 246, 1196],
}


def retention(kind: str, seed: int) -> int:
    """Bytes that the journal keeps: in some local runs so little that readers fall behind it."""
    return TINY if kind == "local" and seed % 3 == 0 else 1 << 30


def one(kind: str, seed: int, real: bool = False) -> None:
    """One run and its check. Raises whatever goes wrong."""
    runs: dict[str, tuple[Callable[..., tuple[Sim, Any]], Callable[..., None]]] = {
        "all": (schedule.run, schedule.check),
        "local": (local.run, local.check),
    }
    run, check = runs[kind]
    if not real:
        sim, plan = run(seed, ModelStore(retention_bytes=retention(kind, seed)))
        check(sim, plan)
        return
    with tempfile.TemporaryDirectory(prefix="sidecar-sim-") as path:
        store = Store.open(
            Path(path),
            dialect="relaycast",
            upstream="http://upstream",
            durability="process",
            retention_bytes=1 << 30,
            retention_s=7 * 86400.0,
            wall=START,
        )
        try:
            sim, plan = run(seed, store)
            check(sim, plan)
        finally:
            store.close()


def chunk(kind: str, seeds: list[int], real: bool) -> list[str]:
    """What went wrong in some runs, each with its seed."""
    failures = []
    for seed in seeds:
        try:
            one(kind, seed, real)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}"[:500]
            failures.append(f"{kind} seed {seed}{' on LMDB' if real else ''}: {text} ({where.name}:{where.lineno})")
    return failures


def explore(kind: str, seeds: list[int], real: bool = False) -> None:
    """All runs, on all cores."""
    parts = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    failures: list[str] = []
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(chunk, [kind] * len(parts), parts, [real] * len(parts)):
            failures += found
    assert not failures, f"{len(failures)} of {len(seeds)} runs:\n" + "\n".join(failures[:10])


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seeds"))


@pytest.mark.parametrize("kind", ["all", "local"])
def test_seeds_that_failed_once(kind: str) -> None:
    assert chunk(kind, REGRESSIONS[kind], False) == []


def test_every_family_of_faults(seeds: int) -> None:
    explore("all", list(range(seeds)))


def test_the_local_side_under_pressure(seeds: int) -> None:
    explore("local", list(range(seeds // 4)))


@pytest.mark.parametrize("kind", ["all", "local"])
def test_the_same_on_lmdb(kind: str, seeds: int) -> None:
    explore(kind, list(range(seeds // 20 if kind == "all" else seeds // 50)), real=True)


def test_a_run_is_the_same_each_time() -> None:
    """Else a printed seed would be worth nothing."""
    for kind, module in (("all", schedule), ("local", local)):
        first, second = (module.run(11, ModelStore(retention_bytes=retention(kind, 11)))[0] for _ in range(2))
        assert [a.handled for a in first.agents] == [a.handled for a in second.agents]
        assert [r.payload for r in first.records(first.agents[0].who.id)] == [r.payload for r in second.records(second.agents[0].who.id)]


if __name__ == "__main__":
    one(sys.argv[1], int(sys.argv[2]), "real" in sys.argv[3:])
