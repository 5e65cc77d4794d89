"""A seeded random walk over what servers, networks and agents do to an upstream half, and what must hold at its end.

python -m tests.dialects.relaycast.walk FIRST COUNT      runs seeds and prints those that fail
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from random import Random

from sidecar.core.record import LATE
from sidecar.demo.rows import Agent, Message
from sidecar.dialects.relaycast import frames
from tests.dialects.relaycast.harness import Harness, Town, identity, town

STORED = ("message.created", "thread.reply", "dm.received", "group_dm.received")


class Walk:
    """One walk. `trace` tells what was done; `restarts`, `burned` and `starved` what the server made impossible."""

    def __init__(self, seed: int, steps: int = 30) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.town: Town = town(seed, batch=self.random.choice([1, 7, 1000]))
        self.world, self.sidecar = self.town.world, self.town.sidecar
        team = self.town.ann.workspace
        self.cat = self.world.add_agent(team, "Cat")
        self.people = [self.town.ann, self.town.bob, self.cat]
        for name in ("random", "ops team"):
            self.world.add_channel(team, name, self.people)
        self.world.add_channel(team, "foreign", [self.town.ann, self.cat])
        self.channels = ["general", "random", "ops team"]
        self.group = self.world.conversation(self.town.ann, [self.town.bob, self.cat], fresh=True)
        self.roots: list[Message] = []
        self.count = 0
        self.burned = 0
        self.restarts = 0
        self.starved = False
        self.flooded = False
        self.trace: list[str] = []
        self.steps = steps
        self.world.extra_keys = self.random.random() < 0.2
        self.world.spaced_json = self.random.random() < 0.1
        self.world.joined_event_ids = self.random.random() < 0.1
        self.world.agent_endpoint = self.random.choice(["channels", "channels", "channels", "bare"])

    # --- what happens ------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        self.trace.append(f"{self.sidecar.now - 1_760_000_000:9.3f} {text}")

    def traffic(self, count: int, *, pause: float | None = None, kinds: str = "mixed") -> None:
        """`count` events; `pause` seconds between two, None: at random."""
        world, pick = self.world, self.random.choice
        self.say(f"{count} events, {kinds}, pause {pause}")
        self.flooded |= count > 600 and pause == 0.0
        for _ in range(count):
            self.count += 1
            if pause is None:
                self.sidecar.now += pick([0.0, 0.0, 0.001, 0.02])
            else:
                self.sidecar.now += pause
            what = (
                "post"
                if kinds == "posts"
                else pick(["post"] * 6 + ["reply", "reply", "dm", "group", "react", "update", "presence", "foreign"])
            )
            who: Agent = pick(self.people)
            if what == "reply" and self.roots:
                world.reply(who, pick(self.roots[-20:] if self.random.random() < 0.7 else self.roots), f"r{self.count}")
            elif what == "dm":
                world.dm(self.town.ann, [self.town.bob], f"d{self.count}")
            elif what == "group":
                world.dm(self.cat, self.group, f"g{self.count}")
            elif what == "react" and self.roots:
                row = pick(self.roots[-30:])
                emoji = pick(["👍", "x"])
                removed = row.reactions is not None and (emoji, who.id) in row.reactions
                world.react(who, row, emoji, "removed" if removed else "added")
            elif what == "update" and self.roots:
                world.update(self.town.ann, pick(self.roots[-30:]), f"u{self.count}")
            elif what == "presence":
                world.emit([self.town.bob], {"type": "agent.status.active", "n": self.count})
            elif what == "foreign":
                world.post(self.cat, "foreign", f"f{self.count}")
            else:
                self.roots.append(world.post(who, pick(self.channels), f"p{self.count}"))

    def live(self) -> None:
        for _ in range(self.random.randint(1, 5)):
            self.traffic(self.random.randint(0, 12))
            self.sidecar.run(self.random.choice([0, 0.01, 0.3, 2]))

    def outage(self) -> None:
        size = self.random.choice([3, 40, 400, 480, 520, 700, 1200, 2300])
        self.world.refuse_connects(503, self.random.randint(1, 4))
        self.world.cut_all()
        self.say(f"outage of {size}")
        self.traffic(size, pause=self.random.choice([None, None, 0.0, 0.01, 0.2]), kinds=self.random.choice(["mixed", "mixed", "posts"]))
        self.sidecar.run(self.random.choice([0.0, 1, 20]))

    def restart(self) -> None:
        self.say("the server restarts")
        self.restarts += 1
        if self.random.random() < 0.5:
            self.world.cut_all()
            self.traffic(self.random.choice([0, 1, 30, 700]))
        self.world.restart()
        self.traffic(self.random.choice([0, 1, 5, 60, 600, 1300]))

    def fault(self) -> None:
        world, random, bob = self.world, self.random, self.town.bob
        what = random.choice(
            ["swallow", "hollow", "break", "break-quiet", "lose", "lose-hard", "burn", "double", "swap", "429", "5xx", "between"]
        )
        times = random.randint(1, 3)
        self.say(f"{what} x{times}")
        match what:
            case "swallow":
                world.swallow_resync(times)
                self.starved = True
            case "hollow":
                world.hollow_resync(times)
                self.starved = True
            case "break":
                world.break_resync(random.randint(0, 400), times)
            case "break-quiet":
                world.break_resync(random.randint(0, 400), times, cut=False)
                self.starved = True
            case "lose":
                world.lose_pushes(times, bob)
            case "lose-hard":
                world.lose_pushes(times, bob, from_ring=True)
                self.starved = True
            case "burn":
                world.burn_seq(times, bob)
                self.burned += times
            case "double":
                world.duplicate_pushes(times, bob)
            case "swap":
                world.reorder_pushes(times, bob)
            case "429":
                world.rate_limit(times, random.choice(["1", "3", None]), method="GET")
            case "5xx":
                world.fail_rest(times, method="GET")
            case "between":
                left = [random.randint(1, 30)]

                def push(socket: object, part: str, index: int) -> None:
                    if left[0] and random.random() < 0.05:
                        left[0] -= 1
                        self.traffic(1)

                world.on_replay = push

    def crash(self) -> None:
        self.say("the sidecar is killed")
        self.sidecar.crash()

    def run(self) -> Walk:
        sidecar, pick = self.sidecar, self.random.choice
        self.traffic(pick([0, 3, 600]), pause=pick([None, 0.01]))
        self.start = len(self.town.bob.history)
        sidecar.start()
        sidecar.run(1)
        self.say(f"held from event {self.start} on")
        for _ in range(self.steps):
            pick(
                [self.live, self.live, self.live, self.outage, self.outage, self.restart, self.fault, self.fault, self.fault, self.crash]
            )()
            if self.random.random() < 0.6:
                sidecar.run(pick([0.01, 1, 15, 60]))
        self.say("peace")
        self.world.on_replay = lambda socket, part, index: None
        self.world.swallow_resyncs = self.world.hollow_resyncs = 0
        self.world.broken_resyncs.clear()
        self.world.rest_faults.clear()
        self.world.upgrade_refusals.clear()
        for agent in self.people:
            agent.lose = agent.swap = agent.double = 0
            if agent.held is not None:
                for socket in agent.sockets:
                    socket.send(agent.held)
                agent.held = None
        sidecar.run(120)
        self.traffic(1, kinds="posts")
        sidecar.run(120)
        # What a faulty resync left open is asked for again at the next open.
        self.world.cut_all()
        sidecar.run(60)
        return self

    # --- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        sidecar = self.sidecar
        history = self.town.bob.history[self.start :]
        wanted = Counter(identity(pushed.frame) for pushed in history)
        found = Counter(sidecar.admitted())
        extra = found - wanted
        assert not extra, f"twice or never published: {list(extra.items())[:5]}"
        lost = wanted - found
        # Replies to old roots within a second of over 1000 rows: no interface finds them (R8).
        stored = [one for one in lost if one[0] in STORED and not (self.flooded and one[0] == "thread.reply")]
        assert not stored, f"lost {len(stored)} stored events: {stored[:5]}"
        gaps = sum(gap.count or 0 for gap in sidecar.gaps)
        late = sum(1 for entry in sidecar.events if entry.flags & LATE)
        if not self.restarts:
            assert gaps >= sum(lost.values()), f"silent loss: {sum(lost.values())} lost, {gaps} in gaps: {list(lost)[:5]}"
            assert gaps <= sum(lost.values()) + self.burned + late, f"false gap: {gaps} in gaps, {lost.total()} lost {sidecar.gaps}"
        if not self.starved and not self.restarts:
            kinds = {one[0] for one in lost}
            assert not (lost.total() and gaps == 0), kinds
        self._check_order(sidecar)
        assert sidecar.facts["upstream"] == "live", sidecar.facts

    def _check_order(self, sidecar: Harness) -> None:
        newest = 0
        for entry in sidecar.events:
            frame = frames.read(entry.payload)
            if frame.key and not entry.flags & LATE:
                assert frame.message_id > newest, f"out of order: {frame.message_id} behind {newest}"
                newest = frame.message_id


def failure(seed: int) -> str | None:
    """Why a seed fails, None if it does not."""
    walk = Walk(seed)
    try:
        walk.run().check()
    except Exception as error:
        story = "\n".join(walk.trace[-40:]) + "\n---\n" + walk.sidecar.story()
        where = "".join(traceback.format_exception(error)[-3:])
        return f"seed {seed}: {error}\n{story}\n{where}"
    return None


if __name__ == "__main__":
    first, count = int(sys.argv[1]), int(sys.argv[2])
    failed = [text for text in map(failure, range(first, first + count)) if text]
    for text in failed[:3]:
        print(text)
    print(f"{len(failed)} of {count} seeds failed: {[int(t.split(':')[0][5:]) for t in failed][:40]}")
    sys.exit(bool(failed))
