"""One bot upstream (discord R25 to R36): its token, its shards, what they share, and what the downstream half says and asks.

A shard is held while a session is attached to its stream, for the linger after that, and for ever with the operator's own token. Each
has a connection of its own (`connection`, where the transitions are) and its events' way into the journal (`shard`); shared are the
metadata, the IDENTIFY budget and the pace of own REST calls. A fatal answer stops them all until something changes (R31).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from sidecar.core.actions import Action, CancelTimer, Commit, Fatal, Log, PutState, Request, StartTimer, Status, Tell
from sidecar.core.events import (
    Attached,
    Committed,
    CredentialSeen,
    Detached,
    Draining,
    FramesReceived,
    Input,
    LinkClosed,
    LinkOpened,
    LinkRefused,
    MessageFromDownstream,
    Moment,
    RequestFailed,
    ResponseReceived,
    Started,
    TimerFired,
)
from sidecar.dialects.base import View
from sidecar.dialects.discord import connection, gateway
from sidecar.dialects.discord.backfill import Pace
from sidecar.dialects.discord.budget import DAY_S, Budget
from sidecar.dialects.discord.gateway import Metadata, bare
from sidecar.dialects.discord.settings import DiscordSettings
from sidecar.dialects.discord.shard import Shard

METADATA_S = 5.0
COOL_DOWN_S, MAX_COOL_DOWN_S = 60.0, 3600.0
AUTHENTICATION = 4004
INTENTS = (4013, 4014)


class UpstreamHalf:
    """The upstream half of one account, which is a bot's id. `settings`: sidecar.config.Settings, of which knobs (DiscordSettings),
    upstream, upstream_token, linger_s and retention_s are read."""

    def __init__(self, account: str, settings: Any, view: View) -> None:
        self.name = account
        self.view = view
        self.knobs: DiscordSettings = settings.knobs
        self.zlib = self.knobs.compress == "zlib-stream"
        self.max_age: float = self.knobs.backfill_max_age_s or settings.retention_s
        self._upstream: str = settings.upstream
        self._operators = bare(settings.upstream_token or "")
        self._linger_s: float = settings.linger_s
        self.token = ""
        self.budget = Budget(self.knobs.identify_budget)
        self.pace = Pace()
        self.shards: dict[str, Shard] = {}
        self.out: list[Action] = []
        self.moment = Moment(0.0, 0.0, 0.0)
        self._state: dict[str, bytes] = {}
        self._metadata = Metadata()
        self._asking = False
        self._answered = -METADATA_S
        self._stopped = False
        self._fatal = 0
        self._refused = ""
        self._cooled = 0.0
        self._refusals = 0
        self._shown: dict[str, Any] = {}
        self._show = False

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        """Take one input, return what to do about it."""
        self.moment = moment
        self.out = []
        handler = _HANDLERS.get(type(event))
        if handler is not None and not self._stopped:
            handler(self, event)
            if self._show:
                self._show = False
                self._tell_status()
        return self.out

    # --- beginning, end and who wants what -------------------------------------------------------------------------------------------

    def _started(self, event: Started) -> None:
        state = self._state = dict(event.state)
        self.budget = Budget(self.knobs.identify_budget, state.get("budget"))
        if "metadata" in state:
            self._metadata = msgspec.json.decode(state["metadata"], type=Metadata)
            self._heed(self._metadata)
        for key in sorted(state):
            if key.startswith("shard:"):
                self._shard(key.removeprefix("shard:"))
        # The shards have taken theirs.
        self._state = {}
        self.out.append(Tell({"began": True}))
        if event.credential:
            self._credential(event.credential)

    def _shard(self, name: str) -> Shard:
        """The shard of that name, made if it is new."""
        found = self.shards.get(name)
        if found is None:
            found = self.shards[name] = Shard(self, name, self._state)
            found.start()
        return found

    def _credential_seen(self, event: CredentialSeen) -> None:
        self._credential(event.credential)

    def _credential(self, credential: str) -> None:
        self.token = bare(credential)
        if self._fatal and self.token != self._refused:
            self._revive()
        if self.token == self._operators:
            for name in self.knobs.shards or self._lately() or ("0/1",):
                self._shard(name).always = True
        self._connect()

    def _lately(self) -> list[str]:
        """Shards of earlier runs that are within their linger."""
        since = (self.moment.wall - self._linger_s) * 1000
        return [name for name, shard in self.shards.items() if shard.session.row.heard >= since and not shard.session.is_new]

    def _connect(self) -> None:
        if not self._fatal:
            for shard in self.shards.values():
                shard.connection.connect()

    def _of(self, stream: str) -> Shard | None:
        name = stream.removeprefix(f"discord:{self.name}:")
        return self._shard(name) if name != stream else None

    def _attached(self, event: Attached) -> None:
        if shard := self._of(event.stream):
            shard.attached = event.count
            if shard.lingering:
                shard.lingering = False
                self.out.append(CancelTimer(f"linger:{shard.name}"))
            self._connect()

    def _detached(self, event: Detached) -> None:
        if shard := self._of(event.stream):
            shard.attached = event.count
            if not event.count and not shard.always:
                self._linger(shard)

    def _linger(self, shard: Shard) -> None:
        shard.lingering = True
        self.out.append(StartTimer(f"linger:{shard.name}", self._linger_s))

    def _linger_over(self, shard: Shard) -> None:
        shard.lingering = False
        if not shard.is_wanted():
            shard.was_released = True
            shard.connection.stop()

    def _draining(self, event: Draining) -> None:
        """R24: the session lives on upstream; the next start RESUMEs it."""
        for shard in self.shards.values():
            shard.connection.stop()
        self._stopped = True

    # --- what the downstream half says -------------------------------------------------------------------------------------------------

    def _told(self, event: MessageFromDownstream) -> None:
        message = event.message
        shard = self._shard(message.get("shard") or "0/1")
        if "intents" in message:
            self._ask(shard, message["intents"])
        if "snapshot" in message:
            shard.snapshot(message["snapshot"])
        if "presence" in message:
            before = shard.commands.presence
            shard.commands.set_presence(message["presence"])
            if shard.commands.presence != before:
                self.out.append(Commit([PutState(f"presence:{shard.name}", shard.commands.dump())]))
            shard.connection.send_commands()
        if "command" in message:
            if not shard.commands.put(message["command"], message.get("from") or ""):
                self.out.append(Log("warning", f"shard {shard.name}: an agent's command was dropped, too many wait for the upstream"))
            shard.connection.send_commands()

    def _ask(self, shard: Shard, intents: int) -> None:
        """An agent wants this shard with these intents. After a fatal answer that is a reason to try again if it asks for something
        else, or, seldom, after a while: a person may have mended what was wrong."""
        is_other = self._fatal in INTENTS and bool(intents ^ shard.refused_intents)
        if self._fatal and (is_other or self.moment.mono >= self._cooled):
            self._revive()
        if self._fatal:
            # Whoever comes meanwhile is told, not left waiting (R22).
            self.out.append(Tell({"refused": self.token, "code": self._fatal}))
            return
        shard.ask(intents)
        if not shard.attached and not shard.always:
            self._linger(shard)
        self._connect()

    # --- metadata (R27, U11) -----------------------------------------------------------------------------------------------------------

    def gateway_url(self) -> str:
        """Where new sessions begin."""
        return self.knobs.gateway_url or self._metadata.url or gateway.home(self._upstream)

    def ask_metadata(self) -> bool:
        """Ask /gateway/bot, for all shards that wait; False: that was answered, or failed, just now."""
        if self._asking:
            return True
        if self.moment.mono - self._answered < METADATA_S:
            return False
        self._asking = True
        self.out.append(Request("metadata", "GET", gateway.METADATA, gateway.headers(self.token), timeout=METADATA_S, urgent=True))
        return True

    def _metadata_answered(self, event: ResponseReceived | RequestFailed) -> None:
        self._asking = False
        self._answered = self.moment.mono
        if isinstance(event, RequestFailed):
            self.out.append(Log("warning", f"/gateway/bot gave no answer ({event.error}); going on with what is known"))
        elif event.status == 401:
            self.fatal(AUTHENTICATION)
            return
        elif event.status == 200 and (found := gateway.metadata(event.body, self.moment.wall)):
            self._metadata = found
            self._heed(found)
            self.out += [
                Commit([PutState("metadata", msgspec.json.encode(found))]),
                Tell({"metadata": {"shards": found.shards}}),
            ]
        else:
            self.out.append(Log("warning", f"/gateway/bot was answered with status {event.status}; going on with what is known"))
        for shard in self.shards.values():
            shard.connection.metadata_known()

    def _heed(self, found: Metadata) -> None:
        self.budget.concurrency = max(found.concurrency, 1)
        self.budget.told(found.remaining, found.reset_at)

    # --- fatal answers (R31) -------------------------------------------------------------------------------------------------------------

    def fatal(self, code: int) -> None:
        """The upstream will not have this identity: everything stops, and agents are told (R22)."""
        reason, mend = gateway.FATAL[code]
        self._fatal, self._refused = code, self.token
        # One that comes long after the last begins anew.
        self._refusals = 1 if self.moment.mono > self._cooled + MAX_COOL_DOWN_S else self._refusals + 1
        pause = min(COOL_DOWN_S * (1 << min(self._refusals - 1, 8)), MAX_COOL_DOWN_S)
        self._cooled = self.moment.mono + pause
        for shard in self.shards.values():
            shard.connection.stop()
            if code in INTENTS:
                shard.refused_intents, shard.session.row.asked = shard.session.row.asked, 0
        self.out += [
            Tell({"refused": self.token, "code": code}),
            Log("error", f"the upstream refuses this bot ({code}, {reason}): nothing is tried until something changes"),
            Fatal(str(code), f"{mend}; then restart the sidecar, or start the agent again, {pause:.0f} s from now at the earliest"),
        ]
        self.show()

    def _revive(self) -> None:
        self._fatal = 0
        self.out.append(Status({"fatal": None}))
        self.show()

    # --- inputs that belong to a shard -----------------------------------------------------------------------------------------------

    def _link_opened(self, event: LinkOpened) -> None:
        if shard := self.shards.get(event.link):
            shard.connection.opened()

    def _link_refused(self, event: LinkRefused) -> None:
        if shard := self.shards.get(event.link):
            shard.connection.refused(event)

    def _link_closed(self, event: LinkClosed) -> None:
        if shard := self.shards.get(event.link):
            shard.connection.closed(event)

    def _frames_received(self, event: FramesReceived) -> None:
        if shard := self.shards.get(event.link):
            shard.connection.received(list(event.frames))

    def _committed(self, event: Committed) -> None:
        kind, _, rest = event.ticket.partition(":")
        name, _, number = rest.partition(":")
        shard = self.shards.get(name)
        if shard is None:
            return
        if kind == "identify":
            shard.connection.counted(number)
        elif kind == "c":
            shard.committed(event.ticket, event.offsets)

    def _answer(self, event: ResponseReceived | RequestFailed) -> None:
        kind, _, name = event.request.partition(":")
        shard = self.shards.get(name)
        if kind == "metadata":
            self._metadata_answered(event)
        elif shard is not None:
            shard.search.answered(event)

    def _timer(self, event: TimerFired) -> None:
        kind, _, name = event.timer.partition(":")
        shard = self.shards.get(name)
        if shard is None:
            return
        if kind in connection.TIMERS:
            shard.connection.fired(kind)
        else:
            _TIMERS[kind](self, shard)

    # --- telling -----------------------------------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Something on the status page changes with this input."""
        self._show = True

    def _tell_status(self) -> None:
        phases = {shard.connection.phase for shard in self.shards.values()}
        limit = {"used": self.budget.used(self.moment.wall), "ceiling": self.budget.ceiling, "window_s": int(DAY_S)}
        facts = {
            "upstream": self._word(next((phase for phase in _WORDS if phase in phases), "idle")),
            "identify_budget": limit | {"left_upstream": self._metadata.remaining},
            "streams": {
                shard.stream: {"upstream": self._word(shard.connection.phase), "shard": shard.name, **shard.facts()}
                for shard in self.shards.values()
            },
        }
        if facts != self._shown:
            self._shown = facts
            self.out.append(Status(facts))

    def _word(self, phase: str) -> str:
        return "refused" if self._fatal else _WORDS[phase]


