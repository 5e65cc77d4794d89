"""The seeded simulation of the Discord dialect: short lives of a reference Discord, the sidecar and its agents, in virtual time.

`pytest tests/simulation --seeds 20000` runs more of them. One seed alone: `python -m tests.simulation.test_discord SEED [real]`.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from sidecar.journal.model import ModelStore
from sidecar.journal.store import Store
from tests.simulation import discord_judge, discord_schedule
from tests.simulation.sim import START

CHUNK = 10
WORKERS = 2
SHARE = 4
"""Of `--seeds`: these runs are longer than the others."""

REGRESSIONS = [4, 13, 58, 61, 137, 205, 298, 359, 503, 741, 783, 889, 1169, 1181, 1465, 1851, 4649, 4724, 4848, 4897, 4961, 6236]


def one(seed: int, real: bool = False) -> None:
    """One run and its check. Raises whatever goes wrong."""
    if not real:
        discord_judge.check(*discord_schedule.run(seed, ModelStore()))
        return
    with tempfile.TemporaryDirectory(prefix="sidecar-sim-") as path:
        store = Store.open(
            Path(path),
            dialect="discord",
            upstream="http://upstream.test",
            durability="process",
            retention_bytes=1 << 30,
            retention_s=7 * 86400.0,
            wall=START,
        )
        try:
            discord_judge.check(*discord_schedule.run(seed, store))
        finally:
            store.close()


def chunk(seeds: list[int], real: bool) -> list[str]:
    """What went wrong in some runs, each with its seed."""
    failures = []
    for seed in seeds:
        try:
            one(seed, real)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}"[:600]
            failures.append(f"seed {seed}{' on LMDB' if real else ''}: {text} ({where.name}:{where.lineno})")
    return failures


def explore(seeds: list[int], real: bool = False) -> list[str]:
    """All runs, on all cores."""
    parts = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    failures: list[str] = []
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(chunk, parts, [real] * len(parts)):
            failures += found
    return failures


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seeds"))


def test_seeds_that_failed_once() -> None:
    assert chunk(REGRESSIONS, False) == []


def test_every_family_of_faults(seeds: int) -> None:
    failures = explore(list(range(seeds // SHARE)))
    assert not failures, f"{len(failures)} runs:\n" + "\n".join(failures[:10])


def test_the_same_on_lmdb(seeds: int) -> None:
    failures = explore(list(range(seeds // (SHARE * 20))), real=True)
    assert not failures, "\n".join(failures)


def test_a_run_is_the_same_each_time() -> None:
    """Else a printed seed would be worth nothing."""
    first, second = (discord_schedule.run(12, ModelStore())[0] for _ in range(2))
    for one, other in zip(first.agents, second.agents, strict=True):
        assert [s.taken for s in one.sessions] == [s.taken for s in other.sessions]
        assert [r.payload for r in first.records(one.stream)] == [r.payload for r in second.records(other.stream)]


if __name__ == "__main__":
    one(int(sys.argv[1]), "real" in sys.argv[2:])
