"""What `sidecar check` may ask an upstream, as data: the dialect names the requests and judges the answers, no I/O."""

from collections.abc import Callable
from typing import Any

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """An upstream's answer to one probe: status and the first bytes of the body (at most 64 KiB)."""

    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is none."""
        try:
            decoded = msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return {}
        return decoded if isinstance(decoded, dict) else {}


class Finding(msgspec.Struct, frozen=True):
    """A problem seen in an answer. `variable` is the full name of the variable to change."""

    variable: str
    text: str
    mend: str


class Probe(msgspec.Struct, frozen=True):
    """One GET below the base URL. With `upgrade` it asks for a WebSocket, which is closed at once when granted (101).

    `target` is path and query; it may hold the token, so it is never shown: `purpose` is. `judge` returns a sentence
    when all is well, else the finding; after a finding no further probe is sent.
    """

    purpose: str
    target: str
    judge: Callable[[Answer], "str | Finding"]
    headers: tuple[tuple[str, str], ...] = ()
    upgrade: bool = False
