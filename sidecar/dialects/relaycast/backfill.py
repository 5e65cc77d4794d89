"""History over REST: a small machine of one GET at a time (relaycast section 6; R8, R9, R10, R15, R16).

`target` is what to ask next, None when done; `answer` or `failed` takes what came and says how many seconds to wait first. Work is a
queue of jobs, each a target and the method that reads its data; reading may queue more:

    /v1/agent ─► each channel: messages, newest page first, down to `low` ─► replies of roots that may have new ones
             └─► /v1/dm/conversations ─► messages of those whose last one is new
    and /v1/channels/:name for every channel that has something new, to see whether the agent muted it

What was found is in `rows`; whether a row's channel is the agent's to read says `allows`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from sidecar.core.backoff import Backoff
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast.frames import Frame, Variant
from sidecar.dialects.relaycast.instants import parse_http_date, parse_iso

PAGE = 100
MAX_FAILURES = 5
MAX_LIMITED = 30
"""Answers 429 in a row after which a fill gives up."""


class Plan(NamedTuple):
    """What a fill is to read. `low`: rows with a higher message id are wanted; `high`: none at or above it, None: no bound; `limit`: rows
    at most; `history`: false to look up channels alone; `check`: channels whose mute state matters; `roots`: roots known to have replies,
    with their channel and the number of replies known, -1 if that is not; `counted_from`: a root from this id on that is not in `roots`
    has no known replies; `member_of`: channels the agent was seen to be in, for want of
    better; `known`: whether a key is admitted."""

    low: int
    high: int | None
    limit: int
    history: bool
    check: frozenset[str]
    roots: Mapping[int, tuple[str, int]]
    counted_from: int
    member_of: frozenset[str]
    known: Callable[[int], bool]
    variant: Variant


class Place:
    """A channel the agent is a member of, since `joined` (server ms); `muted` None: not looked up."""

    def __init__(self, joined: int, muted: bool | None = None) -> None:
        self.joined = joined
        self.muted = muted


Reader = Callable[[Any], None]


class Backfill:
    """One fill. `rows`: frames found; `date`: the server's time (ms) at the last answer;
    `limited`: the bound was reached; `failed` and `denied`: targets that gave nothing."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: list[Frame] = []
        self.count = 0
        self.limited = False
        self.failed: list[str] = []
        self.denied: list[str] = []
        self.places: dict[str, Place] = {}
        self.informed = False
        self.me = ""
        self.replies: dict[int, int] = {}
        self.date = 0
        self._jobs: deque[tuple[str, Reader]] = deque([("/v1/agent", self._agent)])
        self._failures = 0
        self._throttled = self._untold = 0
        self._backoff = Backoff()
        self._looked_up: set[str] = set()
        self._old_roots: set[str] = set()
        self._roots_left = dict(plan.roots) if plan.history else {}

    @property
    def target(self) -> str | None:
        """What to GET next, None when everything was read."""
        return self._jobs[0][0] if self._jobs else None

    def answer(self, status: int, header: Callable[[str], str | None], body: bytes, random: float) -> float:
        """Take the answer to `target`. Returns seconds to wait before the next request."""
        target, reader = self._jobs[0]
        self.date = max(self.date, parse_http_date(header("date")) or 0)
        if status == 429:
            return self._throttle(header)
        self._throttled = self._untold = 0
        if status >= 500:
            return self.fail(random)
        if status != 200:
            self._jobs.popleft()
            self._failures = 0
            self.denied.append(target)
            self._without(reader)
            return 0.0
        try:
            envelope = msgspec.json.decode(body)
            data = envelope["data"]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            return self.fail(random)
        self._jobs.popleft()
        self._failures = 0
        self._backoff.reset()
        reader(data)
        self._next()
        return 0.0

    def fail(self, random: float) -> float:
        """The request got no answer, an error or garbage: try again some times, then go on without."""
        self._failures += 1
        if self._failures <= MAX_FAILURES:
            return self._backoff.next(random)
        target, reader = self._jobs.popleft()
        self.failed.append(target)
        self._failures = 0
        self._without(reader)
        return 0.0

    def _without(self, reader: Reader) -> None:
        """Go on without what a job would have told."""
        if reader == self._agent:
            self._list_channels()
        self._next()

    def _next(self) -> None:
        if not self._jobs and self._roots_left:
            self._other_roots()

    def _throttle(self, header: Callable[[str], str | None]) -> float:
        """429: nothing more before Retry-After, seconds or a date; absent: 5 s, doubling to 60 s (R16)."""
        self._throttled += 1
        if self._throttled > MAX_LIMITED:
            self.failed.extend(target for target, _ in self._jobs)
            self._jobs.clear()
            return 0.0
        told = retry_after(header)
        if told is not None:
            return told
        self._untold += 1
        return min(5.0 * (1 << (self._untold - 1)), 60.0)

    # --- readers -----------------------------------------------------------------------------------------------------

    def _agent(self, data: Any) -> None:
        self.me = str(data.get("id", "")) if isinstance(data, dict) else ""
        channels = data.get("channels") if isinstance(data, dict) else None
        if not isinstance(channels, list):
            self._list_channels()
            return
        self.informed = True
        for row in _dicts(channels):
            if isinstance(row.get("name"), str):
                self._found(row["name"], Place(parse_iso(row.get("joined_at")) or 0))
        self._begin()

    def _list_channels(self) -> None:
        """No list of the agent's channels: all public ones, and each one's members (section 12)."""
        if self.me:
            self._jobs.append(("/v1/channels?include_archived=true", self._all_channels))
            return
        # Not even the agent's own id: what it was seen to be in must do. Rows of the server's own replay are filtered by membership.
        for name in sorted(self.plan.member_of):
            self._found(name, Place(0, False))
        self._begin()

    def _all_channels(self, data: Any) -> None:
        names = [row["name"] for row in _dicts(data) if isinstance(row.get("name"), str)]
        self.informed = True
        for name in names:
            self._look_up(name)
        self._begin()

    def _look_up(self, name: str) -> None:
        if name not in self._looked_up:
            self._looked_up.add(name)
            self._jobs.append((f"/v1/channels/{quote(name, safe='')}", lambda data: self._channel(name, data)))

    def _channel(self, name: str, data: Any) -> None:
        members = data.get("members") if isinstance(data, dict) else None
        for row in _dicts(members):
            if str(row.get("agent_id")) == self.me:
                muted = row.get("is_muted") is True
                if name in self.places:
                    self.places[name].muted = muted
                else:
                    self._found(name, Place(parse_iso(row.get("joined_at")) or 0, muted))

    def _found(self, name: str, place: Place) -> None:
        self.places[name] = place
        if self.plan.history and not place.muted:
            self._page(name, self.plan.high)
        elif name in self.plan.check and place.muted is None:
            self._look_up(name)

    def _begin(self) -> None:
        if self.plan.history:
            self._jobs.append(("/v1/dm/conversations", self._conversations))

    def _page(self, name: str, before: int | None) -> None:
        self._jobs.append(
            (_paged(f"/v1/channels/{quote(name, safe='')}/messages", before=before), lambda data: self._messages(name, before, data))
        )

    def _messages(self, name: str, before: int | None, data: Any) -> None:
        rows = _dicts(data)
        fresh = False
        for row in rows:
            number = frames.as_id(row.get("id"))
            self._root(name, number, row.get("reply_count"))
            if number > self.plan.low:
                fresh = self._take("message.created", row, channel=name) or fresh
        if fresh and self.places[name].muted is None:
            self._look_up(name)
        lowest = self._next_page(rows, before, more=name not in self._old_roots)
        if lowest and not self.limited:
            self._page(name, lowest)
            if lowest <= self.plan.low:
                self._old_roots.add(name)

    def _next_page(self, rows: Sequence[dict[str, Any]], before: int | None, *, more: bool = False) -> int:
        """From where the next older page is to be read, 0 if there is none. A page that repeats ends it; `more`: one page of rows that are
        too old is wanted, too, for the threads below them."""
        lowest = min((frames.as_id(row.get("id")) for row in rows), default=0)
        on = len(rows) >= PAGE and (lowest > self.plan.low or more) and (before is None or lowest < before)
        return lowest if on else 0

    def _root(self, name: str, number: int, count: Any) -> None:
        """A root was seen with so many replies: read them if that is news."""
        self._roots_left.pop(number, None)
        known = self.plan.roots.get(number, ("", 0 if number >= self.plan.counted_from else -1))[1]
        if isinstance(count, int) and count > 0 and count != known and number:
            self.replies[number] = count
            self._thread(name, number, max(self.plan.low, 0))

    def _thread(self, name: str, root: int, after: int) -> None:
        self._jobs.append((_paged(f"/v1/messages/{root}/replies", after=after), lambda data: self._replies(name, root, after, data)))

    def _replies(self, name: str, root: int, after: int, data: Any) -> None:
        rows = _dicts(data.get("replies")) if isinstance(data, dict) else []
        highest = after
        fresh = False
        for row in rows:
            number = frames.as_id(row.get("id"))
            highest = max(highest, number)
            if number > self.plan.low and (self.plan.high is None or number < self.plan.high):
                fresh = self._take("thread.reply", row, channel=name, parent_id=str(root)) or fresh
        if fresh and self.places[name].muted is None:
            self._look_up(name)
        if len(rows) >= PAGE and highest > after and not self.limited:
            self._thread(name, root, highest)

    def _other_roots(self) -> None:
        """Roots known from the journal that no page showed."""
        for root, (name, _) in self._roots_left.items():
            if name in self.places and not self.places[name].muted:
                self._thread(name, root, self.plan.low)
        self._roots_left = {}

    def _conversations(self, data: Any) -> None:
        for row in _dicts(data):
            last = row.get("last_message")
            number = frames.as_id(last.get("id")) if isinstance(last, dict) else 0
            if isinstance(row.get("id"), str) and (not isinstance(last, dict) or not number or number > self.plan.low) and last is not None:
                kind = "dm.received" if row.get("type") == "1:1" else "group_dm.received"
                self._direct_page(row["id"], kind, self.plan.high)

    def _direct_page(self, talk: str, kind: str, before: int | None) -> None:
        target = _paged(f"/v1/dm/{quote(talk, safe='')}/messages", before=before)
        self._jobs.append((target, lambda data: self._directs(talk, kind, before, data)))

    def _directs(self, talk: str, kind: str, before: int | None, data: Any) -> None:
        rows = _dicts(data)
        for row in rows:
            if frames.as_id(row.get("id")) > self.plan.low:
                self._take(kind, row, conversation_id=talk)
        lowest = self._next_page(rows, before)
        if lowest and not self.limited:
            self._direct_page(talk, kind, lowest)

    def _take(self, kind: str, row: dict[str, Any], **where: str) -> bool:
        """Count a row and make a frame of it if it is not known. True if it is new."""
        if self.count >= self.plan.limit:
            self.limited = True
            return False
        self.count += 1
        number = frames.as_id(row.get("id"))
        if not number or self.plan.known(number << 2 | frames.MESSAGE_KINDS[kind]):
            return False
        made = frames.made_from_rest(kind, row, self.plan.variant, **where)
        if made is not None:
            self.rows.append(made)
        return made is not None

    # --- what is allowed (R10) ---------------------------------------------------------------------------------------

    def allows(self, frame: Frame) -> bool:
        """Whether a row's channel is one the agent is a member of and has not muted, and the row not older than its joining. Direct
        messages always are; without any word on memberships the server's own replay is believed."""
        name = frames.fields(frame.payload).get("channel")
        if not isinstance(name, str) or not frame.key:
            return True
        place = self.places.get(name)
        if place is None:
            return not self.informed
        # joined_at has whole seconds: what came in the same second is let in.
        return not place.muted and frames.server_ms(frame.message_id) >= place.joined // 1000 * 1000


def retry_after(header: Callable[[str], str | None]) -> float | None:
    """Seconds to wait as a Retry-After header tells, in seconds or as a date (by the server's own clock); None: it does not (R16)."""
    told = (header("retry-after") or "").strip()
    if told.isascii() and told.isdigit():
        return min(float(told), 3600.0)
    until, now = parse_http_date(told), parse_http_date(header("date"))
    return None if until is None or now is None else min(max((until - now) / 1000, 0.0), 3600.0)


def _dicts(data: Any) -> list[dict[str, Any]]:
    rows: Iterable[Any] = data if isinstance(data, list) else ()
    return [row for row in rows if isinstance(row, dict)]


def _paged(path: str, **bounds: int | None) -> str:
    return f"{path}?limit={PAGE}" + "".join(f"&{name}={value}" for name, value in bounds.items() if value is not None)
