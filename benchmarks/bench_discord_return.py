"""Discord, coming back: READY of 100 guilds while the upstream is down, and RESUME with a long way to catch up."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from benchmarks.discord_route import GUILDS, DiscordRoute, discord_through, sidecar
from benchmarks.errors import BenchError
from benchmarks.harness import TOKEN, MemoryPeak, Options, Peer, Row, memory_mib, middle, run_alone, wait_until

READY_MS = 1000.0
RESUME_MIB = 16
"""As for Relaycast's catch-up: a window is at most 1 MiB, the backlog is 19; there is no room for a copy of it."""
SOCKETS = 3


# --- READY -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Login:
    """ms from IDENTIFY on."""

    ready: float
    guilds: float


def prepared(route: DiscordRoute) -> None:
    """Fill the journal as it is filled in life: upstream READY, all guilds, an agent, a clean stop. Then the upstream goes."""
    route.connect()
    route.sink.ask("close")
    route.proxy.stop()
    route.source.stop()


def logins(sinks: list[Peer], port: int, zlib_stream: bool, guilds: int) -> list[Login]:
    """All sinks log in at once and leave again."""
    for sink in sinks:
        sink.ask("connect", port=port, zlib_stream=zlib_stream)
    for sink in sinks:
        sink.send("login", token=TOKEN, guilds=guilds)
    got = [Login(answer["READY"], answer["guilds"]) for answer in [sink.answer() for sink in sinks]]
    for sink in sinks:
        sink.ask("close")
    return got


def ready(options: Options, zlib_stream: bool) -> list[Row]:
    starts, repeats, guilds = (1, 1, 5) if options.quick else (5, 4, GUILDS)
    first: list[Login] = []
    later: list[Login] = []
    together: list[Login] = []
    with discord_through("sidecar", options, zlib_stream=zlib_stream, guilds=guilds) as route, contextlib.ExitStack() as stack:
        prepared(route)
        sinks = [route.sink]
        for _ in range(SOCKETS - 1):
            sinks.append(Peer("discord_sink"))
            stack.callback(sinks[-1].stop)
        for _ in range(starts):
            # The old port: nobody listens there any more.
            route.proxy = sidecar(route.source.port, route.directory, upstream_zlib=True)
            first += logins([route.sink], route.proxy.port, zlib_stream, guilds)
            for _ in range(repeats):
                later += logins([route.sink], route.proxy.port, zlib_stream, guilds)
                together += logins(sinks, route.proxy.port, zlib_stream, guilds)
            route.proxy.stop()
    coding = "zlib-stream" if zlib_stream else "plain"
    name = f"discord, {guilds} guilds, upstream down, {coding}: ms from IDENTIFY to"
    rows = []
    for about, got in (("first after a start", first), ("later", later), (f"{SOCKETS} sockets at once", together)):
        worst = max(login.ready for login in got)
        rows.append(Row(f"{name} READY, {about}", f"< {READY_MS:,.0f}", middle([login.ready for login in got]), worst < READY_MS))
        rows.append(Row(f"{name} the last guild, {about}", "", middle([login.guilds for login in got])))
    return rows


# --- RESUME ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replay:
    """`rate`: events/s from RESUME to RESUMED; private memory in MiB: with all journaled, and at most during the replay."""

    rate: float
    journaled: float
    peak: float


def replay(route: DiscordRoute, count: int) -> Replay:
    """An agent that has taken one message leaves, `count` come, it RESUMEs. Raises BenchError if not just these come again."""
    route.source.ask("prepare", count=1)
    route.sink.ask("expect", count=1)
    route.source.ask("blast")
    head, before = route.head(), route.sink.ask("result", timeout=20)
    route.sink.ask("close")
    route.source.ask("prepare", count=count)
    route.source.ask("blast")
    wait_until(lambda: route.head() >= head + count, 120, f"{count} events were not journaled")
    time.sleep(0.3)  # what trails the last commit
    pid = route.proxy.pid
    journaled = memory_mib(pid)["RssAnon"]
    route.sink.ask("expect", count=count)
    with MemoryPeak(pid) as peak:
        route.sink.ask("connect", port=route.proxy.port, zlib_stream=route.zlib_stream)
        route.sink.ask("resume")
        took = route.sink.ask("resumed")["ns"]
    got = route.sink.ask("result", timeout=20)
    if got["frames"] != count or got["s"] != before["s"] + count:
        raise BenchError(f"{got['frames']} messages up to s {got['s']} for {count} behind s {before['s']}: the round is void")
    return Replay(count / took * 1e9, journaled, peak.anon)


def resume(options: Options, zlib_stream: bool) -> list[Row]:
    count, rounds, guilds = (1_000, 1, 5) if options.quick else (20_000, 5, GUILDS)
    with discord_through("sidecar", options, zlib_stream=zlib_stream, guilds=guilds) as route:
        route.connect()
        got = [replay(route, count) for _ in range(rounds)]
    growth = max(each.peak - each.journaled for each in got)
    name = f"discord, RESUME with {count:,} behind, {'zlib-stream' if zlib_stream else 'plain'}"
    return [
        Row(f"{name}: events/s until RESUMED", "", middle([each.rate for each in got])),
        Row(f"{name}: growth of private memory", f"<= {RESUME_MIB} MiB", f"{growth:.1f} MiB at most", growth <= RESUME_MIB),
    ]


def bench(options: Options) -> list[Row]:
    codings = (False,) if options.quick else (False, True)
    return [row for part in (ready, resume) for coding in codings for row in part(options, coding)]


if __name__ == "__main__":
    run_alone(bench, __doc__)
