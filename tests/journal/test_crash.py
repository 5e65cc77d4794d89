"""SIGKILL of a process that writes: every batch it reported as done is there, whole, in order, under the same epoch."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.core.layout import Table, id_in_block, pack_pair, unpack_pair
from tests.journal.rows import HEAD, offsets, opened

WRITER = """
import os, sys
from pathlib import Path
from tests.journal.rows import Table, cursor, events, ids, offsets, opened
store = opened(Path(sys.argv[1]), durability=sys.argv[2])
offset = ([0] + offsets(store.read(1, 0, 10**6, 1 << 30)))[-1]
while True:
    count = 1 + offset % 40
    batch = events(offset + 1, offset + count, payload=b"%d" % offset * 50)
    ids(batch, 1, offset + 1, [b"key-%d" % number for number in range(offset + 1, offset + count + 1)])
    cursor(batch, 1, "agent", offset)
    batch.put(Table.STATE, b"up\\0cursor", b"%d" % (offset + count))
    store.apply(batch)
    offset += count
    os.write(1, b"%d\\n" % offset)
"""


@pytest.mark.parametrize("durability", ["power", "process"])
def test_no_reported_batch_is_lost_and_none_is_half_there(tmp_path: Path, durability: str) -> None:
    choice = random.Random(7)
    epoch = ""
    reported = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), durability], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(choice.randrange(1, 60)):
            reported = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split(b"\n")[:-1]
        process.wait(timeout=60)
        reported = int(rest[-1]) if rest else reported
        store = opened(tmp_path, durability=durability)
        assert store.lost is None
        assert epoch in ("", store.epoch)
        epoch = store.epoch
        rows = offsets(store.read(1, 0, 1_000_000, 1 << 30))
        head = rows[-1]
        assert head >= reported
        assert rows == list(range(1, head + 1))
        assert store.get(Table.STATE, b"up\0cursor") == b"%d" % head
        block = store.floor(Table.IDS, pack_pair(1, HEAD))
        assert block is not None
        first = unpack_pair(block[0])[1]
        assert id_in_block(block[1], head - first) == b"key-%d" % head
        assert id_in_block(block[1], head - first + 1) is None
        store.close()
    assert reported > 100
