"""One shard: its session, its events on their way into the journal, its guilds and watermarks (discord R2, R14, R26, R32 to R36).

Every dispatch passes `dispatched`. READY and RESUMED change the session; live-only ones and answers are told on; the rest change guild
state if they do, are held if their channel is in question, else admitted. What one batch came to is one commit: records, watermarks,
guilds, session row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from sidecar.core.actions import Action, Admit, CancelTimer, Commit, Log, Op, PutState, RecordGap, StartTimer, Tell
from sidecar.core.record import REPLAYED, Gap
from sidecar.dialects.discord import frames, gateway, guilds, runs
from sidecar.dialects.discord.commands import Commands
from sidecar.dialects.discord.connection import Connection
from sidecar.dialects.discord.frames import Frame
from sidecar.dialects.discord.guilds import Guilds
from sidecar.dialects.discord.marks import Marks
from sidecar.dialects.discord.ports import Account
from sidecar.dialects.discord.search import Search
from sidecar.dialects.discord.session import Session

LOAD_S = 5.0
"""How long the first READY's guilds are waited for before agents are answered without the rest."""


class _Guild(msgspec.Struct):
    id: str | int


class _Ready(msgspec.Struct):
    session_id: str
    resume_gateway_url: str | None = None
    guilds: list[_Guild] = []


_ready = msgspec.json.Decoder(_Ready).decode


