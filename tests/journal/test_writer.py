"""The owner thread: callbacks in the loop, one batch under way, pruning in steps between batches, a clean end."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.layout import Batch
from sidecar.core.record import Run
from sidecar.errors import JournalFull
from sidecar.journal.store import Store
from sidecar.journal.writer import SWITCH_S, Writer
from tests.journal.rows import WALL, event, events, offsets, opened

DEADLINE_S = 30


@pytest.fixture(autouse=True)
def interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


class Gate:
    """A store whose calls wait until they are let through, and tell in which thread they ran."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.steps = 3

    def _pass(self, what: str) -> None:
        self.calls.append(what)
        self.threads.add(threading.current_thread().name)
        assert self.open.wait(DEADLINE_S)

    def apply(self, batch: Batch) -> None:
        self._pass("apply")
        if batch.admits:
            raise JournalFull("no room")

    def prune_step(self, wall: float) -> tuple[dict[int, int], bool]:
        self._pass("prune")
        self.steps -= 1
        return {self.steps: 1}, self.steps > 0

    def read(self, sid: int, after: int, count: int, size: int) -> list[Run]:
        self._pass("read")
        return [event(after + 1)[1]]


async def wait(future: asyncio.Future[Any]) -> Any:
    return await asyncio.wait_for(future, DEADLINE_S)


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def write(writer: Writer, batch: Batch) -> BaseException | None:
    done = future()
    writer.submit(batch, done.set_result)
    error: BaseException | None = await wait(done)
    return error


async def fetch(writer: Writer, *what: int) -> Any:
    done = future()
    writer.read(*what, done.set_result)
    return await wait(done)


async def prune(writer: Writer, wall: float) -> Any:
    done = future()
    writer.submit_prune(wall, done.set_result)
    return await wait(done)


def test_what_is_reported_is_there_and_readable(tmp_path: Path) -> None:
    async def main(store: Store) -> None:
        writer = Writer(store)
        for offset in range(1, 21):
            assert await write(writer, events(offset, offset)) is None
            assert await fetch(writer, 1, offset - 1, 10, 1000) == [event(offset)[1]]
        writer.close()

    store = opened(tmp_path)
    asyncio.run(main(store))
    store.close()
    store = opened(tmp_path)
    assert offsets(store.read(1, 0, 100, 10_000)) == list(range(1, 21))
    store.close()


def test_errors_come_back_as_answers(tmp_path: Path) -> None:
    async def main(store: Store) -> None:
        writer = Writer(store)
        assert await write(writer, events(1, 5)) is None
        error = await write(writer, events(3, 3))
        assert isinstance(error, ValueError)
        assert await write(writer, events(6, 6)) is None
        store._env.close()
        assert isinstance(await fetch(writer, 1, 0, 10, 100), Exception)
        assert isinstance(await prune(writer, WALL), Exception)
        writer.close()

    store = opened(tmp_path)
    asyncio.run(main(store))
    store.close(clean=False)


def test_one_batch_is_under_way_and_the_loop_does_not_wait_for_it() -> None:
    async def main() -> None:
        gate = Gate()
        writer = Writer(gate)
        done = future()
        writer.submit(Batch(), done.set_result)
        with pytest.raises(RuntimeError, match="under way"):
            writer.submit(Batch(), lambda _: None)
        assert not done.done()
        gate.open.set()
        assert await wait(done) is None
        full = Batch()
        full.admits = True
        assert isinstance(await write(writer, full), JournalFull)
        assert await write(writer, Batch()) is None
        writer.close()
        assert gate.calls == ["apply"] * 3

    asyncio.run(main())


def test_callbacks_run_in_the_loops_thread_and_work_does_not() -> None:
    async def main() -> None:
        gate = Gate()
        gate.open.set()
        writer = Writer(gate)
        here = threading.current_thread()
        seen = []
        done = future()

        def finish(error: BaseException | None) -> None:
            seen.append(threading.current_thread())
            done.set_result(error)

        writer.submit(Batch(), finish)
        await wait(done)
        await fetch(writer, 1, 0, 1, 1)
        writer.close()
        assert seen == [here]
        assert gate.threads == {"journal-writer", "journal-reader"}

    asyncio.run(main())


