"""Classify, admit and journal with fsync, in batches, as a share of a bare LMDB append of the same bytes."""

from __future__ import annotations

import statistics
import tempfile
import time

from benchmarks.baseline import bare_append
from benchmarks.bench_dedupe import RECENT, Load, load
from benchmarks.errors import BenchError, NotConnected
from benchmarks.harness import Options, Row, middle, run_alone
from benchmarks.subject import sidecar_journal

TARGET = 100_000
BATCHES = (256, 512, 1024)


def measure(directory: str, given: Load, batch: int) -> float:
    """Journaled events/s of one round in a new journal; the warm-up is journaled too, before the clock starts.

    Duplicates are worked on but not counted, so that the bare append beside it writes the very same bytes.
    """
    with tempfile.TemporaryDirectory(dir=directory) as path:
        admit = sidecar_journal(path)
        admit(given.warm, 1024)
        begun = time.perf_counter()
        admitted = admit(given.measured, batch)
        taken = time.perf_counter() - begun
    if admitted != len(given.fresh):
        raise BenchError(f"{admitted:,} of {len(given.fresh):,} new frames journaled")
    return admitted / taken


def bench(options: Options) -> list[Row]:
    count, rounds = (20_000, 1) if options.quick else (100_000, 5)
    given = load(count, RECENT)
    bare: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    mine: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    missing = ""
    for i in range(rounds):
        for batch in BATCHES:
            if i % 2:
                bare[batch].append(bare_append(options.directory, given.fresh, batch))
            try:
                mine[batch].append(measure(options.directory, given, batch))
            except NotConnected as error:
                missing = str(error)
            if not i % 2:
                bare[batch].append(bare_append(options.directory, given.fresh, batch))
    rows = []
    for batch in BATCHES:
        rows.append(Row(f"bare LMDB append, fsync, batches of {batch}: events/s", "", middle(bare[batch])))
        if missing:
            continue
        rate = statistics.median(mine[batch])
        name = f"dedupe and journal, `power`, batches of {batch}: events/s"
        rows.append(Row(name, f">= {TARGET:,}", middle(mine[batch]), rate >= TARGET))
        share = [own / base for own, base in zip(mine[batch], bare[batch], strict=True)]
        rows.append(Row(f"the same as a share of the bare append, batches of {batch}", "", middle(share)))
    if missing:
        rows.append(Row("dedupe and journal, `power`: events/s", f">= {TARGET:,}", f"not measured: {missing}", False))
    return rows


if __name__ == "__main__":
    run_alone(bench, __doc__)
