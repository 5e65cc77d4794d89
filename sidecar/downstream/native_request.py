"""What a request for the native stream asks for: its parameters, checked; what is wrong names the parameter and the mend."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from sidecar.core.events import Head

PARAMETERS: Final = ("stream", "consumer", "after", "epoch")
MAX_NAME: Final = 200
"""Bytes of a consumer's name, UTF-8: it must fit a journal key whole."""
MAX_DIGITS: Final = 18
"""Digits of an offset: below 2**63, like every offset there can be."""


class Wanted(msgspec.Struct, frozen=True):
    """One request for a stream. `after`, `epoch`, `consumer`: None if not given; `stated`: `after` came as Last-Event-ID, so it is an
    ack too; `sse`: not a WebSocket."""

    stream: str
    consumer: str | None
    after: int | None
    epoch: str | None
    stated: bool
    sse: bool


class Wrong(msgspec.Struct, frozen=True):
    """What is wrong with a request: goes out as the JSON body of a 400."""

    error: str
    parameter: str
    mend: str


def read(head: Head) -> Wanted | Wrong:
    """The request that a head makes, or the first thing that is wrong with it. Never raises."""
    sse = "websocket" not in (head.header("upgrade") or "").lower()
    given: dict[str, str] = {}
    for name, value in _pairs(head.target):
        if name not in PARAMETERS:
            return Wrong(f"unknown parameter {name[:40]!r}", name[:40], f"leave it out; known are {', '.join(PARAMETERS)}")
        if name in given:
            return Wrong(f"{name} is given twice", name, "give it once")
        if not value:
            return Wrong(f"{name} is empty", name, "give it a value, or leave it out")
        given[name] = value
    if "stream" not in given:
        return Wrong("stream is missing", "stream", "add ?stream=NAME; /_sidecar/status lists the streams")
    consumer = given.get("consumer")
    if consumer is not None and (len(consumer.encode("utf-8", "replace")) > MAX_NAME or not consumer.isprintable()):
        return Wrong("consumer is not a name", "consumer", f"use at most {MAX_NAME} bytes of printable text")
    after, source = given.get("after"), "after"
    last = (head.header("last-event-id") or "").strip() if sse else ""
    if last:
        # A reconnecting EventSource repeats its first URL: where it got to is what the header says.
        after, source = last, "Last-Event-ID"
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= MAX_DIGITS):
        return Wrong(f"{source} is not an offset: {after[:40]!r}", source, "give a whole number from 0 upwards; 0 is all that is kept")
    return Wanted(given["stream"], consumer, None if after is None else int(after), given.get("epoch"), bool(last), sse)


def _pairs(target: str) -> list[tuple[str, str]]:
    # The head carries bytes as latin-1 text; names are UTF-8, percent-encoded or raw.
    query = urlsplit(target).query.encode("latin-1", "replace").decode("utf-8", "replace")
    return parse_qsl(query, keep_blank_values=True)
