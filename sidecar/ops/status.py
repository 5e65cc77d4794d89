"""What the running sidecar says of itself: the status document (contract: On the listen address), and what of it needs a person."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Protocol

from sidecar import __version__
from sidecar.config import Settings
from sidecar.core.admission import Book
from sidecar.core.delivery import Consumer
from sidecar.core.engine import Engine
from sidecar.downstream.native import shown
from sidecar.errors import JournalError, JournalFull
from sidecar.ops.counters import Counters

FULL_MEND = JournalFull.default_mend


class Running(Protocol):
    """The parts of a running sidecar that operations read. `store`: the journal; `server`: the local port."""

    settings: Settings
    counters: Counters
    engine: Engine
    store: Any
    server: Any
    url: str


def document(sidecar: Running, born: float) -> dict[str, Any]:
    """The status as plain JSON values. `born`: monotonic seconds.

    `streams[].gaps` counts every gap ever recorded in this journal; `last_gaps` has the newest."""
    engine = sidecar.engine
    return {
        "version": __version__,
        "dialect": sidecar.settings.dialect,
        "upstream": sidecar.settings.upstream,
        "listen": sidecar.url,
        "uptime_s": round(time.monotonic() - born, 1),
        "ready": not_ready(engine) is None,
        "paused": engine.paused or None,
        "draining": engine.draining,
        "journal": journal(sidecar),
        "problems": problems(sidecar),
        "sockets": tunnels(sidecar),
        "downstream": {k: v for k, v in engine.said.items() if k != "fatal"},
        "streams": [stream(engine, book) for _, book in sorted(engine.admission.books.items())],
    }


def not_ready(engine: Engine) -> str | None:
    """Why agents cannot be served or events not be journaled now; None: they can. An upstream that is away is no reason."""
    if not engine.started:
        return "starting"
    if engine.draining:
        return "stopping"
    return "admission is paused: the journal takes no writes" if engine.paused else None


def facts(engine: Engine, name: str) -> dict[str, Any] | None:
    """What its dialect says of a stream now, None if nobody asked for it since the start: the facts of its account, and those that the
    account has of the stream alone, as `streams` -> name, which win. With `x_since` (Unix seconds) goes `x_age_s`."""
    account = engine.accounts.of_stream(name)
    if account is None:
        return None
    own = account.facts.get("streams")
    told = {k: v for k, v in account.facts.items() if k != "streams"} | (own.get(name, {}) if isinstance(own, dict) else {})
    shown: dict[str, Any] = {}
    for key, value in told.items():
        shown[key] = value
        if key.endswith("_since"):
            shown[key.removesuffix("_since") + "_age_s"] = max(0, round(time.time() - value))
    return shown


def upstream_word(engine: Engine, name: str) -> str:
    """The short state word of a stream's upstream; `idle`: nobody asked for it since the start."""
    told = facts(engine, name)
    return "idle" if told is None else str(told.get("upstream", "connecting"))


def upstream_words(engine: Engine) -> Counter[str]:
    """How many streams are in which upstream state."""
    return Counter(upstream_word(engine, name) for name in engine.admission.books)


def stream(engine: Engine, book: Book) -> dict[str, Any]:
    """One stream, with its consumers."""
    gaps = engine.gaps.get(book.name)
    told = facts(engine, book.name) or {}
    return {
        "name": book.name,
        "epoch": engine.journal.epoch,
        "head": book.committed,
        "first": book.first,
        "events": book.committed_ordinal,
        "upstream": upstream_word(engine, book.name),
        "details": {k: v for k, v in told.items() if k not in ("upstream", "fatal")},
        "gaps": gaps.count if gaps else 0,
        "last_gaps": list(gaps.last) if gaps else [],
        "consumers": [consumer(book, found) for found in consumers_of(engine, book.name)],
    }


def consumers_of(engine: Engine, name: str) -> list[Consumer]:
    """A stream's consumers, by kind and name."""
    found = (c for (of, _), c in engine.courier.consumers.items() if of == name)
    return sorted(found, key=lambda c: tuple(reversed(shown(c.name))))


def consumer(book: Book, found: Consumer) -> dict[str, Any]:
    """One consumer. `lag`: records behind the head; `seen`: Unix seconds when it last came or went."""
    name, kind = shown(found.name)
    return {
        "name": name,
        "kind": kind,
        "cursor": found.cursor,
        "lag": max(0, book.committed - found.cursor),
        "quality": found.quality,
        "sessions": len(found.sessions),
        "seen": round(found.seen, 3),
    }


def journal(sidecar: Running) -> dict[str, Any]:
    """What the journal takes, in bytes; empty if it cannot tell now."""
    facts: dict[str, Any] = {"epoch": sidecar.engine.journal.epoch, "durability": sidecar.settings.durability}
    try:
        usage = sidecar.store.usage()
    except JournalError:
        return facts
    return facts | {"bytes": usage.used, "records_bytes": usage.records, "quota_bytes": usage.quota, "file_bytes": usage.file}


def tunnels(sidecar: Running) -> list[dict[str, Any]]:
    """Sockets that are only tunnelled, by path."""
    counted = Counter(sidecar.server.tunnels.values())
    return [{"path": path, "protected": False, "count": count} for path, count in sorted(counted.items())]


def problems(sidecar: Running) -> list[dict[str, str]]:
    """What is wrong now, and what to do about it; the gravest first."""
    engine = sidecar.engine
    found: list[tuple[str, str]] = []
    if engine.paused:
        found.append((f"the journal takes no writes, admission is paused: {engine.paused}", FULL_MEND))
    if lost := sidecar.store.lost:
        text = f"a damaged journal was set aside as {lost.path}: {lost.reason}"
        found.append((text, "look at the disk; keep the file for an analysis or delete it: the sidecar never reads it again"))
    for name, told in [("agents' side", engine.said), *((name, each.facts) for name, each in sorted(engine.accounts.by_name.items()))]:
        if fatal := told.get("fatal"):
            found.append((f"{name}: stopped: {fatal['code']}", str(fatal["mend"])))
    for row in tunnels(sidecar):
        text = f"{row['count']} socket(s) on {row['path']} are only tunnelled: their messages are not protected"
        found.append((text, "use a path that the dialect protects, if the agent must not lose what comes there"))
    for (of, name), held in sorted(engine.courier.consumers.items()):
        if held.sessions and held.quality == "written":
            text = f"{of}: consumer {shown(name)[0]} answers no pings, so what was sent counts as taken"
            found.append((text, "use a client library that answers WebSocket pings, or the native stream with acks"))
    return [{"what": what, "mend": mend} for what, mend in found]