class Shard:
    """`name`: `<i>/<n>`; `state`: the account's durable rows. `attached`: sessions on its stream; `always`: held without any."""

    def __init__(self, account: Account, name: str, state: dict[str, bytes]) -> None:
        self.account = account
        self.name = name
        self.stream = f"discord:{account.name}:{name}"
        self.session = Session(state.get(f"shard:{name}"))
        self.ready = state.get(f"ready:{name}")
        prefix = f"guild:{name}/"
        self.guilds = Guilds({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}, account.name)
        self.marks = Marks(state, f"mark:{name}/")
        self.commands = Commands(state.get(f"presence:{name}"))
        self.attached = 0
        self.always = False
        self.lingering = False
        self.was_released = False
        self.refused_intents = 0
        facts = account.view.facts(self.stream)
        self.offset = facts.head if facts else 0
        self._serial = 0
        self._tickets: deque[tuple[str, int, int, list[Callable[[], None]]]] = deque()
        self._then: list[Callable[[], None]] = []
        self._is_dirty = False
        self._ready_changed = False
        self._intents_sent = 0
        self._replayed = False
        self.connection = Connection(account, self)
        self.search = Search(account, self, state)

    # --- what is wanted --------------------------------------------------------------------------------------------------------------

    def is_wanted(self) -> bool:
        """Is there somebody to hold it for?"""
        return self.always or self.attached > 0 or self.lingering

    def intents(self) -> int:
        """What the next IDENTIFY asks for: the operator's, and all that agents asked for; before any, what needs no grant."""
        asked = self.session.row.asked | (self.account.knobs.intents or 0)
        self._intents_sent = asked or UNPRIVILEGED
        return self._intents_sent

    def ask(self, intents: int) -> None:
        """An agent asks for these intents (R23): one that has more than the session leads to a new session, once."""
        self.session.row.asked |= intents
        self._is_dirty = True
        self.renew_if_narrow()

    def renew_if_narrow(self) -> None:
        """Agents ask for more than the session has: a new one, but not before an IDENTIFY may be sent; until then the present one lives."""
        row, moment = self.session.row, self.account.moment
        if not row.asked & ~row.intents or not self.session.is_resumable:
            return
        row.asked |= row.intents
        wait = self.account.budget.wait(self.name, moment.mono, moment.wall)
        if wait <= 0:
            self.connection.renew()
            return
        self._out(StartTimer(f"renew:{self.name}", wait))
        if wait > 60:
            self._log("warning", f"an agent asks for more intents; for {wait:.0f} s it goes without: the budget of IDENTIFYs is spent")

    def start(self) -> None:
        """The half has begun: what the last life left is taken up."""
        if self.ready is not None:
            if self.session.row.loading:
                self._out(StartTimer(f"load:{self.name}", LOAD_S))
            else:
                self.tell_ready()

    # --- dispatches ------------------------------------------------------------------------------------------------------------------

    def dispatched(self, batch: list[Frame]) -> None:
        """Dispatches in order."""
        ops: list[Op] = []
        for frame in batch:
            if frame.kind in ("READY", "RESUMED"):
                self.commit(ops)
                ops = []
                if frame.kind == "RESUMED":
                    self._resumed(frame)
                elif not self._began(frame):
                    return
            else:
                self._event(frame, ops)
        if ops or self._then or self._ready_changed or self.guilds.changed or self.search.is_changed:
            self.commit(ops)

    def _number(self, frame: Frame) -> bool:
        """Look at a frame's `s`; False: it was here before (R2). A jump is suspicious (R32)."""
        session = self.session
        if not frame.s:
            return True
        if frame.s > session.top + 1 and session.top:
            self.search.suspect(session.top + 1, frame.s - 1)
        return session.take(frame.s)

    def _event(self, frame: Frame, ops: list[Op]) -> None:
        self._replayed = True
        if not self._number(frame):
            return
        self._is_dirty = True
        kind = frame.kind
        if kind in frames.LIVE_ONLY:
            self._out(Tell({"live": self.name, "frame": frame.payload}))
            return
        if kind in frames.ANSWERS:
            if asker := self.commands.asker(frame.payload):
                self._out(Tell({"chunk": asker, "frame": frame.payload}))
            return
        if frame.channel and not frame.guild:
            frame.guild = self.marks.guild(frame.channel)
        if (kind in guilds.STATEFUL or kind == "USER_UPDATE") and not self._changes(frame, ops):
            return
        if not self.search.held(frame, ops):
            self.admit(frame, ops)

    def _changes(self, frame: Frame, ops: list[Op]) -> bool:
        """An event that changes state; False: it is no event for agents (R14)."""
        kind, guild, raw = frame.kind, frame.guild, frames.body(frame.payload)
        row = self.session.row
        if kind == "USER_UPDATE":
            if self.ready is not None:
                self.ready, self._ready_changed = guilds.updated_user(self.ready, raw), True
            return True
        if kind == "GUILD_CREATE":
            before = self.guilds.threads(guild)
            news = self.guilds.create(guild, raw)
            if guild in self.guilds and not self.guilds.is_away(guild):
                self.search.confirm(guild, self.guilds.places(guild), ops, before)
            if guild in row.loading:
                row.loading.remove(guild)
                if not row.loading:
                    self._loaded()
                return False
            return news
        if kind == "GUILD_DELETE":
            self.guilds.delete(guild, raw)
            if guild not in self.guilds:
                if self.ready is not None and frames.fields(raw).get("unavailable") is not True:
                    self.ready, self._ready_changed = guilds.without_guild(self.ready, guild), True
                self.search.remove(self.marks.of_guild(guild))
                self.search.confirm(guild, (), ops)
            return True
        self.guilds.apply(kind, guild, raw)
        if kind in ("CHANNEL_CREATE", "CHANNEL_UPDATE", "THREAD_CREATE", "THREAD_UPDATE"):
            self.search.notice(guild, guilds.places([msgspec.Raw(raw)]), ops)
        elif kind == "THREAD_LIST_SYNC":
            self.search.notice(guild, guilds.places(guilds.objects(guilds.member(raw, "threads"))), ops)
        elif kind in ("CHANNEL_DELETE", "THREAD_DELETE"):
            self.search.remove([frame.id])
        return True

    def saw(self, *numbers: int) -> None:
        """Snowflakes that the gateway told: what REST shows may be younger than a channel that no event has named yet."""
        row = self.session.row
        row.newest = max(row.newest, *numbers)

    def admit(self, frame: Frame, ops: list[Op], flags: int = 0) -> None:
        """Put an event into the next commit. Consecutive ones make one run."""
        key = frames.key_of(frame)
        if type(key) is int:
            self.moved(frame.channel, frame.guild, key)
            self.saw(key)
        runs.put(ops, self.stream, frame.payload, key, frame.channel or frame.guild, flags)

    def moved(self, channel: str, guild: str, number: int) -> None:
        """A message is admitted: its channel's watermark moves with it (R34)."""
        self.search.freeze(channel, guild)
        self.marks.note(channel, guild, number)

    # --- sessions --------------------------------------------------------------------------------------------------------------------

    def _began(self, frame: Frame) -> bool:
        """READY: a new session. One commit holds it, the gap that the old one leaves, and what is in question from now on (U16)."""
        raw = frames.body(frame.payload)
        try:
            found = _ready(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._log("error", "READY is of no known shape; the session is of no use")
            self.connection.renew()
            return False
        ops: list[Op] = []
        session, row, ms = self.session, self.session.row, int(self.account.moment.wall * 1000)
        if found.session_id == row.session_id and session.is_resumable:
            # Of the session that goes on: it came twice (U15).
            return True
        listed = [str(guild.id) for guild in found.guilds]
        first, was_asked, since = session.is_new, session.brings("guild"), max(row.heard, int(self.connection.alive * 1000))
        carried = self.search.let_go(ops)
        if not first:
            # Edits, deletes, reactions and interactions of the time between cannot be had any more (R36), nor those that a kill took.
            lost, taken = session.others(), min(since, row.held)
            detail = f"of the session before: numbers from {min([*lost, session.top + 1])} on"
            ops.append(RecordGap(self.stream, Gap(self._why_lost(), "time", min(taken if lost else since, ms), ms, detail=detail)))
            self._log("warning", f"a new session; lost {detail}, but for messages, which are read back")
        session.begin(found.session_id, gateway.usable(found.resume_gateway_url), frame.s, self._intents_sent or self.intents(), ms)
        self.ready, self._ready_changed = raw, True
        if not first and not was_asked:
            # Nobody had asked for messages: the channels start at their newest now.
            self.marks.forget(self.marks.in_guilds())
        self._leave(set(self.guilds.ids()) - set(listed), ops)
        row.loading = [guild for guild in listed if guild not in self.guilds and (first or guild in row.loading)]
        if row.loading:
            self._out(StartTimer(f"load:{self.name}", LOAD_S))
        if first:
            # Whatever is older begins at its newest, also in a guild whose state comes only after an outage (R34).
            self.saw(frames.first_id(ms))
        else:
            self.search.begin(listed, since, carried, ops)
        self.account.budget.succeeded()
        ops.append(PutState("budget", self.account.budget.dump()))
        self.was_released = False
        if not row.loading:
            self._then.append(self.tell_ready)
        self.commit(ops)
        self.connection.ready()
        self.search.go_on()
        # An agent may have asked for more while the IDENTIFY was on its way.
        self.renew_if_narrow()
        return True

    def _why_lost(self) -> str:
        if self.was_released:
            return "released"
        return "lost" if self.connection.lived else "sidecar_down"

    def _leave(self, gone: set[str], ops: list[Op]) -> None:
        """Guilds that READY does not name any more: the bot left them meanwhile."""
        for guild in sorted(gone):
            self.guilds.remove(guild)
            self.marks.forget(self.marks.of_guild(guild))
            payload = frames.dispatch("GUILD_DELETE", {"id": guild})
            ops.append(Admit(self.stream, payload, b"", guild, REPLAYED))

    def _resumed(self, frame: Frame) -> None:
        session = self.session
        # No event has the number of a later one: this upstream counts anew. (Below what we asked for it is a copy of an older one.)
        is_lower = session.seq < frame.s <= session.top
        if is_lower and self._replayed and frame.s < session.top:
            # An older one, out of the replay: we asked from before what is held, and it came behind that.
            self._number(frame)
            return
        is_empty = is_lower or (not self._replayed and frame.s == session.top + 1)
        ops: list[Op] = []
        lost, owed = session.others(), session.give_up()
        if is_lower:
            session.rewind(frame.s)
        self._number(frame)
        # Its number goes to disk at once: else the next RESUME asks for this RESUMED again, which looks like the end of an empty replay.
        self._is_dirty = True
        if lost:
            # They were in memory when an earlier process was killed, the replay did not bring them, and no history has them (R36).
            ops.append(RecordGap(self.stream, Gap("lost", "seq", lost[0], lost[-1], len(lost))))
        for first, last in owed:
            self.search.suspect(first, last)
        if is_empty and not owed:
            self.search.doubt(max(session.row.heard, int(self.connection.alive * 1000)))
        self.commit(ops)
        self.connection.ready()
        self.search.go_on()

    def load_over(self) -> None:
        """The first READY's guilds were waited for long enough."""
        if self.session.row.loading:
            self.session.row.loading = []
            self._loaded()
            self.commit([])

    def _loaded(self) -> None:
        self._out(CancelTimer(f"load:{self.name}"))
        self._then.append(self.tell_ready)

    # --- commits ---------------------------------------------------------------------------------------------------------------------

    def commit(self, ops: list[Op]) -> None:
        """One transaction: these operations, and every durable row that changed (R26)."""
        ops.extend(self.marks.puts())
        for guild in sorted(self.guilds.changed):
            ops.append(PutState(f"guild:{self.name}/{guild}", self.guilds.row(guild)))
        self.guilds.changed.clear()
        ops.extend(self.search.puts())
        if self._ready_changed:
            self._ready_changed = False
            ops.append(PutState(f"ready:{self.name}", self.ready))
        if ops or self._is_dirty:
            self._is_dirty = False
            ops.append(PutState(f"shard:{self.name}", self.session.dump(int(self.connection.alive * 1000))))
        if ops or self._then:
            self._serial += 1
            ticket = f"c:{self.name}:{self._serial}"
            then, self._then = self._then, []
            self._tickets.append((ticket, self.session.generation, self.session.seq, then))
            self._out(Commit(ops, ticket))

    def committed(self, ticket: str, offsets: Iterable[int]) -> None:
        """A commit is on disk: only now is its number told upstream (R26)."""
        while self._tickets:
            name, generation, seq, then = self._tickets.popleft()
            if generation == self.session.generation:
                self.session.committed = seq
            if name == ticket:
                self.offset = max([self.offset, *offsets])
            for each in then:
                each()
            if name == ticket:
                return

    def resting(self) -> None:
        """A beat is due: what only moved the number is written now."""
        if self._is_dirty:
            self.commit([])
        self.account.show()

    # --- what agents are told --------------------------------------------------------------------------------------------------------

    def tell_ready(self) -> None:
        """There is state on disk: agents' IDENTIFYs can be answered."""
        self._out(Tell({"ready": self.name}))

    def snapshot(self, session: str) -> None:
        """What a fresh IDENTIFY is answered with (R13): as of now, told once the journal has it all."""
        if self.ready is None or self.session.row.loading:
            self._out(Tell({"snapshot": session, "ready": None, "guilds": [], "offset": self.offset}))
            return
        known = self.guilds.ids()
        ready = guilds.with_guilds(self.ready, known)
        shown = [d for guild in known if (d := self.guilds.snapshot(guild, self.marks.get)) is not None]

        def tell() -> None:
            self._out(Tell({"snapshot": session, "ready": ready, "guilds": shown, "offset": self.offset}))

        self._then.append(tell)
        self.commit([])

    def changed(self) -> None:
        """The connection's phase changed."""
        if self.connection.phase == "resuming":
            self._replayed = False
        self.account.show()

    def facts(self) -> dict[str, Any]:
        """For the status page. `session_since`: Unix seconds; the number is as of the last beat."""
        row = self.session.row
        since = {"session_since": row.began / 1000} if self.session.is_resumable else {}
        return {**since, "seq": row.top, "intents": row.intents, "guilds": len(self.guilds.ids())}

    def _out(self, *actions: Action) -> None:
        self.account.out.extend(actions)

    def _log(self, level: Any, text: str) -> None:
        self._out(Log(level, f"shard {self.name}: {text}"))


UNPRIVILEGED = sum(1 << bit for bit in (0, *range(2, 8), *range(9, 15), 16, 20, 21, 24, 25))
"""All intents that need no grant (section 1.7)."""
