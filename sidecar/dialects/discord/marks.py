"""Watermarks: the highest message id admitted in each channel, by live or backfill (discord R34). One small durable row a channel.

A channel's first mark is where its zero is: what is older is never replayed. Later only admission moves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sidecar.core.actions import Op, PutState


class Marks:
    """Marks of one shard. `prefix`: of the rows' keys. Of a channel that is gone the last mark and guild are still known until `bury`: what
    was read of it before goes into the journal yet."""

    def __init__(self, state: Mapping[str, bytes], prefix: str) -> None:
        self._prefix = prefix
        self._marks: dict[str, int] = {}
        self._guilds: dict[str, str] = {}
        self._touched: set[str] = set()
        self._gone: dict[str, tuple[int, str]] = {}
        for key, value in state.items():
            if key.startswith(prefix):
                mark, _, guild = value.decode().partition(" ")
                channel = key[len(prefix) :]
                self._marks[channel] = int(mark)
                self._guilds[channel] = guild

    def __contains__(self, channel: str) -> bool:
        return channel in self._marks

    def get(self, channel: str) -> int:
        """The mark, 0 if there is none or the channel was empty."""
        return self._marks[channel] if channel in self._marks else self._gone.get(channel, (0, ""))[0]

    def guild(self, channel: str) -> str:
        """The guild of a channel with a mark; empty: direct messages, or not known."""
        return self._guilds[channel] if channel in self._guilds else self._gone.get(channel, (0, ""))[1]

    def direct(self) -> list[str]:
        """Channels of direct messages, the one with the newest message first."""
        return sorted((c for c, guild in self._guilds.items() if not guild), key=lambda c: -self._marks[c])

    def of_guild(self, guild: str) -> list[str]:
        """Channels with a mark in a guild."""
        return [c for c, g in self._guilds.items() if g == guild]

    def in_guilds(self) -> list[str]:
        """Channels with a mark in any guild."""
        return [c for c, g in self._guilds.items() if g]

    def begin(self, channel: str, guild: str, mark: int) -> None:
        """A channel seen for the first time starts here; one that has a mark keeps it."""
        if channel not in self._marks:
            self._gone.pop(channel, None)
            self._marks[channel] = mark
            self._guilds[channel] = guild
            self._touched.add(channel)

    def note(self, channel: str, guild: str, number: int) -> None:
        """A message was admitted, or nobody asked for messages up to this one."""
        if channel in self._gone:
            mark, known = self._gone[channel]
            self._gone[channel] = (max(mark, number), known)
        elif number > self._marks.get(channel, -1):
            self._marks[channel] = number
            self._guilds.setdefault(channel, guild)
            self._touched.add(channel)

    def forget(self, channels: Iterable[str]) -> None:
        """Channels whose zero will be elsewhere."""
        for channel in channels:
            if self._marks.pop(channel, None) is not None:
                del self._guilds[channel]
                self._touched.add(channel)

    def remove(self, channels: Iterable[str]) -> None:
        """Channels that are no more."""
        gone = {channel: (self._marks[channel], self._guilds[channel]) for channel in channels if channel in self._marks}
        self.forget(gone)
        self._gone |= gone

    def bury(self) -> None:
        """Nothing of channels that are gone is still to come."""
        self._gone.clear()

    def puts(self) -> list[Op]:
        """Rows that changed since last asked."""
        ops: list[Op] = []
        for channel in self._touched:
            mark = self._marks.get(channel)
            value = None if mark is None else f"{mark} {self._guilds[channel]}".encode()
            ops.append(PutState(self._prefix + channel, value))
        self._touched.clear()
        return ops
