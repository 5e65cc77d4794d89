"""The data directory: who may work in it, what stands where, and how a damaged journal is set aside.

| file | is |
|---|---|
| `journal.mdb`, `journal.mdb-lock` | the LMDB journal and its reader table |
| `journal.mdb.damaged-<time>` | a damaged journal that was set aside; never read again, for the operator to keep or delete |
| `sidecar.lock` | locked (flock) by the one sidecar that works here; holds its process id |
| `hash.key` | 32 random bytes for keyed hashes of credentials (architecture invariant 10) |
| `open` | there while a sidecar works here; found at start: the last one did not stop cleanly |
| `reserve` | room that is given up when the disk is full, so that cursors and pruning still pass |

The directory is made 0700, every file 0600.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from sidecar.errors import DataDirError, DataDirInUse

JOURNAL = "journal.mdb"
LOCK = "sidecar.lock"
HASH_KEY = "hash.key"
MARK = "open"
RESERVE = "reserve"
RESERVE_BYTES = 16 << 20


class Directory:
    """An opened, locked data directory. `unclean`: why the journal must be looked through, empty if it was closed cleanly.

    Raises DataDirInUse if another process holds it, DataDirError if it cannot be made or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / JOURNAL
        self._lock = -1
        self._keep_mark = False
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirError(f"the data directory {path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise DataDirError(f"the data directory {path} cannot be locked: {error.strerror}") from error
            raise DataDirInUse(f"the data directory {path} is in use by process {holder}") from error
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
            self.unclean = self._take_mark()
        except OSError as error:
            os.close(self._lock)
            raise DataDirError(f"the data directory {path} cannot be written: {error.strerror}") from error

    def _take_mark(self) -> str:
        try:
            said = (self.path / MARK).read_text("utf-8", "replace").strip()
        except FileNotFoundError:
            self._write(MARK, b"")
            return ""
        return said or "not closed cleanly"

    def condemn(self, reason: str) -> None:
        """Leave word that the journal is damaged, so that the next start sets it aside. Never raises."""
        self._keep_mark = True
        with suppress(OSError):
            self._write(MARK, f"damaged: {reason}".encode())

    @property
    def condemned(self) -> str:
        """Why the last process to work here found the journal damaged; empty if it did not."""
        return self.unclean.removeprefix("damaged: ") if self.unclean.startswith("damaged: ") else ""

    def _write(self, name: str, data: bytes) -> None:
        """Put a small file in place, whole or not at all."""
        part = self.path / (name + ".part")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        part.replace(self.path / name)
        self.sync()

    def sync(self) -> None:
        """Make renames and new files in the directory durable."""
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def hash_key(self) -> bytes:
        """The directory's 32 random bytes, made at the first call. Raises DataDirError if they cannot be read."""
        path = self.path / HASH_KEY
        try:
            if not path.exists():
                self._write(HASH_KEY, secrets.token_bytes(32))
            key = path.read_bytes()
        except OSError as error:
            raise DataDirError(f"{path} cannot be used: {error.strerror}") from error
        if len(key) != 32:
            raise DataDirError(f"{path} has {len(key)} bytes instead of 32", mend=f"delete {path}: a new one is made")
        return key

    def set_aside(self, wall: float) -> Path:
        """Rename the damaged journal. `wall`: Unix seconds, for its name. Returns the new path."""
        stem = f"{JOURNAL}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(wall))}"
        aside = self.path / stem
        number = 1
        while aside.exists():
            number += 1
            aside = self.path / f"{stem}-{number}"
        self.journal.rename(aside)
        with suppress(FileNotFoundError):
            (self.path / (JOURNAL + "-lock")).unlink()
        self._write(MARK, b"")
        self._keep_mark = False
        return aside

    def reserve(self) -> None:
        """Take the reserve if it is not held and the disk has room for it. Never raises."""
        path = self.path / RESERVE
        if path.exists():
            return
        with suppress(OSError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(handle, 0, RESERVE_BYTES)
            except OSError:
                path.unlink()
            finally:
                os.close(handle)

    def release(self) -> bool:
        """Give the reserve up; False if there is none."""
        try:
            (self.path / RESERVE).unlink()
        except OSError:
            return False
        return True

    def close(self, clean: bool) -> None:
        """Unlock. `clean`: the journal was closed in order."""
        if self._lock >= 0:
            if clean and not self._keep_mark:
                with suppress(FileNotFoundError):
                    (self.path / MARK).unlink()
            os.close(self._lock)
            self._lock = -1
