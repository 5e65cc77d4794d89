"""The courier: brings committed records to sessions and moves consumers' cursors on their receipts.

It knows only what is on disk (invariant 1). Records just committed are kept in each stream's *tail* (bounded bytes) so that readers
at the head never touch the disk; who is further behind reads from the journal, and waits for nobody but itself (invariant 8).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

from sidecar.core import actions as act
from sidecar.core import layout
from sidecar.core.admission import Admission, Book
from sidecar.core.delivery import Consumer, SeekMark, Session
from sidecar.core.events import Input, Moment, Receipted, RecordsReady, SeekDone
from sidecar.core.layout import Batch, CursorRow, Table
from sidecar.core.ports import JournalView, Ports
from sidecar.core.record import GAP, Gap, Record, Run, decode

TAIL_BYTES = 8 << 20
QUIET_S = 1.0
RECEIPT_S = 0.01
REREAD_S = 1.0


class Tail:
    """The newest committed runs of a stream that somebody reads, at most about TAIL_BYTES."""

    __slots__ = ("firsts", "runs", "size", "sizes")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.firsts: list[int] = []
        self.sizes: list[int] = []
        self.size = 0

    def extend(self, runs: Sequence[Run]) -> None:
        """Append committed runs; drop the oldest beyond TAIL_BYTES."""
        for run in runs:
            size = sum(map(len, run.payloads)) + 64 * len(run.payloads)
            self.runs.append(run)
            self.firsts.append(run.offset)
            self.sizes.append(size)
            self.size += size
        cut = 0
        while self.size > TAIL_BYTES and cut < len(self.runs) - 1:
            self.size -= self.sizes[cut]
            cut += 1
        if cut:
            del self.runs[:cut], self.firsts[:cut], self.sizes[:cut]

    def after(self, offset: int, count: int) -> list[Run] | None:
        """Up to `count` records with greater offsets, None if the tail does not reach back that far."""
        if not self.firsts or offset + 1 < self.firsts[0]:
            return None
        found: list[Run] = []
        start, stop = offset + 1, offset + 1 + count
        for run in self.runs[bisect_right(self.firsts, start) - 1 :]:
            if run.offset >= stop:
                break
            piece = run.cut(start, stop)
            if piece.payloads:
                found.append(piece)
        return found


class Courier:
    """All sessions and consumers. `feed(owner, input)`: how the engine takes inputs for halves; `flush(now)`: how it is told that
    cursors wait for the disk (now: a window is blocked on them)."""

    def __init__(
        self,
        admission: Admission,
        journal: JournalView,
        ports: Ports,
        window: int,
        feed: Callable[[str, Input], None],
        flush: Callable[[bool], None],
    ) -> None:
        self.admission = admission
        self.journal = journal
        self.ports = ports
        self.window = window
        self.feed = feed
        self.flush = flush
        self.paused = False
        self.sessions: dict[str, Session] = {}
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self.tails: dict[str, Tail] = {}
        self.dirty: set[Consumer] = set()
        self.in_flight: list[tuple[Consumer, int]] = []
        self.orphans: set[str] = set()
        self._load()

    def _load(self) -> None:
        # After a crash what was out beyond the last receipt on disk is unknown: at most a window a consumer, counted if it goes out again.
        clean = self.journal.get(Table.STATE, layout.state_key("engine", "clean")) is not None
        names = {book.sid: name for name, book in self.admission.books.items()}
        for key, value in self.journal.scan(Table.CURSORS):
            stream = names.get(layout.unpack_u32(key))
            if stream is not None:
                row = msgspec.json.decode(value, type=CursorRow)
                name = key[4:].decode()
                consumer = Consumer(stream, name, row.offset, True, row.seen, row.quality)
                consumer.resets = row.resets
                if not clean:
                    consumer.handed = min(row.offset + self.window, self.book(stream).committed)
                self.consumers[stream, name] = consumer

    def book(self, stream: str) -> Book:
        return self.admission.books[stream]

    # --- sessions --------------------------------------------------------------------------------------------------------------

    def attach(self, owner: str, action: act.Attach, moment: Moment) -> None:
        """Begin a session (see actions.Attach)."""
        book = self.book(action.stream)
        if action.session in self.sessions:
            self.detach(action.session, moment)
        consumer = self.consumers.get((action.stream, action.consumer)) if action.consumer else None
        if consumer is None:
            start = book.committed if action.fresh == "head" else book.first - 1
            if action.after is not None:
                # Else one that says where it wants to begin, and breaks off, would go on at the head.
                start = min(action.after, book.committed)
            consumer = Consumer(action.stream, action.consumer, start, False, moment.wall)
            if action.consumer:
                self.consumers[action.stream, action.consumer] = consumer
                self.dirty.add(consumer)
                self.flush(False)
        position = min(consumer.cursor, book.committed)
        session = Session(action.session, owner, action.stream, consumer, position, action.quality)
        session.paced = action.paced
        # One read a name: what a session of that name asked for before must not be taken for this one's.
        session.reading = action.session in self.orphans
        if action.consumer:
            session.wait_for(consumer.cursor, consumer.durable)
        consumer.sessions.append(session)
        consumer.seen = moment.wall
        self.sessions[action.session] = session
        if action.after_ordinal is not None or action.after is not None:
            stated = action.after is None
            self.seek(act.Seek(action.session, action.after_ordinal, action.mark, receipt=stated, after=action.after))
        else:
            self.pump(session)

    def detach(self, name: str, moment: Moment) -> Session | None:
        """End a session; the cursor passes to the newest remaining one."""
        session = self.sessions.pop(name, None)
        if session is None:
            return None
        if session.asked >= 0:
            self.orphans.add(name)
        consumer = session.consumer
        consumer.sessions.remove(session)
        consumer.seen = moment.wall
        self.ports.cancel_timer(("quiet", name))
        self.ports.cancel_timer(("reread", name))
        if consumer.name:
            mover = consumer.mover()
            if mover is not None:
                consumer.credit(min(mover.received, self.book(session.stream).committed))
            self._touch(consumer)
            for other in consumer.sessions:
                self._settle(other)
                self.pump(other)
        return session

    def still_here(self, consumer: Consumer, wall: float, every: float) -> None:
        """A consumer is connected: its row says so at times, lest it is forgotten after a kill -9."""
        if wall - consumer.seen > every:
            consumer.seen = wall
            self._touch(consumer)

    def count(self, stream: str) -> int:
        """The dialect's sessions on a stream: native readers do not keep an upstream held."""
        return sum(1 for s in self.sessions.values() if s.stream == stream and s.owner == "down:dialect")

    # --- receipts ----------------------------------------------------------------------------------------------------------------

    def receipt(self, name: str, offset: int) -> None:
        """Transport evidence (actions.Receipt)."""
        session = self.sessions.get(name)
        if session is None:
            return
        if session.paced:
            session.settle(offset)
            self.pump(session)
            return
        credit = session.evidence(offset)
        if session.uncredited:
            self.ports.start_timer(("quiet", name), QUIET_S)
        if credit:
            self._credited(session, credit)
        elif session.quality == "buffered":
            self.pump(session)

    def quiet(self, name: str) -> None:
        """A second without anything handed over on a session with weak pongs."""
        session = self.sessions.get(name)
        if session is not None and (credit := session.quiet()):
            self._credited(session, credit)

    def client_cursor(self, name: str, offset: int) -> None:
        """A cursor the client stated (actions.ClientCursor): any offset up to the head of this epoch."""
        session = self.sessions.get(name)
        if session is None:
            return
        offset = min(offset, self.book(session.stream).committed)
        session.received = max(session.received, offset)
        session.ponged = max(session.ponged, offset)
        self._credited(session, offset)

    def _credited(self, session: Session, offset: int) -> None:
        consumer = session.consumer
        if consumer.quality != session.quality:
            consumer.quality = session.quality
        if consumer.name and consumer.mover() is session and consumer.credit(offset):
            self._touch(consumer)
        self._settle(session)
        self.pump(session)

    def _touch(self, consumer: Consumer) -> None:
        """The consumer's row must be written: at once if a session's window waits for it."""
        self.dirty.add(consumer)
        blocked = any(s.room(self.window)[0] == 0 for s in consumer.sessions)
        self.flush(blocked)

    def _settle(self, session: Session) -> None:
        consumer = session.consumer
        limit = session.received
        if consumer.name and consumer.mover() is session:
            limit = min(limit, consumer.durable)
        session.settle(max(limit, min(session.fence, consumer.durable)))

    def reset(self, stream: str, name: str, offset: int, moment: Moment) -> Consumer:
        """Put a new consumer with its cursor at `offset` in the place of one that has no sessions any more. It is on disk once `known`.

        Raises KeyError if there is no such consumer."""
        old = self.consumers[stream, name]
        offset = max(0, min(offset, self.book(stream).committed))
        self.dirty.discard(old)
        consumer = self.consumers[stream, name] = Consumer(stream, name, offset, False, moment.wall, old.quality)
        consumer.resets = old.resets + 1
        self.dirty.add(consumer)
        self.flush(True)
        return consumer

    # --- the disk ------------------------------------------------------------------------------------------------------------------

    def put_cursors(self, batch: Batch) -> None:
        """Put the rows of all consumers whose cursor moved into a batch."""
        for consumer in sorted(self.dirty, key=lambda c: (c.stream, c.name)):
            row = CursorRow(consumer.cursor, consumer.seen, consumer.quality, consumer.resets)
            key = layout.cursor_key(self.book(consumer.stream).sid, consumer.name)
            batch.put(Table.CURSORS, key, msgspec.json.encode(row))
            self.in_flight.append((consumer, consumer.cursor))
        self.dirty.clear()

    def cursors_written(self, failed: bool) -> None:
        """The last put_cursors is on disk, or was not written."""
        written, self.in_flight = self.in_flight, []
        for consumer, cursor in written:
            if failed:
                # One that was reset or forgotten meanwhile must not come back.
                if self.consumers.get((consumer.stream, consumer.name)) is consumer:
                    self.dirty.add(consumer)
                continue
            moved = cursor > consumer.durable
            consumer.durable = max(consumer.durable, cursor)
            consumer.known = True
            if moved:
                self.feed("stream:" + consumer.stream, Receipted(consumer.stream, consumer.name, cursor))
            for session in list(consumer.sessions):
                self._settle(session)
                self.pump(session)

    def committed(self, fresh: dict[str, list[Run]]) -> None:
        """These runs are on disk: keep them in the tails and hand them over."""
        read = {session.stream for session in self.sessions.values()}
        for stream, runs in fresh.items():
            if stream in read:
                self.tails.setdefault(stream, Tail()).extend(runs)
            else:
                self.tails.pop(stream, None)
        for session in list(self.sessions.values()):
            if session.stream in fresh:
                self.pump(session)

    # --- handing over ----------------------------------------------------------------------------------------------------------------

    def seek(self, action: act.Seek) -> None:
        """Go on after the event with an ordinal (actions.Seek)."""
        session = self.sessions.get(action.session)
        if session is None:
            return
        book = self.book(session.stream)
        if action.after is not None:
            offset = min(action.after, book.committed)
            trimmed = offset < book.first - 1
        elif action.after_ordinal is not None:
            offset, trimmed = self._offset_of(book, action.after_ordinal)
        else:
            return
        # A place that was never sent to this consumer is no receipt (relaycast R25).
        sent = offset <= max(session.consumer.handed, session.consumer.cursor)
        mark = SeekMark(action.mark, offset, book.committed, book.committed_ordinal, trimmed)
        if action.on_wire and max(session.received, session.start) <= offset < session.position:
            mark.events = self._events_between(book, offset, session.position)
        elif not session.seeks or offset <= session.position:
            for earlier in session.seeks:
                earlier.events -= self._events_between(book, max(offset, earlier.after), session.position)
            session.rewind(offset)
        # Else what an earlier Seek asked for comes first, and this place with it.
        if action.mark:
            session.seeks.append(mark)
        # What a client asks for again is no repeat of ours.
        session.consumer.handed = min(session.consumer.handed, session.position)
        if action.receipt and sent and offset > 0:
            self.client_cursor(action.session, offset)
        else:
            self.pump(session)

    def _offset_of(self, book: Book, ordinal: int) -> tuple[int, bool]:
        """The offset after which events with greater ordinals begin, and whether retention dropped some of them."""
        if ordinal >= book.committed_ordinal:
            return book.committed, False
        low, high = book.first - 1, book.committed  # invariant: every record at or below `low` has ordinal <= wanted (or is gone)
        trimmed = max(ordinal, 0) < self._ordinal_at(book, book.first - 1)
        while low < high - 1:
            middle = (low + high) // 2
            record = self._record(book, middle)
            if record is not None and record.ordinal > ordinal:
                high = middle
            else:
                low = middle
        return low, trimmed

    def _events_between(self, book: Book, after: int, last: int) -> int:
        """How many events stand behind offset `after`, up to `last`."""
        return self._ordinal_at(book, last) - self._ordinal_at(book, after) if after < last else 0

    def _ordinal_at(self, book: Book, offset: int) -> int:
        """The ordinal of the last event at or before an offset; before what is kept: of the last one that retention dropped."""
        if record := self._record(book, offset):
            return record.ordinal
        first = self._record(book, book.first)
        return first.ordinal - (0 if first.is_gap else 1) if first else 0

    def _record(self, book: Book, offset: int) -> Record | None:
        tail = self.tails.get(book.name)
        runs = tail.after(offset - 1, 1) if tail is not None else None
        if not runs:
            row = self.journal.floor(Table.RECORDS, layout.pack_pair(book.sid, offset))
            if row is None or layout.unpack_pair(row[0])[0] != book.sid:
                return None
            runs = [decode(layout.unpack_pair(row[0])[1], row[1], offset, offset + 1)]
        return next(runs[0].records(), None)

    def pump(self, session: Session) -> None:
        """Hand over what the window allows."""
        if session.reading or self.paused or session.name not in self.sessions:
            return
        book = self.book(session.stream)
        while True:
            self._finish_seeks(session)
            if session.position >= book.committed:
                return
            count, size = session.room(self.window)
            if not count:
                self._settle(session)
                count, size = session.room(self.window)
            if not count:
                if session.consumer in self.dirty:
                    self.flush(True)
                return
            tail = self.tails.get(session.stream)
            # What retention dropped is a gap to every reader, also where the tail still has it: status, seeks and readers agree.
            runs = tail.after(session.position, count) if tail and session.position >= book.first - 1 else None
            if not runs:
                session.reading = True
                session.asked = session.position
                self.ports.read(session.name, book.sid, session.position, count, size)
                return
            self._hand(session, runs, size)

    def rows(self, name: str, runs: Sequence[Run]) -> None:
        """The journal's answer to a read."""
        session, current = self._answered(name)
        if session is None:
            return
        if current and runs:
            self._hand(session, runs, session.room(self.window)[1])
        elif current:
            book = self.book(session.stream)
            self.ports.log("error", "journal: records are missing below the head", stream=session.stream, after=session.position)
            self._skip(session, book.committed, book.committed_ordinal, "journal_lost")
        self.pump(session)

    def unreadable(self, name: str, last: int) -> None:
        """The journal cannot read what comes next: damaged up to offset `last` (a gap for this reader), or (0) for the moment."""
        session, current = self._answered(name)
        if session is None:
            return
        if current and last <= session.position:
            session.reading = True
            self.ports.start_timer(("reread", name), REREAD_S)
            return
        if current:
            self._skip(session, last, 0, "journal_lost")
        self.pump(session)

    def _answered(self, name: str) -> tuple[Session | None, bool]:
        """The session whose read was answered, and whether it still wants just that: a Seek may have moved it, or the read was one of
        an earlier session of that name; then it is read again."""
        orphan = name in self.orphans
        self.orphans.discard(name)
        session = self.sessions.get(name)
        if session is None:
            return None, False
        current = not orphan and session.asked == session.position
        session.reading = False
        session.asked = -1
        return session, current

    def _skip(self, session: Session, last: int, ordinal: int, reason: str) -> None:
        """Hand over a gap in the place of what is not there, up to offset `last`."""
        payload = msgspec.json.encode(Gap(reason, "offset", session.position + 1, last))
        session.handed(last, 1, len(payload))
        for mark in session.seeks:
            mark.trimmed = True
        self.feed(session.owner, RecordsReady(session.name, [Run(last, ordinal, GAP, [payload])], last))

    def reread(self, name: str) -> None:
        """Try an unreadable place again."""
        session = self.sessions.get(name)
        if session is not None:
            session.reading = False
            self.pump(session)

    def _hand(self, session: Session, runs: Sequence[Run], size: int) -> None:
        """Hand over records up to `size` bytes and the next Seek mark; what retention removed before them becomes a gap, alone."""
        if runs[0].offset > session.position + 1:
            self.ports.count("retention_gaps", stream=session.stream)
            self._skip(session, runs[0].offset - 1, runs[0].ordinal - (0 if runs[0].is_gap else 1), "retention")
            return
        stop = session.seeks[0].head if session.seeks else runs[-1].last
        batch, records, total = _within(runs, stop, size, 0 if session.out_records else 1)
        if not batch:
            session.cramped = True
            return
        first, last = batch[0].offset, batch[-1].last
        for mark in session.seeks:
            mark.events += sum([min(len(r), r.last - mark.after) for r in batch if r.last > mark.after and not r.is_gap])
        consumer = session.consumer
        if first <= consumer.handed:
            self.ports.count("redelivered", min(last, consumer.handed) - first + 1, stream=session.stream)
        consumer.handed = max(consumer.handed, last)
        session.handed(last, records, total)
        if session.quality == "buffered":
            self.ports.start_timer(("quiet", session.name), QUIET_S)
        self.feed(session.owner, RecordsReady(session.name, batch, last))

    def _finish_seeks(self, session: Session) -> None:
        while session.seeks and session.position >= session.seeks[0].head:
            mark = session.seeks.popleft()
            self.feed(session.owner, SeekDone(session.name, mark.mark, mark.events, mark.ordinal, mark.trimmed))

    # --- stopping ------------------------------------------------------------------------------------------------------------------

    def settled(self) -> bool:
        """Has every session with receipts given them for all it was handed, and is every cursor on disk?"""
        waiting = any(s.received < s.position and s.quality != "none" and s.barriers for s in self.sessions.values())
        return not waiting and not self.dirty and not self.in_flight


def _within(runs: Sequence[Run], stop: int, size: int, least: int) -> tuple[list[Run], int, int]:
    """The leading runs up to offset `stop` and `size` bytes, but at least so many records: (runs, records, bytes)."""
    batch: list[Run] = []
    records = total = 0
    for run in runs:
        piece = run.cut(run.offset, stop + 1) if run.last > stop else run
        length = sum(map(len, piece.payloads))
        if total + length > size:
            taken = 0
            for payload in piece.payloads:
                if records + taken >= least and total + len(payload) > size:
                    break
                total += len(payload)
                taken += 1
            if taken:
                batch.append(piece.cut(piece.offset, piece.offset + taken))
            return batch, records + taken, total
        if piece.payloads:
            batch.append(piece)
            records += len(piece.payloads)
            total += length
        if run.last >= stop:
            break
    return batch, records, total
