"""Catch-up: the source sends while the sink is away, then the sink connects and takes the whole journaled backlog."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.errors import BenchError
from benchmarks.harness import TOKEN, MemoryPeak, Options, Route, Row, journal_head, memory_mib, middle, run_alone, through, wait_until

TARGET = 50_000
# 256 frames of 500 bytes are 128 KiB, the window's other bound is 1 MiB; the backlog is 48 MiB. The first bound has room for
# allocator slack, the second also for the memory of 100,000 event ids and the bounded queue in front of the journal;
# neither has room for a copy of the backlog.
CATCHUP_MIB = 16


@dataclass(frozen=True, slots=True)
class Round:
    rate: float  # events/s at the sink
    idle: float  # private memory, MiB: before the first event,
    journaled: float  # with all of them on disk,
    peak: float  # and the most from the first event to the last frame at the sink
    mapped: float  # growth of the mapped journal's pages in RSS, MiB


def measure(route: Route, count: int) -> Round:
    """One backlog of `count` in a sidecar just started; raises BenchError when a frame is missing or extra."""
    pid = route.proxy.pid
    wait_until(lambda: route.source.ask("sockets")["sockets"] > 0, 20, "the sidecar did not dial the source")
    route.source.ask("prepare", count=count)
    route.sink.ask("expect", count=count, pid=pid)
    idle = memory_mib(pid)
    with MemoryPeak(pid) as peak:
        route.source.ask("blast")
        wait_until(lambda: journal_head(route.proxy.port) >= count, 120, f"{count} events were not journaled")
        journaled = memory_mib(pid)
        route.sink.ask("connect", port=route.proxy.port, token=TOKEN)
        got = route.sink.ask("result", timeout=90)
    if got["frames"] != count or got["seq_span"] != count:
        raise BenchError(f"{got['frames']} frames over {got['seq_span']} seqs for {count} journaled: the round is void")
    return Round(
        got["counted"] / got["wall_ns"] * 1e9,
        idle["RssAnon"],
        journaled["RssAnon"],
        peak.anon,
        memory_mib(pid)["RssFile"] - idle["RssFile"],
    )


def bench(options: Options) -> list[Row]:
    count, rounds = (10_000, 1) if options.quick else (100_000, 3)
    got: list[Round] = []
    for _ in range(rounds):  # a new sidecar each time: memory is to be seen from a fresh start
        with through("sidecar", options) as route:
            got.append(measure(route, count))
    rate = statistics.median(r.rate for r in got)
    catchup, whole = max(r.peak - r.journaled for r in got), max(r.peak - r.idle for r in got)
    backlog = f"backlog {count * 500 / 2**20:.0f} MiB"
    return [
        Row(f"catch-up of {count:,} events, events/s", f">= {TARGET:,}", middle([r.rate for r in got]), rate >= TARGET),
        Row(
            f"catch-up: growth of private memory over that with all journaled ({backlog})",
            f"<= {CATCHUP_MIB} MiB",
            f"{catchup:.1f} MiB at most",
            catchup <= CATCHUP_MIB,
        ),
        Row(
            f"journaling and catch-up: growth of private memory ({backlog})",
            "",
            f"{whole:.1f} MiB at most, from {statistics.median(r.idle for r in got):.0f} MiB",
        ),
        Row("catch-up: growth of mapped journal pages in RSS", "", f"{max(r.mapped for r in got):.1f} MiB at most"),
    ]


if __name__ == "__main__":
    run_alone(bench, __doc__)
