"""Transport compression towards an agent (discord section 1.5, R1): `zlib-stream`, one deflate context for the whole connection."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from sidecar.core.events import Binary

LEVEL = 1
"""On one machine bytes are cheap and CPU is not."""


class ZlibStream:
    """One connection's context. Every message ends in an empty block (Z_SYNC_FLUSH: `00 00 ff ff`), which is how clients find its end.

    What went through it must reach the client, all and in this order, or the rest cannot be read."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(LEVEL)

    def pack(self, frames: Sequence[bytes]) -> list[bytes]:
        """The frames as binary messages, in order."""
        return [Binary(self._deflate.compress(frame) + self._deflate.flush(zlib.Z_SYNC_FLUSH)) for frame in frames]
