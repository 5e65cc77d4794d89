"""A playbook: a half's test that reads as a dialogue, inputs in and expected actions out, at fixed moments.

    book = Playbook(half)
    book.send(ConnOpened("c1", head))
    book.expect(Accept, conn="c1")
    book.expect(SendConn, frames=[json_with(op=10)])
    book.wait(2.5).send(TimerFired("beat"))
    book.done()

`expect` takes the next action in order and compares only the fields that are named. A value may be a literal, a type, a function
of one argument (true: fits), a pattern (`like`, `json_with`) or a list of these. `send` and `done` fail if actions are left that
nobody expected. Log, Status and Count are passed over unless they are what is expected. What fails shows the dialogue so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from sidecar.core.actions import Action, Count, Log, Status
from sidecar.core.events import Input, Moment
from sidecar.dialects.base import Half, StreamFacts

A = TypeVar("A", bound=Action)

QUIET: tuple[type[Action], ...] = (Log, Status, Count)


class Pattern:
    """A named test of one value; the name is what a failure shows."""

    def __init__(self, text: str, fits: Callable[[Any], bool]) -> None:
        self.text = text
        self.fits = fits

    def __repr__(self) -> str:
        return self.text


def like(kind: type[Any], **fields: Any) -> Pattern:
    """A struct of this type whose named fields fit."""
    text = f"{kind.__name__}({', '.join(f'{k}={v!r}' for k, v in fields.items())}, …)"
    return Pattern(text, lambda value: isinstance(value, kind) and not _misfits(value, fields))


def json_with(**members: Any) -> Pattern:
    """JSON bytes of an object in which at least these members fit."""

    def fits(value: Any) -> bool:
        try:
            found = msgspec.json.decode(value)
        except (msgspec.DecodeError, TypeError):
            return False
        return isinstance(found, dict) and all(k in found and matches(found[k], v) for k, v in members.items())

    return Pattern(f"json_with({', '.join(f'{k}={v!r}' for k, v in members.items())})", fits)


def holding(**members: Any) -> Pattern:
    """A dict in which at least these members fit."""
    text = f"holding({', '.join(f'{k}={v!r}' for k, v in members.items())})"
    return Pattern(text, lambda value: isinstance(value, dict) and all(k in value and matches(value[k], v) for k, v in members.items()))


def matches(value: Any, wanted: Any) -> bool:
    """Does a value fit what is wanted of it?"""
    if isinstance(wanted, Pattern):
        return wanted.fits(value)
    if isinstance(wanted, type):
        return isinstance(value, wanted)
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and value.keys() == wanted.keys() and all(matches(value[k], wanted[k]) for k in wanted)
    if isinstance(wanted, (list, tuple)):
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(wanted)
            and all(matches(v, w) for v, w in zip(value, wanted, strict=True))
        )
    if callable(wanted):
        return bool(wanted(value))
    return bool(value == wanted) and isinstance(value, bytes) == isinstance(wanted, bytes)


def _misfits(value: Any, fields: Mapping[str, Any]) -> list[str]:
    """One line for each named field that does not fit."""
    missing = object()
    lines = []
    for name, wanted in fields.items():
        found = getattr(value, name, missing)
        if found is missing:
            raise AttributeError(f"{type(value).__name__} has no field {name!r}")
        if not matches(found, wanted):
            lines.append(f"    {name}: wanted {_short(wanted)}\n    {' ' * len(name)}  found  {_short(found)}")
    return lines


def _short(value: Any, limit: int = 800) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


class Playbook:
    """Drives one half. Time stands still but for `wait`; `random` is every input's draw unless changed."""

    def __init__(self, half: Half, *, mono: float = 1000.0, wall: float = 1_750_000_000.0, random: float = 0.5) -> None:
        self.half = half
        self.mono = mono
        self.wall = wall
        self.random = random
        self.left: list[Action] = []
        self.said: list[str] = []

    def wait(self, seconds: float) -> Playbook:
        """Let time pass; timers fire only when the test sends them."""
        self.mono += seconds
        self.wall += seconds
        self.said.append(f"  … {seconds:g} s")
        return self

    def send(self, *inputs: Input) -> Playbook:
        """Give the half these inputs; everything it did before must have been expected."""
        self.done()
        for event in inputs:
            self.said.append(f"> {_short(event, 300)}")
            self.left.extend(self.half.handle(Moment(self.mono, self.wall, self.random), event))
        return self

    def expect(self, kind: type[A], **fields: Any) -> A:
        """The next action is of this type and its named fields fit; returns it."""
        while self.left and isinstance(self.left[0], QUIET) and not issubclass(kind, QUIET):
            self.said.append(f"<   {_short(self.left.pop(0), 300)}")
        if not self.left:
            self._fail(f"wanted {kind.__name__} {fields!r}, but the half did nothing more")
        found = self.left[0]
        if not isinstance(found, kind):
            self._fail(f"wanted {kind.__name__} {_short(fields)}\n  found  {_short(found)}")
        if lines := _misfits(found, fields):
            self._fail("\n".join([f"{kind.__name__} does not fit:", *lines]))
        self.left.pop(0)
        self.said.append(f"< {_short(found, 300)}")
        return found

    def done(self) -> None:
        """Nothing is left that was not expected."""
        loud = [a for a in self.left if not isinstance(a, QUIET)]
        if loud:
            self._fail("nobody expected:\n" + "\n".join(f"    {_short(a)}" for a in loud))
        self.left.clear()

    def _fail(self, text: str) -> NoReturn:
        rest = "".join(f"\n    {_short(a, 300)}" for a in self.left)
        raise AssertionError("\n".join(["the dialogue so far:", *self.said[-40:], "", text, f"not yet taken:{rest or ' nothing'}"]))


class FakeView:
    """The synchronous reads a half may make, from plain members that a test sets."""

    def __init__(self) -> None:
        self.known: set[tuple[str, str, bytes]] = set()
        self.streams_: dict[str, StreamFacts] = {}
        self.cursors: dict[tuple[str, str], int] = {}
        self.resets_: dict[tuple[str, str], int] = {}

    def stream(self, name: str, head: int = 0, first: int = 1, ordinal: int | None = None) -> FakeView:
        """Set a stream's facts."""
        self.streams_[name] = StreamFacts(head, head if ordinal is None else ordinal, first, 1_749_000_000_000, "e1")
        return self

    def seen(self, stream: str, domain: str, key: bytes) -> bool:
        return (stream, domain, key) in self.known

    def facts(self, stream: str) -> StreamFacts | None:
        return self.streams_.get(stream)

    def cursor(self, stream: str, consumer: str) -> int | None:
        return self.cursors.get((stream, consumer))

    def resets(self, stream: str, consumer: str) -> int:
        return self.resets_.get((stream, consumer), 0)

    def streams(self) -> Sequence[str]:
        return list(self.streams_)

    def keyed_hash(self, secret: str) -> str:
        return hashlib.sha256(b"test" + secret.encode()).hexdigest()[:32]
