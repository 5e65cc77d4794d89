"""Discord, messages through: source -> proxy -> sink for the bare relay and for the sidecar, with zlib-stream on either side or none."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass

from benchmarks.discord_route import CHANNELS, DiscordRoute, discord_through
from benchmarks.harness import MemoryPeak, Options, Row, memory_mib, middle, run_alone
from benchmarks.peers import cpu_ns


@dataclass(frozen=True, slots=True)
class Setup:
    """`upstream`, `client`: is zlib-stream spoken there? A relay passes on what the client asked for."""

    kind: str
    upstream: bool
    client: bool
    channels: int = CHANNELS

    @property
    def name(self) -> str:
        """As rows name it."""
        if self.kind == "relay":
            return f"relay, {'zlib-stream' if self.client else 'plain'}"
        words = {(False, False): "plain", (True, True): "zlib-stream on both sides", (True, False): "zlib-stream upstream"}
        about = words.get((self.upstream, self.client), "zlib-stream to the client")
        return f"sidecar, {about}" + ("" if self.channels == CHANNELS else f", all in {self.channels} channel")


PLAIN, PACKED = Setup("relay", False, False), Setup("relay", True, True)
SETUPS = {
    PLAIN: None,
    PACKED: None,
    Setup("sidecar", False, False): PLAIN,
    Setup("sidecar", True, False): PLAIN,
    Setup("sidecar", False, True): PACKED,
    Setup("sidecar", True, True): PACKED,
    Setup("sidecar", False, False, 1): PLAIN,
}
"""Each with the relay that it is compared with: the one that gives the client the same."""


@dataclass(frozen=True, slots=True)
class Round:
    cpu_us: float  # an event, whole process, first to last message at the sink
    total_us: float  # an event, from the first byte sent until the proxy had been quiet for 0.3 s
    rate: float  # events/s at the sink


def measure(route: DiscordRoute, count: int) -> Round:
    """One round of `count` messages; raises BenchError when one is missing, twice or out of place."""
    route.source.ask("prepare", count=count)
    route.sink.ask("expect", count=count, pid=route.proxy.pid)
    before = cpu_ns(route.proxy.pid)
    route.source.send("blast")
    route.sink.send("result", timeout=90)
    got = route.sink.answer()
    route.source.answer()
    time.sleep(0.3)  # receipts and what else trails the last message: part of the total, not of the first figure
    total = cpu_ns(route.proxy.pid) - before
    if not got["counted"]:
        # All came in one read: there is nothing between the first and the last (a few hundred packed messages, never a real round).
        return Round(total / count / 1000, total / count / 1000, float("inf"))
    return Round(got["cpu_ns"] / got["counted"] / 1000, total / count / 1000, got["counted"] / max(got["wall_ns"], 1) * 1e9)


def bench(options: Options) -> list[Row]:
    count, rounds = (2_000, 1) if options.quick else (50_000, 5)
    setups = [setup for setup in SETUPS if setup.kind == "relay" or not options.relay_only]
    results: dict[Setup, list[Round]] = {setup: [] for setup in setups}
    memory: dict[Setup, tuple[float, float, float]] = {}
    with contextlib.ExitStack() as stack:
        routes = {}
        for setup in setups:
            way = discord_through(setup.kind, options, upstream_zlib=setup.upstream, zlib_stream=setup.client, channels=setup.channels)
            routes[setup] = stack.enter_context(way)
            routes[setup].connect()
        idle = {setup: memory_mib(route.proxy.pid)["RssAnon"] for setup, route in routes.items()}
        peaks = {setup: stack.enter_context(MemoryPeak(route.proxy.pid)) for setup, route in routes.items()}
        for route in routes.values():
            measure(route, count // 5)  # warm: the first round pays for imports, caches and the file's growth
        for i in range(rounds):
            for setup in setups if i % 2 == 0 else reversed(setups):
                results[setup].append(measure(routes[setup], count))
        for setup, route in routes.items():
            memory[setup] = (memory_mib(route.proxy.pid)["VmHWM"], idle[setup], peaks[setup].anon)
    rows = []
    for setup, got in results.items():
        rate = f"{statistics.median(r.rate for r in got):,.0f} events/s"
        quiet = f"until quiet {statistics.median(r.total_us for r in got):.1f}"
        rows.append(Row(f"discord, {setup.name}: CPU µs an event", "", f"{middle([r.cpu_us for r in got])}; {quiet}; {rate}"))
        if (beside := SETUPS[setup]) is not None:
            rows += shares(setup, results[beside], got)
        peak, before, anon = memory[setup]
        told = f"{peak:.0f} MiB; private {before:.0f} before the first event, {anon:.0f} at most"
        rows.append(Row(f"discord, {setup.name}: peak RSS", "", told))
    return rows


def shares(setup: Setup, relay: list[Round], got: list[Round]) -> list[Row]:
    """The sidecar beside the relay that gives the client the same: by the CPU of all rounds together, and by rate."""
    pairs = [theirs.cpu_us / mine.cpu_us for theirs, mine in zip(relay, got, strict=True)]
    cpu = sum(r.cpu_us for r in relay) / sum(r.cpu_us for r in got)
    rate = statistics.median(r.rate for r in got) / statistics.median(r.rate for r in relay)
    measured = f"{cpu:.2f} (rounds {min(pairs):.2f} to {max(pairs):.2f}); of its rate {rate:.2f}"
    return [Row(f"discord, {setup.name}: share of the relay, CPU", "", measured)]


if __name__ == "__main__":
    run_alone(bench, __doc__)
