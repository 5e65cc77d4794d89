"""The dedupe hot path: classify and admit 500-byte frames, beside the same frames through the SDK's own dedupe in Node."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import frames
from benchmarks.errors import BenchError, NotConnected
from benchmarks.harness import Options, Row, middle, run_alone
from benchmarks.subject import REMEMBERED, Admit, sidecar_admit

TARGET_US, TARGET_RATIO = 1.5, 1.5
RECENT = 1_500  # duplicates within Node's 2048, so that both sides must admit the same number of frames


@dataclass(frozen=True, slots=True)
class Load:
    """`warm` fills the memory until it evicts; `measured` has every tenth frame twice."""

    warm: list[bytes]
    measured: list[bytes]
    fresh: list[bytes]  # what of `measured` a memory that reaches back far enough admits


@dataclass(frozen=True, slots=True)
class Round:
    cpu_us: float
    rate: float
    admitted: int


def load(count: int, reach: int) -> Load:
    """About `count` measured frames after 10 % more than is remembered, duplicates up to `reach` distinct events back."""
    warm_new = REMEMBERED + REMEMBERED // 10
    new = count * 9 // 10
    distinct = frames.build(warm_new + new, 1, 1_763_000_000_000)
    mixed = frames.with_duplicates(distinct, reach)
    warm = warm_new * 10 // 9
    before = set(mixed[:warm])
    return Load(mixed[:warm], mixed[warm:], [frame for frame in dict.fromkeys(mixed[warm:]) if frame not in before])


def run_here(make: Callable[[], Admit], given: Load) -> Round:
    """One round in this process, on this thread; the CPU is that of the whole process."""
    admit = make()
    admit(given.warm)
    cpu, begun = time.process_time_ns(), time.perf_counter_ns()
    admitted = admit(given.measured)
    wall, used = time.perf_counter_ns() - begun, time.process_time_ns() - cpu
    return Round(used / len(given.measured) / 1000, len(given.measured) / wall * 1e9, admitted)


def run_node(file: Path, warm: int) -> Round:
    """One round of node_lru.mjs; raises BenchError without Node."""
    script = Path(__file__).with_name("node_lru.mjs")
    try:
        done = subprocess.run(["node", str(script), str(file), str(warm)], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise BenchError("node is not on the PATH") from None
    except subprocess.CalledProcessError as error:
        raise BenchError(f"node_lru.mjs: {error.stderr.strip()[-300:]}") from None
    got = json.loads(done.stdout)
    return Round(got["cpu_us"] / got["frames"], got["frames"] / got["wall_ns"] * 1e9, got["admitted"])


def write_frames(file: Path, given: Sequence[bytes]) -> None:
    with file.open("wb") as out:
        out.writelines(frame + b"\n" for frame in given)


def bench(options: Options) -> list[Row]:
    count, rounds = (20_000, 1) if options.quick else (200_000, 7)
    near, far = load(count, RECENT), load(count, REMEMBERED - 1)
    here: list[Round] = []
    wide: list[Round] = []
    node: list[Round] = []
    missing = ""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "frames"
        write_frames(file, near.warm + near.measured)
        for i in range(rounds):
            if i % 2:
                node.append(run_node(file, len(near.warm)))
            try:
                here.append(run_here(sidecar_admit, near))
                wide.append(run_here(sidecar_admit, far))
            except NotConnected as error:
                missing = str(error)
            if not i % 2:
                node.append(run_node(file, len(near.warm)))
    for given, got in [(near, here), (far, wide), (near, node)]:
        for each in got:
            if each.admitted != len(given.fresh):
                raise BenchError(f"{each.admitted:,} of {len(given.fresh):,} new frames admitted: the sides do unequal work")
    rows = [
        Row("Node, JSON.parse and LRU of 2048: CPU µs an event", "", middle([r.cpu_us for r in node])),
        Row("Node: events/s", "", f"{statistics.median(r.rate for r in node):,.0f}"),
    ]
    target, factor = f"<= {TARGET_US} µs CPU an event", f">= {TARGET_RATIO} x Node"
    if missing:
        return [*rows, Row("dedupe hot path", f"{target}; {factor}", f"not measured: {missing}", False)]
    cpu = statistics.median(r.cpu_us for r in here)
    cpu_far = statistics.median(r.cpu_us for r in wide)
    ratio = [mine.rate / theirs.rate for mine, theirs in zip(here, node, strict=True)]
    return [
        *rows,
        Row("dedupe hot path: CPU µs an event", target, middle([r.cpu_us for r in here]), cpu <= TARGET_US),
        Row(
            f"the same, duplicates from anywhere in the last {REMEMBERED:,}",
            target,
            middle([r.cpu_us for r in wide]),
            cpu_far <= TARGET_US,
        ),
        Row("dedupe hot path: events/s", "", f"{statistics.median(r.rate for r in here):,.0f}"),
        Row("dedupe hot path: events/s beside Node", factor, middle(ratio), statistics.median(ratio) >= TARGET_RATIO),
    ]


if __name__ == "__main__":
    run_alone(bench, __doc__)
