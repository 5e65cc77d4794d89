"""Load frames, and that both sides of the dedupe benchmark are given the same work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import frames
from benchmarks.bench_dedupe import Load, run_here, run_node, write_frames

START_MS = 1_763_000_000_000


def test_event_id_is_the_wire_page_s() -> None:
    assert frames.event_id("249685982163529728") == "54ca1feb-0820-5cff-8be7-22df1c4e1a75"


def test_frames_are_500_bytes_with_contiguous_seqs_and_distinct_ids() -> None:
    built = frames.build(1_000, 99_500, START_MS)
    assert {len(frame) for frame in built} == {500}
    events = [json.loads(frame) for frame in built]
    assert [event["agent_seq"] for event in events] == list(range(99_500, 100_500))
    ids = [int(event["message"]["id"]) for event in events]
    assert ids == sorted(set(ids))
    assert all(event["id"] == frames.event_id(event["message"]["id"]) for event in events)


def test_two_builds_share_no_id() -> None:
    first = frames.build(100, 1, START_MS)
    second = frames.build(100, 101, START_MS + frames.span_ms(100))
    assert int(json.loads(first[-1])["message"]["id"]) < int(json.loads(second[0])["message"]["id"])


@pytest.mark.parametrize("reach", [20, 800])
def test_every_tenth_frame_is_a_repeat_within_reach(reach: int) -> None:
    built = frames.build(900, 1, START_MS)
    mixed = frames.with_duplicates(built, reach)
    assert len(mixed) == 1_000
    newest, distances = 0, []
    for frame in mixed:
        seq = json.loads(frame)["agent_seq"]
        if seq == newest + 1:
            newest = seq
        else:
            distances.append(newest - seq)
    assert newest == 900
    assert len(distances) >= 99  # the frame just sent may be the one repeated
    assert max(distances) < reach
    assert max(distances) > reach // 2


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node here")
def test_node_and_a_plain_set_admit_the_same_frames(tmp_path: Path) -> None:
    mixed = frames.with_duplicates(frames.build(4_500, 1, START_MS), 1_500)
    given = Load(mixed[:2_500], mixed[2_500:], list(dict.fromkeys(mixed[2_500:])))
    write_frames(tmp_path / "frames", mixed)

    def plain() -> object:
        seen: set[bytes] = set()

        def admit(batch: list[bytes]) -> int:
            before = len(seen)
            seen.update(batch)
            return len(seen) - before

        return admit

    there = run_node(tmp_path / "frames", 2_500)
    assert there.admitted == run_here(plain, given).admitted  # type: ignore[arg-type]
    assert there.admitted < len(given.measured)
