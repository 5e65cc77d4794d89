"""The local gateway sockets of this process, by what the half looks for them (discord C1, C5)."""

from __future__ import annotations

from sidecar.dialects.discord.conn import HELD, LIVE, Conn


class Sockets:
    """`by_key`: those that have, or wait for, a session, by its id. A session has one socket at a time."""

    def __init__(self) -> None:
        self._all: dict[str, Conn] = {}
        self.by_key: dict[str, Conn] = {}
        self._serial = 0

    def add(self, conn: Conn) -> None:
        self._all[conn.name] = conn

    def keep(self, conn: Conn) -> None:
        """It has its session's key from now on."""
        self.by_key[conn.key] = conn

    def remove(self, conn: Conn) -> None:
        self._all.pop(conn.name, None)
        self.by_key.pop(conn.key, None)

    def get(self, name: str) -> Conn | None:
        return self._all.get(name)

    def all(self) -> list[Conn]:
        return list(self._all.values())

    def tokens(self) -> set[str]:
        """Tokens of all agents that are here."""
        return {conn.token for conn in self._all.values()} - {""}

    def of_token(self, token: str) -> list[Conn]:
        return [conn for conn in self._all.values() if conn.token == token]

    def of_account(self, account: str) -> list[Conn]:
        return [conn for conn in self._all.values() if conn.account == account]

    def held(self, account: str, shard: str) -> list[Conn]:
        """Those whose IDENTIFY waits for this shard."""
        return [conn for conn in self._all.values() if (conn.account, conn.shard, conn.state) == (account, shard, HELD)]

    def live(self, stream: str) -> list[Conn]:
        """Those that are handed this stream's events."""
        return [conn for conn in self._all.values() if conn.state == LIVE and conn.session is not None and conn.session.stream == stream]

    def attach(self, conn: Conn, stream: str) -> list[Conn]:
        """It is handed events from now on, as the newest of its stream; returns the older ones."""
        older = [other for other in self.live(stream) if other is not conn]
        self._serial += 1
        conn.serial = self._serial
        conn.state = LIVE
        return older

    def is_old(self, conn: Conn) -> bool:
        """Is there a newer one for its stream?"""
        return conn.state == LIVE and conn.session is not None and any(c.serial > conn.serial for c in self.live(conn.session.stream))
