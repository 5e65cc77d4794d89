"""What must be true after a simulated Discord run: of the journal, of each agent, and of what the upstream saw."""

from __future__ import annotations

from collections import Counter

import msgspec

from sidecar.core.record import LATE, Gap, Record
from tests.discord.upstream.places import Guild
from tests.discord.upstream.session import INTENT_OF
from tests.discord.upstream.world import Bot
from tests.simulation.discord_agents import Agent, SessionLog, identity
from tests.simulation.discord_faults import CALM, SILENT, Schedule
from tests.simulation.discord_sim import DiscordSim
from tests.simulation.discord_workload import Event
from tests.simulation.sim import START

decode = msgspec.json.decode
DIRECT = {9: 12, 10: 13, 11: 14}
SLACK_MS = 60
"""Between the server's clock when something happened and ours when the last sign of life came: the lag of the wire."""
HOLES = frozenset(["hole", "silently"])


class Stream:
    """One stream's journal, as it was ever committed. `names`: identity by offset (1 is first), empty for gaps."""

    def __init__(self, sim: DiscordSim, name: str) -> None:
        self.name = name
        self.records: list[Record] = sim.records(name)
        self.frames = [None if r.is_gap else decode(r.payload) for r in self.records]
        self.names = ["" if f is None else identity(f["t"], f["d"]) for f in self.frames]
        self.gaps = [(r.domain, decode(r.payload, type=Gap)) for r in self.records if r.is_gap]
        self.count = Counter(filter(None, self.names))

    def covered(self, at: float, domain: str, slack: int = 0) -> bool:
        """Is there a gap record for this moment (Unix seconds) in a domain?"""
        ms = int(at * 1000)
        return any(d == domain and g.unit == "time" and g.from_ - slack <= ms <= g.to + slack for d, g in self.gaps)

    def visible(self, offset: int, agent: Agent) -> bool:
        """Does this record concern an agent?"""
        frame = self.frames[offset - 1]
        if frame is None:
            return False
        bit = INTENT_OF.get(frame["t"])
        if bit is None:
            return True
        d = frame["d"]
        return bool(agent.intents >> (bit if d.get("guild_id") or bit not in DIRECT else DIRECT[bit]) & 1)


def check(sim: DiscordSim, schedule: Schedule) -> None:
    """All promises."""
    shards = len(sim.knobs.shards) or 1
    for bot in sim.world.bots:
        for index in range(shards):
            stream = Stream(sim, f"discord:{bot.user.id}:{index}/{shards}")
            where = f"seed {sim.clock.seed}, {stream.name}"
            _journal(where, sim, schedule, stream, bot, (index, shards))
            _agents(where, sim, schedule, stream)
    _upstream(f"seed {sim.clock.seed}", sim, schedule, shards)


# --- the journal


def _journal(where: str, sim: DiscordSim, schedule: Schedule, stream: Stream, bot: Bot, shard: tuple[int, int]) -> None:
    assert [r.offset for r in stream.records] == list(range(1, len(stream.records) + 1)), f"{where}: not dense"
    # What has no id of its own is told apart by numbers alone: Discord may send it again under another (U15).
    kinds = ONCE if "repeat_live" in schedule.done else (*ONCE, "MESSAGE_UPDATE ", "MESSAGE_REACTION_ADD ")
    twice = [name for name, n in stream.count.items() if n > 1 and name.startswith(kinds)]
    assert not twice, f"{where}: journaled twice: {twice[:5]}"
    known = {event.name for event in schedule.events}
    foreign = [n for n in stream.count if n.startswith("MESSAGE_CREATE") and n not in known]
    assert not foreign, f"{where}: history from before our time: {foreign[:5]}"
    newest: dict[str, int] = {}
    # The hold's bound is told of only if something was held just then.
    late = sim.watch.released or (HOLES | {"slow", "calls", "outage"}) & set(schedule.done)
    for record, frame, name in zip(stream.records, stream.frames, stream.names, strict=True):
        if frame is not None and name.startswith("MESSAGE_CREATE "):
            number, channel = int(name.split()[1]), frame["d"]["channel_id"]
            if number < newest.get(channel, 0):
                assert record.flags & LATE, f"{where}: {name} out of order in {channel}, not marked late"
                assert late, f"{where}: {name} is late, though nothing had to be let through"
            newest[channel] = max(newest.get(channel, 0), number)
    for event in schedule.events:
        if event.name not in stream.count and _concerns(event, bot, shard):
            reason = _excuse(sim, schedule, stream, bot, event)
            assert reason, f"{where}: {event.name} of {event.at - START:.3f} in {event.channel} lost in silence; gaps {stream.gaps}"
    holes = HOLES & set(schedule.done)
    wide = [gap for domain, gap in stream.gaps if not domain and gap.unit == "time" and gap.detail]
    other = [gap for domain, gap in stream.gaps if not domain and gap not in wide]
    assert holes or not other, f"{where}: no number was missing, but {other}"
    sessions = sum(1 for each in sim.world.ledger.identifies if each.token == bot.token and each.shard == shard and each.answer == "ready")
    assert len(wide) <= max(0, sessions - 1), f"{where}: {len(wide)} lost sessions in the journal, {sessions} IDENTIFYs"
    if schedule.family == CALM:
        # Before that agents may have asked for more than the session had (R23).
        gaps = [gap for _, gap in stream.gaps if gap.to > schedule.begun * 1000]
        assert not gaps, f"{where}: gaps without a fault: {gaps}"
    reasons = {gap.reason for domain, gap in stream.gaps if domain}
    if not ({"calls", "shut"} & set(schedule.done) or schedule.left):
        assert "denied" not in reasons, f"{where}: denied, but nothing was"
    if sim.knobs.backfill_max == 1000:
        assert "limit" not in reasons, f"{where}: a limit that is not reached"


