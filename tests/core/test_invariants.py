"""The ten invariants of the architecture, one test each at least; each goes red when its invariant is broken."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sidecar.core
import sidecar.dialects
from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.courier import TAIL_BYTES
from sidecar.core.delivery import WINDOW_BYTES
from sidecar.core.hold import Hold
from sidecar.core.layout import Table
from sidecar.core.record import LATE, Gap
from sidecar.journal.model import ModelStore
from tests.core.fake import Fake
from tests.simulation.sim import Sim

GAP = Gap("lost", "seq", 3, 4, 2)


def world(**options: Any) -> Fake:
    made = Fake(**options)
    made.own()
    made.run()
    made.attach("s")
    made.run()
    return made


def test_invariant_1_commit_before_send_and_commit_before_ack() -> None:
    made = world()
    made.admit("a", "b", ticket="t")
    assert made.names("s") == [] and not made.ups["A"].got(ev.Committed)
    made.do(act.Commit([act.PutState("k", b"v")], "hold"))
    assert made.ports.released == []
    made.disk()
    assert made.names("s") == ["a", "b"] and made.ups["A"].got(ev.Committed)[0].ticket == "t"
    assert made.ports.released == [], "its own commit is still under way"
    made.disk()
    assert made.ports.released == ["hold"]


def test_invariant_1_a_receipt_is_told_upstream_when_it_is_on_disk() -> None:
    made = world()
    made.admit("a")
    made.run()
    made.receipt("s", 1)
    made.fire("engine", "receipts")
    assert not made.ups["A"].got(ev.Receipted)
    made.disk()
    assert made.ups["A"].got(ev.Receipted)[0].offset == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["commit", "disk", "fail", "crash"]), max_size=25))
def test_invariant_2_records_keys_and_state_never_disagree(steps: list[str]) -> None:
    made = Fake()
    made.own()
    made.run()
    serial = 0
    for step in steps:
        if step == "commit" and made.engine.accounts.by_name["A"].half is not None:
            serial += 1
            made.admit(f"e{serial}", state=("n", b"e%d" % serial))
        elif step == "disk" and made.ports.batch is not None:
            made.disk()
        elif step == "fail" and made.ports.batch is not None:
            made.disk(OSError("no"))
            made.wait(3)
        elif step == "crash":
            made.reboot()
            made.own()
        rows = made.store.read(1, 0, 1 << 30, 1 << 40)
        last = rows[-1].payloads[-1] if rows else None
        assert made.store.get(Table.STATE, b"up:A\0n") == last
        ids = sum(int.from_bytes(block[:4], "little") for _, block in made.store.scan(Table.IDS))
        assert ids == sum(map(len, rows))


def test_invariant_3_offsets_are_dense_in_one_epoch() -> None:
    made = world()
    epoch = made.store.epoch
    names = [f"e{i}" for i in range(30)]
    for i, name in enumerate(names):
        made.admit(*names[max(0, i - 3) : i + 1], name)
        if i % 7 == 3:
            made.disk(OSError("no"))
            made.wait(3)
        made.run()
        if i % 5 == 0:
            made.reboot()
            made.own()
        made.admit(*names[: i + 1])
        made.run()
    assert [r.offset for r in made.journaled()] == list(range(1, 31))
    assert [r.ordinal for r in made.journaled()] == list(range(1, 31))
    assert made.store.epoch == epoch


def test_invariant_4_no_cursor_passes_what_is_applied() -> None:
    made = world()
    made.admit("a", "b")
    made.run()
    made.admit("c", state=("cursor", b"3"))
    made.do(act.ClientCursor("s", 3))
    made.receipt("s", 3)
    assert made.cursor() == 2 and made.store.get(Table.STATE, b"up:A\0cursor") is None
    made.disk(OSError("no"))
    made.wait(3)
    assert made.cursor() == 2 and made.durable() == 2
    assert made.store.get(Table.STATE, b"up:A\0cursor") is None


def test_invariant_5_a_receipt_only_by_evidence_of_its_own_connection() -> None:
    made = world(window=2)
    made.admit("a", "b", "c", "d")
    made.run()
    assert made.cursor() == 0, "queued or written is not received"
    made.receipt("s", 4)
    made.run()
    assert made.cursor() == 2, "only what was sent there"
    made.attach("t", after=4)
    made.receipt("t", 4)
    made.wait(0.02)
    assert made.cursor() == 2
    made.do(act.ClientCursor("t", 99))
    made.wait(0.02)
    assert made.durable() == 4, "a cursor that the client states: up to the head"


def test_invariant_5_a_receipt_is_on_disk_after_20_ms_or_in_the_next_commit() -> None:
    made = world()
    made.admit("a", "b")
    made.run()
    made.wait(1)
    made.receipt("s", 1)
    made.admit("c")
    made.run()
    assert made.durable() == 1
    made.receipt("s", 2)
    made.wait(0.02)
    assert made.durable() == 2


def test_invariant_6_gaps_are_records_in_order_and_what_turns_up_later_is_late() -> None:
    made = world()
    made.admit("a")
    made.up("A", act.Commit([act.RecordGap("S", GAP), act.Admit("S", b"e5", b"k5")]))
    made.up("A", act.Commit([act.Admit("S", b"e3", b"k3", flags=LATE)]))
    made.run()
    shown = [r.gap() if r.is_gap else r.payload for r in made.handed("s")]
    assert shown == [b"a", GAP, b"e5", b"e3"]
    assert [bool(r.flags & LATE) for r in made.handed("s")] == [False, False, False, True]
    assert made.ports.counts["gaps"] == 1 and made.logged("gap:") and made.engine.gaps["S"].last[0]["reason"] == "lost"


def modules() -> list[Path]:
    roots = [Path(sidecar.core.__file__).parent, Path(sidecar.dialects.__file__).parent]
    return [path for root in roots for path in root.rglob("*.py")]


@pytest.mark.parametrize("path", modules(), ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_invariant_7_core_and_dialects_wait_for_nothing(path: Path) -> None:
    """No I/O, clock or randomness inside; so no read transaction can be held across an await."""
    forbidden = {"asyncio", "aiohttp", "lmdb", "time", "random", "socket", "threading", "os", "secrets", "datetime.now"}
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith), f"line {node.lineno}"
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        assert not forbidden & {name.split(".")[0] for name in names}, names


def test_invariant_7_one_write_at_a_time_and_commits_are_grouped() -> None:
    made = world()
    before = made.ports.written_batches
    for i in range(50):
        made.admit(f"e{i}")  # FakePorts refuses a second batch under way
    made.run()
    assert made.ports.written_batches == before + 2


def test_invariant_8_a_slow_consumer_grows_nothing_and_slows_nobody() -> None:
    made = world(window=1000)
    made.attach("fast", "other")
    frame = "x" * 50_000
    for i in range(400):
        made.admit(f"{i:04}{frame}")
        made.run()
        made.receipt("fast", i + 1)
        made.wait(0.02)
    courier = made.engine.courier
    assert len(made.names("fast")) == 400, "the other one is not slowed"
    assert courier.tails["S"].size <= TAIL_BYTES
    assert courier.sessions["s"].out_bytes <= WINDOW_BYTES
    assert sum(len(n) for n in made.names("s")) <= WINDOW_BYTES
    assert all(not book.fresh for book in made.engine.admission.books.values())


def test_invariant_9_a_hold_is_bounded_in_bytes_overflows_and_time() -> None:
    hold: Hold[str] = Hold(100, 30.0)
    hold.begin(10.0)
    assert hold.put("b", 60) and hold.put("a", 40)
    hold.begin(20.0)
    assert not hold.spent(39.9) and hold.spent(40.0), "the first begin counts"
    assert not hold.put("c", 1) and len(hold) == 0 and hold.bytes == 0, "thrown away, to be asked for again"
    assert hold.overflows == 1 and not hold.spent(11.0)
    assert hold.put("c", 100) and not hold.reserve(1)
    assert hold.spent(11.0), "two overflows"
    hold.take()
    assert not hold.spent(1000.0)
    assert hold.put("b", 1) and hold.put("a", 1) and hold.take(lambda item: item) == ["a", "b"]


def test_invariant_10_a_hash_hit_is_confirmed_on_the_full_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.core.keys.tag_of", lambda key: 5)
    monkeypatch.setattr("sidecar.core.admission.tag_of", lambda key: 5)
    made = world()
    for round_ in range(3):
        made.admit(*(f"e{i}" for i in range(20)))
        made.run()
        assert len(made.journaled()) == 20, f"round {round_}"
        made.reboot()
        made.own()
    made.admit("e20", "e20", "e0")
    made.admit("e20", "e21")
    made.run()
    assert len(made.journaled()) == 22


def test_invariant_10_credentials_stay_in_memory() -> None:
    store = ModelStore()
    sim = Sim(5, store, agents=2)
    for agent in sim.agents:
        agent.connect()
    sim.run(2.0)
    sim.world.post(sim.author, sim.channel, "hello")
    sim.run(30.0)
    assert all(agent.handled for agent in sim.agents)
    disk = json.dumps([[k.hex(), v.hex()] for table in Table for k, v in store.scan(table)])
    for agent in sim.agents:
        assert agent.who.token.encode().hex() not in disk
        assert agent.who.id.encode().hex() in disk, "this would see a token"
