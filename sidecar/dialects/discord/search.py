"""A shard's search for what it missed: begins recoveries and audits, drives their REST calls, merges what they find (discord R32, R33).

At most one recovery is at work; one more may wait for its time (`_suspect`: audits are at least a minute apart), with its watermarks
frozen from the moment the suspicion arose. See `recovery` for what is held and merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sidecar.core.actions import Action, AdmitRun, CancelRequest, CancelTimer, Count, Log, Op, PutState, RecordGap, Request, StartTimer
from sidecar.core.events import RequestFailed, ResponseReceived
from sidecar.core.record import LATE, REPLAYED, Gap
from sidecar.dialects.discord import backfill, frames, gateway, recovery
from sidecar.dialects.discord.backfill import Backfill, Fill, Found, Look, Page
from sidecar.dialects.discord.frames import Frame
from sidecar.dialects.discord.guilds import Place
from sidecar.dialects.discord.recovery import HOLD_S, Recovery, Row

if TYPE_CHECKING:
    from sidecar.dialects.discord.ports import Account
    from sidecar.dialects.discord.shard import Shard

AUDIT_EVERY_S = 60.0
MAX_DIRECT = 500
"""Channels of direct messages that are read back, those with the newest messages first: nothing tells which of them have something new."""


class Search:
    """One shard's. `state`: the account's durable rows."""

    def __init__(self, account: Account, shard: Shard, state: dict[str, bytes]) -> None:
        self._account = account
        self._shard = shard
        self._name = shard.name
        self._gaps: list[tuple[str, Gap]] = []
        self._members: dict[str, dict[str, dict[str, Any]]] = {}
        self._types: dict[str, int | None] = {}
        self._audited = -AUDIT_EVERY_S
        self._timed = False
        self._now: Recovery | None = None
        self._suspect: Recovery | None = None
        self._written: set[str] = {key for key in ("fill", "suspect") if f"{key}:{self._name}" in state}
        if row := recovery.load(state.get(f"fill:{self._name}")):
            self._now = self._made(row)
            self._now.open()
        if row := recovery.load(state.get(f"suspect:{self._name}")):
            self._suspect = self._made(row)

    def _made(self, row: Row) -> Recovery:
        knobs = self._account.knobs
        return Recovery(row, Backfill(knobs.backfill_max, self._account.max_age, self._account.pace))

    # --- beginning -------------------------------------------------------------------------------------------------------------------

    def begin(self, guilds: Sequence[str], since: int) -> None:
        """A new session: these guilds are in question until their GUILD_CREATE comes, and all direct messages."""
        old = [each.row for each in (self._now, self._suspect) if each is not None]
        row = recovery.together(old, self._shard.session.row.newest, since)
        row.guilds = list(guilds)
        self._suspect = None
        self._open(self._made(row))

    def suspect(self, first: int, last: int) -> None:
        """Numbers are missing (R32): an audit, now or when the last one is a minute old."""
        self._out(Count("suspected_gaps"))
        self._log("warning", f"numbers {first} to {last} did not come: looking whether messages are missing")
        if self._suspect is None:
            row = Row(floor=self._shard.session.row.newest, since=int(self._account.moment.wall * 1000), audit=True)
            row.guilds = self._shard.guilds.ids()
            self._suspect = self._made(row)
        self._suspect.row.missing.append((first, last))
        self._suspect.changed = True
        self._audit()

    def _audit(self) -> None:
        """Begin the audit that waits, if it may."""
        waiting, now = self._suspect, self._now
        if waiting is None or (now is not None and not now.backfill.is_done):
            return
        pause = self._audited + AUDIT_EVERY_S - self._account.moment.mono
        if pause > 0.001:
            self._out(StartTimer(f"audit:{self._name}", pause))
            return
        self._audited = self._account.moment.mono
        self._suspect = None
        if now is not None:
            # Only guilds in an outage are left of it.
            row = recovery.together([now.row, waiting.row], waiting.row.floor, waiting.row.since)
            row.missing, row.audit = waiting.row.missing, True
            row.guilds = sorted(now.questioned | waiting.questioned)
            held = now.take_held()
            waiting = self._made(row)
            self._open(waiting)
            for frame in held:
                waiting.put(frame)
        else:
            self._open(waiting)

    def _open(self, found: Recovery) -> None:
        self._now = found
        found.changed = True
        found.open()
        marks = self._shard.marks
        direct = marks.direct()
        if len(direct) > MAX_DIRECT:
            self._log("warning", f"of {len(direct)} channels of direct messages the {MAX_DIRECT} newest are looked at")
        for channel in direct[:MAX_DIRECT]:
            found.add(Fill(channel, "", found.mark(channel, marks.get(channel))))
        self._timed = False
        if found.is_over:
            self._now = None
        self.go_on()

    def let_go(self, ops: list[Op]) -> None:
        """The session is over: what was held of it is admitted, what was found, too."""
        if self._now is not None:
            self._release(self._now, ops)
            self._account.out.append(CancelRequest(f"fill:{self._name}"))
            self._now.backfill.give_back()

    # --- events ----------------------------------------------------------------------------------------------------------------------

    def held(self, frame: Frame, ops: list[Op]) -> bool:
        """Has this event to wait? It is kept here then."""
        now = self._now
        if now is None or not now.holds(frame, frame.guild):
            return False
        if frame.s:
            self._shard.session.hold(frame.s, int(self._account.moment.wall * 1000), is_message=frame.kind == "MESSAGE_CREATE")
        now.put(frame)
        if now.is_full:
            self._log("warning", "more came during a backfill than can be held")
            self._release(now, ops)
        return True

    def freeze(self, channel: str, guild: str) -> None:
        """A channel's watermark is about to move."""
        marks = self._shard.marks
        for each in (self._now, self._suspect):
            if each is not None:
                each.freeze(channel, guild, marks.get(channel) if channel in marks else None)

    def confirm(self, guild: str, places: Sequence[Place], ops: list[Op]) -> None:
        """A guild's channels are known with their newest messages: those with more than their watermark are read (R33). The first time
        a channel is seen it starts at its newest (R34), unless it is younger than what is in question: then it was empty before."""
        shard, now = self._shard, self._now
        marks, in_question = shard.marks, now is not None and guild in now.questioned
        fills = []
        for place in places:
            number = int(place.id) if place.id.isdigit() else 0
            if place.id not in marks and now is not None and in_question and number > now.row.floor:
                marks.begin(place.id, guild, number)
            if place.id in marks:
                mark = now.mark(place.id, marks.get(place.id)) if now is not None else marks.get(place.id)
                if place.last > mark or place.last < 0:
                    fills.append(Fill(place.id, guild, mark, place.last, place.type))
            else:
                marks.begin(place.id, guild, max(place.last, 0))
            shard.saw(number, place.last)
        if now is not None and in_question:
            named = {place.id for place in places}
            left = [c for c in now.row.frozen if c not in named and marks.guild(c) == guild]
            fills += [Fill(channel, guild, now.row.frozen[channel]) for channel in left]
        if now is None:
            if not fills:
                return
            now = self._made(Row(floor=shard.session.row.newest, since=int(self._account.moment.wall * 1000)))
            self._now = now
            now.is_open = True
            self._timed = False
        if now.backfill.limit <= 0:
            self._gaps += [(fill.channel, backfill.beyond(fill, self._account.moment.wall)) for fill in fills if fill.last > 0]
            fills = []
        self._pass_on(now.confirm(guild, fills), ops)
        self._step(ops)
        self.go_on()

    def _pass_on(self, held: Iterable[Frame], ops: list[Op]) -> None:
        """Events that were held take their way."""
        for frame in held:
            if frame.s:
                self._shard.session.settle([frame.s])
            self._shard.admit(frame, ops)

    # --- REST ------------------------------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Ask for the next thing, once the shard is live."""
        now = self._now
        if self._shard.connection.phase != "live":
            return
        if now is None:
            self._audit()
            return
        if not self._timed:
            self._timed = True
            self._out(StartTimer(f"hold:{self._name}", HOLD_S))
        following = now.backfill.next(self._account.moment.mono)
        if isinstance(following, str):
            headers = gateway.headers(self._account.token)
            self._out(Request(f"fill:{self._name}", "GET", following, headers, lane=self._account.name))
        elif following is not None:
            self._out(StartTimer(f"pump:{self._name}", following))

    def answered(self, event: ResponseReceived | RequestFailed) -> None:
        """An answer to a call of ours, or none."""
        now, moment = self._now, self._account.moment
        if now is None:
            return
        if isinstance(event, RequestFailed):
            outcome = now.backfill.failed(moment.mono, moment.wall, moment.random)
        else:
            outcome = now.backfill.answer(event.status, event.header, event.body, moment.mono, moment.wall, moment.random)
        ops: list[Op] = []
        if isinstance(outcome, Look):
            places = outcome.places
            if places is None:
                # Nobody tells what is new: every channel that is known is read from its watermark on.
                places = [Place(channel, -1, None) for channel in self._shard.marks.of_guild(outcome.guild)]
            self.confirm(outcome.guild, places, ops)
        elif isinstance(outcome, Page):
            self._page(now, outcome, ops)
        if ops or self.is_changed:
            self._shard.commit(ops)
        self.go_on()

    def _page(self, now: Recovery, page: Page, ops: list[Op]) -> None:
        view, stream = self._account.view, self._shard.stream
        rows = [each for each in page.rows if not view.seen(stream, each.channel, each.id)]
        now.filled += sum(1 for each in rows if not now.row.since or frames.time_of(each.id) <= now.row.since)
        self._types[page.fill.channel] = page.fill.type
        now.found(rows)
        if page.gap is not None:
            self._gaps.append((page.fill.channel, page.gap))
        if page.rows and now.released:
            self._admit_found(now.take_found(), ops)
        if page.done and now.released:
            now.done(page.fill.channel)
        self._step(ops)

    def _step(self, ops: list[Op]) -> None:
        """Merge if all is answered; end what is over."""
        now = self._now
        if now is None:
            return
        if now.is_ripe and not now.released:
            for rows, held in now.merge():
                self._admit_found(rows, ops)
                self._pass_on(held, ops)
        if now.released and now.backfill.is_done:
            self._admit_found(now.take_found(), ops)
        if now.backfill.is_done and not now.row.fills and self._gaps:
            self._admit_found([], ops)
        if now.is_over and now.backfill.is_done:
            self._end(now, ops)

    def _admit_found(self, rows: Sequence[Found], ops: list[Op]) -> None:
        """Messages by id, and the gaps between them by their time; late is what an admitted message has overtaken."""
        shard = self._shard
        gaps, self._gaps = sorted(self._gaps, key=lambda each: each[1].from_), []
        for each in rows:
            while gaps and gaps[0][1].from_ <= frames.time_of(each.id):
                channel, gap = gaps.pop(0)
                ops.append(RecordGap(shard.stream, gap, channel))
            flags = REPLAYED | (LATE if each.id < shard.marks.get(each.channel) else 0)
            payload = self._event(each)
            shard.moved(each.channel, shard.marks.guild(each.channel), each.id)
            last = ops[-1] if ops else None
            if type(last) is AdmitRun and last.domain == each.channel and last.flags == flags:
                last.payloads.append(payload)  # type: ignore[attr-defined]
                last.keys.append(each.id)  # type: ignore[attr-defined]
            else:
                ops.append(AdmitRun(shard.stream, [payload], [each.id], each.channel, flags))
        ops += [RecordGap(shard.stream, gap, channel) for channel, gap in gaps]
        if rows:
            self._out(Count("backfilled", len(rows)))

    def _event(self, found: Found) -> bytes:
        """A message of history as the gateway's event: it lacks the guild, the channel's type and the member."""
        shard = self._shard
        guild = shard.marks.guild(found.channel)
        d: dict[str, Any] = dict(found.row)
        kind = self._types.get(found.channel)
        if guild:
            d["guild_id"] = guild
            if guild not in self._members:
                self._members[guild] = shard.guilds.members(guild)
            author = frames.fields(found.row.get("author", msgspec.Raw(b"null"))).get("id")
            member = self._members[guild].get(str(author))
            if member is not None and "member" not in d and "webhook_id" not in d:
                d["member"] = member
        else:
            # Bots have direct messages with one person only.
            kind = kind or 1
        if kind is not None:
            d.setdefault("channel_type", kind)
        return frames.dispatch("MESSAGE_CREATE", d)

    # --- end -------------------------------------------------------------------------------------------------------------------------

    def hold_over(self) -> None:
        """30 s: live goes on (invariant 9)."""
        now = self._now
        if now is not None and not now.released:
            ops: list[Op] = []
            self._release(now, ops)
            self._step(ops)
            self._shard.commit(ops)

    def audit_due(self) -> None:
        """The last audit is a minute old."""
        self._audit()

    def _release(self, now: Recovery, ops: list[Op]) -> None:
        if now.released:
            return
        rows, held = now.release()
        if held or rows:
            self._log("warning", "live events are let through while history is still being read; what it finds is marked late")
        self._admit_found(rows, ops)
        self._pass_on(held, ops)

    def _end(self, now: Recovery, ops: list[Op]) -> None:
        missing = now.row.missing
        count = sum(last - first + 1 for first, last in missing)
        if missing and 0 < now.filled < count:
            # The hole was real, and not all of it were messages.
            first, last = min(missing)[0], max(last for _, last in missing)
            ops.append(RecordGap(self._shard.stream, Gap("lost", "seq", first, last, count - now.filled)))
        self._log("info", "all that was missed and can be had is in the journal")
        self._now = None
        self._members, self._types = {}, {}
        self._out(CancelTimer(f"hold:{self._name}"), CancelTimer(f"pump:{self._name}"))
        self._audit()

    @property
    def is_changed(self) -> bool:
        """Must a durable row be written?"""
        pairs = (("fill", self._now), ("suspect", self._suspect))
        return any(found.changed if found is not None else key in self._written for key, found in pairs)

    def puts(self) -> list[Op]:
        """Durable rows that changed."""
        ops: list[Op] = []
        for key, found in (("fill", self._now), ("suspect", self._suspect)):
            if found is None:
                if key in self._written:
                    self._written.discard(key)
                    ops.append(PutState(f"{key}:{self._name}", None))
            elif found.changed:
                found.changed = False
                self._written.add(key)
                ops.append(PutState(f"{key}:{self._name}", found.dump()))
        return ops

    def _out(self, *actions: Action) -> None:
        self._account.out.extend(actions)

    def _log(self, level: Any, text: str) -> None:
        self._out(Log(level, f"shard {self._name}: {text}"))
