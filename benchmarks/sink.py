"""The sink: an agent that counts, on a raw socket."""

from __future__ import annotations

import json
import socket
import threading
import time

from benchmarks.peers import CLOSE, PING, PONG, FrameReader, Json, cpu_ns, obey, say, unmasked, ws_frame
from benchmarks.serving import dial


class Sink:
    """An agent that counts: frame headers only, every ping answered at once, nothing else done per frame."""

    def __init__(self) -> None:
        self._conn: socket.socket | None = None
        self._changed = threading.Condition()
        self._count = 0
        self._bytes = 0
        self._want = 0
        self._pid = 0
        self._times: list[int] | None = None
        self._first: tuple[int, int, int] | None = None  # time, CPU of the proxy, frames of the first read
        self._last: tuple[int, int] = (0, 0)
        self._edges: list[bytes] = []
        self._closed = True

    def expect(self, count: int, pid: int = 0, record: bool = False) -> Json:
        """Start a count at zero; `pid` is the process whose CPU is read at the first and at the last frame."""
        with self._changed:
            self._count, self._bytes, self._want, self._pid = 0, 0, count, pid
            self._times, self._first, self._edges = [] if record else None, None, []
        return {"expecting": count}

    def connect(self, port: int, token: str) -> Json:
        conn, rest = dial(port, f"/v1/ws?token={token}")
        self._conn, self._closed = conn, False
        threading.Thread(target=self._read, args=(conn, rest), daemon=True).start()
        return {"connected": True}

    def close(self) -> Json:
        if self._conn is not None:
            self._conn.shutdown(socket.SHUT_RDWR)
        return {"closed": True}

    def _read(self, conn: socket.socket, data: bytes) -> None:
        reader = FrameReader()
        with conn:
            while data or not self._closed:
                if data:
                    self._take(conn, reader, data)
                try:
                    data = conn.recv(262144)
                except OSError:
                    break
                if not data:
                    break
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, conn: socket.socket, reader: FrameReader, data: bytes) -> None:
        now, got, last = time.perf_counter_ns(), 0, (b"", 0, 0)
        cpu = cpu_ns(self._pid) if self._pid and self._first is None else 0
        for opcode, buf, start, end, mask_at in reader.feed(data):
            if opcode <= 2:
                got += 1
                self._bytes += end - start
                if not self._edges:
                    self._edges.append(buf[start:end])
                last = buf, start, end
            elif opcode == PING:
                conn.sendall(ws_frame(PONG, unmasked(buf, start, end, mask_at), mask=True))
            elif opcode == CLOSE:
                conn.sendall(ws_frame(CLOSE, buf[start : start + 2], mask=True))
        if not got:
            return
        if self._times is not None:
            self._times.extend([now] * got)
        if self._first is None:
            self._first = (now, cpu, got)
        with self._changed:
            self._count += got
            if self._count >= self._want:
                self._edges[1:] = [last[0][last[1] : last[2]]]
                self._last = (now, cpu_ns(self._pid) if self._pid else 0)
                self._changed.notify_all()

    def result(self, timeout: float) -> Json:
        """Wait for the last expected frame; what came, when, and the proxy's CPU between the first and the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._count >= self._want or self._closed, timeout)
        if self._first is None or self._count < self._want:
            why = "the proxy closed the socket" if self._closed else f"timeout after {timeout:g} s"
            return {"error": f"{self._count} of {self._want} frames arrived: {why}"}
        first, last = (json.loads(edge)["agent_seq"] for edge in self._edges)
        return {
            "frames": self._count,
            "bytes": self._bytes,
            "seq_span": last - first + 1,
            "counted": self._count - self._first[2],  # frames that came after the first reading of the CPU clock
            "wall_ns": self._last[0] - self._first[0],
            "cpu_ns": self._last[1] - self._first[1],
            "times": self._times,
        }


if __name__ == "__main__":
    say({"ready": True})
    obey(Sink())
