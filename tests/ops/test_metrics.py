"""Metrics: what Prometheus's own parser reads from a scrape."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

import sidecar
from sidecar.core import actions as act
from sidecar.core.record import Gap
from sidecar.dialects import registry
from sidecar.downstream import native
from sidecar.journal.model import ModelStore
from sidecar.ops import metrics
from tests.downstream.native_world import World, until, world

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(w: World) -> tuple[Samples, dict[str, Any]]:
    code, body, headers = await w.get("/_sidecar/metrics")
    assert code == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {f.name: f for f in text_string_to_metric_families(body)}
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families.values() for s in f.samples}, families


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def test_all_names_are_ours_and_have_help() -> None:
    async def scenario() -> None:
        async with world() as w:
            samples, families = await scrape(w)
            assert all(name.startswith("sidecar_") and f.documentation.strip() for name, f in families.items())
            assert samples[key("sidecar_gaps_total", stream="alice", reason="lost")] == 0, "from the start, so that it can rise"
            assert {"sidecar_gaps", "sidecar_redelivered", "sidecar_duplicates", "sidecar_downgrades"} <= families.keys()

    asyncio.run(scenario())


def test_every_counter_that_is_counted_anywhere_is_described() -> None:
    root = Path(sidecar.__file__).parent
    # A dialect that cannot be run yet counts nothing.
    unbuilt = {path for path in (root / "dialects").iterdir() if path.is_dir()} - {root / "dialects" / name for name in registry.names()}
    source = "\n".join(path.read_text() for path in root.rglob("*.py") if not unbuilt & set(path.parents))
    counted = set(re.findall(r"""(?:\.count|\bCount|counters\.add)\(\s*"([a-z_]+)\"""", source))
    own = {name for dialect in registry.names() for name in registry.dialect(dialect).counters}
    assert counted - set(metrics.COUNTERS) - set(native.COUNTERS) - own == set()
    assert len(counted) > 6, "the search finds them"


def test_gaps_repeats_duplicates_and_downgrades_are_counted() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            w.tell(act.Commit([act.Admit("alice", b"1", key=b"k"), act.Admit("alice", b"1", key=b"k")]))
            w.gap(Gap("lost", "seq", 4, 9))
            w.gap(Gap("denied", "seq", 10, 11))
            await until(lambda: w.head == 3)
            async with w.session.ws_connect(w.url + "/agent"):
                await until(lambda: len(w.engine.courier.sessions) == 1)
                w.do(act.Downgrade(next(iter(w.engine.courier.sessions)), "written"))
            await until(lambda: not w.engine.courier.sessions)
            async with w.session.ws_connect(w.url + "/agent"):
                await until(lambda: len(w.engine.courier.sessions) == 1)
                samples, _ = await scrape(w)
            assert samples[key("sidecar_gaps_total", stream="alice", reason="lost")] == 1
            assert samples[key("sidecar_gaps_total", stream="alice", reason="denied")] == 1
            assert samples[key("sidecar_stream_gaps", stream="alice")] == 2
            assert samples[key("sidecar_duplicates_total")] == 1
            assert samples[key("sidecar_downgrades_total", quality="written")] == 1
            assert samples[key("sidecar_redelivered_total", stream="alice")] == 3, "handed to an agent that gave no receipt, and again"
            assert samples[key("sidecar_commits_total")] >= 2

    asyncio.run(scenario())


def test_streams_consumers_and_the_upstream_are_gauges() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(b"1", b"2", b"3")
            reader = await w.ws("stream=alice&consumer=bob&after=0")
            await reader.take(4)
            await reader.ack(2)
            await until(lambda: w.cursor("bob") == 2)
            samples, _ = await scrape(w)
            of = {"stream": "alice", "consumer": "bob", "kind": "native"}
            assert samples[key("sidecar_stream_head", stream="alice")] == 3
            assert samples[key("sidecar_stream_events_total", stream="alice")] == 3
            assert samples[key("sidecar_consumer_cursor", **of)] == 2
            assert samples[key("sidecar_consumer_lag", **of)] == 1
            assert samples[key("sidecar_consumer_sessions", **of)] == 1
            assert samples[key("sidecar_consumer_quality", **of, quality="handled")] == 1
            assert samples[key("sidecar_upstream_state", stream="alice", state="live")] == 1
            assert samples[key("sidecar_journal_bytes")] > 0 and samples[key("sidecar_journal_quota_bytes")] > 0
            assert samples[key("sidecar_ready")] == 1
            w.server.tunnels["c9"] = "/v1/other"
            assert (await scrape(w))[0][key("sidecar_tunnels")] == 1

    asyncio.run(scenario())


def test_a_pause_of_admission_is_counted_and_shown() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            await w.admitted(b"1")
            store.full = True
            w.admit(b"2")
            await until(lambda: bool(w.engine.paused))
            samples, _ = await scrape(w)
            assert samples[key("sidecar_admission_pauses_total")] == 1
            assert samples[key("sidecar_admission_paused")] == 1 and samples[key("sidecar_ready")] == 0

    asyncio.run(scenario())


def test_duplicates_do_not_count_backwards_when_admission_is_built_anew() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            w.tell(act.Commit([act.Admit("alice", b"1", key=b"k"), act.Admit("alice", b"1", key=b"k")]))
            await until(lambda: w.head == 1)
            store.full = True
            w.admit(b"2")
            await until(lambda: bool(w.engine.paused))
            store.full = False
            w.engine.timer(("engine", "retry"))
            await until(lambda: not w.engine.paused)
            assert (await scrape(w))[0][key("sidecar_duplicates_total")] == 1

    asyncio.run(scenario())


def test_names_from_outside_are_escaped_and_unknown_counters_are_shown() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.do(act.Own("alice", "x", "", ['a"b\\\n']))
            w.counters.add("surprise", 2, why="x")
            samples, _ = await scrape(w)
            assert samples[key("sidecar_stream_head", stream='a"b\\\n')] == 0
            assert samples[key("sidecar_surprise_total", why="x")] == 2

    asyncio.run(scenario())