_WORDS = {
    "waiting": "waiting", "metadata": "connecting", "dialing": "connecting", "hello": "connecting", "spacing": "connecting",
    "counting": "connecting", "identifying": "connecting", "resuming": "resync", "live": "live", "idle": "idle",
}  # fmt: skip
"""Phases as status words, the one that counts most first."""
_TIMERS: dict[str, Callable[[UpstreamHalf, Shard], None]] = {
    "linger": UpstreamHalf._linger_over,
    "load": lambda _, shard: shard.load_over(),
    "renew": lambda _, shard: shard.renew_if_narrow(),
    "hold": lambda _, shard: shard.search.hold_over(),
    "audit": lambda _, shard: shard.search.audit(),
    "pump": lambda _, shard: shard.search.go_on(),
}
_HANDLERS: dict[type[Input], Callable[[UpstreamHalf, Any], None]] = {
    Started: UpstreamHalf._started,
    CredentialSeen: UpstreamHalf._credential_seen,
    Attached: UpstreamHalf._attached,
    Detached: UpstreamHalf._detached,
    Draining: UpstreamHalf._draining,
    MessageFromDownstream: UpstreamHalf._told,
    LinkOpened: UpstreamHalf._link_opened,
    LinkRefused: UpstreamHalf._link_refused,
    LinkClosed: UpstreamHalf._link_closed,
    FramesReceived: UpstreamHalf._frames_received,
    Committed: UpstreamHalf._committed,
    ResponseReceived: UpstreamHalf._answer,
    RequestFailed: UpstreamHalf._answer,
    TimerFired: UpstreamHalf._timer,
}
COUNTERS: Mapping[str, str] = {
    "identifies_upstream": "IDENTIFYs sent to the gateway: new sessions, of which there is a daily budget.",
    "resumes_upstream": "RESUMEs sent to the gateway; they cost nothing.",
    "zombies": "Gateway sockets replaced because a heartbeat was not acknowledged, or came much too late.",
    "suspected_gaps": "Jumps of the gateway's numbers, each looked into by an audit over REST.",
    "backfilled": "Messages found in history over REST and handed to admission.",
}
"""What the upstream side counts: name without `sidecar_` and `_total` -> help text."""
