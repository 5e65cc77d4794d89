"""The one place where the benchmarks reach into the sidecar; everything else measures it from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.errors import NotConnected

# Classify and admit these frames in order; how many were new. State stays between calls, so that a warm-up counts.
Admit = Callable[[Sequence[bytes]], int]
# The same, journaled, in commits of the given number of frames; returns after the last commit.
AdmitToJournal = Callable[[Sequence[bytes], int], int]

REMEMBERED = 100_000


def sidecar_admit() -> Admit:
    """A fresh admission of one Relaycast stream that remembers `REMEMBERED` events, both ids in the key, no journal."""
    raise NotConnected("the sidecar's admission is not connected here yet: benchmarks/subject.py, sidecar_admit")


def sidecar_journal(directory: str) -> AdmitToJournal:
    """The same in front of a new journal in `directory`, durability `power`."""
    raise NotConnected("the sidecar's journal is not connected here yet: benchmarks/subject.py, sidecar_journal")
