"""The WebSocket ping as a barrier: which pong proves what on one connection, and how a client shows that its pongs prove nothing.

RFC 6455 section 5.5.3: a pong echoes the ping's payload, and frames arrive in order, so the pong of a ping behind a batch says that the
client's stack went past the batch. Pongs are cumulative. A payload that was not sent on this connection credits nothing (invariant 5).
"""

from __future__ import annotations

WRONG_PONGS = 3


class PingBarrier:
    """Barriers of one connection. `nonce`: makes its payloads unlike any other connection's; `works`: a right pong was seen."""

    __slots__ = ("_last", "_nonce", "works", "wrong")

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce.encode()[:32]
        self._last = -1
        self.works = False
        self.wrong = 0

    def payload(self, offset: int) -> bytes:
        """The ping payload that names a barrier (at most 125 bytes)."""
        self._last = max(self._last, offset)
        return b"%s:%d" % (self._nonce, offset)

    def pong(self, payload: bytes) -> int | None:
        """The offset that a pong proves, None if it proves nothing."""
        nonce, _, digits = payload.rpartition(b":")
        if nonce == self._nonce and digits.isdigit() and int(digits) <= self._last:
            self.works = True
            return int(digits)
        if payload or not self.works:
            self.wrong += 1
        return None

    @property
    def useless(self) -> bool:
        """This client answers pings, but with payloads that prove nothing."""
        return not self.works and self.wrong >= WRONG_PONGS
