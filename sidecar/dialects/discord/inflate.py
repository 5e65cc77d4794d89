"""Transport compression from the upstream (discord section 1.5, R1): `zlib-stream`, one inflate context for the whole connection."""

from __future__ import annotations

import zlib

SUFFIX = b"\x00\x00\xff\xff"
MAX_MESSAGE = 64 << 20
"""Bytes of one message, compressed or not, at most."""


class Corrupt(Exception):
    """What came is no zlib stream, or a message is larger than is sane: the connection is of no use any more."""


class Inflate:
    """One connection's context. A message may come in several WebSocket frames; it is whole when it ends in Z_SYNC_FLUSH's suffix."""

    def __init__(self) -> None:
        self._context = zlib.decompressobj()
        self._part: list[bytes] = []
        self._size = 0
        self._tail = b""

    def feed(self, data: bytes) -> bytes | None:
        """The message that this frame completes, None if more has to come.

        Raises Corrupt."""
        if not self._part and data[-4:] == SUFFIX and len(data) <= MAX_MESSAGE:
            return self._text(data)
        self._part.append(data)
        self._size += len(data)
        if self._size > MAX_MESSAGE:
            raise Corrupt(f"a message of more than {MAX_MESSAGE} bytes")
        self._tail = (self._tail + data[-4:])[-4:]
        if self._tail != SUFFIX:
            return None
        compressed = b"".join(self._part)
        self._part, self._size, self._tail = [], 0, b""
        return self._text(compressed)

    def _text(self, compressed: bytes) -> bytes:
        try:
            text = self._context.decompress(compressed, MAX_MESSAGE)
        except zlib.error as error:
            raise Corrupt(str(error)) from None
        if self._context.unconsumed_tail:
            raise Corrupt(f"a message of more than {MAX_MESSAGE} bytes")
        return text
