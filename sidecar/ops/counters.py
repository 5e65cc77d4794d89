"""Counters and gauges of one process: plain numbers, cheap to add to, rendered by sidecar.ops.metrics."""

from __future__ import annotations

Labels = tuple[tuple[str, str], ...]


class Counters:
    """Counts by name and labels. Not thread safe: the event loop's own."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, Labels], int] = {}

    def add(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to counter `sidecar_<name>_total`."""
        key = (name, tuple(sorted(labels.items())))
        self.values[key] = self.values.get(key, 0) + by

    def total(self, name: str) -> int:
        """A counter over all labels."""
        return sum(value for (key, _), value in self.values.items() if key == name)
