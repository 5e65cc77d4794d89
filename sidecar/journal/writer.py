"""The journal's threads: one that owns all writing, one that reads, so that the event loop never waits on a disk.

Theory of operation
-------------------
Both threads take jobs from a SimpleQueue, which wakes them without polling, and hand results back with call_soon_threadsafe. One
batch is under way at a time: whoever submits collects the next one meanwhile (group commit). Pruning is done in bounded steps that
queue behind each other, so that a batch waits for one step at most.

The binding lets go of the interpreter's lock around every call into LMDB and must then get it back from the event loop, which a
busy loop gives up only after the switch interval. Python's default of 5 ms made the commit of one record 7.3 ms beside a busy
loop; 0.2 ms made it 0.9 ms. So the writer lowers the interval, for the process.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

from sidecar.core.layout import Batch
from sidecar.core.record import Run

SWITCH_S = 0.0002

Done = Callable[[BaseException | None], None]
Pruned = Callable[[dict[int, int] | BaseException], None]
Rows = Callable[[list[Run] | BaseException], None]


class Backing(Protocol):
    """What a Writer needs of a Store."""

    def apply(self, batch: Batch) -> None: ...
    def prune_step(self, wall: float) -> tuple[dict[int, int], bool]: ...
    def read(self, sid: int, after: int, count: int, size: int) -> list[Run]: ...


class _Thread:
    """A thread that carries out jobs in order until it is stopped."""

    def __init__(self, name: str) -> None:
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (job := self.jobs.get()) is not None:
            job()

    def stop(self) -> None:
        self.jobs.put(None)
        self._thread.join()


class Writer:
    """Runs a Store beside an event loop. All methods are for the loop's thread; callbacks come in it, never from within a call."""

    def __init__(self, store: Backing, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`loop`: the running one by default. The store stays the caller's to close, after close()."""
        self._store = store
        self._loop = loop or asyncio.get_running_loop()
        self._writing = False
        self._pruning = False
        self._closed = False
        self._untold: dict[int, int] = {}
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        self._writes = _Thread("journal-writer")
        self._reads = _Thread("journal-reader")

    def submit(self, batch: Batch, done: Done) -> None:
        """Commit a batch; `done(error or None)` follows when it is durable, or nothing of it was applied.

        Raises RuntimeError if one is under way (the caller groups), or after close()."""
        self._check_open()
        if self._writing:
            raise RuntimeError("a batch is under way: collect the next one until done() was called")
        self._writing = True

        def finish(error: BaseException | None) -> None:
            self._writing = False
            done(error)

        def job() -> None:
            error: BaseException | None = None
            try:
                self._store.apply(batch)
            except Exception as raised:
                error = raised
            self._call(lambda: finish(error))

        self._writes.jobs.put(job)

    def submit_prune(self, wall: float, done: Pruned) -> None:
        """Apply retention (`wall`: Unix seconds); `done({stream id: first offset kept} or error)` follows.

        If pruning is under way already, that one's answer stands for both and `done` gets an empty one. After an error, what was
        pruned before it is told with the next answer. Raises RuntimeError after close()."""
        self._check_open()
        if self._pruning:
            self._loop.call_soon(done, {})
            return
        self._pruning = True
        kept, self._untold = self._untold, {}

        def finish(error: BaseException | None) -> None:
            self._pruning = False
            if error is not None:
                self._untold = kept
            done(kept if error is None else error)

        def step() -> None:
            error: BaseException | None = None
            more = False
            try:
                found, more = self._store.prune_step(wall)
                kept.update(found)
            except Exception as raised:
                error = raised
            if more and not self._closed:
                self._writes.jobs.put(step)
            else:
                self._call(lambda: finish(error))

        self._writes.jobs.put(step)

    def read(self, sid: int, after: int, count: int, size: int, done: Rows) -> None:
        """Read records as Store.read does; `done(rows or error)` follows, in the order of the calls.

        Raises RuntimeError after close()."""
        self._check_open()

        def job() -> None:
            result: list[Run] | BaseException
            try:
                result = self._store.read(sid, after, count, size)
            except Exception as raised:
                result = raised
            self._call(lambda: done(result))

        self._reads.jobs.put(job)

    def close(self) -> None:
        """Finish what was submitted and end both threads; callbacks still come if the loop goes on. Waits for the disk: call it at
        the end, or from an executor. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._writes.stop()
            self._reads.stop()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the journal's writer is closed")

    def _call(self, callback: Callable[[], None]) -> None:
        # A loop that is already closed has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)
