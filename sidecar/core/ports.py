"""What the engine needs of the world: the journal's view and the ports. The asyncio driver and the simulation implement both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sidecar.core import actions as act
from sidecar.core.events import Moment
from sidecar.core.layout import Batch, Table


class JournalView(Protocol):
    """Synchronous, short reads of committed rows (each its own read transaction; invariant 7)."""

    epoch: str

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The row's value, None if absent."""

    def floor(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        """The row with the greatest key <= `key`, None if there is none."""

    def ceiling(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        """The row with the smallest key >= `key`, None if there is none."""

    def scan(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All rows under a prefix in key order. Only for start-up: materialised, not held open."""


class Ports(Protocol):
    """Everything that reaches outside. No call blocks; answers come back as the engine's inputs."""

    def now(self) -> Moment: ...

    def start_timer(self, key: tuple[str, str], seconds: float) -> None:
        """(Re)start a timer; engine.timer(key) follows."""

    def cancel_timer(self, key: tuple[str, str]) -> None: ...

    def write(self, batch: Batch) -> None:
        """Write one batch; engine.written(error or None) follows. At most one is under way."""

    def read(self, session: str, sid: int, after: int, count: int, size: int) -> None:
        """Read records with offset > after, at most count and about `size` bytes; engine.records(session, runs) follows."""

    def prune(self) -> None:
        """Apply retention soon; engine.pruned(first kept offsets) follows."""

    def open_link(self, account: str, generation: int, action: act.OpenLink) -> None: ...

    def send_link(self, account: str, link: str, frames: Sequence[bytes]) -> None: ...

    def ping_link(self, account: str, link: str, payload: bytes) -> None: ...

    def close_link(self, account: str, link: str, code: int | None) -> None: ...

    def pause_links(self, paused: bool) -> None:
        """Stop or resume reading from all links (the journal is behind)."""

    def request(self, owner: str, action: act.Request) -> None: ...

    def cancel_request(self, owner: str, request: str) -> None: ...

    def conn(self, action: act.Action) -> None:
        """Carry out Accept, Refuse, Tunnel, SendConn, PingConn, CloseConn, AwaitDrain, Respond or Route."""

    def release_exchange(self, ticket: str) -> None:
        """A Route's `hold` ticket is on disk: forward now."""

    def log(self, level: str, text: str, **fields: Any) -> None: ...

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to counter `sidecar_<name>_total`."""
