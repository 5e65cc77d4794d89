"""A server on raw sockets and threads: plain HTTP answers and WebSocket upgrades, for the sources."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import threading
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class Server:
    """Listens on a free port of 127.0.0.1 and gives each connection a thread. Subclasses say what is answered."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def is_socket(self, path: str) -> bool:
        """Is an upgrade at this path taken?"""
        raise NotImplementedError

    def value(self, method: str, path: str) -> Any:
        """What a plain request is answered with, as JSON under 200."""
        raise NotImplementedError

    def talk(self, conn: socket.socket, rest: bytes, target: str) -> None:
        """One upgraded socket, to its end. `rest`: what came behind the head; `target`: path and query."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            conn, _ = self._listener.accept()
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        buf = b""
        with conn:
            try:
                while True:
                    while b"\r\n\r\n" not in buf:
                        data = conn.recv(65536)
                        if not data:
                            return
                        buf += data
                    head, _, buf = buf.partition(b"\r\n\r\n")
                    line, *rest = head.decode("latin-1").split("\r\n")
                    method, target, _ = line.split(" ", 2)
                    headers = {k.lower(): v.strip() for k, _, v in (h.partition(":") for h in rest)}
                    path = urlsplit(target).path
                    if self.is_socket(path) and headers.get("upgrade", "").lower() == "websocket":
                        accept = hashlib.sha1((headers["sec-websocket-key"] + _GUID).encode()).digest()
                        conn.sendall(
                            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n"
                        )
                        self.talk(conn, buf, target)
                        return
                    body = int(headers.get("content-length", "0"))
                    while len(buf) < body:
                        buf += conn.recv(65536)
                    buf = buf[body:]
                    conn.sendall(_answer(method, self.value(method, path)))
            except OSError:
                return  # the proxy hung up; the next one dials anew


def _answer(method: str, value: Any) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    return (
        f"HTTP/1.1 200 OK\r\nDate: {formatdate(usegmt=True)}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + (b"" if method == "HEAD" else body)


def dial(port: int, target: str) -> tuple[socket.socket, bytes]:
    """A WebSocket to 127.0.0.1, and what came behind the answer's head. Raises OSError if it is refused."""
    conn = socket.create_connection(("127.0.0.1", port), timeout=20)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    conn.sendall(
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    buf = b""
    while b"\r\n\r\n" not in buf:
        data = conn.recv(65536)
        if not data:
            break
        buf += data
    head, _, rest = buf.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if " 101 " not in status:
        raise OSError(f"upgrade refused: {status or 'connection closed'}")
    conn.settimeout(None)
    return conn, rest
