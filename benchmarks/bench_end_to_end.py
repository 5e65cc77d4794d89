"""End to end: source -> proxy -> sink for the bare relay and for the sidecar, side by side, in alternating order."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass

from benchmarks.errors import BenchError
from benchmarks.harness import Options, Route, Row, memory_mib, middle, run_alone, through
from benchmarks.peers import cpu_ns

TARGET, FLOOR = 0.7, 0.5


@dataclass(frozen=True, slots=True)
class Round:
    cpu_us: float  # per event, whole process, first to last frame at the sink
    total_us: float  # per event, from the first byte sent until the proxy had been quiet for 0.3 s
    rate: float  # events/s at the sink


def measure(route: Route, count: int) -> Round:
    """One round of `count` frames; raises BenchError when a frame is missing, extra or out of place."""
    route.source.ask("prepare", count=count)
    route.sink.ask("expect", count=count, pid=route.proxy.pid)
    before = cpu_ns(route.proxy.pid)
    route.source.send("blast")
    route.sink.send("result", timeout=90)
    got = route.sink.answer()
    route.source.answer()
    time.sleep(0.3)  # receipts and what else trails the last frame: part of the total, not of the first figure
    total = cpu_ns(route.proxy.pid) - before
    if got["frames"] != count or got["seq_span"] != count:
        raise BenchError(f"{got['frames']} frames over {got['seq_span']} seqs for {count} sent: the round is void")
    counted = got["counted"]
    return Round(got["cpu_ns"] / counted / 1000, total / count / 1000, counted / got["wall_ns"] * 1e9)


def _told(memory: dict[str, float]) -> str:
    return f"{memory['VmHWM']:.0f} MiB; private at the end {memory['RssAnon']:.0f}, mapped {memory['RssFile']:.0f}"


def shares(relay: list[Round], sidecar: list[Round]) -> list[Row]:
    """The sidecar's share of the relay: of the CPU of all rounds together, since single rounds scatter (README.md).

    The relay's cheapest round is the other reading: a share that holds there owes nothing to a slow round of the relay.
    """
    pairs = [mine.cpu_us / theirs.cpu_us for mine, theirs in zip(relay, sidecar, strict=True)]
    spent = sum(r.cpu_us for r in sidecar)
    share = sum(r.cpu_us for r in relay) / spent
    whole = sum(r.total_us for r in relay) / sum(r.total_us for r in sidecar)
    least = min(r.cpu_us for r in relay) * len(sidecar) / spent
    floor = "" if share >= TARGET else f"; the floor of {FLOOR} {'holds' if share >= FLOOR else 'is missed too'}"
    measured = f"{share:.2f} (rounds {min(pairs):.2f} to {max(pairs):.2f}){floor}"
    return [
        Row("end to end: sidecar as a share of the relay, CPU", f">= {TARGET}", measured, share >= TARGET),
        Row("end to end: the same until quiet", "", f"{whole:.2f}"),
        Row("end to end: the same against the relay's cheapest round", f">= {TARGET}", f"{least:.2f}", least >= TARGET),
    ]


def bench(options: Options) -> list[Row]:
    count, rounds = (10_000, 2) if options.quick else (100_000, 11)
    kinds = ["relay"] if options.relay_only else ["relay", "sidecar"]
    with contextlib.ExitStack() as stack:
        routes = {kind: stack.enter_context(through(kind, options)) for kind in kinds}
        for route in routes.values():
            route.connect()
            measure(route, count // 5)  # warm: the first round pays for imports, caches and the file's growth
        results: dict[str, list[Round]] = {kind: [] for kind in kinds}
        for i in range(rounds):
            for kind in kinds if i % 2 == 0 else reversed(kinds):
                results[kind].append(measure(routes[kind], count))
        memory = {kind: memory_mib(route.proxy.pid) for kind, route in routes.items()}
    rows = []
    for kind, got in results.items():
        rows += [
            Row(f"end to end, {kind}: CPU µs an event", "", middle([r.cpu_us for r in got])),
            Row(f"end to end, {kind}: the same until quiet", "", middle([r.total_us for r in got])),
            Row(f"end to end, {kind}: events/s", "", f"{statistics.median(r.rate for r in got):,.0f}"),
            Row(f"end to end, {kind}: peak RSS", "", _told(memory[kind])),
        ]
    if "sidecar" in results:
        rows += shares(results["relay"], results["sidecar"])
    return rows


if __name__ == "__main__":
    run_alone(bench, __doc__)