ONCE = tuple(f"{kind} " for kind in "MESSAGE_CREATE MESSAGE_DELETE INTERACTION_CREATE CHANNEL_CREATE CHANNEL_DELETE THREAD_DELETE".split())
"""Kinds that are journaled once whatever comes (discord R2)."""


def _concerns(event: Event, bot: Bot, shard: tuple[int, int]) -> bool:
    index = event.guild.shard(shard[1]) if event.guild is not None else 0
    return bot in event.bots and index == shard[0]


def _excuse(sim: DiscordSim, schedule: Schedule, stream: Stream, bot: Bot, event: Event) -> str:
    """Why an event need not be in the journal, empty if it must."""
    at = event.at - START
    intents = [value for since, value in sim.watch.rows.get(stream.name, ()) if since <= at]
    if not intents or (event.bit >= 0 and not intents[-1] >> event.bit & 1):
        return "before our time, or not asked for"
    if schedule.family == SILENT and {"silently"} & set(schedule.done):
        return "nothing tells of it"
    if stream.covered(event.at, "", SLACK_MS) and not (event.name.startswith("MESSAGE_CREATE ") and _strict(sim, stream, event, at)):
        return "a lost session"
    if not event.name.startswith("MESSAGE_CREATE "):
        # What was in a hole beside messages cannot be told; how many numbers were in it can.
        return "a hole" if HOLES & set(schedule.done) else ""
    if event.name in schedule.gone:
        return "deleted"
    if (bot, event.guild.id if event.guild else 0) in schedule.left:
        return "the bot left"
    if event.channel not in sim.world.channels:
        return "the channel is gone"
    if stream.covered(event.at, str(event.channel), 2):
        return "a gap of its channel"
    if not _strict(sim, stream, event, at) and HOLES & set(schedule.done):
        return "a hole in a place that is not known"
    return ""


def _strict(sim: DiscordSim, stream: Stream, event: Event, at: float) -> bool:
    """Can history give it whatever happens? Its channel has a watermark, or was made in a guild that is known (R34)."""
    marked = sim.watch.marks.get((stream.name, str(event.channel)))
    if marked is not None and marked <= at:
        return True
    guild: Guild | None = event.guild
    known = sim.watch.guilds.get((stream.name, str(guild.id))) if guild else None
    made = sim.world.channels[event.channel].made_at - START if event.channel in sim.world.channels else -1.0
    return known is not None and known < made


# --- agents


def _agents(where: str, sim: DiscordSim, schedule: Schedule, stream: Stream) -> None:
    mine = [agent for agent in sim.agents if agent.stream == stream.name]
    taken: set[int] = set()
    begun: list[int] = []
    for agent in mine:
        who = f"{where}, {agent.kind.name}"
        assert not agent.errors, f"{who}: {agent.errors}"
        assert agent.sessions, f"{who}: never READY"
        assert agent.chunks <= agent.nonces, f"{who}: chunks of others"
        own: set[int] = set()
        for number, session in enumerate(agent.sessions):
            last = session is agent.sessions[-1]
            offsets = _session(who, stream, agent, session, last)
            repeats = len([offset for offset in offsets if offset in own])
            if len(mine) == 1:
                assert repeats <= sim.window, f"{who}: {repeats} repeats in session {number}"
                if schedule.family == CALM:
                    assert not repeats, f"{who}: repeats without a fault"
            own.update(offsets)
            begun.append(session.base)
        taken |= own
    weak = any(agent.weak for agent in mine)
    for name, high, cursor in sim.watch.claims:
        unseen = [o for o in range(high + 1, cursor + 1) if name == stream.name and all(stream.visible(o, agent) for agent in mine)]
        assert weak or not unseen, f"{where}: a receipt up to {cursor}, but {unseen[:5]} were not handled"
    if mine:
        lost = [
            stream.names[offset - 1]
            for offset in range(min(begun) + 1, len(stream.records) + 1)
            if offset not in taken and all(stream.visible(offset, agent) for agent in mine)
        ]
        assert not lost, f"{where}: journaled, never handed over: {lost[:5]}"


