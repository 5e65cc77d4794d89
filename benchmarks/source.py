"""The source: a Relaycast-like upstream for load, on raw sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

from benchmarks import frames
from benchmarks.peers import CLOSE, PING, PONG, TEXT, FrameReader, Json, obey, say, unmasked, ws_frame
from benchmarks.serving import Server

_FRAMES_A_WRITE = 128  # 128 frames of 504 bytes: just under 64 KiB a write


class Source(Server):
    """A Relaycast-like upstream for load: identity, empty lists, one agent socket, and frames on command.

    It has no ring: a resync is acknowledged with nothing replayed. A measurement in which a proxy had to redial is void,
    and the sink's contiguity check says so.
    """

    def __init__(self) -> None:
        self._agents: dict[socket.socket, threading.Lock] = {}
        self._sent = 0
        self._next_ms = 0
        self._prepared = bytearray()
        super().__init__()

    def is_socket(self, path: str) -> bool:
        return path == "/v1/ws"

    def value(self, method: str, path: str) -> Any:
        """The envelopes of the wire page, section 6, with nothing in them."""
        data: Any = []
        if path == "/v1/agent":
            data = {"id": "1001", "name": "bench", "workspace_id": "7", "type": "agent", "channels": []}
        elif path.endswith("/replies"):
            data = {"parent": None, "replies": []}
        elif method != "GET":
            data = {}
        return {"ok": True, "data": data}

    def talk(self, conn: socket.socket, rest: bytes, target: str) -> None:
        lock = self._agents[conn] = threading.Lock()
        reader = FrameReader()
        data = rest
        try:
            while True:
                for opcode, buf, start, end, mask_at in reader.feed(data):
                    answer = self._reply(opcode, unmasked(buf, start, end, mask_at))
                    if answer:
                        with lock:
                            conn.sendall(answer)
                    if opcode == CLOSE:
                        return
                data = conn.recv(65536)
                if not data:
                    return
        finally:
            del self._agents[conn]

    def _reply(self, opcode: int, payload: bytes) -> bytes | None:
        if opcode == PING:
            return ws_frame(PONG, payload)
        if opcode == CLOSE:
            return ws_frame(CLOSE, payload[:2])
        if opcode != TEXT:
            return None
        try:
            asked = json.loads(payload)
        except ValueError:
            return None  # junk is ignored in silence (wire page, section 3)
        if asked.get("type") == "ping":
            return ws_frame(TEXT, b'{"type":"pong"}')
        if asked.get("type") == "resync":
            ack = {"type": "resync_ack", "last_seen_seq": asked.get("last_seen_seq"), "current_seq": self._sent}
            ack |= {"replayed": 0, "gap_detected": False}
            return ws_frame(TEXT, json.dumps(ack, separators=(",", ":")).encode())
        return None

    def prepare(self, count: int) -> Json:
        """Build `count` frames before the clock starts; their message ids are of now (R4: none older than the birth)."""
        start_ms = max(self._next_ms, time.time_ns() // 1_000_000)
        self._next_ms = start_ms + frames.span_ms(count)
        built = frames.build(count, self._sent + 1, start_ms)
        self._prepared = bytearray(b"".join(ws_frame(TEXT, frame) for frame in built))
        return {"prepared": count}

    def sockets(self) -> Json:
        return {"sockets": len(self._agents)}

    def _write(self, data: memoryview) -> None:
        for conn, lock in list(self._agents.items()):
            with lock:  # a pong must not land inside a frame
                conn.sendall(data)

    def blast(self) -> Json:
        """Everything prepared, as fast as the sockets take it."""
        data, size = memoryview(self._prepared), 4 + frames.FRAME_BYTES
        step = size * _FRAMES_A_WRITE
        begun = time.perf_counter_ns()
        for at in range(0, len(data), step):
            chunk = data[at : at + step]
            self._write(chunk)
            self._sent += len(chunk) // size
        return {"begun": begun, "ended": time.perf_counter_ns()}

    def pace(self, rate: float) -> Json:
        """Everything prepared, `rate` frames a second; the answer holds each frame's send time (monotonic, ns)."""
        data, size = memoryview(self._prepared), 4 + frames.FRAME_BYTES
        times, due = [], time.perf_counter()
        for at in range(0, len(data), size):
            time.sleep(max(0.0, due - time.perf_counter()))
            due += 1 / rate
            times.append(time.perf_counter_ns())
            self._write(data[at : at + size])
            self._sent += 1
        return {"times": times}


if __name__ == "__main__":
    upstream = Source()
    say({"port": upstream.port})
    obey(upstream)
