"""What one agent of the demo was to get, and what it got: received, lost, twice, out of order. Pure."""

from __future__ import annotations

import json
from typing import Any

MESSAGES = frozenset(("message.created", "thread.reply", "dm.received", "group_dm.received"))


def key_of(frame: str | bytes) -> str:
    """What makes an event the same event whatever path it came by (relaycast R11); empty for kinds that the demo does not count."""
    event: dict[str, Any] = json.loads(frame)
    kind = event.get("type", "")
    if kind in MESSAGES:
        return f"{kind} {event['message']['id']}"
    if kind == "message.reacted":
        return f"{kind} {event['message_id']} {event['emoji']} {event['agent_name']} {event['action']}"
    return ""


class Tally:
    """One agent's account. Keys come from `key_of`.

    Attributes:
        expected: how many events were published to it.
        received: how many different ones of them it handled.
        twice: how many it handled again.
        allowed: how many it may have handled again by the contract: none, but a window for each `kill -9`.
        strange: how many it handled that were never published.
        disordered: how many messages came behind a younger one, or reactions before their message.
        connections: how often it connected.
    """

    def __init__(self) -> None:
        self.received = self.twice = self.allowed = self.strange = self.disordered = self.connections = 0
        self._place: dict[str, int] = {}
        self._got: set[str] = set()
        self._messages: set[str] = set()
        self._highest = self._newest = -1

    @property
    def expected(self) -> int:
        return len(self._place)

    @property
    def missing(self) -> int:
        """Published, not handled so far."""
        return self.expected - self.received

    @property
    def overtaken(self) -> int:
        """Not handled though a later one was: lost, as far as can be told while it runs."""
        return self._highest + 1 - self.received

    @property
    def within_promise(self) -> bool:
        """Nothing missing, nothing out of order, nothing twice beyond what the contract says (What is promised)."""
        return not self.missing and not self.strange and not self.disordered and self.twice <= self.allowed

    def publish(self, key: str) -> None:
        """An event was published to this agent."""
        if key:
            self._place.setdefault(key, len(self._place))

    def killed(self, window: int) -> None:
        """This agent, or the sidecar before it, was killed: up to a window of frames may come again."""
        self.allowed += window

    def take(self, key: str) -> None:
        """The agent handled an event."""
        if not key:
            return
        place = self._place.get(key)
        if place is None:
            self.strange += 1
        elif key in self._got:
            self.twice += 1
        else:
            self._got.add(key)
            self.received += 1
            self._highest = max(self._highest, place)
            self._check_order(key, place)

    def _check_order(self, key: str, place: int) -> None:
        kind, _, rest = key.partition(" ")
        number = rest.partition(" ")[0]
        if kind in MESSAGES:
            self.disordered += place < self._newest
            self._newest = max(self._newest, place)
            self._messages.add(number)
        else:
            self.disordered += number not in self._messages
