"""The engine: stands between the halves and the world, and keeps the ten invariants of the architecture.

Theory of operation
-------------------
Every input is handled to its end before the next: the half's actions are carried out, inputs that they cause for other halves are
queued and handled in turn, and then, if no batch is under way, what is to be written is given to the journal as one batch. While
that batch is under way everything admitted meanwhile collects in the next one (group commit). `written` hands committed records to
the courier, tells the halves whose tickets it held, and starts the next batch.

If a write fails (disk full, quota), nothing of it was applied. Admission is then thrown away with every upstream half and link, and
built anew from the journal once it takes writes again: as after a crash, the halves heal the hole with resync and backfill.
Sessions stay; what they may be handed was on disk before. Receipts are kept and written first.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core import layout
from sidecar.core.accounts import Account, Accounts
from sidecar.core.admission import Admission
from sidecar.core.courier import RECEIPT_S, Courier
from sidecar.core.delivery import Consumer
from sidecar.core.gaps import GapBook
from sidecar.core.layout import Batch, Table
from sidecar.core.ports import JournalView, Ports
from sidecar.core.record import Gap, Run
from sidecar.core.view import EngineView
from sidecar.dialects.base import Half, View

PENDING_BYTES = 8 << 20
RETRY_S = 1.0
FLAP_S = 60.0
FLAP_MAX_S = 15.0
"""A disk that is full for all but a small write would take the probe and fail the halves' first commit, each time: one that fails within
FLAP_S of its healing is probed ever later, so that the upstream does not see a reconnect a second."""
PRUNE_S = 5.0


class Flight(msgspec.Struct):
    """What rides in the batch under way. `down`: commits of downstream halves, which outlive a failed batch."""

    fresh: dict[str, list[Run]] = {}
    tickets: list[tuple[str, str, list[int]]] = []
    gaps: list[act.RecordGap] = []
    down: list[tuple[str, act.Commit]] = []
    probe: bool = False


class Engine:
    """One process's engine. `upstream(account, view)` makes an upstream half; `halves`: downstream halves by key, made with the view.

    `strict`: let a half's exception out (tests); else the account is started anew, or the conn closed, and the error logged."""

    def __init__(
        self,
        journal: JournalView,
        ports: Ports,
        *,
        upstream: Callable[[str, View], Half],
        downstream: Mapping[str, Callable[[View], Half]],
        window: int,
        capacity: int,
        retention_s: float = 7 * 86400,
        lost: bool = False,
        keyed_hash: Callable[[str], str] = str,
        strict: bool = False,
    ) -> None:
        self.journal = journal
        self.ports = ports
        self.capacity = capacity
        self.retention_s = retention_s
        self.lost = lost
        self.strict = strict
        view = EngineView(self, keyed_hash)
        self.admission = Admission(journal, capacity)
        self.courier = Courier(self.admission, journal, ports, window, self._queue_for, self._wants_flush)
        self.accounts = Accounts(lambda name: upstream(name, view), ports)
        self.halves: dict[str, Half] = {key: make(view) for key, make in downstream.items()}
        self.said: dict[str, Any] = {}
        self.gaps = GapBook()
        self.paused = ""
        self.draining = False
        self.started = False
        self._queue: deque[tuple[str, ev.Input]] = deque()
        self._open = Batch()
        self._tickets: list[tuple[str, str, list[int]]] = []
        self._gap_ops: list[act.RecordGap] = []
        self._flying: Flight | None = None
        self._down: list[tuple[str, act.Commit]] = []
        self._fresh = False
        self._flush_due = False
        self._receipts_due = False
        self._slow = False
        self._pause = RETRY_S
        self._healed = float("-inf")
        self.gaps.load(journal, self.admission.books)

    # --- inputs --------------------------------------------------------------------------------------------------------------------

    def start(self, credential: str | None) -> None:
        """Begin: the downstream halves get their state and, the dialect's, the operator's credential."""
        self._open.delete(Table.STATE, layout.state_key("engine", "clean"))
        for key in self.halves:
            state = dict(self.admission.states("down:" + key))
            self._queue.append(("down:" + key, ev.Started(state, credential if key == "dialect" else None)))
        self.ports.start_timer(("engine", "prune"), PRUNE_S)
        self.started = True
        self._settle()

    def feed(self, owner: str, event: ev.Input) -> None:
        """An input for a half: `down:<key>`, or an account's owner name. An answer to a request that was cancelled is a no-op."""
        if isinstance(event, ev.ResponseReceived | ev.RequestFailed) and (account := self.accounts.by_owner.get(owner)):
            if event.request not in account.requests:
                return
            account.requests.discard(event.request)
        self._queue.append((owner, event))
        self._settle()

    def link(self, owner: str, generation: int, event: Any) -> None:
        """An input of a link; one of an old generation is a no-op."""
        account = self.accounts.by_owner.get(owner)
        if account is None or account.links.get(event.link) != generation:
            return
        if isinstance(event, ev.LinkClosed | ev.LinkRefused):
            # Over: nothing more of this generation counts.
            del account.links[event.link]
        self._queue.append((owner, event))
        self._settle()

    def timer(self, key: tuple[str, str]) -> None:
        """A timer ran out."""
        owner, name = key
        if owner == "engine":
            if name == "receipts":
                self._receipts_due = False
                # Behind the batch under way, if there is one.
                self._flush_due = self._flush_due or bool(self.courier.dirty)
            elif name == "retry":
                self._retry()
            elif name == "prune":
                self._forget()
                self.ports.prune()
                self.ports.start_timer(key, PRUNE_S)
        elif owner == "quiet":
            self.courier.quiet(name)
        elif owner == "reread":
            self.courier.reread(name)
        elif owner == "restart":
            if not self.paused:
                self.accounts.restart(name, self._start_account)
        else:
            account = self.accounts.by_owner.get(owner)
            if account is not None:
                account.timers.discard(name)
            self._queue.append((owner, ev.TimerFired(name)))
        self._settle()

    def records(self, session: str, runs: Sequence[Run]) -> None:
        """The journal's answer to ports.read."""
        self.courier.rows(session, runs)
        self._settle()

    def unreadable(self, session: str, error: BaseException) -> None:
        """The journal could not read what a session wants. RecordDamaged names the last offset that is affected."""
        self.ports.count("unreadable")
        self.courier.unreadable(session, int(getattr(error, "last", 0)))
        self._settle()

    def pruned(self, first: Mapping[int, int]) -> None:
        """Retention moved the oldest kept offset of streams (by stream id)."""
        for book in self.admission.books.values():
            book.first = max(book.first, first.get(book.sid, 0))

    def written(self, error: BaseException | None) -> None:
        """The batch under way is on disk, or nothing of it is."""
        assert self._flying is not None
        flight, self._flying = self._flying, None
        self.courier.cursors_written(error is not None)
        if error is not None:
            self._down = flight.down + self._down
            self._fail(error)
        else:
            if flight.probe:
                self._resume()
            elif not self.paused:
                self.admission.committed(flight.fresh)
                for gap in flight.gaps:
                    self.gaps.tell(gap, self.ports)
                self.courier.committed(flight.fresh)
            for owner, ticket, offsets in flight.tickets:
                if owner.startswith("down:"):
                    self.ports.release_exchange(ticket)
                self._queue.append((owner, ev.Committed(ticket, offsets)))
        self._settle()

    def reset(self, stream: str, name: str, offset: int) -> Consumer:
        """The operator sets a consumer to an offset, back or forward; its connections are closed so that they begin anew. The
        returned consumer is on disk once its `known` is true.

        Raises KeyError if there is no such consumer."""
        before = self.courier.consumers[stream, name]
        for session in list(before.sessions):
            self._detach(session.owner, None, act.Detach(session.name))
            self._queue.append((session.owner, ev.Ousted(session.name, "consumer was reset")))
        consumer = self.courier.reset(stream, name, offset, self.ports.now())
        self.ports.log("info", "consumer reset", stream=stream, consumer=name, cursor=offset, before=before.cursor)
        self._settle()
        return consumer

    def drain(self) -> None:
        """A planned stop: upstream halves let go, nothing new is handed over; `drained` tells when receipts are on disk."""
        self.draining = True
        self.courier.paused = True
        for owner in list(self.accounts.by_owner):
            self._queue.append((owner, ev.Draining()))
        self._settle()

    def drained(self) -> bool:
        """Is everything handed over receipted, and every receipt and record on disk?"""
        return self._flying is None and not self._pending() and self.courier.settled()

    def close(self) -> None:
        """The end of a planned stop: the downstream halves say goodbye to their conns; a clean stop is noted on disk."""
        if self.courier.settled():
            self._open.put(Table.STATE, layout.state_key("engine", "clean"), b"1")
        for key in self.halves:
            self._queue.append(("down:" + key, ev.Draining()))
        self._settle()

    # --- the loop ------------------------------------------------------------------------------------------------------------------

    def _queue_for(self, owner: str, event: ev.Input) -> None:
        if owner.startswith("stream:"):
            account = self.accounts.of_stream(owner[7:])
            if account is None or not account.owner:
                return
            owner = account.owner
        self._queue.append((owner, event))

    def _settle(self) -> None:
        """Handle queued inputs until none is left, then start a write if one is due."""
        queue = self._queue
        moment = self.ports.now() if queue else None
        while queue:
            owner, event = queue.popleft()
            account = self.accounts.by_owner.get(owner)
            half = account.half if account else self.halves.get(owner[5:]) if owner.startswith("down:") else None
            if half is None:
                continue
            try:
                for action in half.handle(cast(ev.Moment, moment), event):
                    self._ACTIONS[type(action)](self, owner, account, action)
            except Exception:
                if self.strict:
                    raise
                self._broken(owner, account, event)
        if self._flying is None and (self._open or self._tickets or self._fresh or self._flush_due):
            self._flush()

    def _broken(self, owner: str, account: Account | None, event: ev.Input) -> None:
        """A half raised: a defect of ours. The account starts anew from its durable state, or the conn goes; others go on."""
        self.ports.log("error", "internal error", owner=owner, input=type(event).__name__, trace=traceback.format_exc())
        self.ports.count("internal_errors")
        if account is not None:
            self._stop_account(account)
            self.ports.start_timer(("restart", account.name), RETRY_S)
        elif conn := getattr(event, "conn", None):
            self.ports.conn(act.CloseConn(conn, 1011, "internal error"))
        elif exchange := getattr(event, "exchange", None):
            self.ports.conn(act.Respond(exchange, 500))

    # --- commits -------------------------------------------------------------------------------------------------------------------

    def _pending(self) -> bool:
        return bool(self._open or self._tickets or self._fresh or self.courier.dirty)

    def _commit(self, owner: str, account: Account | None, action: act.Commit) -> None:
        if account is None:
            self._down.append((owner, action))
        if self.paused:
            # Upstream halves are gone; what a downstream half wants kept waits for the disk to take it.
            return
        if account is not None:
            for op in action.ops:
                if isinstance(op, act.Admit | act.AdmitRun | act.RecordGap) and op.stream not in self.admission.books:
                    self.accounts.take(account, op.stream)
                    self._open_stream(op.stream, account.name)
        offsets = self.admission.apply(owner, action.ops, self.ports.now().wall, self._open)
        self._fresh = True
        for op in action.ops:
            if type(op) is act.RecordGap:
                self._gap_ops.append(op)
                self.gaps.note(op, self.ports.now().wall, self._open)
        if action.ticket:
            self._tickets.append((owner, action.ticket, offsets))
        if self._open.bytes > PENDING_BYTES and not self._slow:
            self._slow = True
            self.ports.pause_links(True)

    def _wants_flush(self, now: bool) -> None:
        if now:
            self._flush_due = True
        elif not self._receipts_due:
            self._receipts_due = True
            self.ports.start_timer(("engine", "receipts"), RECEIPT_S)

    def _flush(self) -> None:
        """Give the journal the next batch, unless one is under way."""
        if self._flying is not None:
            return
        batch, self._open = self._open, Batch()
        if self.paused:
            # Receipts only: what admission still holds stands behind a hole, and what `_down` holds waits for `_resume`.
            self._flying = Flight()
        else:
            self._flying = Flight(self.admission.close_batch(batch), self._tickets, self._gap_ops, self._down)
            self._tickets, self._gap_ops, self._down = [], [], []
        self.courier.put_cursors(batch)
        self._fresh = self._flush_due = False
        if self._slow:
            self._slow = False
            self.ports.pause_links(False)
        if not batch:
            # Nothing to write (all duplicates): the tickets are as good as on disk.
            self.written(None)
            return
        self.ports.count("commits")
        self.ports.write(batch)

    # --- when the journal does not take it ----------------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """Nothing of the last batch is on disk: admission pauses until the journal takes writes again."""
        pause = RETRY_S
        if not self.paused:
            flaps = self.ports.now().mono - self._healed < FLAP_S
            pause = self._pause = min(2 * self._pause, FLAP_MAX_S) if flaps else RETRY_S
            self.ports.log("error", "journal does not take writes: admission paused, agents stay connected", error=str(error))
            self.ports.count("admission_pauses")
        self.paused = str(error) or type(error).__name__
        self._open = Batch()
        self._tickets, self._gap_ops, self._fresh, self._flush_due = [], [], False, False
        for account in list(self.accounts.by_name.values()):
            self._stop_account(account)
        if self._slow:
            self._slow = False
            self.ports.pause_links(False)
        # Receipts are tried again first, in a batch of their own.
        self._receipts_due = True
        self.ports.start_timer(("engine", "receipts"), RETRY_S)
        self.ports.start_timer(("engine", "retry"), pause)

    def _retry(self) -> None:
        """Try the journal with a small write that counts as growth. (Receipts go on in batches of their own, into the headroom.)"""
        if not self.paused:
            return
        self.ports.start_timer(("engine", "retry"), RETRY_S)
        if self._flying is not None:
            return
        batch = Batch()
        batch.put(Table.STATE, layout.state_key("engine", "probe"), b"1")
        batch.admits = True
        self._flying = Flight(probe=True)
        self.ports.prune()
        self.ports.write(batch)

    def _resume(self) -> None:
        """The journal takes writes again: admission and the upstream halves are built anew from it."""
        self.ports.log("info", "journal takes writes again: admission resumed")
        self.paused = ""
        self._healed = self.ports.now().mono
        before = self.admission
        self.admission = self.courier.admission = Admission(self.journal, self.capacity)
        self.admission.duplicates = before.duplicates
        for name, book in before.books.items():
            if found := self.admission.books.get(name):
                found.first = max(found.first, book.first)
            else:
                # Its consumers' cursors may be on disk already.
                account = self.accounts.of_stream(name)
                self.admission.adopt(book, account.name if account else "", self._open)
        self.gaps.load(self.journal, self.admission.books)
        # A write reported as failed may have reached the disk all the same.
        self.courier.tails.clear()
        self._open.delete(Table.STATE, layout.state_key("engine", "clean"))
        self._flush_due = True
        kept, self._down = self._down, []
        for owner, commit in kept:
            self._commit(owner, None, commit)
        for known in list(self.accounts.by_name.values()):
            for stream in known.streams:
                self._open_stream(stream, known.name)
            if known.credentials:
                self._start_account(known)
        for session in list(self.courier.sessions.values()):
            self.courier.pump(session)

    # --- streams and accounts --------------------------------------------------------------------------------------------------------

    def _open_stream(self, stream: str, account: str) -> None:
        if stream in self.admission.books:
            return
        wall = self.ports.now().wall
        self.admission.open_stream(stream, account, wall, self._open)
        if self.lost:
            # Told once for each stream of this run; a stream that begins in a later one has lost nothing.
            self._open.delete(Table.META, b"lost")
            ms = int(wall * 1000)
            self._commit("engine", None, act.Commit([act.RecordGap(stream, Gap("journal_lost", "time", 0, ms))]))

    def _own(self, owner: str, _: Account | None, action: act.Own) -> None:
        account = self.accounts.own(action)
        if self.paused:
            return
        for stream in account.streams:
            self._open_stream(stream, account.name)
        if account.half is None:
            self._start_account(account)
        else:
            self._queue.append((account.owner, ev.CredentialSeen(action.credential, action.hints)))

    def _stop_account(self, account: Account) -> None:
        """Drop an account's half; what was on its way to it must not reach the next one."""
        owner = account.owner
        self.accounts.stop(account)
        kept = [item for item in self._queue if item[0] != owner]
        self._queue.clear()
        self._queue.extend(kept)
        for tickets in (self._tickets, self._flying.tickets if self._flying else []):
            tickets[:] = [ticket for ticket in tickets if ticket[0] != owner]

    def _start_account(self, account: Account) -> None:
        """A new upstream half from the durable state, told what it must know again."""
        if self.draining:
            return
        self.accounts.start(account)
        self._queue.append((account.owner, ev.Started(dict(self.admission.states("up:" + account.name)))))
        for credential, hints in account.credentials:
            self._queue.append((account.owner, ev.CredentialSeen(credential, hints)))
        for stream in account.streams:
            if count := self.courier.count(stream):
                self._queue.append((account.owner, ev.Attached(stream, count)))

    def _disown(self, owner: str, _: Account | None, action: act.Disown) -> None:
        account = self.accounts.by_name.get(action.account)
        if account is not None:
            self._stop_account(account)
            account.credentials.clear()

    def _tell(self, owner: str, account: Account | None, action: act.Tell) -> None:
        if account is not None:
            self._queue.append(("down:dialect", ev.MessageFromUpstream(account.name, action.message)))
        elif (target := self.accounts.by_name.get(action.account)) and target.owner:
            self._queue.append((target.owner, ev.MessageFromDownstream(action.message)))

    # --- sessions ----------------------------------------------------------------------------------------------------------------------

    def _attach(self, owner: str, _: Account | None, action: act.Attach) -> None:
        if action.stream not in self.admission.books:
            if known := self.accounts.by_name.get(action.account):
                self.accounts.take(known, action.stream)
            self._open_stream(action.stream, action.account)
        self.courier.attach(owner, action, self.ports.now())
        self._queue_for("stream:" + action.stream, ev.Attached(action.stream, self.courier.count(action.stream)))

    def _detach(self, owner: str, _: Account | None, action: act.Detach) -> None:
        session = self.courier.detach(action.session, self.ports.now())
        if session is not None:
            self._queue_for("stream:" + session.stream, ev.Detached(session.stream, self.courier.count(session.stream)))

    def _downgrade(self, owner: str, _: Account | None, action: act.Downgrade) -> None:
        session = self.courier.sessions.get(action.session)
        if session is not None and session.quality != action.quality:
            session.quality = action.quality
            session.consumer.quality = action.quality
            self.ports.count("downgrades", quality=action.quality)
            self.ports.log("warning", "receipts of a client are weaker", consumer=session.consumer.name, quality=action.quality)

    def _forget(self) -> None:
        """Forget consumers not seen for the retention time (contract: SIDECAR_RETENTION_S)."""
        wall = self.ports.now().wall
        for (stream, name), consumer in list(self.courier.consumers.items()):
            if consumer.sessions:
                self.courier.still_here(consumer, wall, self.retention_s / 8)
            elif wall - consumer.seen > self.retention_s:
                del self.courier.consumers[stream, name]
                self.courier.dirty.discard(consumer)
                self._open.delete(Table.CURSORS, layout.cursor_key(self.admission.books[stream].sid, name))
                self.ports.log("info", "consumer forgotten: not seen for the retention time", stream=stream, consumer=name)

    # --- what actions do -------------------------------------------------------------------------------------------------------------

    def _status(self, owner: str, account: Account | None, action: act.Status) -> None:
        (account.facts if account else self.said).update(action.facts)

    def _fatal(self, owner: str, account: Account | None, action: act.Fatal) -> None:
        (account.facts if account else self.said)["fatal"] = {"code": action.code, "mend": action.mend}
        self.ports.count("fatal", code=action.code)
        self.ports.log("error", f"stopped: {action.code}", account=account.name if account else None, mend=action.mend)

    def _log(self, owner: str, account: Account | None, action: act.Log) -> None:
        if account:
            self.ports.log(action.level, action.text, account=account.name)
        else:
            self.ports.log(action.level, action.text)

    _ACTIONS: dict[type, Callable[[Engine, str, Account | None, Any], None]] = {
        act.Commit: _commit,
        act.Own: _own,
        act.Disown: _disown,
        act.Tell: _tell,
        act.Attach: _attach,
        act.Detach: _detach,
        act.Downgrade: _downgrade,
        act.Seek: lambda self, o, a, x: self.courier.seek(x),
        act.Receipt: lambda self, o, a, x: self.courier.receipt(x.session, x.offset),
        act.ClientCursor: lambda self, o, a, x: self.courier.client_cursor(x.session, x.offset),
        act.Status: _status,
        act.Fatal: _fatal,
        act.Log: _log,
        act.Count: lambda self, o, a, x: self.ports.count(x.name, x.by),
        act.StartTimer: lambda self, o, a, x: self.accounts.start_timer(o, a, x),
        act.CancelTimer: lambda self, o, a, x: self.accounts.cancel_timer(o, a, x),
        act.OpenLink: lambda self, o, a, x: self.accounts.open_link(o, a, x),
        act.SendFrames: lambda self, o, a, x: self.accounts.send_link(o, a, x),
        act.PingLink: lambda self, o, a, x: self.accounts.ping_link(o, a, x),
        act.CloseLink: lambda self, o, a, x: self.accounts.close_link(o, a, x),
        act.Request: lambda self, o, a, x: self.accounts.request(o, a, x),
        act.CancelRequest: lambda self, o, a, x: self.accounts.cancel_request(o, a, x),
    } | {
        kind: lambda self, o, a, x: self.ports.conn(x)
        for kind in (
            act.Accept,
            act.Refuse,
            act.Tunnel,
            act.SendConn,
            act.PingConn,
            act.CloseConn,
            act.AwaitDrain,
            act.ReadBody,
            act.Respond,
            act.Route,
        )
    }
