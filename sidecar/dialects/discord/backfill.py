"""History over REST: a machine of one GET at a time (discord R33).

Two kinds of jobs. A *look* at a guild asks for its channels and its active threads, to learn which of them have something new. A *fill*
reads one channel from its watermark on, a hundred messages a page; pages come newest first, so each is sorted and the next one is asked
for behind its highest. A full page that ends with the channel's newest message is doubted: some servers answer with the newest hundred
instead of the hundred behind the watermark, so what lies before it is asked for too. A job that must wait (429, a spent bucket, a server
error) lets others go first. Nothing is asked twice that was answered 401 or 403.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from sidecar.core.record import Gap
from sidecar.dialects.discord import frames
from sidecar.dialects.discord.gateway import API
from sidecar.dialects.discord.guilds import Place, objects, places

PAGE = 100
PACE_S = 0.05
"""Own calls: 20 a second at most, all shards together."""
MAX_FAILURES = 8
MAX_WAIT_S = 3600.0

Header = Callable[[str], str | None]
_Row = dict[str, msgspec.Raw]
_row = msgspec.json.Decoder(_Row).decode


class Pace:
    """The spacing of own calls. `blocked`: monotonic time before which nothing is asked at all (a global 429)."""

    def __init__(self) -> None:
        self._free = 0.0
        self.blocked = 0.0

    def wait(self, mono: float) -> float:
        """Seconds until the next call; 0: it may go now, and is counted."""
        at = max(self._free, self.blocked)
        if at > mono:
            return at - mono
        self._free = mono + PACE_S
        return 0.0


class Fill(msgspec.Struct):
    """One channel's job. `after`: the highest id that is admitted or given up; `at`: how far it was read; `last`: the channel's
    `last_message_id`, -1 if that is not known; `count`: messages read. `low`: lowest id of a page that is doubted, 0 if there is none;
    `floor`: behind which it was asked for; `back`: whether what lies between them is read now."""

    channel: str
    guild: str
    after: int
    last: int = -1
    type: int | None = None
    at: int = 0
    count: int = 0
    low: int = 0
    floor: int = 0
    back: bool = False


class Found(NamedTuple):
    """A message from history."""

    id: int
    channel: str
    row: _Row


class Page(NamedTuple):
    """What an answer to a fill gave. `done`: nothing more is to be read; `gap`: what could not be."""

    fill: Fill
    rows: Sequence[Found]
    done: bool
    gap: Gap | None


class Look(NamedTuple):
    """What the two answers to a look gave; `places` None: the upstream does not tell."""

    guild: str
    places: Sequence[Place] | None


class _Job:
    def __init__(self, fill: Fill | None, guild: str = "") -> None:
        self.fill = fill
        self.guild = guild
        self.places: list[Place] | None = None
        self.ready = 0.0
        self.failures = 0

    def target(self, limit: int) -> str:
        if self.fill is not None and self.fill.back:
            return f"{API}/channels/{self.fill.channel}/messages?before={self.fill.low}&limit={PAGE}"
        if self.fill is not None:
            left = min(PAGE, limit - self.fill.count)
            # Of a channel that was empty all is new. 0 is no snowflake to every server; the first message of a post bears the post's id.
            after = self.fill.at or frames.snowflake(self.fill.channel) - 1
            return f"{API}/channels/{self.fill.channel}/messages?after={max(after, 0)}&limit={left}"
        return f"{API}/guilds/{self.guild}/channels" if self.places is None else f"{API}/guilds/{self.guild}/threads/active"


class Backfill:
    """`limit`: messages a channel; `max_age`: seconds. Ask `next` for what to GET, hand in the answer, act on what it gives."""

    def __init__(self, limit: int, max_age: float, pace: Pace) -> None:
        self.limit = limit
        self.max_age = max_age
        self._pace = pace
        self._jobs: deque[_Job] = deque()
        self._asked: _Job | None = None
        self.refused = False

    @property
    def is_done(self) -> bool:
        """Is nothing left to ask?"""
        return not self._jobs and self._asked is None

    def pending(self) -> set[str]:
        """Channels that are not read to their end."""
        jobs = [*self._jobs, *([self._asked] if self._asked is not None else [])]
        return {job.fill.channel for job in jobs if job.fill is not None}

    def fill(self, fill: Fill) -> None:
        """Read a channel."""
        fill.at = fill.after
        self._jobs.append(_Job(fill))

    def look(self, guild: str) -> None:
        """Ask for a guild's channels and threads; before any fill that is not begun."""
        self._jobs.appendleft(_Job(None, guild))

    def next(self, mono: float) -> str | float | None:
        """A target to GET now, or seconds until there may be one, or None: nothing to do until something is answered or added."""
        if self._asked is not None or not self._jobs or self.refused:
            return None
        for job in self._jobs:
            if job.ready <= mono:
                wait = self._pace.wait(mono)
                if wait > 0:
                    return wait
                self._jobs.remove(job)
                self._asked = job
                return job.target(self.limit)
        return min(job.ready for job in self._jobs) - mono

    def give_back(self) -> None:
        """The request under way was cancelled: its job is asked again."""
        if self._asked is not None:
            self._jobs.appendleft(self._asked)
            self._asked = None

    # --- answers ---------------------------------------------------------------------------------------------------------------------

    def failed(self, mono: float, wall: float, random: float) -> Page | Look | None:
        """No answer, an error of the server, or garbage: again later, and after some times without it."""
        job = self._take()
        if job is None:
            return None
        job.failures += 1
        if job.failures <= MAX_FAILURES:
            job.ready = mono + min(30.0, 0.5 * (1 << job.failures)) * (0.5 + 0.5 * random)
            self._jobs.append(job)
            return None
        return self._without(job, "upstream_down", wall)

    def answer(self, status: int, header: Header, body: bytes, mono: float, wall: float, random: float) -> Page | Look | None:
        """Take the answer to what was asked."""
        job = self._asked
        if job is None:
            return None
        if status == 429:
            self._throttled(job, header, body, mono)
            return None
        if status >= 500:
            return self.failed(mono, wall, random)
        if status == 401:
            # The token is dead: whatever else were asked would only bring a ban nearer.
            self.refused = True
            self.give_back()
            return None
        if status != 200:
            self._take()
            return self._without(job, "absent" if status == 404 else "denied", wall)
        try:
            found = self._read(job, frames.paired(frames.utf8(body)), wall)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self.failed(mono, wall, random)
        self._take()
        job.failures = 0
        if header("x-ratelimit-remaining") == "0":
            job.ready = mono + _seconds(header("x-ratelimit-reset-after"))
        if found is None or (isinstance(found, Page) and not found.done):
            self._jobs.appendleft(job)
        return found

    def _take(self) -> _Job | None:
        job, self._asked = self._asked, None
        return job

    def _throttled(self, job: _Job, header: Header, body: bytes, mono: float) -> None:
        told = frames.fields(body)
        until = mono + max(_seconds(header("retry-after")), _seconds(told.get("retry_after")), PACE_S)
        if told.get("global") is True or header("x-ratelimit-global") or header("x-ratelimit-scope") == "global":
            self._pace.blocked = max(self._pace.blocked, until)
        job.ready = until
        self._take()
        self._jobs.append(job)

    def _without(self, job: _Job, reason: str, wall: float) -> Page | Look:
        fill = job.fill
        if fill is None:
            return Look(job.guild, job.places)
        return Page(fill, (), True, _gap(reason, fill, wall))

    def _read(self, job: _Job, body: bytes, wall: float) -> Page | Look | None:
        fill = job.fill
        if fill is not None:
            return self._page(fill, body, wall)
        if job.places is None:
            job.places = places(msgspec.json.decode(body, type=list[msgspec.Raw]))
            return None
        threads = msgspec.json.decode(body, type=_Row).get("threads", b"[]")
        return Look(job.guild, [*job.places, *places(objects(threads))])

    def _page(self, fill: Fill, body: bytes, wall: float) -> Page:
        wanted = min(PAGE, self.limit - fill.count)
        rows = msgspec.json.decode(body, type=list[msgspec.Raw])
        if fill.back:
            return self._page_before(fill, [_found(fill.channel, raw) for raw in rows])
        asked = fill.at
        found = sorted((each for each in (_found(fill.channel, raw) for raw in rows) if each.id > fill.at), key=lambda each: each.id)
        gap: Gap | None = None
        if not rows and not fill.count and fill.last > fill.after:
            return Page(fill, (), True, _gap("absent", fill, wall))
        oldest = frames.first_id((wall - self.max_age) * 1000)
        if found and found[0].id < oldest:
            gap = _gap("limit", fill, wall, oldest)
            found = [each for each in found if each.id >= oldest]
            fill.at = oldest - 1
        fill.count += len(found)
        fill.at = max(fill.at, found[-1].id if found else 0)
        done = len(rows) < wanted or (not found and gap is None)
        if not done and found and not fill.low and found[-1].id >= fill.last:
            fill.low, fill.floor = found[0].id, max(asked, oldest - 1)
        if not done and fill.count >= self.limit:
            done = True
            if fill.last < 0 or fill.last > fill.at:
                gap = gap or _gap("limit", fill, wall)
        if done and fill.low:
            fill.back, done = True, False
        return Page(fill, found, done, gap)

    def _page_before(self, fill: Fill, rows: Sequence[Found]) -> Page:
        """What lies between the watermark and a page that may have been the newest hundred: nothing, at Discord."""
        found = sorted((each for each in rows if fill.floor < each.id < fill.low), key=lambda each: each.id)
        if not found:
            # A server that heeds neither `after` nor `before` does not tell.
            is_deaf = any(each.id >= fill.low for each in rows)
            return Page(fill, (), True, _between(fill) if is_deaf else None)
        fill.count += len(found)
        fill.low = found[0].id
        done = len(rows) < PAGE or any(each.id <= fill.floor for each in rows)
        if not done and fill.count >= self.limit:
            return Page(fill, found, True, _between(fill))
        return Page(fill, found, done, None)


