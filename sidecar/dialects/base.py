"""What a dialect is to the core: a name, its settings, and two halves built on a common seam (sidecar.core.events/actions).

A half is a plain object with `handle(moment, input) -> list of actions`. It may keep state of its own, but what must survive
goes through PutState in the same Commit as the events it belongs to. It may read the synchronous `View`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from sidecar.core.actions import Action
from sidecar.core.events import Head, Input, Moment

HttpError = tuple[int, Sequence[tuple[str, str]], bytes]


class StreamFacts(msgspec.Struct, frozen=True):
    """A stream as committed: `head`: last offset; `ordinal`: events so far; `first`: oldest offset kept (head + 1: none);
    `base`: Unix milliseconds at birth; `epoch`: the journal's."""

    head: int
    ordinal: int
    first: int
    base: int
    epoch: str


class View(Protocol):
    """Synchronous reads a half may make: answers are as of the last commit, but `seen` knows admitted keys at once."""

    def seen(self, stream: str, domain: str, key: bytes | int) -> bool:
        """Is this event key remembered in the domain?"""

    def facts(self, stream: str) -> StreamFacts | None:
        """A stream's facts, None if there is no such stream."""

    def cursor(self, stream: str, consumer: str) -> int | None:
        """A consumer's cursor (offset), None if it was never seen."""

    def resets(self, stream: str, consumer: str) -> int:
        """How often the operator has set this consumer to another place: a position an agent states from before counts no more."""

    def streams(self) -> Sequence[str]:
        """Names of all streams of this journal."""

    def keyed_hash(self, secret: str) -> str:
        """A hash of a secret under the data directory's own key: what may stand on disk for a credential (invariant 10)."""


class Half(Protocol):
    """Either half of a dialect."""

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        """Take one input, return what to do about it. Never raises for bad peers: that is a state, not an error."""


class Dialect(Protocol):
    """One package under sidecar.dialects, found by the registry as its `DIALECT`."""

    name: str
    default_upstream: str | None
    linger_s: float
    variables: tuple[Any, ...]
    counters: Mapping[str, str]
    """Own counters: name (without `sidecar_` and `_total`) -> help text."""

    def settings_for(self, values: Mapping[str, Any]) -> Any:
        """The dialect's frozen settings struct from parsed variables."""

    def upstream(self, account: str, settings: Any, view: View) -> Half:
        """A new upstream half for an account. `settings`: sidecar.config.Settings."""

    def downstream(self, settings: Any, view: View) -> Half:
        """The downstream half of this process."""

    def unavailable(self, message: str) -> HttpError:
        """The upstream's own error envelope for 'upstream unreachable': status, headers, body."""

    @property
    def rewrites(self) -> Mapping[str, Callable[[Head, int, Sequence[tuple[str, str]], bytes], bytes]]:
        """Functions that Route(rewrite=…) may name: (request head, status, headers, body) -> body."""