def test_a_batch_waits_for_one_step_of_pruning_not_for_all() -> None:
    async def main() -> None:
        gate = Gate()
        writer = Writer(gate)
        pruned, written = future(), future()
        writer.submit_prune(WALL, pruned.set_result)
        writer.submit(Batch(), written.set_result)
        gate.open.set()
        assert await wait(written) is None
        assert await wait(pruned) == {2: 1, 1: 1, 0: 1}
        writer.close()
        assert gate.calls == ["prune", "apply", "prune", "prune"]

    asyncio.run(main())


def test_pruning_asked_for_twice_is_done_once() -> None:
    async def main() -> None:
        gate = Gate()
        writer = Writer(gate)
        first, second = future(), future()
        writer.submit_prune(WALL, first.set_result)
        writer.submit_prune(WALL, second.set_result)
        assert not second.done()
        assert await wait(second) == {}
        gate.open.set()
        assert len(await wait(first)) == 3
        writer.close()
        assert gate.calls == ["prune"] * 3

    asyncio.run(main())


def test_what_was_pruned_before_an_error_is_told_with_the_next_answer() -> None:
    class Failing(Gate):
        def prune_step(self, wall: float) -> tuple[dict[int, int], bool]:
            if self.steps == 2:
                self.steps = 1
                raise JournalFull("no room")
            return super().prune_step(wall)

    async def main() -> None:
        gate = Failing()
        gate.open.set()
        writer = Writer(gate)
        assert isinstance(await prune(writer, WALL), JournalFull)
        assert await prune(writer, WALL) == {2: 1, 0: 1}
        writer.close()

    asyncio.run(main())


def test_reads_do_not_wait_for_a_commit_and_answer_in_order(tmp_path: Path) -> None:
    class SlowApply(Gate):
        def read(self, sid: int, after: int, count: int, size: int) -> list[Run]:
            return [event(after + 1)[1]]

    async def main() -> None:
        gate = SlowApply()
        writer = Writer(gate)
        written = future()
        writer.submit(Batch(), written.set_result)
        answers: list[Any] = []
        last = future()
        for after in range(5):
            writer.read(1, after, 1, 1, answers.append)
        writer.read(1, 5, 1, 1, last.set_result)
        await wait(last)
        assert answers == [[event(after + 1)[1]] for after in range(5)]
        assert not written.done()
        gate.open.set()
        await wait(written)
        writer.close()

    asyncio.run(main())


def test_close_finishes_what_was_submitted_and_ends_the_threads() -> None:
    async def main() -> None:
        gate = Gate()
        writer = Writer(gate)
        done = future()
        writer.submit(Batch(), done.set_result)
        closing = asyncio.get_running_loop().run_in_executor(None, writer.close)
        gate.open.set()
        await wait(closing)
        assert await wait(done) is None
        writer.close()
        assert not {t.name for t in threading.enumerate()} & {"journal-writer", "journal-reader"}
        for call in (
            lambda: writer.submit(Batch(), print),
            lambda: writer.submit_prune(WALL, print),
            lambda: writer.read(1, 0, 1, 1, print),
        ):
            with pytest.raises(RuntimeError, match="closed"):
                call()

    asyncio.run(main())


def test_a_loop_that_ended_first_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    fallen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", fallen.append)

    async def main() -> Writer:
        writer = Writer(gate)
        writer.submit(Batch(), lambda _: None)
        return writer

    writer = asyncio.run(main())
    gate.open.set()
    writer.close()
    assert gate.calls == ["apply"]
    assert not fallen


def test_the_switch_interval_is_lowered_and_never_raised() -> None:
    async def main() -> None:
        Writer(Gate()).close()

    sys.setswitchinterval(0.005)
    asyncio.run(main())
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S, rel=0.1)
    sys.setswitchinterval(0.00005)
    asyncio.run(main())
    assert sys.getswitchinterval() == pytest.approx(0.00005, rel=0.1)
