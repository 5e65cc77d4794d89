"""The journal as another process sees it: read only, in short transactions, beside a running sidecar or without one.

The directory's lock is the sidecar's: readers do not take it. LMDB's own reader table is used, so that the writer does not take
pages away from under a transaction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb

from sidecar.core.layout import Table, pack_pair, unpack_pair
from sidecar.core.record import count_of
from sidecar.errors import DataDirError, JournalError
from sidecar.journal import pages
from sidecar.journal.directory import JOURNAL
from sidecar.journal.reads import DAMAGE, NAMES, Reads, lmdb_open

MAP_SIZE = 1 << 34


class Reader(Reads):
    """A journal opened to look at it. `damage`: what is wrong with its pages, empty if nothing; then nothing can be read.

    Raises JournalError if there is no journal, DataDirError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / JOURNAL
        self.damage = ""
        self.epoch = ""
        self._env: Any = None
        self._db = {}
        if not self.file.exists():
            raise JournalError(f"there is no journal in {path}", mend="start `sidecar run`, or set SIDECAR_DATA_DIR to where it is")
        try:
            self._open()
        except (pages.Damage, lmdb.NotFoundError, *DAMAGE) as error:
            self.damage = str(error)
        except (OSError, lmdb.Error) as error:
            self.close()
            raise DataDirError(f"{self.file} cannot be opened: {error}") from error

    def _open(self) -> None:
        # The map must have room for what the writer may add meanwhile: as much as the writer's own.
        map_size = MAP_SIZE
        if pages.readable():
            # The metas alone first: opening maps the file, and a file that is no journal must not be mapped as one.
            with self.file.open("rb") as file:
                map_size = max(map_size, pages.read_meta(file.read(1 << 17)).map_size)
        self._env = lmdb_open(self.file, map_size=map_size, readonly=True)
        if pages.readable():
            # With a read transaction open the writer reuses no page of this snapshot or a later one.
            with self._env.begin():
                pages.look(self.file)
        self._db = {table: self._env.open_db(name, create=False) for table, name in NAMES.items()}
        self.epoch = (self.get(Table.META, b"epoch") or b"").decode("ascii", "replace")

    def rows(self, table: Table, low: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """At most `count` rows from `low` on, as they lie on disk (records in blocks). Raises JournalDamaged."""

        def work(txn: Any) -> list[tuple[bytes, bytes]]:
            found: list[tuple[bytes, bytes]] = []
            cursor = txn.cursor(self._db[table])
            if cursor.set_range(low) if low else cursor.first():
                for key, value in cursor.iternext():
                    found.append((bytes(key), bytes(value)))
                    if len(found) >= count:
                        break
            return found

        return self._read(work)

    def head(self, sid: int) -> int:
        """The last offset of a stream, 0 if it has no records. Raises JournalDamaged."""
        row = self.floor(Table.RECORDS, pack_pair(sid, (1 << 64) - 1))
        return unpack_pair(row[0])[1] + count_of(row[1]) - 1 if row is not None and unpack_pair(row[0])[0] == sid else 0

    def close(self) -> None:
        """Close; harmless when repeated."""
        if self._env is not None:
            self._env.close()
            self._env = None
