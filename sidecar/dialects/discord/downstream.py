"""The Discord downstream half: looks like the gateway to an unmodified agent (discord R1 to R24, C1 to C15).

Life of a conn: NEW (HELLO at once, every beat acknowledged) -> IDENTIFY: HELD until the token is proven and the upstream's half has a
snapshot -> WRITTEN until our session's row is on disk -> POURED: READY and the guilds go out -> LIVE: records come. RESUME of a session
that is known leads from NEW to LIVE at once. A conn leaves with a close code of ours, or by itself; its session stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.base import View
from sidecar.dialects.discord import asked, flow, rest
from sidecar.dialects.discord.asked import Asked
from sidecar.dialects.discord.conn import HELD, LIVE, NEW, POURED, WRITTEN, Conn
from sidecar.dialects.discord.encoder import Encoder, frame
from sidecar.dialects.discord.gate import Gate
from sidecar.dialects.discord.identity import BAD_TOKEN, bare
from sidecar.dialects.discord.intents import Allowance
from sidecar.dialects.discord.sessions import CONSUMER, Session, Sessions, stream_of
from sidecar.dialects.discord.snapshot import snapshot
from sidecar.dialects.discord.sockets import Sockets

RECONNECT = frame(7)
INVALID = frame(9, False)

COME_BACK, NOT_IDENTIFIED, ALREADY, TOO_FAST = 4000, 4003, 4005, 4008
MAX_EARLY = 120
PART_BYTES = 1 << 20
"""Of a snapshot, before the socket has taken it in."""
ASK_S = 5.0
ROW_S = 0.8
"""A READY does not wait longer for its session's row: with a full disk it goes out without."""
MUTE_S = 30.0
NEVER_S = 600.0
LEAVE_S = 0.25


