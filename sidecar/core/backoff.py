"""Full-jitter backoff: how long to wait before the next attempt."""

from __future__ import annotations


class Backoff:
    """Delays drawn from [0, cap), the cap doubling with each failure from `first` to `longest` seconds.

    Call `reset` only on proof of health (an acknowledgement, an event), never on a mere open: a server that accepts and drops
    at once must not be dialled in a tight loop."""

    def __init__(self, first: float = 0.2, longest: float = 30.0) -> None:
        self.first = first
        self.longest = longest
        self.failures = 0

    def next(self, random: float) -> float:
        """Seconds to wait; `random` is one draw from [0, 1). Never below half of `first`, so that no loop is tight."""
        cap = min(self.longest, self.first * (1 << min(self.failures, 20)))
        self.failures += 1
        return max(self.first / 2, cap * random)

    def reset(self) -> None:
        """Health was proven."""
        self.failures = 0
