"""LMDB alone, as the measure beside the sidecar's journal, and the check that there is a disk under it."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence

import lmdb

from benchmarks.errors import BenchError

_NO_DISK = {"tmpfs", "ramfs"}


def require_disk(directory: str) -> str:
    """The filesystem's type under `directory`; a commit on one that has no disk proves nothing, so it is refused."""
    best, kind = "", "unknown"
    real = os.path.realpath(directory)
    with open("/proc/mounts") as mounts:
        for line in mounts:
            _, point, fstype, *_ = line.split()
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, fstype
    if kind in _NO_DISK:
        raise BenchError(f"{directory} is on {kind}, where fsync costs nothing: pass --dir with a directory on a disk")
    return kind


def _key(offset: int) -> bytes:
    return struct.pack(">QQ", 0, offset)


@contextlib.contextmanager
def bare_lmdb(directory: str) -> Iterator[lmdb.Environment]:
    """A plain synchronous LMDB environment in a new directory under `directory`."""
    with tempfile.TemporaryDirectory(dir=directory) as path:
        env = lmdb.open(path, map_size=4 << 30, sync=True, metasync=True)
        try:
            yield env
        finally:
            env.close()


def bare_append(directory: str, values: Sequence[bytes], batch: int) -> float:
    """Events a second of appending `values` in commits of `batch`, fsync each: the least a journal can do."""
    with bare_lmdb(directory) as env:
        begun = time.perf_counter()
        for at in range(0, len(values), batch):
            with env.begin(write=True) as txn, txn.cursor() as cursor:
                items = [(_key(at + i), value) for i, value in enumerate(values[at : at + batch])]
                cursor.putmulti(items, append=True)
        return len(values) / (time.perf_counter() - begun)


def commit_times_ms(directory: str, count: int, rate: float = 0) -> list[float]:
    """How long each of `count` commits of one 500-byte record took, in ms; `rate` a second, 0: back to back."""
    times, value, due = [], b"x" * 500, time.perf_counter()
    with bare_lmdb(directory) as env:
        for offset in range(count):
            if rate:
                due += 1 / rate
                time.sleep(max(0.0, due - time.perf_counter()))
            begun = time.perf_counter()
            with env.begin(write=True) as txn:
                txn.put(_key(offset), value, append=True)
            times.append((time.perf_counter() - begun) * 1000)
    return times
