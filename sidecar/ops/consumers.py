"""Setting a consumer to another place: which one is meant, and where it may be set. Shared by the running sidecar and the command."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.downstream.native import PREFIX, shown
from sidecar.errors import SidecarError


class NoSuchConsumer(SidecarError):
    """The name fits none, or several."""


class BadOffset(SidecarError):
    """The offset is above the head."""


def pick(known: Iterable[tuple[str, str]], name: str, stream: str | None) -> tuple[str, str]:
    """The (stream, consumer) that a person means, of those in the journal. A name alone means an agent's consumer before a native
    one; `native:NAME` always means a native one.

    Raises NoSuchConsumer, which names what there is."""
    pairs = sorted(known)
    here = [pair for pair in pairs if stream is None or pair[0] == stream]
    for wanted in (name, PREFIX + name):
        found = [pair for pair in here if pair[1] == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            streams = ", ".join(of for of, _ in found)
            raise NoSuchConsumer(f"several streams have a consumer {name!r}: {streams}", mend="name one with --stream")
    there = ", ".join(f"{shown(consumer)[0]} of {of}" for of, consumer in pairs[:20]) or "none"
    text = f"no consumer {name!r}" + (f" of stream {stream!r}" if stream is not None else "")
    raise NoSuchConsumer(text, mend=f"name one of those there are: {there}")


def place(offset: int | None, head: int) -> int:
    """The cursor to set: an offset up to the head, or (None) the head itself.

    Raises BadOffset."""
    if offset is not None and offset > head:
        raise BadOffset(f"offset {offset} is above the head, which is {head}", mend="name an offset up to the head, or --head")
    return head if offset is None else offset
