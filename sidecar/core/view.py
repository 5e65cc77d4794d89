"""What the halves may read synchronously (sidecar.dialects.base.View): the engine's admission and consumers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sidecar.dialects.base import StreamFacts

if TYPE_CHECKING:
    from sidecar.core.engine import Engine


class EngineView:
    """The halves' synchronous view (dialects.base.View) of the engine's admission and consumers."""

    def __init__(self, engine: Engine, keyed_hash: Callable[[str], str]) -> None:
        self._engine = engine
        self.keyed_hash = keyed_hash

    def seen(self, stream: str, domain: str, key: bytes | int) -> bool:
        return self._engine.admission.knows(stream, domain, key)

    def facts(self, stream: str) -> StreamFacts | None:
        book = self._engine.admission.books.get(stream)
        if book is None:
            return None
        return StreamFacts(book.committed, book.committed_ordinal, book.first, book.base, self._engine.journal.epoch)

    def cursor(self, stream: str, consumer: str) -> int | None:
        found = self._engine.courier.consumers.get((stream, consumer))
        return found.cursor if found else None

    def resets(self, stream: str, consumer: str) -> int:
        found = self._engine.courier.consumers.get((stream, consumer))
        return found.resets if found else 0

    def streams(self) -> Sequence[str]:
        return list(self._engine.admission.books)
