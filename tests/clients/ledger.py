"""What the server published and what an agent's handler got, compared.

An event's key is the same on both sides and on every path (live, ring, database copy, REST): the message id, or what was
reacted to with what. SDKs hand events out with their keys in camel case or as they came; both are understood.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Verdict", "key_of"]


def key_of(event: Mapping[str, Any]) -> str:
    """One event's key."""
    kind = str(event.get("type"))
    message = event.get("message")
    if isinstance(message, Mapping) and "id" in message:
        edit = f" {message.get('text')}" if kind == "message.updated" else ""
        return f"{kind} {message['id']}{edit}"
    target = event.get("message_id") or event.get("messageId")
    if target is not None:
        return f"{kind} {target} {event.get('emoji')} {event.get('action', 'added')}"
    return f"{kind} {event.get('timestamp')}"


@dataclass(slots=True)
class Verdict:
    """The difference. `disordered`: keys that came before one they belong behind."""

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, published: Iterable[str], handled: Sequence[str], *, reactions_move: bool = False) -> Verdict:
        """Compare. `reactions_move`: database copies of reactions tell nothing of their place (relaycast section 5), so that only
        "not before its message" is asked of reactions (R12)."""
        wanted, got = list(published), Counter(handled)
        place = {key: index for index, key in enumerate(wanted)}
        verdict = cls(
            lost=[key for key in wanted if not got[key]],
            twice=[key for key, count in got.items() if count > 1],
            foreign=[key for key in got if key not in place],
        )
        first = list(dict.fromkeys(key for key in handled if key in place))
        lined = [key for key in first if not (reactions_move and _target(key))]
        highest = -1
        for key in lined:
            if place[key] < highest:
                verdict.disordered.append(key)
            highest = max(highest, place[key])
        came = set(first)
        seen: set[str] = set()
        for key in first:
            target = _target(key)
            if target and any(f"{kind} {target}" in came and f"{kind} {target}" not in seen for kind in _MESSAGES):
                verdict.disordered.append(key)
            seen.add(key)
        return verdict

    @property
    def whole(self) -> bool:
        return not (self.lost or self.twice or self.foreign or self.disordered)

    def __str__(self) -> str:
        parts = (("lost", self.lost), ("twice", self.twice), ("foreign", self.foreign), ("disordered", self.disordered))
        return ", ".join(f"{name} {len(keys)} {keys[:3]}…{keys[-2:]}" if keys else f"{name} 0" for name, keys in parts)


_MESSAGES = ("message.created", "thread.reply", "dm.received", "group_dm.received")


def _target(key: str) -> str:
    kind, _, rest = key.partition(" ")
    return rest.split(" ", 1)[0] if kind in ("message.reacted", "reaction.added", "reaction.removed") else ""
