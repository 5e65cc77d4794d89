"""The sink of the Discord benchmarks: an agent that logs in, counts and answers, on a raw socket."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
import zlib

from benchmarks.peers import CLOSE, PING, PONG, TEXT, FrameReader, Json, cpu_ns, obey, say, unmasked, ws_frame
from benchmarks.serving import dial

_BINARY = 0x2
_MESSAGE = b'{"t":"MESSAGE_CREATE",'
_NUMBER = re.compile(rb'"content":"#(\d+) ')
_S = re.compile(rb'"s":(\d+)')
INTENTS = 53608189  # what discord.py asks for


class DiscordSink:
    """An agent: beats, answers every ping and every op 1 at once, and looks at the number in each message, no more.

    A message out of its place ends the count with an error: `result` says which."""

    def __init__(self) -> None:
        self._conn: socket.socket | None = None
        self._changed = threading.Condition()
        self._lock = threading.Lock()
        self._inflate = zlib.decompressobj()
        self._interval = 0.0
        self._s = 0
        self._session = ""
        self._token = ""
        self._beats = 0
        self._is_open = False
        self._marks: dict[str, int] = {}  # when HELLO, READY, the last guild, RESUMED came, ns
        self._guilds = 0
        self._guilds_wanted = 0
        self._wrong = ""
        self._next = 0
        self.expect(0)

    # --- commands --------------------------------------------------------------------------------------------------------------------

    def expect(self, count: int, pid: int = 0) -> Json:
        """Start a count at zero; `pid` is the process whose CPU is read at the first and at the last frame."""
        with self._changed:
            self._count, self._want, self._pid, self._wrong, self._compressed = 0, count, pid, "", 0
            self._first: tuple[int, int, int] | None = None  # time, CPU of the proxy, messages of the first read
            self._last: tuple[int, int] = (0, 0)
        return {"expecting": count}

    def connect(self, port: int, zlib_stream: bool = False) -> Json:
        """A socket, up to HELLO."""
        self._marks, self._guilds, self._inflate = {}, 0, zlib.decompressobj()
        conn, rest = dial(port, f"/?v=10&encoding=json{'&compress=zlib-stream' if zlib_stream else ''}")
        self._conn, self._is_open = conn, True
        threading.Thread(target=self._read, args=(conn, rest), daemon=True).start()
        self._wait("HELLO")
        return {"connected": True}

    def login(self, token: str, guilds: int) -> Json:
        """IDENTIFY, READY and so many guilds: ms from IDENTIFY to READY and to the last guild."""
        self._token, self._guilds_wanted = token, guilds
        begun = time.perf_counter_ns()
        properties = {"os": "linux", "browser": "bench", "device": "bench"}
        self._send(2, {"token": token, "properties": properties, "intents": INTENTS, "large_threshold": 250})
        self._wait("guilds")
        return {name: (self._marks[name] - begun) / 1e6 for name in ("READY", "guilds")}

    def resume(self) -> Json:
        """RESUME behind the last number taken; RESUMED is waited for by `resumed`."""
        self._begun = time.perf_counter_ns()
        self._send(6, {"token": self._token, "session_id": self._session, "seq": self._s})
        return {"seq": self._s}

    def resumed(self) -> Json:
        """Wait for RESUMED: ns from RESUME on."""
        self._wait("RESUMED")
        return {"ns": self._marks["RESUMED"] - self._begun}

    def close(self) -> Json:
        """Leave without a word, as a process that is killed."""
        if self._conn is not None and self._is_open:
            self._conn.shutdown(socket.SHUT_RDWR)
            with self._changed:
                self._changed.wait_for(lambda: not self._is_open, 10)
        return {"closed": True}

    def result(self, timeout: float) -> Json:
        """Wait for the last expected message; what came, when, and the proxy's CPU between the first and the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._count >= self._want or self._wrong or not self._is_open, timeout)
            if self._wrong:
                return {"error": self._wrong}
            if self._first is None or self._count < self._want:
                why = f"timeout after {timeout:g} s" if self._is_open else "the proxy closed the socket"
                return {"error": f"{self._count} of {self._want} messages arrived: {why}"}
            return {
                "frames": self._count,
                "counted": self._count - self._first[2],  # what came after the first reading of the CPU clock
                "bytes": self._compressed,
                "wall_ns": self._last[0] - self._first[0],
                "cpu_ns": self._last[1] - self._first[1],
                "s": self._s,
            }

    def _wait(self, mark: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: mark in self._marks or not self._is_open, 30)
        if mark not in self._marks:
            raise OSError(f"no {mark} {'within 30 s' if self._is_open else 'before the socket closed'} ({self._guilds} guilds)")

    # --- the socket ------------------------------------------------------------------------------------------------------------------

    def _send(self, op: int, d: object) -> None:
        self._write(ws_frame(TEXT, json.dumps({"op": op, "d": d}).encode(), mask=True))

    def _write(self, data: bytes) -> None:
        assert self._conn is not None
        with self._lock:
            self._conn.sendall(data)

    def _read(self, conn: socket.socket, data: bytes) -> None:
        reader = FrameReader()
        with conn:
            while True:
                try:
                    if data:
                        self._take(reader, data)
                    data = conn.recv(262144)
                except OSError:
                    break
                if not data:
                    break
            with self._changed:
                self._is_open = False
                self._changed.notify_all()

    def _take(self, reader: FrameReader, data: bytes) -> None:
        now = time.perf_counter_ns()
        cpu = cpu_ns(self._pid) if self._pid and self._first is None else 0
        texts: list[bytes] = []
        for opcode, buf, start, end, mask_at in reader.feed(data):
            if opcode in (TEXT, _BINARY):
                text = buf[start:end] if opcode == TEXT else self._inflate.decompress(buf[start:end])
                self._compressed += end - start
                if text.startswith(_MESSAGE):
                    texts.append(text)
                else:
                    self._look(text)
            elif opcode == PING:
                self._note(texts, now, cpu)
                texts = []
                self._write(ws_frame(PONG, unmasked(buf, start, end, mask_at), mask=True))
            elif opcode == CLOSE:
                self._write(ws_frame(CLOSE, buf[start : start + 2], mask=True))
        self._note(texts, now, cpu)

    def _look(self, text: bytes) -> None:
        """Everything but messages."""
        frame = json.loads(text)
        op, kind = frame["op"], frame["t"]
        if op == 0 and frame["s"]:
            self._s = frame["s"]
        if op == 1:
            self._send(1, self._s or None)
        elif op == 10:
            self._interval = frame["d"]["heartbeat_interval"] / 1000
            self._mark("HELLO")
            threading.Thread(target=self._beat, args=(self._conn,), daemon=True).start()
        elif kind == "READY":
            self._session = frame["d"]["session_id"]
            self._mark("READY")
        elif kind == "GUILD_CREATE":
            self._guilds += 1
            if self._guilds == self._guilds_wanted:
                self._mark("guilds")
        elif kind == "RESUMED":
            self._mark("RESUMED")
        elif op in (7, 9):
            self._fail(f"op {op} came")

    def _note(self, texts: list[bytes], now: int, cpu: int) -> None:
        """Messages that were read."""
        if not texts:
            return
        numbers = list(map(int, _NUMBER.findall(b"".join(texts))))
        if (last := _S.search(texts[-1])) is None or len(numbers) != len(texts):
            self._fail(f"{len(texts)} messages with {len(numbers)} numbers")
            return
        self._s = int(last[1])
        begin = self._next or numbers[0]
        if numbers != list(range(begin, begin + len(numbers))):
            due, came = next((due, came) for due, came in enumerate(numbers, begin) if due != came)
            self._fail(f"message {came} came where {due} was next")
            return
        self._next = begin + len(numbers)
        if self._first is None:
            self._first = (now, cpu, len(numbers))
        with self._changed:
            self._count += len(numbers)
            if self._count >= self._want:
                self._last = (now, cpu_ns(self._pid) if self._pid else 0)
                self._changed.notify_all()

    def _mark(self, name: str) -> None:
        with self._changed:
            self._marks[name] = time.perf_counter_ns()
            self._changed.notify_all()

    def _fail(self, why: str) -> None:
        with self._changed:
            self._wrong = self._wrong or why
            self._changed.notify_all()

    def _beat(self, conn: socket.socket) -> None:
        try:
            while self._conn is conn:
                time.sleep(self._interval)
                if self._conn is conn:
                    self._send(1, self._s or None)
        except OSError:
            return  # the socket is gone


if __name__ == "__main__":
    say({"ready": sys.argv[1:] == []})
    obey(DiscordSink())