class DownstreamHalf:
    """One a process."""

    def __init__(self, settings: Any, view: View) -> None:
        self._view = view
        self._hello = frame(10, {"heartbeat_interval": settings.knobs.heartbeat_ms})
        self._silent_s = settings.knobs.heartbeat_ms / 1000 * 1.5 + 10
        self._media = settings.knobs.media == "local"
        self._gate = Gate(view, settings.knobs.shards)
        self._sessions = Sessions({})
        self._sockets = Sockets()
        self._moment = ev.Moment(0.0, 0.0, 0.0)
        self._forget_s = settings.retention_s
        self._stopping = False

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        """One input; see `sidecar.dialects.base.Half`."""
        self._moment = moment
        handler = self._INPUTS.get(type(event))
        return handler(self, event) if handler else ()

    # --- start and identity ----------------------------------------------------------------------------------------------------

    def _started(self, event: ev.Started) -> list[act.Action]:
        self._sessions = Sessions(event.state)
        return self._gate.started(event)

    def _answered(self, event: ev.ResponseReceived | ev.RequestFailed) -> list[act.Action]:
        outcome, actions = self._gate.answered(event, self._sockets.tokens())
        if outcome is None:
            return actions
        if outcome.verdict == "yes":
            for conn in self._sockets.of_token(outcome.token):
                actions += self._own(conn, outcome.account) if not conn.account else []
        elif outcome.verdict == "no":
            actions += self._refuse(outcome.token, "", BAD_TOKEN)
        return actions

    def _refuse(self, token: str, account: str, code: int) -> list[act.Action]:
        """The upstream said no (R22): to a token (4004), or to its whole identity."""
        those = self._sockets.of_token(token) if code == BAD_TOKEN else self._sockets.of_account(account)
        self._gate.refusals.note(token, account, code, frozenset(c.intents for c in those), self._moment.mono)
        return [action for conn in those for action in self._close(conn, code)]

    # --- what the upstream half says ----------------------------------------------------------------------------------------------

    def _told(self, event: ev.MessageFromUpstream) -> list[act.Action]:
        message = event.message
        if "snapshot" in message:
            conn = self._sockets.by_key.get(message["snapshot"])
            if conn is None or conn.state != HELD or message.get("ready") is None:
                return []
            return self._begin(conn, message)
        if "began" in message:
            # What was told to an earlier half is lost if the disk did not take it.
            return [action for conn in self._sockets.of_account(event.account) for action in self._introduce(conn)]
        if "ready" in message:
            return [self._ask(conn) for conn in self._sockets.held(event.account, message["ready"])]
        if "refused" in message:
            token, code = bare(message["refused"]), message["code"]
            forgotten = self._gate.identities.forget(token) if code == BAD_TOKEN else []
            refused = self._refuse(token, event.account, code)
            # Whoever is here with another token leads the upstream from now on.
            return [*forgotten, *refused, *self._gate.held_by(event.account), *map(self._lead, self._sockets.of_account(event.account))]
        if "chunk" in message:
            conn = self._sockets.by_key.get(message["chunk"])
            sent = conn.encoder.encode(message["frame"], conn.last_s) if conn is not None and conn.encoder else None
            return [conn.send([sent])] if conn is not None and sent is not None else []
        if "live" in message:
            return self._live_only(stream_of(event.account, message["live"]), message["frame"])
        if "metadata" in message:
            return self._gate.shards.learn(event.account, message["metadata"]["shards"])
        return []

    def _live_only(self, stream: str, payload: bytes) -> list[act.Action]:
        """Typing and the like: to whoever asked for it, under the last `s` again (R15)."""
        actions: list[act.Action] = []
        for conn in self._sockets.live(stream):
            sent = conn.encoder.encode(payload, conn.last_s) if conn.encoder else None
            if sent is not None:
                actions += conn.send_live(sent)
        return actions

    # --- conns ---------------------------------------------------------------------------------------------------------------------

    def _opened(self, event: ev.ConnOpened) -> list[act.Action]:
        moment = self._moment
        nonce = self._view.keyed_hash(f"{event.conn}/{moment.mono}/{moment.random}")
        conn = Conn(event.conn, event.head, nonce[:16], moment.mono)
        if conn.refusal:
            return [act.Accept(conn.name), act.CloseConn(conn.name, conn.refusal)]
        if self._stopping:
            return [act.Accept(conn.name), conn.send([self._hello, RECONNECT]), act.CloseConn(conn.name, COME_BACK)]
        self._sockets.add(conn)
        conn.key = self._view.keyed_hash(f"session/{event.conn}/{moment.wall}/{moment.mono}/{moment.random}")[:32]
        return [act.Accept(conn.name), conn.send([self._hello]), act.StartTimer("watch:" + conn.name, MUTE_S)]

    def _close(self, conn: Conn, code: int, *last: bytes) -> list[act.Action]:
        return [*([conn.send(last)] if last else []), *self._forget(conn), act.CloseConn(conn.name, code)]

    def _forget(self, conn: Conn) -> list[act.Action]:
        self._sockets.remove(conn)
        actions: list[act.Action] = [act.CancelTimer(f"{kind}:{conn.name}") for kind in ("watch", "ask", "row", "rest", "leave")]
        return [*actions, act.Detach(conn.name)] if conn.state == LIVE else actions

    def _closed(self, event: ev.ConnClosed) -> list[act.Action]:
        """Whatever its code (R20): the session and the cursor stay."""
        conn = self._sockets.get(event.conn)
        return self._forget(conn) if conn else []

    def _ousted(self, event: ev.Ousted) -> list[act.Action]:
        conn = self._sockets.get(event.session)
        return self._expel(conn) if conn is not None else []

    def _expel(self, conn: Conn) -> list[act.Action]:
        """To begin anew an agent must IDENTIFY: a RESUME would state the cursor that the operator took back."""
        if conn.session is None:
            return []
        forgotten = self._sessions.drop(conn.session.id)
        return [*([act.Commit(forgotten)] if forgotten else []), *self._close(conn, COME_BACK, INVALID)]

    # --- what agents send ------------------------------------------------------------------------------------------------------------

    def _frames(self, event: ev.ConnFrames) -> list[act.Action]:
        actions: list[act.Action] = []
        for data in event.frames:
            conn = self._sockets.get(event.conn)
            if conn is None:
                break
            conn.heard_at(self._moment.mono)
            actions += self._frame(conn, data)
        return actions

    def _frame(self, conn: Conn, data: bytes) -> list[act.Action]:
        got = conn.read(data)
        if isinstance(got, int):
            return self._close(conn, got)
        if got.op == asked.BEAT:
            return flow.beat(conn, got.d)
        if got.op == asked.IDENTIFY:
            return self._identify(conn, got.d)
        if got.op == asked.RESUME:
            return self._resume(conn, got.d)
        if conn.state not in (POURED, LIVE):
            conn.early.append((got, data))
            return self._close(conn, TOO_FAST) if len(conn.early) > MAX_EARLY else []
        return [self._command(conn, got, data)]

    def _command(self, conn: Conn, got: Asked, data: bytes) -> act.Action:
        """R21: to the upstream half, which sends it within the upstream's limits."""
        if got.op == asked.PRESENCE:
            conn.presence = got.d
            return self._tell(conn, presence=got.d)
        return self._tell(conn, command=bytes(data), **{"from": conn.key})

    def _tell(self, conn: Conn, **message: Any) -> act.Tell:
        return act.Tell({**message, "shard": conn.shard}, conn.account)

    # --- IDENTIFY --------------------------------------------------------------------------------------------------------------------

    def _identify(self, conn: Conn, d: Any) -> list[act.Action]:
        if conn.state != NEW:
            return self._close(conn, ALREADY)
        wanted = asked.identify(d)
        if isinstance(wanted, int):
            return self._close(conn, wanted)
        conn.token, conn.intents, conn.presence = wanted.token, wanted.intents, wanted.presence
        if wanted.shard is not None:
            conn.asked_shard, conn.shard = wanted.shard, f"{wanted.shard[0]}/{wanted.shard[1]}"
        account = self._gate.identities.account(conn.token)
        if code := self._gate.refusals.code(conn.token, account, conn.intents, self._moment.mono):
            return self._close(conn, code)
        conn.state = HELD
        self._sockets.keep(conn)
        return [*(self._own(conn, account) if account else []), *self._gate.identities.ask(conn.token)]

    def _own(self, conn: Conn, account: str) -> list[act.Action]:
        """The token is proven: its upstream is held from now on, and asked what this agent must know first."""
        conn.account = account
        return [self._lead(conn), *self._introduce(conn), act.StartTimer("ask:" + conn.name, ASK_S)]

    def _introduce(self, conn: Conn) -> list[act.Action]:
        """What its upstream half must know of an agent."""
        actions: list[act.Action] = [self._tell(conn, intents=conn.intents)]
        if conn.presence is not None:
            actions.append(self._tell(conn, presence=conn.presence))
        return [*actions, self._ask(conn)] if conn.state == HELD else actions

    def _lead(self, conn: Conn) -> act.Action:
        return act.Own(conn.account, conn.token, str(conn.intents), [stream_of(conn.account, conn.shard)])

    def _ask(self, conn: Conn) -> act.Action:
        return self._tell(conn, snapshot=conn.key)

    def _encoder(self, conn: Conn) -> Encoder:
        return Encoder(Allowance(conn.intents, conn.account), rest.origin_of(conn.host) if self._media else "")

    def _begin(self, conn: Conn, message: dict[str, Any]) -> list[act.Action]:
        """R13, R19: a session that starts behind the last receipt, or at the snapshot for an agent that was never here."""
        stream = stream_of(conn.account, conn.shard)
        cursor = self._view.cursor(stream, CONSUMER)
        base = message["offset"] if cursor is None else cursor
        if cursor is None and (facts := self._view.facts(stream)):
            begun = self._sessions.base(stream, self._moment.wall - self._forget_s)
            base = base if begun is None else max(min(begun, facts.head), facts.first - 1)
        encoder = conn.encoder = self._encoder(conn)
        url = rest.gateway_url(conn.host)
        ready, guilds = message["ready"], message["guilds"]
        conn.pending = snapshot(ready, guilds, session_id=conn.key, url=url, shard=conn.asked_shard, encoder=encoder)
        hashed = self._gate.identities.hash(conn.token)
        resets = self._view.resets(stream, CONSUMER)
        conn.session = Session(conn.key, conn.account, conn.shard, hashed, conn.intents, base, len(conn.pending), resets)
        conn.state = WRITTEN
        row = self._sessions.add(conn.session, self._moment.wall, self._sockets.by_key)
        timers = [act.CancelTimer("ask:" + conn.name), act.StartTimer("row:" + conn.name, ROW_S)]
        return [*timers, act.Commit(row, "session:" + conn.key)]

    def _committed(self, event: ev.Committed) -> list[act.Action]:
        conn = self._sockets.by_key.get(event.ticket.removeprefix("session:"))
        return self._pour(conn) if conn is not None and conn.state == WRITTEN else []

    def _pour(self, conn: Conn) -> list[act.Action]:
        """READY and the guilds, in parts that the socket takes in; behind them the journal."""
        actions: list[act.Action] = []
        if conn.state == WRITTEN:
            conn.state = POURED
            actions += [act.CancelTimer("row:" + conn.name), act.Count("identifies"), *self._late(conn)]
        size = count = 0
        while count < len(conn.pending) and size < PART_BYTES:
            size += len(conn.pending[count])
            count += 1
        part, conn.pending = conn.pending[:count], conn.pending[count:]
        conn.last_s += count
        actions.insert(0, conn.send(part))
        if conn.pending:
            return [*actions, act.AwaitDrain(conn.name, "pour")]
        assert conn.session is not None
        if conn.session.is_taken_back(self._view):
            return actions + self._expel(conn)
        return actions + self._attach(conn, conn.session.base)

    def _late(self, conn: Conn) -> list[act.Action]:
        early, conn.early = conn.early, []
        return [self._command(conn, got, data) for got, data in early]

    def _attach(self, conn: Conn, offset: int, mark: str = "") -> list[act.Action]:
        assert conn.session is not None
        stream = conn.session.stream
        # Older ones stay (C5), but from now on their silence is looked at.
        actions = [action for older in self._sockets.attach(conn, stream) for action in self._watch(older)]
        quality: act.Quality = "buffered" if conn.weak else "handled"
        attach = act.Attach(conn.name, stream, CONSUMER, conn.account, fresh="head", after=offset, mark=mark, quality=quality)
        return [*actions, flow.begin(conn, offset), attach]

    # --- RESUME ------------------------------------------------------------------------------------------------------------------------

    def _resume(self, conn: Conn, d: Any) -> list[act.Action]:
        """R16: exact, or not at all."""
        if conn.state != NEW:
            return self._close(conn, ALREADY)
        found = self._sessions.resumable(d, self._gate.identities, self._view)
        if found is None:
            return [act.Count("refused_resumes"), conn.send([INVALID])]
        session, offset, token = found
        if code := self._gate.refusals.code(token, session.account, session.intents, self._moment.mono):
            return self._close(conn, code)
        actions: list[act.Action] = [act.Count("resumes")]
        previous = self._sockets.by_key.get(session.id)
        if previous is not None:
            actions += self._close(previous, COME_BACK)
        conn.token, conn.account, conn.shard, conn.intents = token, session.account, session.shard, session.intents
        conn.session, conn.key, conn.last_s = session, session.id, d["seq"]
        self._sockets.keep(conn)
        conn.encoder = self._encoder(conn)
        actions += [self._lead(conn), self._tell(conn, intents=conn.intents), *self._gate.identities.ask(token)]
        actions += self._attach(conn, offset, "resume")
        return [*actions, act.ClientCursor(conn.name, offset), *self._late(conn)]

    def _sought(self, event: ev.SeekDone) -> list[act.Action]:
        conn = self._sockets.get(event.session)
        return [conn.send([frame(0, {}, conn.last_s, "RESUMED")])] if conn else []

    # --- delivery and receipts -----------------------------------------------------------------------------------------------------

    def _records(self, event: ev.RecordsReady) -> list[act.Action]:
        conn = self._sockets.get(event.session)
        return flow.hand_over(conn, event, self._moment.mono) if conn else []

    def _pong(self, event: ev.ConnPong) -> list[act.Action]:
        conn = self._sockets.get(event.conn)
        return flow.pong(conn, event.payload, self._moment.mono) if conn else []

    # --- time ------------------------------------------------------------------------------------------------------------------------

    def _timer(self, event: ev.TimerFired) -> list[act.Action]:
        kind, _, name = event.timer.partition(":")
        if kind == "verify":
            return self._gate.ask_again(self._sockets.tokens())
        conn = self._sockets.get(name)
        if conn is None:
            return []
        if kind == "watch":
            return self._watch(conn)
        if kind == "rest":
            return flow.rest(conn, self._moment.mono)
        if kind == "ask" and conn.state == HELD:
            return [*self._introduce(conn), act.StartTimer(event.timer, ASK_S)]
        if kind == "row" and conn.state == WRITTEN:
            return self._pour(conn)
        return self._close(conn, COME_BACK) if kind == "leave" else []

    def _watch(self, conn: Conn) -> list[act.Action]:
        """C2: a mute socket is told of and, much later, closed. C5: an old one that is silent is closed."""
        now = self._moment.mono
        timer = "watch:" + conn.name
        if conn.state == NEW:
            if now - conn.opened >= NEVER_S:
                return self._close(conn, NOT_IDENTIFIED)
            told: list[act.Action] = [act.Count("mute_sockets"), act.Log("warning", "a socket has not identified for 30 s")]
            return [*told, act.StartTimer(timer, conn.opened + NEVER_S - now)]
        limit = self._silent_s if self._sockets.is_old(conn) else NEVER_S
        if now - conn.heard >= limit:
            return self._close(conn, COME_BACK)
        return [act.StartTimer(timer, conn.heard + limit - now)]

    def _drained(self, event: ev.ConnDrained) -> list[act.Action]:
        conn = self._sockets.get(event.conn)
        return self._pour(conn) if conn is not None and conn.state == POURED and conn.pending else []

    def _drain(self, _: ev.Draining) -> list[act.Action]:
        """R24: the engine says so once receipts are on disk. Some clients inflate behind their close handler: op 7 goes ahead."""
        self._stopping = True
        conns = self._sockets.all()
        return [a for conn in conns for a in (conn.send([RECONNECT]), act.StartTimer("leave:" + conn.name, LEAVE_S))]

    # --- plain HTTP ------------------------------------------------------------------------------------------------------------------

    def _http(self, event: ev.HttpRequested) -> list[act.Action]:
        return self._gate.requested(event, media=self._media, now=self._moment.mono)

    _INPUTS: dict[type, Callable[[DownstreamHalf, Any], list[act.Action]]] = {
        ev.RecordsReady: _records,
        ev.ConnPong: _pong,
        ev.ConnFrames: _frames,
        ev.ConnOpened: _opened,
        ev.ConnClosed: _closed,
        ev.ConnDrained: _drained,
        ev.Ousted: _ousted,
        ev.SeekDone: _sought,
        ev.Committed: _committed,
        ev.TimerFired: _timer,
        ev.ResponseReceived: _answered,
        ev.RequestFailed: _answered,
        ev.MessageFromUpstream: _told,
        ev.HttpRequested: _http,
        ev.Started: _started,
        ev.Draining: _drain,
    }