def beyond(fill: Fill, wall: float) -> Gap:
    """The gap of a channel that is not to be read at all."""
    return _gap("limit", fill, wall)


def _found(channel: str, raw: msgspec.Raw) -> Found:
    row = _row(raw)
    return Found(frames.snowflake(msgspec.json.decode(row.get("id", b"null"))), channel, row)


def _gap(reason: str, fill: Fill, wall: float, last: int = 0) -> Gap:
    """What was not read of a channel, up to message `last` (the channel's newest, or up to now), as times in Unix milliseconds. One that
    was empty: from its birth on."""
    last, done = last or fill.last, max(fill.at, fill.after)
    end = frames.time_of(last) if last > 0 else int(wall * 1000)
    start = frames.time_of(done) + 1 if done else frames.time_of(frames.snowflake(fill.channel))
    return Gap(reason, "time", min(start, end), end)


def _between(fill: Fill) -> Gap:
    """What was not read before a page that was doubted."""
    last = frames.time_of(fill.low)
    start = frames.time_of(fill.floor) + 1 if fill.floor else frames.time_of(frames.snowflake(fill.channel))
    return Gap("limit", "time", min(start, last), last)


def _seconds(value: object) -> float:
    """A Retry-After as header or member, 0 if it is none."""
    try:
        found = float(value) if isinstance(value, str | int | float) else 0.0
    except ValueError:
        return 0.0
    return min(found, MAX_WAIT_S) if found > 0 else 0.0
