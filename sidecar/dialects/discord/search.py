"""A shard's search for what it missed: begins recoveries and audits, drives their REST calls, merges what they find (discord R32, R33).

At most one recovery is at work; one more may wait for its time (`_suspect`: audits are at least a minute apart), with its watermarks
frozen from the moment the suspicion arose. See `recovery` for what is held and merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sidecar.core.actions import Action, CancelRequest, CancelTimer, Count, Log, Op, PutState, RecordGap, Request, StartTimer
from sidecar.core.events import RequestFailed, ResponseReceived
from sidecar.core.record import LATE, REPLAYED, Gap
from sidecar.dialects.discord import backfill, frames, gateway, recovery, runs
from sidecar.dialects.discord.backfill import Backfill, Fill, Found, Look, Page
from sidecar.dialects.discord.frames import Frame
from sidecar.dialects.discord.guilds import Place
from sidecar.dialects.discord.recovery import Recovery, Row
from sidecar.dialects.discord.shape import Shape

if TYPE_CHECKING:
    from sidecar.dialects.discord.ports import Account
    from sidecar.dialects.discord.shard import Shard

AUDIT_EVERY_S = 60.0
"""In live. Behind a RESUME an audit begins at once: a hole there is likely, what comes live waits for it in order, and how often a link is
resumed is bounded already (R28)."""
MAX_RANGES = 64
"""Ranges of missing numbers that are kept apart: an upstream that numbers more than its events has one before each."""


class Search:
    """One shard's. `state`: the account's durable rows."""

    def __init__(self, account: Account, shard: Shard, state: dict[str, bytes]) -> None:
        self._account = account
        self._shard = shard
        self._name = shard.name
        self._gaps: list[tuple[str, Gap]] = []
        self._shape = Shape(shard.guilds, shard.marks)
        self._audited = -AUDIT_EVERY_S
        self._every = AUDIT_EVERY_S
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

    def begin(self, guilds: Sequence[str], since: int, carried: Iterable[Frame], ops: list[Op]) -> None:
        """A new session: these guilds are in question until their GUILD_CREATE comes, and all direct messages. `carried`: what is held
        on from the one before."""
        old = [each.row for each in (self._now, self._suspect) if each is not None]
        row = recovery.together(old, self._shard.session.row.newest, since)
        row.guilds = list(guilds)
        self._suspect = None
        timed, begun = self._timed, self._made(row)
        self._open(begun)
        # What is held on has no more time than it had.
        self._timed = timed and bool(carried)
        for frame in carried:
            begun.put(frame)
        self._pass_on(begun.let_go(), ops)

    def suspect(self, first: int, last: int) -> None:
        """Numbers are missing (R32): an audit, now or when the last one is old enough."""
        self._out(Count("suspected_gaps"))
        if self._shard.connection.phase != "live":
            self._every = 0.0
        if self._suspect is None:
            self._log("warning", f"numbers {first} to {last} did not come: looking whether messages are missing")
            self._suspect = self._of_all()
        missing = self._suspect.row.missing
        missing.append((first, last) if len(missing) < MAX_RANGES else (missing.pop()[0], last))
        self._suspect.changed = True
        self.audit()

    def audit(self) -> None:
        """Begin the audit that waits, if it may."""
        waiting, now = self._suspect, self._now
        if waiting is None or (now is not None and not now.backfill.is_done):
            return
        pause = self._audited + self._every - self._account.moment.mono
        if pause > 0.001:
            self._out(StartTimer(f"audit:{self._name}", pause))
            return
        self._audited, self._every = self._account.moment.mono, AUDIT_EVERY_S
        self._suspect = None
        held = now.take_held() if now is not None else []
        if now is not None:
            # Only guilds in an outage are left of it.
            row = recovery.together([now.row, waiting.row], waiting.row.floor, waiting.row.since)
            row.missing, row.audit, row.away = waiting.row.missing, True, waiting.row.away
            row.guilds = sorted(now.questioned | waiting.questioned)
            waiting = self._made(row)
        self._open(waiting)
        for frame in held:
            waiting.put(frame)

    def doubt(self, away: int) -> None:
        """RESUMED came without any replay, as it does when nothing happened, or when everything was lost and the numbers close ranks
        (U14): only REST can tell. `away`: Unix milliseconds when the gateway was heard last."""
        if self._suspect is None:
            self._suspect = self._of_all(away)
        self.audit()

    def _of_all(self, away: int = 0) -> Recovery:
        shard, now = self._shard, int(self._account.moment.wall * 1000)
        return self._made(Row(guilds=shard.guilds.ids(), floor=shard.session.row.newest, audit=True, since=now, away=away))

    def _open(self, found: Recovery) -> None:
        self._now = found
        found.changed = True
        found.open()
        marks = self._shard.marks
        direct = marks.direct() if self._shard.session.brings("") else []
        if len(direct) > found.most_direct:
            self._log("warning", f"of {len(direct)} channels of direct messages the {found.most_direct} newest are looked at")
        for channel in direct[: found.most_direct]:
            found.add(Fill(channel, "", found.mark(channel, marks.get(channel))))
        self._timed = False
        if found.is_over:
            self._now = None
        self.go_on()

    def let_go(self, ops: list[Op]) -> list[Frame]:
        """The session is over: what was held and found of it is admitted, but for what may wait on. Returns that."""
        carried: list[Frame] = []
        if self._now is not None:
            carried = self._now.carried()
            self._release(self._now, ops)
            self._account.out.append(CancelRequest(f"fill:{self._name}"))
            self._now.backfill.give_back()
        return carried

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

    def remove(self, channels: Sequence[str]) -> None:
        """Channels that are no more. What was read of them, or is held, keeps its guild and its order."""
        self._shard.marks.remove(channels)
        if self._now is None:
            self._shard.marks.bury()

    def confirm(self, guild: str, places: Sequence[Place], ops: list[Op], before: Iterable[str] = ()) -> None:
        """A guild's channels are known with their newest messages: those with more than their watermark are read (R33), and those
        threads that were active `before` and are not named any more: archived meanwhile, perhaps with messages in them."""
        now, marks = self._now, self._shard.marks
        fills = self._fills(guild, places)
        named = {place.id for place in places}
        frozen = now.row.frozen if now is not None and guild in now.questioned else {}
        left = [c for c in dict.fromkeys((*before, *frozen)) if c not in named and c in marks and marks.guild(c) == guild]
        if self._shard.session.brings(guild):
            fills += [Fill(channel, guild, frozen.get(channel, marks.get(channel))) for channel in left]
        self._read(guild, fills, ops)

    def notice(self, guild: str, places: Sequence[Place], ops: list[Op]) -> None:
        """Channels that an event names; one that has more than its watermark is read."""
        fills = self._fills(guild, places)
        if fills and not (self._now is not None and guild in self._now.questioned):
            self._read("", fills, ops)

    def _fills(self, guild: str, places: Sequence[Place]) -> list[Fill]:
        """Channels with more than their watermark. The first time a channel is seen it starts at its newest (R34), unless it is younger
        than what is in question: then it was empty before. Messages that nobody asked for are not missed."""
        marks, now, is_asked = self._shard.marks, self._now, self._shard.session.brings(guild)
        in_question = now is not None and guild in now.questioned
        fills = []
        for place in places:
            number = frames.snowflake(place.id)
            if not is_asked:
                marks.begin(place.id, guild, 0)
                marks.note(place.id, guild, place.last)
            elif place.id not in marks and now is not None and in_question and number > now.row.floor:
                marks.begin(place.id, guild, number)
            if place.id in marks:
                mark = now.mark(place.id, marks.get(place.id)) if now is not None else marks.get(place.id)
                if place.last > mark or place.last < 0:
                    fills.append(Fill(place.id, guild, mark, place.last, place.type))
            else:
                marks.begin(place.id, guild, max(place.last, 0))
        return fills if is_asked else []

    def _read(self, guild: str, fills: list[Fill], ops: list[Op]) -> None:
        """Read these channels; the guild, if one is named, is in question no more."""
        now, wall = self._now, self._account.moment.wall
        if now is None:
            if not fills:
                return
            now = self._now = self._made(Row(floor=self._shard.session.row.newest, since=int(wall * 1000)))
            now.is_open = True
            self._timed = False
        if now.backfill.limit <= 0:
            self._gaps += [(fill.channel, backfill.beyond(fill, wall)) for fill in fills if fill.last > 0]
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
            self.audit()
            return
        if not self._timed:
            self._timed = True
            self._out(StartTimer(f"hold:{self._name}", now.hold_s))
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
            places, known = outcome.places, self._shard.guilds.threads(outcome.guild)
            if places is None:
                # Nobody tells what is new: every channel that is known is read from its watermark on.
                places = [Place(channel, -1, None) for channel in self._shard.marks.of_guild(outcome.guild)]
            self.confirm(outcome.guild, places, ops, [] if outcome.places is None else known)
        elif isinstance(outcome, Page):
            self._page(now, outcome, ops)
        if ops or self.is_changed:
            self._shard.commit(ops)
        self.go_on()

    def _page(self, now: Recovery, page: Page, ops: list[Op]) -> None:
        view, stream = self._account.view, self._shard.stream
        rows = [each for each in page.rows if not view.seen(stream, each.channel, each.id)]
        now.filled += sum(1 for each in rows if now.is_older(each.id))
        self._shape.types[page.fill.channel] = page.fill.type
        now.found(rows)
        if page.gap is not None and not self._is_idle(page.fill, page.gap):
            self._gaps.append((page.fill.channel, page.gap))
        if page.rows and now.released:
            self._admit_found(now.take_found(), ops)
        if page.done and now.released:
            now.done(page.fill.channel)
        self._step(ops)

    def _is_idle(self, fill: Fill, gap: Gap) -> bool:
        """A channel of a guild that is closed to us: nobody named a message in it, and none came, so nothing need be missing."""
        is_unknown = fill.last < 0 and fill.guild and gap.reason in ("denied", "absent")
        has_held = self._now is not None and self._now.has(fill.channel)
        return bool(is_unknown) and not has_held and self._shard.marks.get(fill.channel) <= fill.at

    def _step(self, ops: list[Op]) -> None:
        """Merge if all is answered; end what is over."""
        now = self._now
        if now is None:
            return
        if now.is_ripe and not now.released:
            self._admit_mixed(now.merge(), ops)
        if now.released and now.backfill.is_done:
            self._admit_found(now.take_found(), ops)
        if now.backfill.is_done and not now.row.fills and self._gaps:
            self._admit_found([], ops)
        if now.is_over and now.backfill.is_done:
            self._end(now, ops)

    def _admit_mixed(self, mixed: Iterable[Found | Frame], ops: list[Op]) -> None:
        for _, group in groupby(mixed, type):
            part = list(group)
            self._admit_found([each for each in part if isinstance(each, Found)], ops)
            self._pass_on([each for each in part if isinstance(each, Frame)], ops)
        self._admit_found([], ops)

    def _admit_found(self, rows: Sequence[Found], ops: list[Op]) -> None:
        """Messages by id, and the gaps between them by their time; late is what an admitted message has overtaken."""
        shard = self._shard
        gaps, self._gaps = sorted(self._gaps, key=lambda each: each[1].from_), []
        for each in rows:
            while gaps and gaps[0][1].from_ <= frames.time_of(each.id):
                channel, gap = gaps.pop(0)
                ops.append(RecordGap(shard.stream, gap, channel))
            flags = REPLAYED | (LATE if each.id < shard.marks.get(each.channel) else 0)
            payload = self._shape.event(each)
            shard.moved(each.channel, shard.marks.guild(each.channel), each.id)
            runs.put(ops, shard.stream, payload, each.id, each.channel, flags)
        ops += [RecordGap(shard.stream, gap, channel) for channel, gap in gaps]
        if rows:
            self._out(Count("backfilled", len(rows)))

    # --- end -------------------------------------------------------------------------------------------------------------------------

    def hold_over(self) -> None:
        """30 s: live goes on (invariant 9)."""
        now = self._now
        if now is not None and not now.released:
            ops: list[Op] = []
            self._release(now, ops)
            self._step(ops)
            self._shard.commit(ops)

    def _release(self, now: Recovery, ops: list[Op]) -> None:
        if now.released:
            return
        mixed = now.release()
        if mixed:
            self._log("warning", "live events are let through while history is still being read; what it finds is marked late")
        self._admit_mixed(mixed, ops)

    def _end(self, now: Recovery, ops: list[Op]) -> None:
        missing = now.row.missing
        count = sum(last - first + 1 for first, last in missing)
        if missing and 0 < now.filled < count:
            # The hole was real, and not all of it were messages.
            first, last = min(missing)[0], max(last for _, last in missing)
            ops.append(RecordGap(self._shard.stream, Gap("lost", "seq", first, last, count - now.filled)))
        elif now.row.is_doubt and now.filled:
            self._log("warning", f"a RESUME without a replay had left out {now.filled} messages")
            ops.append(RecordGap(self._shard.stream, Gap("lost", "time", min(now.row.away, now.row.since), now.row.since)))
        self._log("info", "all that was missed and can be had is in the journal")
        self._now = None
        self._shape.forget()
        self._shard.marks.bury()
        self._out(CancelTimer(f"hold:{self._name}"), CancelTimer(f"pump:{self._name}"))
        self.audit()

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
