"""SIGKILL of the sidecar, again and again, under load: nothing lost, and what comes twice is counted and at most a window."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

from tests.crash.failpoints import POINTS
from tests.crash.stage import WINDOW, Stage, opened, until

KILLS = int(os.environ.get("CRASH_KILLS", "54"))
SEED = int(os.environ.get("CRASH_SEED", "20"))


def plan(seed: int, kills: int) -> list[tuple[str, ...]]:
    """How each life of the sidecar ends: at a point, in every second round only while a window is full; or at any moment."""
    drawn = random.Random(seed)
    kinds = [*POINTS, "none"]
    lives: list[tuple[str, ...]] = []
    for number in range(kills):
        point = kinds[number % len(kinds)]
        if point == "none":
            lives.append((point, "1"))
        elif number // len(kinds) % 2:
            lives.append((point, str(drawn.randint(1, 40))))
        else:
            lives.append((point, str(drawn.randint(1, 6)), "full"))
    return lives


async def killed(stage: Stage, drawn: random.Random) -> None:
    """Wait for the end of an armed life; one that nobody else ends is killed at some moment after the agent is back."""
    sidecar = stage.sidecar
    if sidecar.arm[0] == "none":
        opens = len(sidecar.pids)
        await until(lambda: stage.sdk.states["open"] >= opens, "the agent did not come back")
        await asyncio.sleep(drawn.uniform(0.0, 0.8))
        sidecar.signal(signal.SIGKILL)
    await until(lambda: not sidecar.alive, lambda: f"{sidecar.arm} never happened; the sidecar said:\n{sidecar.tail()}")
    assert await sidecar.ended() == -signal.SIGKILL, sidecar.tail()


async def lives(folder: Path) -> None:
    drawn = random.Random(SEED)
    ends: list[int] = []  # of each life: how much the SDK's handler had got when its connection was over
    async with opened(folder) as stage:
        sidecar = stage.sidecar
        for number, arm in enumerate(plan(SEED, KILLS)):
            sidecar.arm = arm
            await sidecar.start()
            if number == 0:
                await stage.connect()
                stage.flow()
            await killed(stage, drawn)
            # Before the next life begins: on a busy machine the agent may be back and at work before this line is reached.
            await until(lambda: stage.sdk.states["close"] >= len(ends) + 1, "the agent does not see that its connection is over")
            ends.append(len(stage.numbers()))
        sidecar.arm = ("none", "1")
        await sidecar.start()
        await stage.ebb()
        await stage.caught_up()
        ends.append(len(stage.numbers()))
        assert {name: stream["gaps"] for name, stream in (await sidecar.streams()).items()} == {stage.sdk_id: 0, stage.stating_id: 0}
        assert await sidecar.stop() == 0
        check_sdk(stage, ends)
        check_stating(stage)
        check_places(stage)


def check_sdk(stage: Stage, ends: list[int]) -> None:
    """0 lost, in order; each life repeats at most a window, and has counted at least what it repeated."""
    numbers = stage.numbers()
    counted: Counter[int] = Counter()
    for line in stage.sidecar.said():
        if line.get("stream") == stage.sdk_id:
            counted[line["pid"]] += line["redelivered"]
    last, begin, repeats = -1, 0, []
    for life, end in enumerate(ends):
        got = numbers[begin:end]
        begin = end
        if not got:
            repeats.append(0)
            continue
        assert got == list(range(got[0], got[0] + len(got))), f"life {life}: not in order or not without holes"
        assert got[0] <= last + 1, f"life {life}: {last + 1} to {got[0] - 1} are lost"
        repeats.append(sum(number <= last for number in got))
        assert last + 1 - got[0] <= WINDOW, f"life {life} went back by {last + 1 - got[0]}"
        assert counted[stage.sidecar.pids[life]] >= repeats[-1], f"life {life} counted fewer repeats than there were"
        last = max(last, got[-1])
    assert last == stage.published - 1
    assert len(repeats) == KILLS + 1
    assert repeats[0] == 0
    print(f"published {stage.published}, repeats {sum(repeats)}, at most {max(repeats)} at once, counted {sum(counted.values())}")


def check_stating(stage: Stage) -> None:
    """A client that states its cursor: everything once, in order."""
    assert stage.stating.handled == list(range(stage.published))
    assert stage.stating.opens > KILLS


def check_places(stage: Stage) -> None:
    """The kills were where they were to be, and enough of them with the window full."""
    deaths = [line for line in stage.sidecar.said() if "point" in line]
    assert Counter(line["point"] for line in deaths) == Counter(arm[0] for arm in plan(SEED, KILLS) if arm[0] != "none")
    assert sum(line["out"] >= line["window"] for line in deaths) >= KILLS // 3


def test_killed_again_and_again_under_load_it_loses_nothing_and_repeats_at_most_a_window(tmp_path: Path) -> None:
    assert KILLS >= 50
    asyncio.run(lives(tmp_path))
