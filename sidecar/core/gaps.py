"""The book of gaps: how many each stream has, and the last few, kept with the records that they are (invariant 6)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from sidecar.core import layout
from sidecar.core.actions import RecordGap
from sidecar.core.layout import Batch, Table
from sidecar.core.ports import JournalView, Ports

LAST_GAPS = 20


class GapRow(msgspec.Struct):
    """A stream's gaps so far: how many, and the last few as shown on the status page."""

    count: int = 0
    last: list[dict[str, Any]] = []


class GapBook(dict[str, GapRow]):
    """Gaps by stream. Every gap is counted, logged and shown once it is on disk."""

    def load(self, journal: JournalView, streams: Iterable[str]) -> None:
        """Begin anew from what is on disk."""
        self.clear()
        for name in streams:
            if row := journal.get(Table.STATE, layout.state_key("gaps", name)):
                self[name] = msgspec.json.decode(row, type=GapRow)

    def note(self, op: RecordGap, wall: float, batch: Batch) -> None:
        """A gap goes into the open batch; `wall`: Unix seconds."""
        row = self.setdefault(op.stream, GapRow())
        row.count += 1
        shown = msgspec.to_builtins(op.gap) | {"wall": round(wall, 3)}
        row.last = [*row.last, shown][-LAST_GAPS:]
        batch.put(Table.STATE, layout.state_key("gaps", op.stream), msgspec.json.encode(row))

    def tell(self, op: RecordGap, ports: Ports) -> None:
        """A gap is on disk: count and log it."""
        gap = op.gap
        ports.count("gaps", stream=op.stream, reason=gap.reason)
        ports.log(
            "warning",
            "gap: events are missing and nothing upstream can still give them",
            stream=op.stream,
            domain=op.domain or None,
            reason=gap.reason,
            unit=gap.unit,
            first=gap.from_,
            last=gap.to,
            missing=gap.count,
            detail=gap.detail or None,
        )
