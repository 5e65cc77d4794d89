"""Space: retention by bytes, the quota with its headroom, and a disk that is full for a while."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from sidecar.core.layout import Batch, Table, pack_pair
from sidecar.errors import JournalFull
from sidecar.journal import retention
from sidecar.journal.directory import RESERVE
from sidecar.journal.store import Store
from tests.journal.rows import HEAD, WALL, cursor, events, offsets, opened

MIB = 1 << 20


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota of 4 MiB with 1 MiB of headroom, so that tests stay small."""
    monkeypatch.setattr(retention, "quota_of", lambda retention_bytes: (4 * MIB, 3 * MIB))
    monkeypatch.setattr(retention, "SLACK", MIB // 2)


def fill(store: Store, begin: int = 1, sid: int = 1, size: int = 500, each: int = 64) -> int:
    """Admit until it is refused; returns the next offset."""
    offset = begin
    with pytest.raises(JournalFull):
        while offset < 100_000:
            store.apply(events(offset, offset + each - 1, sid=sid, payload=b"x" * size))
            offset += each
    return offset


def test_quota_leaves_room_and_headroom() -> None:
    for retained in (MIB, 100 * MIB, 1 << 30, 1 << 40):
        quota, limit = retention.quota_of(retained)
        assert quota - limit >= max(16 * MIB, quota // 20)
        assert limit - retention.SLACK >= retained
        assert retention.excess(retained, retained, retained) == 0


@pytest.mark.parametrize("each", [1, 64])
def test_retention_by_bytes_drops_the_oldest_of_all_streams_first(tmp_path: Path, each: int) -> None:
    store = opened(tmp_path, retention_bytes=MIB, retention_s=1e6)
    for number in range(0, 4096, each):
        for sid in (1, 2):
            store.apply(events(number + 1, number + each, sid=sid, wall=WALL + number, payload=b"x" * 500))
    assert store.usage().records > 4 * MIB
    kept = store.prune(WALL + 5000)
    usage = store.usage()
    assert MIB * 3 // 4 <= usage.records <= MIB
    assert set(kept) == {1, 2}
    assert abs(kept[1] - kept[2]) <= 2 * each
    for sid in (1, 2):
        assert offsets(store.read(sid, 0, 10_000, 1 << 30)) == list(range(kept[sid], 4097))
    assert store.prune(WALL + 5000) == {}
    store.close()


def test_a_quiet_stream_keeps_its_last_block_however_little_room_there_is(tmp_path: Path) -> None:
    store = opened(tmp_path, retention_bytes=1, retention_s=1e6)
    for sid in (1, 2, 3):
        store.apply(events(1, 3, sid=sid))
        store.apply(events(4, 6, sid=sid))
    assert store.prune(WALL) == {1: 4, 2: 4, 3: 4}
    assert store.floor(Table.RECORDS, pack_pair(3, HEAD)) is not None
    assert store.prune(WALL) == {}
    store.close()


def test_a_file_reaches_a_steady_size_under_retention(tmp_path: Path) -> None:
    store = opened(tmp_path, retention_bytes=2 * MIB)
    sizes = []
    offset = 1
    for _ in range(30):
        for _ in range(8):
            store.apply(events(offset, offset + 99, payload=b"x" * 500))
            offset += 100
        store.prune(WALL)
        sizes.append(store.usage().file)
    assert sizes[-1] <= sizes[14] * 1.2
    store.close()


@pytest.mark.usefixtures("tight")
class TestQuota:
    def test_admission_stops_at_the_headroom_and_nothing_else_does(self, tmp_path: Path) -> None:
        store = opened(tmp_path, retention_bytes=MIB)
        head = fill(store) - 1
        used = store.usage().used
        assert 2.5 * MIB < used <= 3 * MIB
        assert offsets(store.read(1, 0, 100_000, 1 << 30)) == list(range(1, head + 1))
        for number in range(100):
            batch = Batch()
            cursor(batch, 1, "agent", number)
            batch.put(Table.STATE, b"up\0x", b"s" * number)
            store.apply(batch)
        assert store.prune(WALL)
        store.apply(events(head + 1, head + 64))
        store.close()

    def test_a_batch_too_large_for_what_is_left_is_refused_whole(self, tmp_path: Path) -> None:
        store = opened(tmp_path, retention_bytes=MIB)
        with pytest.raises(JournalFull, match="quota"):
            store.apply(events(1, 7000, payload=b"x" * 500))
        assert store.streams_with_records() == []
        store.close()

    def test_once_refused_there_must_be_some_room_before_it_goes_on(self, tmp_path: Path) -> None:
        store = opened(tmp_path, retention_bytes=MIB)
        head = fill(store) - 1
        probe = Batch()
        probe.admits = True
        probe.put(Table.STATE, b"engine\0probe", b"1")
        with pytest.raises(JournalFull):
            store.apply(probe)
        store.prune(WALL)
        store.apply(probe)
        store.apply(events(head + 1, head + 1))
        store.close()

    def test_ids_beyond_their_room_push_records_out(self, tmp_path: Path) -> None:
        store = opened(tmp_path, retention_bytes=2 * MIB)
        fill(store, size=500)
        store.prune(WALL)
        before = store.usage().records
        batch = Batch()
        for number in range(300):
            batch.put(Table.IDS, pack_pair(1, number), b"k" * 4000)
        store.apply(batch)
        store.prune(WALL)
        usage = store.usage()
        assert usage.records < before
        assert usage.used <= usage.limit - MIB // 4
        store.close()


def test_counting_pages_for_every_batch_is_not_needed_far_from_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    monkeypatch.setattr(store, "_measure", lambda: pytest.fail("counted"))
    for offset in range(1, 50):
        store.apply(events(offset, offset))
    store.close()


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
from sidecar.core.layout import Table
from sidecar.errors import JournalFull
from tests.journal.rows import WALL, Batch, cursor, events, offsets, opened

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = opened(Path(sys.argv[1]), durability=sys.argv[2])
store.apply(events(1, 64, payload=b"x" * 500))
size = (Path(sys.argv[1]) / "journal.mdb").stat().st_size
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200_000, hard))
offset, refused = 65, 0
while not refused:
    try:
        store.apply(events(offset, offset + 63, payload=b"x" * 500))
        offset += 64
    except JournalFull as error:
        refused = 1
        assert error.mend
