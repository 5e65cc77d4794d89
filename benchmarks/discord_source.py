"""The source of the Discord benchmarks: a gateway for load, on raw sockets."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import zlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks import discord_frames as load
from benchmarks.peers import CLOSE, PING, PONG, TEXT, FrameReader, Json, obey, say, unmasked, ws_frame
from benchmarks.serving import Server

_BINARY = 0x2
_FRAMES_A_WRITE = 64
HEARTBEAT_MS = 41250


class _Plain:
    """Frames as text."""

    def pack(self, frames: list[bytes]) -> bytes:
        return b"".join(ws_frame(TEXT, frame) for frame in frames)


class _Zlib:
    """One connection's zlib-stream. What `pack` made may be sent in another order: it ends in a full flush, so that nothing in it refers
    to what was packed before."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj()

    def pack(self, frames: list[bytes]) -> bytes:
        out = []
        for at, frame in enumerate(frames, 1):
            flush = zlib.Z_FULL_FLUSH if at == len(frames) else zlib.Z_SYNC_FLUSH
            out.append(ws_frame(_BINARY, self._deflate.compress(frame) + self._deflate.flush(flush)))
        return b"".join(out)


class _Agent:
    """One gateway socket."""

    def __init__(self, conn: socket.socket, target: str) -> None:
        self.conn = conn
        self.lock = threading.Lock()
        self.coding = _Zlib() if parse_qs(urlsplit(target).query).get("compress") == ["zlib-stream"] else _Plain()
        self.s = 0
        self.is_ready = False


class DiscordSource(Server):
    """A gateway for load: metadata, the bot itself, HELLO, READY with its guilds, ACKs, and messages on command.

    It has no replay: a RESUME is answered with RESUMED alone. A measurement in which a proxy had to redial is void, and the sink's
    check of the numbers in the messages says so."""

    def __init__(self, guilds: int, channels: int) -> None:
        self._guilds = guilds
        self._agents: list[_Agent] = []
        self._messages = load.Messages(guilds, channels)
        self._prepared: list[bytes] = []
        self._identifies = 0
        super().__init__()

    def is_socket(self, path: str) -> bool:
        return not path.startswith("/api/")

    def value(self, method: str, path: str) -> Any:
        if path.endswith("/gateway/bot"):
            limit = {"total": 1000, "remaining": 1000, "reset_after": 14400000, "max_concurrency": 1}
            return {"url": f"ws://127.0.0.1:{self.port}", "shards": 1, "session_start_limit": limit}
        if path.endswith("/users/@me"):
            return {"id": load.BOT, "username": "bench", "discriminator": "0000", "avatar": None, "bot": True}
        return []

    def talk(self, conn: socket.socket, rest: bytes, target: str) -> None:
        agent = _Agent(conn, target)
        self._agents.append(agent)
        hello = {"t": None, "s": None, "op": 10, "d": {"heartbeat_interval": HEARTBEAT_MS}}
        conn.sendall(agent.coding.pack([json.dumps(hello).encode()]))
        reader, data = FrameReader(), rest
        try:
            while True:
                for opcode, buf, start, end, mask_at in reader.feed(data):
                    payload = unmasked(buf, start, end, mask_at)
                    if opcode == PING:
                        with agent.lock:
                            conn.sendall(ws_frame(PONG, payload))
                    elif opcode == CLOSE:
                        with agent.lock:
                            conn.sendall(ws_frame(CLOSE, payload[:2]))
                        return
                    elif opcode == TEXT:
                        self._heard(agent, json.loads(payload))
                data = conn.recv(65536)
                if not data:
                    return
        finally:
            self._agents.remove(agent)

    def _heard(self, agent: _Agent, asked: Json) -> None:
        with agent.lock:
            if asked["op"] == 1:
                agent.conn.sendall(agent.coding.pack([b'{"t":null,"s":null,"op":11,"d":null}']))
            elif asked["op"] == 2:
                self._identifies += 1
                url = f"ws://127.0.0.1:{self.port}"
                told = [load.dispatch("READY", 1, load.ready(f"session{self._identifies}", url, self._guilds))]
                told += [load.dispatch("GUILD_CREATE", 2 + n, load.guild(n, 50, 20)) for n in range(self._guilds)]
                agent.s, agent.is_ready = len(told), True
                agent.conn.sendall(agent.coding.pack(told))
            elif asked["op"] == 6:
                agent.s, agent.is_ready = asked["d"]["seq"] + 1, True
                agent.conn.sendall(agent.coding.pack([load.dispatch("RESUMED", agent.s, {})]))

    # --- commands --------------------------------------------------------------------------------------------------------------------

    def sockets(self) -> Json:
        """How many sockets have a session, and the IDENTIFYs so far."""
        return {"sockets": sum(1 for agent in self._agents if agent.is_ready), "identifies": self._identifies}

    def prepare(self, count: int) -> Json:
        """Build, and compress, `count` messages for the one socket there is, before the clock starts."""
        (agent,) = [agent for agent in self._agents if agent.is_ready]
        with agent.lock:
            built = self._messages.build(count, agent.s + 1, time.time_ns() // 1_000_000)
            agent.s += count
            self._prepared = [agent.coding.pack(built[at : at + _FRAMES_A_WRITE]) for at in range(0, count, _FRAMES_A_WRITE)]
        return {"prepared": count, "bytes": sum(map(len, built)), "sent": sum(map(len, self._prepared))}

    def blast(self) -> Json:
        """Everything prepared, as fast as the socket takes it."""
        (agent,) = [agent for agent in self._agents if agent.is_ready]
        begun = time.perf_counter_ns()
        for chunk in self._prepared:
            with agent.lock:  # an ACK must not land inside a frame
                agent.conn.sendall(chunk)
        self._prepared = []
        return {"begun": begun, "ended": time.perf_counter_ns()}


if __name__ == "__main__":
    upstream = DiscordSource(int(sys.argv[1]), int(sys.argv[2]))
    say({"port": upstream.port})
    obey(upstream)
