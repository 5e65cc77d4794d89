"""The sidecar's own gateway sessions (discord R13, R15, R16): ids, and numbers from which a journal offset can be computed.

`s = k + (offset − base)`: the snapshot (READY and the guilds) takes 1 to k, the event behind the journal offset `base` is k + 1. What
an agent may not see takes its number all the same, so that a `seq` names an offset for good, also after a restart of ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from sidecar.core import actions as act
from sidecar.dialects.base import View
from sidecar.dialects.discord.identity import Identities, bare

CONSUMER = "agent"
"""The one consumer that a stream has for agents."""
KEPT = 64
"""Sessions remembered per stream, besides those that are connected."""


def stream_of(account: str, shard: str) -> str:
    """The stream of a bot's shard (`i/n`)."""
    return f"discord:{account}:{shard}"


class Session(msgspec.Struct, frozen=True):
    """One session. `token`: keyed hash of the token that it was made for; `shard`: `i/n`; `resets`: how often the operator had set the
    consumer to another place when it began."""

    id: str
    account: str
    shard: str
    token: str
    intents: int
    base: int
    k: int
    resets: int = 0

    @property
    def stream(self) -> str:
        """The stream it reads."""
        return stream_of(self.account, self.shard)

    def seq(self, offset: int) -> int:
        """The number of the event at a journal offset."""
        return self.k + offset - self.base

    def offset(self, seq: Any) -> int | None:
        """The journal offset that a stated number names; None: it lies within the snapshot, or is no number."""
        if not isinstance(seq, int) or isinstance(seq, bool) or seq < self.k:
            return None
        return self.base + seq - self.k

    def is_taken_back(self, view: View) -> bool:
        """Has the operator set the consumer to another place since? What its agent states would undo that."""
        return self.resets != view.resets(self.stream, CONSUMER)


class Sessions:
    """All sessions that may be resumed. `state`: rows `session:<id>` of earlier runs."""

    def __init__(self, state: Mapping[str, bytes]) -> None:
        self._known: dict[str, Session] = {}
        self._born: dict[str, float] = {}
        rows = [value for key, value in state.items() if key.startswith("session:")]
        found = sorted((msgspec.json.decode(row, type=_Row) for row in rows), key=lambda row: row.born)
        for row in found:
            self._known[row.session.id] = row.session
            self._born[row.session.id] = row.born

    def get(self, session_id: Any) -> Session | None:
        """The session of that id, if it is one of ours."""
        return self._known.get(session_id) if isinstance(session_id, str) else None

    def resumable(self, d: Any, identities: Identities, view: View) -> tuple[Session, int, str] | None:
        """What a RESUME's `d` names (R16): the session, the offset behind which its agent goes on, the token; None: op 9."""
        if not isinstance(d, dict) or not isinstance(d.get("token"), str):
            return None
        token = bare(d["token"])
        session = self.get(d.get("session_id"))
        if session is None or session.token != identities.hash(token) or identities.account(token) != session.account:
            return None
        offset, facts = session.offset(d.get("seq")), view.facts(session.stream)
        if offset is None or facts is None or not facts.first - 1 <= offset <= facts.head or session.is_taken_back(view):
            return None
        return session, offset, token

    def add(self, session: Session, wall: float, live: Collection[str]) -> list[act.Op]:
        """Remember a session from `wall` (Unix seconds) on; the oldest of its stream that are not in `live` make room."""
        self._known[session.id] = session
        self._born[session.id] = wall
        ops: list[act.Op] = [act.PutState("session:" + session.id, msgspec.json.encode(_Row(wall, session)))]
        same = [s.id for s in self._known.values() if s.stream == session.stream and s.id not in live and s.id != session.id]
        for old in same[: max(0, len(same) - KEPT + 1)]:
            ops += self.drop(old)
        return ops

    def base(self, stream: str, since: float) -> int | None:
        """Where the first of a stream's sessions that began later than `since` (Unix seconds) stands: for an agent of which no cursor
        reached the disk, since a kill came between its session's row and its first receipt."""
        return min((s.base for s in self._known.values() if s.stream == stream and self._born[s.id] > since), default=None)

    def drop(self, session_id: str) -> list[act.Op]:
        """Forget a session: a RESUME of it is refused."""
        self._born.pop(session_id, None)
        if self._known.pop(session_id, None) is None:
            return []
        return [act.PutState("session:" + session_id, None)]


class _Row(msgspec.Struct, frozen=True):
    """A session as kept. `born`: Unix seconds."""

    born: float
    session: Session