def _session(who: str, stream: Stream, agent: Agent, session: SessionLog, last: bool) -> list[int]:
    """One downstream session: exactly the journal behind its base, as far as it got, numbered as it should be. Returns the offsets."""
    offsets = [s - session.k + session.base for s, _ in session.taken]
    for offset, (_, name) in zip(offsets, session.taken, strict=True):
        assert 0 < offset <= len(stream.names), f"{who}: {name} has a number beyond the journal"
        assert stream.names[offset - 1] == name, f"{who}: {name} has the number of {stream.names[offset - 1]}"
    end = len(stream.names) if last else max(offsets, default=session.base)
    wanted = [offset for offset in range(session.base + 1, end + 1) if stream.visible(offset, agent)]
    if offsets != wanted:
        twice = [offset for offset, n in Counter(offsets).items() if n > 1]
        missing = sorted(set(wanted) - set(offsets))
        mixed = offsets != sorted(offsets)
        raise AssertionError(f"{who}: session {session.id[:6]}: twice {twice[:5]}, missing {missing[:5]}, out of order {mixed}")
    for head, s in session.resumed:
        offset = s - session.k + session.base
        early = [o for o in range(offset + 1, head + 1) if stream.visible(o, agent)]
        assert not early, f"{who}: RESUMED before {len(early)} events of the replay"
    return offsets


# --- the upstream


def _upstream(where: str, sim: DiscordSim, schedule: Schedule, shards: int) -> None:
    ledger, world = sim.world.ledger, sim.world
    assert not ledger.wrongs, f"{where}: {ledger.wrongs[:3]}"
    for bot in world.bots:
        mine = [each for each in ledger.identifies if each.token == bot.token]
        # An agent that asks for more than the session has costs one, too. With a short replay any fault may cost the session.
        most = shards * (3 + 3 * len(schedule.done))
        assert len(mine) <= most, f"{where}: {len(mine)} IDENTIFYs of {bot.user.name}, {most} have a reason"
        for first, later in zip(mine, mine[6 * shards :], strict=False):
            assert later.at - first.at > 50.0, f"{where}: {6 * shards} IDENTIFYs within {later.at - first.at:.0f} s"
    minutes = (sim.clock.now + 60.0) / 60.0
    most = int(len(world.bots) * shards * (6 + 6 * minutes + 3 * len(schedule.done)))
    assert len(ledger.connects) <= most, f"{where}: {len(ledger.connects)} dials"
    for start, end, restarts in schedule.refusing:
        dials = sum(1 for each in ledger.connects if start < each.at < end)
        most = len(world.bots) * shards * (9 + 6 * restarts)
        assert dials <= most, f"{where}: {dials} dials within {end - start:.0f} s in which none could succeed"
    again: dict[tuple[str | None, str], tuple[float, float]] = {}
    for call in ledger.calls:
        place = (call.headers.get("authorization"), call.path)
        told, until = again.get(place, (0.0, 0.0))
        assert call.at >= until or _anew(sim, schedule, told, call.at), f"{where}: {call.path} is asked again though it was told to wait"
        if call.status == 429:
            again[place] = (call.at, call.at + 0.9)
    refused = [each.at for each in (*ledger.identifies, *ledger.resumes) if each.answer.startswith("op9")]
    for at in refused if len(world.bots) * shards == 1 else ():
        soon = [each.at for each in ledger.connects if at < each.at < at + 0.9 and not _anew(sim, schedule, at, each.at)]
        assert not soon, f"{where}: a dial {soon[0] - at:.2f} s after op 9"
    # An op 7 or 9 that comes while an answer is waited for is no failure (what is put off by op 9 has a bound of its own).
    most = 4 + schedule.done.count("op7") + schedule.done.count("invalid")
    mute: dict[str | None, list[float]] = {}
    for resume in ledger.resumes:
        mute[resume.session] = [*mute.get(resume.session, []), resume.at] if resume.answer in MUTE and not resume.replayed else []
        last = mute[resume.session][-most:]
        assert len(last) < most or _anew(sim, schedule, last[0], last[-1]), f"{where}: {most} RESUMEs without an answer"
    assert ledger.invalid_requests <= 60, f"{where}: {ledger.invalid_requests} answers of 401, 403 or 429"


MUTE = ("cut", "empty_close", "swallowed")


def _anew(sim: DiscordSim, schedule: Schedule, start: float, end: float) -> bool:
    """Did the upstream half begin anew meanwhile, and forget what only its memory had? A full disk does that, too."""
    return "full" in schedule.done or any(start <= boot <= end for boot in sim.boots)
