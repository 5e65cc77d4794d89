"""`sidecar journal ls · tail · verify`, from another process's side: beside a running sidecar, and never writing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sidecar.core.layout import Batch
from sidecar.core.record import BINARY, REPLAYED, Run
from sidecar.errors import EXIT_OTHER, JournalDamaged, JournalError, SidecarError
from sidecar.journal import inspect
from tests.journal.rows import WALL, cursor, events, gap, opened, register

RUN = """
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from sidecar.journal.inspect import run
options = Namespace(json=True, stream=None, lines=1000, follow="follow" in sys.argv)
sys.exit(run(SimpleNamespace(data_dir=Path(sys.argv[1])), sys.argv[2], options))
"""


def command(path: Path, what: str, *, stream: str | None = None, lines: int = 10, as_json: bool = False) -> int:
    return inspect.run(SimpleNamespace(data_dir=path), what, Namespace(json=as_json, stream=stream, lines=lines))


def filled(path: Path) -> None:
    store = opened(path)
    batch = events(1, 20)
    register(batch, "two\x1b[31m", 2)
    register(batch, "one", 1)
    batch.runs.append(gap(21, 20))
    cursor(batch, 1, "agent", 18)
    cursor(batch, 1, "other", 21)
    store.apply(batch)
    store.close()


@contextlib.contextmanager
def running(path: Path) -> Iterator[object]:
    """A store that stays open, as in a running sidecar."""
    store = opened(path)
    yield store
    store.close()


def other_process(path: Path, what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", RUN, str(path), what], capture_output=True, text=True, timeout=60, check=False)


def test_ls_shows_streams_and_consumers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    assert command(tmp_path, "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "relaycast at http://upstream.example, epoch " in lines[0]
    assert lines[2].startswith("stream one: offsets 1 to 21, 21 records, ")
    assert lines[2].endswith(" bytes, 1 gaps")
    assert lines[3] == "  consumer agent: at 18, lag 3, handled, seen 2027-01-15T08:00:00.000Z"
    assert lines[4].startswith("  consumer other: at 21, lag 0")
    assert lines[5].startswith('stream "two\\u001b[31m": offsets 0 to 0, 0 records, 0 bytes, 0 gaps')


def test_ls_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    assert command(tmp_path, "ls", as_json=True) == 0
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["name"], one["first"], one["head"], one["records"], one["gaps"]) == ("one", 1, 21, 21, 1)
    assert [(c["name"], c["cursor"], c["lag"]) for c in one["consumers"]] == [("agent", 18, 3), ("other", 21, 0)]
    assert two["head"] == 0


def test_tail_gives_the_newest_as_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    assert command(tmp_path, "tail", stream="one", lines=2) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"stream": "one", "offset": 20, "ordinal": 20, "time": "2027-01-15T08:00:00.000Z", "type": "event", "event": {"n": 20}},
        {
            "stream": "one",
            "offset": 21,
            "ordinal": 20,
            "time": "2027-01-15T08:00:00.000Z",
            "type": "gap",
            "gap": {"reason": "lost", "unit": "seq", "from": 1, "to": 2, "count": 2},
        },
    ]
    assert command(tmp_path, "tail", lines=0) == 0
    assert capsys.readouterr().out == ""


def test_tail_shows_what_is_no_json_and_what_was_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = opened(tmp_path)
    batch = Batch()
    register(batch, "one", 1)
    batch.runs.append((1, Run(1, 1, BINARY | REPLAYED, [b"\xff\n\0"], "general", int(WALL * 1000))))
    batch.runs.append((1, Run(2, 2, 0, [b'{\n"a":\n1}'], "", int(WALL * 1000))))
    store.apply(batch)
    store.close()
    assert command(tmp_path, "tail") == 0
    binary, spaced = map(json.loads, capsys.readouterr().out.splitlines())
    assert base64.b64decode(binary["event_b64"]) == b"\xff\n\0"
    assert (binary["replayed"], binary["domain"]) == (True, "general")
    assert spaced["event"] == {"a": 1}


def test_an_unknown_stream_and_no_journal_are_told_with_a_mend(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    with pytest.raises(SidecarError, match="no stream 'three'") as caught:
        command(tmp_path / "data", "tail", stream="three")
    assert "ls" in caught.value.mend
    with pytest.raises(JournalError, match="no journal") as none:
        command(tmp_path / "nothing", "ls")
    assert "SIDECAR_DATA_DIR" in none.value.mend
    assert not (tmp_path / "nothing").exists()


def test_verify_says_sound_or_names_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    assert command(tmp_path, "verify") == 0
    assert capsys.readouterr().out.rstrip().endswith("2 streams, 21 records, 0 ids, 2 consumers: sound")
    store = opened(tmp_path)
    batch = Batch()
    cursor(batch, 1, "agent", 99)
    store.apply(batch)
    store.close()
    assert command(tmp_path, "verify") == EXIT_OTHER
    out = capsys.readouterr().out
    assert "damaged: table cursors, stream 'one', offset 99: consumer 'agent' is at 99, above the head 21" in out
    assert out.rstrip().endswith("1 faults")
    assert command(tmp_path, "verify", as_json=True) == EXIT_OTHER
    finding, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert (finding["table"], finding["stream"], finding["offset"]) == ("cursors", "one", 99)
    assert end["ok"] is False


def test_damaged_pages_are_an_error_for_ls_and_tail_and_a_finding_for_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    os.truncate(tmp_path / "journal.mdb", 9000)
    for what in ("ls", "tail"):
        with pytest.raises(JournalDamaged, match=r"journal\.mdb"):
            command(tmp_path, what)
    assert command(tmp_path, "verify") == EXIT_OTHER
    assert "damaged: table pages" in capsys.readouterr().out


def test_all_of_it_works_from_another_process_beside_the_running_sidecar_and_writes_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    with running(tmp_path) as store:
        digest = hashlib.sha256((tmp_path / "journal.mdb").read_bytes()).digest()
        names = sorted(file.name for file in tmp_path.iterdir())
        for what in ("ls", "tail", "verify"):
            done = other_process(tmp_path, what)
            assert (done.returncode, done.stderr) == (0, ""), what
            assert done.stdout
        assert hashlib.sha256((tmp_path / "journal.mdb").read_bytes()).digest() == digest
        assert sorted(file.name for file in tmp_path.iterdir()) == names
        store.apply(events(22, 22))  # type: ignore[attr-defined]


def test_verify_beside_a_sidecar_that_writes_and_prunes_finds_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path, retention_s=1e-3)
    batch = Batch()
    register(batch, "one", 1)
    store.apply(batch)
    store.apply(events(1, 50))
    stop = threading.Event()

    def churn() -> None:
        offset = 51
        while not stop.is_set():
            store.apply(events(offset, offset + 49, payload=b"x" * 500, wall=WALL + offset))
            offset += 50
            if offset % 1000 == 1:
                store.prune(WALL + offset - 3000)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(4):
            done = other_process(tmp_path, "verify")
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads(done.stdout)["records"] > 0
    finally:
        stop.set()
        thread.join()
        store.close()


def test_follow_shows_what_comes_while_it_runs(tmp_path: Path) -> None:
    filled(tmp_path)
    with running(tmp_path) as store:
        process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), "tail", "follow"], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            offsets = [json.loads(process.stdout.readline())["offset"] for _ in range(21)]
            store.apply(events(22, 23))  # type: ignore[attr-defined]
            offsets += [json.loads(process.stdout.readline())["offset"] for _ in range(2)]
            assert offsets == list(range(1, 24))
        finally:
            process.kill()
            process.wait(timeout=60)
