"""`sidecar journal ls · tail · verify`: looks into the journal, also while the sidecar runs; never writes.

`ls` shows streams with their consumers, `tail` the newest records as one JSON object a line, `verify` reads everything and names
what is damaged. Standard output holds the answer; with `--json` it is one object a line.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sidecar.core import record as rec
from sidecar.core.layout import CursorRow, StreamRow, Table, pack_pair, pack_u32, unpack_pair
from sidecar.errors import EXIT_CLEAN, EXIT_OTHER, JournalDamaged, SidecarError
from sidecar.journal.reader import Reader
from sidecar.journal.reads import read_meta
from sidecar.journal.verify import Verify

FOLLOW_S = 0.2
CHUNK = 1 << 20


class _Settings(Protocol):
    @property
    def data_dir(self) -> Path: ...


class Consumer(msgspec.Struct, frozen=True):
    """A consumer as `ls` shows it; `seen`: Unix seconds."""

    name: str
    cursor: int
    lag: int
    quality: str
    seen: float


class Stream(msgspec.Struct, frozen=True):
    """A stream as `ls` shows it. `first`, `head`: offsets kept (0: no records); `bytes`: of its records on disk."""

    name: str
    account: str
    first: int
    head: int
    records: int
    bytes: int
    gaps: int
    consumers: list[Consumer]


def run(settings: _Settings, what: str, options: Any) -> int:
    """The command. Returns the exit code: 1 if verify found anything. Raises SidecarError."""
    reader = Reader(settings.data_dir)
    try:
        if what == "verify":
            return verify(reader, as_json=options.json)
        if reader.damage:
            raise JournalDamaged(f"{reader.file}: {reader.damage}")
        if what == "tail":
            return tail(reader, options.stream, options.lines, follow=getattr(options, "follow", False))
        return listing(reader, as_json=options.json)
    finally:
        reader.close()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _dump(value: Any) -> None:
    _say(msgspec.json.encode(value).decode())


def _shown(name: str) -> str:
    """A name as a terminal may have it: quoted where it holds anything but printable characters."""
    return name if name.isprintable() and name else json.dumps(name)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- ls --------------------------------------------------------------------------------------------------------------------------


def streams(reader: Reader) -> Iterator[Stream]:
    """All registered streams, by name. Raises JournalDamaged."""
    for key, value in reader.scan(Table.STREAMS, b"s"):
        try:
            row = msgspec.json.decode(value, type=StreamRow)
        except msgspec.DecodeError as error:
            raise JournalDamaged(f"table streams, row {key!r}: {error}") from error
        name = key[1:].decode("utf-8", "replace")
        size = gaps = count = first = head = 0
        low = pack_pair(row.sid, 0)
        while found := [r for r in reader.rows(Table.RECORDS, low, 256) if unpack_pair(r[0])[0] == row.sid]:
            for at, block in found:
                offset = unpack_pair(at)[1]
                try:
                    number = rec.check(at, block)
                except ValueError as error:
                    raise JournalDamaged(f"table records, stream {name!r}, offset {offset}: {error}") from error
                first, head = first or offset, offset + number - 1
                count += number
                size += len(at) + len(block)
                gaps += number if rec.decode(offset, block, 0, 0).is_gap else 0
            low = found[-1][0] + b"\0"
        yield Stream(name, row.account, first, head, count, size, gaps, list(_consumers(reader, row.sid, head)))


def _consumers(reader: Reader, sid: int, head: int) -> Iterator[Consumer]:
    for key, value in reader.scan(Table.CURSORS, pack_u32(sid)):
        name = key[4:].decode("utf-8", "replace")
        try:
            row = msgspec.json.decode(value, type=CursorRow)
        except msgspec.DecodeError as error:
            raise JournalDamaged(f"table cursors, consumer {name!r}: {error}") from error
        yield Consumer(name, row.offset, max(0, head - row.offset), row.quality, row.seen)


def listing(reader: Reader, *, as_json: bool) -> int:
    """`ls`. Raises JournalDamaged."""
    if as_json:
        for stream in streams(reader):
            _dump(stream)
        return EXIT_CLEAN
    meta, usage = read_meta(reader), reader.usage()
    _say(f"{reader.file}: {meta.get('dialect')} at {meta.get('upstream')}, epoch {reader.epoch}")
    _say(f"{usage.used:,} bytes in use, {usage.records:,} of them records; file {usage.file:,} bytes")
    for stream in streams(reader):
        _say(
            f"stream {_shown(stream.name)}: offsets {stream.first} to {stream.head}, {stream.records:,} records, "
            f"{stream.bytes:,} bytes, {stream.gaps} gaps"
        )
        for each in stream.consumers:
            _say(f"  consumer {_shown(each.name)}: at {each.cursor}, lag {each.lag}, {each.quality}, seen {_time(each.seen)}")
    return EXIT_CLEAN


# --- tail ------------------------------------------------------------------------------------------------------------------------


def _line(stream: str, record: rec.Record) -> dict[str, Any]:
    """A record as `tail` shows it."""
    line: dict[str, Any] = {"stream": stream, "offset": record.offset, "ordinal": record.ordinal, "time": _time(record.wall / 1000)}
    line["type"] = "gap" if record.is_gap else "event"
    if record.domain:
        line["domain"] = record.domain
    line |= {name: True for name, flag in (("replayed", rec.REPLAYED), ("late", rec.LATE)) if record.flags & flag}
    try:
        # A line is one line, so the payload's own spacing goes.
        line["gap" if record.is_gap else "event"] = msgspec.json.decode(record.payload)
    except msgspec.DecodeError:
        line["event_b64"] = base64.b64encode(record.payload).decode()
    return line


def tail(reader: Reader, name: str | None, lines: int, *, follow: bool = False) -> int:
    """`tail`: the newest `lines` records of one stream or of each, oldest first. Raises SidecarError."""
    found = {
        key[1:].decode("utf-8", "replace"): msgspec.json.decode(row, type=StreamRow).sid for key, row in reader.scan(Table.STREAMS, b"s")
    }
    if name is not None and name not in found:
        raise SidecarError(f"there is no stream {name!r} in the journal", mend="`sidecar journal ls` lists them")
    at = {each: max(0, reader.head(sid) - lines) for each, sid in found.items() if name in (None, each)}
    while True:
        for each, begin in list(at.items()):
            after = begin
            while runs := reader.read(found[each], after, 4096, CHUNK):
                for record in (record for run in runs for record in run.records()):
                    _dump(_line(each, record))
                after = at[each] = runs[-1].last
        if not follow:
            return EXIT_CLEAN
        sys.stdout.flush()
        time.sleep(FOLLOW_S)


# --- verify ----------------------------------------------------------------------------------------------------------------------


def verify(reader: Reader, *, as_json: bool) -> int:
    """`verify`: 1 if anything is wrong."""
    result = Verify(reader).run()
    if as_json:
        for finding in result.findings:
            _dump(finding)
        _dump({"ok": not result.findings, "streams": result.streams, "records": result.records, "ids": result.ids})
    else:
        for finding in result.findings:
            _say(f"damaged: {finding}")
        read = f"{result.streams} streams, {result.records:,} records, {result.ids:,} ids, {result.consumers} consumers"
        _say(f"{reader.file}: {read}: {f'{len(result.findings)} faults' if result.findings else 'sound'}")
    return EXIT_OTHER if result.findings else EXIT_CLEAN
