"""The data directory: who may use it, what is recorded in it, and that what was committed is there again."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest

from sidecar.core.layout import SCHEMA, Batch, Table, pack_pair
from sidecar.errors import DataDirError, DataDirForeign, DataDirInUse, JournalDamaged, JournalFull
from sidecar.journal.directory import Directory
from sidecar.journal.reads import lmdb_open
from tests.journal.rows import WALL, batch_of, cursor, event, events, everything, offsets, opened

OPENER = """
import sys
from pathlib import Path
from sidecar.errors import SidecarError
from tests.journal.rows import opened
try:
    opened(Path(sys.argv[1])).close()
except SidecarError as error:
    print(error, "|", error.mend)
    sys.exit(error.exit_code)
"""


def plant(path: Path, name: str, value: bytes | None) -> None:
    """Change a META row of a closed journal."""
    env = lmdb_open(path / "journal.mdb", map_size=1 << 24)
    meta = env.open_db(b"meta", create=False)
    with env.begin(write=True) as txn:
        txn.delete(name.encode(), db=meta) if value is None else txn.put(name.encode(), value, db=meta)
    env.close()


def test_what_was_committed_is_there_again_under_the_same_epoch(tmp_path: Path) -> None:
    for durability in ("power", "process"):
        path = tmp_path / durability
        store = opened(path, durability=durability)
        epoch = store.epoch
        batch = events(1, 300)
        batch.put(Table.IDS, pack_pair(1, 1), b"ids")
        batch.put(Table.STATE, b"a\0b", b"state")
        cursor(batch, 1, "agent", 7)
        store.apply(batch)
        before = everything(store)
        store.close()
        store.close()
        store = opened(path, durability=durability)
        assert everything(store) == before
        assert store.epoch == epoch
        assert store.lost is None
        with pytest.raises(ValueError, match="head 300"):
            store.apply(events(300, 300))
        store.apply(events(301, 301))
        store.close()
    assert len(epoch) == 16
    other = opened(tmp_path / "other")
    assert other.epoch != epoch
    other.close()


def test_directory_is_0700_and_every_file_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = opened(tmp_path / "state" / "data", durability="power")
        store.hash_key()
        store.apply(events(1, 3))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state" / "data").stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state" / "data").iterdir()}
    assert {"journal.mdb", "journal.mdb-lock", "hash.key", "sidecar.lock"} <= set(modes)
    assert set(modes.values()) == {0o600}, modes
    store.close()


def test_hash_key_is_made_once_and_random(tmp_path: Path) -> None:
    store = opened(tmp_path / "a")
    key = store.hash_key()
    store.close()
    store = opened(tmp_path / "a")
    assert store.hash_key() == key
    store.close()
    other = opened(tmp_path / "b")
    assert other.hash_key() != key
    other.close()


def test_a_hash_key_cut_short_is_refused_not_used(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (tmp_path / "hash.key").write_bytes(b"")
    with pytest.raises(DataDirError, match="0 bytes"):
        store.hash_key()
    store.close()


def test_a_second_process_is_refused_with_exit_code_3_and_may_have_it_afterwards(tmp_path: Path) -> None:
    def attempt() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", OPENER, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)

    store = opened(tmp_path)
    refused = attempt()
    assert refused.returncode == 3
    assert f"in use by process {os.getpid()}" in refused.stdout
    assert "SIDECAR_DATA_DIR" in refused.stdout
    store.apply(events(1, 1))
    store.close()
    assert attempt().returncode == 0


def test_a_second_store_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(DataDirInUse):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


@pytest.mark.parametrize(
    ("change", "said"), [({"dialect": "discord"}, "relaycast"), ({"upstream": "http://other.example"}, "http://upstream.example")]
)
def test_another_dialects_or_upstreams_directory_is_refused(tmp_path: Path, change: dict[str, str], said: str) -> None:
    store = opened(tmp_path)
    epoch = store.epoch
    store.close()
    with pytest.raises(DataDirForeign, match=said) as caught:
        opened(tmp_path, **change)
    assert "SIDECAR_DATA_DIR" in caught.value.mend
    store = opened(tmp_path)
    assert store.epoch == epoch
    store.close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    plant(tmp_path, "schema", str(SCHEMA + 1).encode())
    with pytest.raises(DataDirForeign, match=f"schema {SCHEMA + 1}") as caught:
        opened(tmp_path)
    assert "newer sidecar" in caught.value.mend
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_directory_that_cannot_be_made_names_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError) as caught:
        opened(tmp_path / "file" / "data")
    assert "SIDECAR_DATA_DIR" in caught.value.mend


def test_a_start_that_died_while_making_the_journal_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "journal.new").write_bytes(b"half")
    (tmp_path / "journal.new-lock").write_bytes(b"half")
    store = opened(tmp_path)
    assert store.lost is None
    store.close()
    assert not list(tmp_path.glob("journal.new*"))


def test_the_file_format_is_the_one_of_lmdb_0_9(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store._env.lib_version()[0] == 0
    flags = store._env.flags()
    assert not flags["writemap"] and not flags["map_async"]
    store.close()


@pytest.mark.parametrize(("durability", "sync"), [("power", True), ("process", False)])
def test_durability_decides_the_sync(tmp_path: Path, durability: str, sync: bool) -> None:
    store = opened(tmp_path, durability=durability)
    flags = store._env.flags()
    assert (flags["sync"], flags["metasync"]) == (sync, sync)
    store.close()


def test_stale_readers_are_cleared_at_open_and_when_pruning(tmp_path: Path) -> None:
    begin = "import os, sys; from pathlib import Path; from sidecar.journal.reader import Reader\n"
    begin += "r = Reader(Path(sys.argv[1])); t = r._env.begin(); print(1, flush=True); sys.stdin.read() or os.kill(os.getpid(), 9)"
    opened(tmp_path).close()

    def reader() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", begin, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        return process

    def leave_one() -> None:
        reader().communicate(timeout=60)

    living = reader()  # as long as anyone has the reader table open, LMDB does not begin a new one by itself
    try:
        leave_one()
        store = opened(tmp_path)
        assert store._env.reader_check() == 0
        leave_one()
        store.prune(WALL)
        assert store._env.reader_check() == 0
        store.close()
    finally:
        living.communicate(b"live", timeout=60)


def test_errors_of_lmdb_become_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    real = store._env

    class Failing:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def begin(self, **_: object) -> None:
            raise self.error

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    for raised, expected in [
        (lmdb.DiskError("x"), JournalFull),
        (lmdb.MapFullError("x"), JournalFull),
        (lmdb.CorruptedError("x"), JournalDamaged),
    ]:
        monkeypatch.setattr(store, "_env", Failing(raised))
        with pytest.raises(expected):
            store.apply(events(1, 1))
        monkeypatch.setattr(store, "_env", real)
    store.apply(events(1, 1))
    store.close()


def test_what_was_found_corrupt_while_running_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    store = opened(tmp_path)
    epoch = store.epoch
    store.apply(events(1, 9))
    store.directory.condemn("a page is of the wrong kind")
    store.close()
    store = opened(tmp_path)
    assert store.lost is not None and store.lost.reason == "a page is of the wrong kind"
    assert store.epoch != epoch
    store.close()
    store = opened(tmp_path)
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    store.close()


def test_after_a_panic_it_opens_again_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    store = opened(tmp_path, on_event=lambda level, text, fields: told.append(text))
    store.apply(events(1, 5))
    real = store._env

    class Panicked:
        def begin(self, *, write: bool = False, **options: object) -> object:
            if write:
                raise lmdb.PanicError("begin")
            return real.begin(write=write, **options)

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    monkeypatch.setattr(store, "_env", Panicked())
    store.apply(events(6, 6))
    assert isinstance(store._env, lmdb.Environment)
    assert offsets(store.read(1, 0, 10, 1000)) == [1, 2, 3, 4, 5, 6]
    assert told == ["the journal is opened again after a failed write"]
    store.close()


def test_reads_from_other_threads_while_writing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply(events(1, 1))
    stop = threading.Event()
    wrong: list[object] = []

    def look() -> None:
        while not stop.is_set():
            seen = offsets(store.read(1, 0, 10_000, 1 << 30))
            if seen != list(range(1, len(seen) + 1)):
                wrong.append(seen)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for offset in range(2, 400):
        store.apply(batch_of([event(offset)]))
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    store.close()


def test_a_directory_not_closed_says_so_once(tmp_path: Path) -> None:
    first = Directory(tmp_path)
    assert first.unclean == ""
    first.close(clean=False)
    second = Directory(tmp_path)
    assert second.unclean
    second.close(clean=True)
    third = Directory(tmp_path)
    assert third.unclean == ""
    third.close(clean=True)


def test_an_empty_batch_is_harmless(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply(Batch())
    store.close()
