"""How events flow on one socket and what proves that they were taken (discord R15, R17, R18).

A ping behind each 64 frames and behind the last is the barrier that keeps the window moving; a heartbeat's `d` says the same. Only
an agent that answers no pings, or whose pongs prove little, is asked for a heartbeat (op 1) a second after the last event.
"""

from __future__ import annotations

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.discord.conn import LIVE, Conn
from sidecar.dialects.discord.encoder import frame

ACK = frame(11)
BEAT_NOW = frame(1)

PART = 64
"""Frames between two pings."""
REST_S = 1.0
ASK_AGAIN_S = 3.0
"""Between two op 1: twenty a minute."""


def hand_over(conn: Conn, event: ev.RecordsReady, now: float) -> list[act.Action]:
    """Records as frames, numbered, with their barriers; gaps and what the agent did not ask for are passed over."""
    session, encoder = conn.session, conn.encoder
    if session is None or encoder is None:
        return []
    actions: list[act.Action] = []
    frames: list[bytes] = []
    behind = conn.handed
    base = session.seq(0)
    for run in event.runs:
        if run.is_gap:
            continue
        for offset, payload in enumerate(run.payloads, run.offset):
            sent = encoder.encode(payload, base + offset)
            if sent is None:
                continue
            frames.append(sent)
            conn.last_s = base + offset
            if len(frames) == PART:
                actions += [conn.send(frames), _barrier(conn, offset)]
                frames, behind = [], offset
    conn.handed = event.barrier
    if frames:
        actions.append(conn.send(frames))
    if behind != event.barrier:
        actions.append(_barrier(conn, event.barrier))
    conn.sent_at = now
    if not conn.resting:
        conn.resting = True
        actions.append(act.StartTimer("rest:" + conn.name, REST_S))
    return actions


def begin(conn: Conn, offset: int) -> act.Action:
    """Events behind `offset` come next on this socket. A ping shows at once whether its client answers them."""
    conn.handed = conn.taken = offset
    return _barrier(conn, offset)


def _barrier(conn: Conn, offset: int) -> act.Action:
    return act.PingConn(conn.name, conn.barrier.payload(offset))


def pong(conn: Conn, payload: bytes, now: float) -> list[act.Action]:
    """A pong: what stands before its ping was taken."""
    conn.heard_at(now)
    offset = conn.barrier.pong(payload)
    if offset is None or offset <= conn.taken:
        return []
    conn.taken = offset
    return [act.Receipt(conn.name, offset)]


def beat(conn: Conn, d: object) -> list[act.Action]:
    """A heartbeat: acknowledged whatever else goes on (R11); its `d` is a receipt for what was sent on this socket."""
    conn.asked = False
    actions: list[act.Action] = [conn.send([ACK])]
    offset = _proven(conn, d)
    if offset > conn.taken:
        conn.taken = offset
        # What a weak stack's pong does not prove, the number that its application counted does.
        actions.append(act.ClientCursor(conn.name, offset) if conn.weak else act.Receipt(conn.name, offset))
    return actions


def _proven(conn: Conn, seq: object) -> int:
    """The offset that an `s` stated on this socket proves, 0 if none."""
    if conn.state != LIVE or conn.session is None or not isinstance(seq, int) or isinstance(seq, bool) or seq > conn.last_s:
        return 0
    # Behind the last one that was sent stand only events which this agent does not see.
    return conn.handed if seq == conn.last_s else conn.session.offset(seq) or 0


def rest(conn: Conn, now: float) -> list[act.Action]:
    """The socket's rest timer: ask for what is still without a receipt, one question at a time. One that answers pings is busy: it could
    not answer this sooner either, and would count the beat as unanswered while it does not read."""
    timer = "rest:" + conn.name
    if conn.taken >= conn.handed or (conn.barrier.works and not conn.weak):
        conn.resting = False
        return []
    wait = conn.sent_at + REST_S - now
    if wait > 0:
        return [act.StartTimer(timer, wait)]
    again = act.StartTimer(timer, ASK_AGAIN_S)
    if conn.asked:
        # It has not answered the last one: they would all wait for it when it wakes up.
        return [again]
    conn.asked = True
    return [conn.send([BEAT_NOW]), again]