for _ in range(3):
    try:
        store.apply(events(offset, offset + 63, payload=b"x" * 500))
        sys.exit("admitted beyond the limit")
    except JournalFull:
        pass
assert offsets(store.read(1, 0, 10**6, 1 << 30)) == list(range(1, offset)), "a refused batch left something"
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.apply(events(offset, offset + 63, payload=b"x" * 500))
store.close()
store = opened(Path(sys.argv[1]), durability=sys.argv[2])
assert store.lost is None
assert offsets(store.read(1, 0, 10**6, 1 << 30)) == list(range(1, offset + 64))
store.close()
print("healed")
"""


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_full_disk_refuses_and_heals_without_opening_again(tmp_path: Path, durability: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path), durability], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "healed"), done.stderr


class OneFull:
    """An environment whose next `times` write transactions find the disk full."""

    def __init__(self, real: lmdb.Environment, times: int) -> None:
        self.real = real
        self.times = times

    def begin(self, *, write: bool = False, **options: object) -> object:
        if write and self.times:
            self.times -= 1
            raise lmdb.DiskError("mdb_txn_commit")
        return self.real.begin(write=write, **options)

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


def test_the_reserve_is_given_up_for_cursors_and_pruning_but_not_for_admission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    reserve = tmp_path / RESERVE
    assert reserve.stat().st_size == 16 * MIB
    real = store._env
    monkeypatch.setattr(store, "_env", OneFull(real, 1))
    with pytest.raises(JournalFull):
        store.apply(events(1, 5))
    assert reserve.exists()
    batch = Batch()
    cursor(batch, 1, "agent", 0)
    monkeypatch.setattr(store, "_env", OneFull(real, 1))
    store.apply(batch)
    assert not reserve.exists()
    assert len(list(store.scan(Table.CURSORS))) == 1
    monkeypatch.setattr(store, "_env", OneFull(real, 1))
    with pytest.raises(JournalFull):
        store.apply(batch)
    monkeypatch.setattr(store, "_env", real)
    store.prune(WALL)
    assert reserve.exists()
    store.close()


def test_no_room_for_the_reserve_is_no_reason_not_to_start(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, hard))
    try:
        store = opened(tmp_path)
        assert not (tmp_path / RESERVE).exists()
        store.apply(events(1, 5))
        store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
