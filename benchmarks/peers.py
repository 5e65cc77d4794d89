"""What source, sink and relay share: WebSocket frames by hand, the CPU clock of a process, commands in JSON lines.

Each is a process of its own (`python -m benchmarks.source`, `.sink`, `.relay`), says one JSON line when it is ready, takes
commands as JSON lines on stdin and answers each with one JSON line on stdout. The end of stdin ends the process, so that
none outlives its parent. Source and sink are raw sockets and threads: what they cost must not hide what the proxy costs.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
Json = dict[str, Any]


def say(value: Json) -> None:
    print(json.dumps(value), flush=True)


def ws_frame(opcode: int, payload: bytes, mask: bool = False) -> bytes:
    """One final WebSocket frame (RFC 6455, section 5.2). A client masks; a mask of zeros is as valid as any other."""
    size, bit = len(payload), 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, bit | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, bit | 127, size)
    return head + (b"\0\0\0\0" if mask else b"") + payload


class FrameReader:
    """Cuts a byte stream into WebSocket frames, masked or not, looking at nothing but their headers."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes, int, int, int]]:
        """Every whole frame as (opcode, buffer, start, end, mask position or 0); payload is buffer[start:end]."""
        buf = self._tail + data if self._tail else data
        pos, size = 0, len(buf)
        while size - pos >= 2:
            length = buf[pos + 1]
            masked, length = length & 0x80, length & 0x7F
            start = pos + 2
            if length == 126:
                start += 2
                length = int.from_bytes(buf[pos + 2 : start], "big")
            elif length == 127:
                start += 8
                length = int.from_bytes(buf[pos + 2 : start], "big")
            mask_at = start if masked else 0
            start += 4 if masked else 0
            end = start + length
            if end > size:
                break
            yield buf[pos] & 0x0F, buf, start, end, mask_at
            pos = end
        self._tail = buf[pos:]


def unmasked(buf: bytes, start: int, end: int, mask_at: int) -> bytes:
    if not mask_at:
        return buf[start:end]
    mask = buf[mask_at : mask_at + 4]
    return bytes(byte ^ mask[i & 3] for i, byte in enumerate(buf[start:end]))


def cpu_ns(pid: int) -> int:
    """User plus system CPU of the whole process `pid`, all its threads, ended ones too, in ns.

    This is the clock that clock_getcpuclockid(3) names: the sum that /proc/<pid>/stat shows in ticks of 10 ms. Of a thread
    that is running at the moment it is exact to one scheduler tick (1 to 4 ms): rounds must last far longer than that.
    """
    return time.clock_gettime_ns(~pid << 3 | 2)


def obey(peer: object) -> None:
    """Commands `{"do": method, …arguments}` from stdin until it ends; what goes wrong is answered, not raised."""
    for line in sys.stdin:
        command = json.loads(line)
        try:
            say(getattr(peer, command.pop("do"))(**command))
        except OSError as error:
            say({"error": str(error)})
