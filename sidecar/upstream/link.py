"""A link: one WebSocket to the upstream. Dials, reads, writes; decides nothing.

What arrives is handed on in batches: whatever the socket's buffer held when the loop came round (a batch is a matter of speed only).
TLS is verified; the machine's proxies and private CAs are honoured (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE). WebSocket pings of the
upstream are answered here, so that a busy engine never looks dead.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yarl
from aiohttp import WSMsgType

from sidecar.core import events as ev
from sidecar.core.actions import OpenLink
from sidecar.errors import SidecarError
from sidecar.upstream.http import UpstreamHttp

BATCH = 512
MAX_FRAME = 64 << 20
CLOSE_S = 2.0
TOLD = (401, 403, 404, 426)
"""Statuses of a refused upgrade whose body may say why."""
MAX_REFUSAL = 4096

Sink = Callable[[Any], None]


class Link:
    """One dial and what becomes of it. `sink`: takes the link's inputs; after `close` it gets none. Needs a running loop."""

    def __init__(self, session: aiohttp.ClientSession, http: UpstreamHttp, base: str, action: OpenLink, sink: Sink) -> None:
        self._session = session
        self._http = http
        self._action = action
        self._url = _absolute(base, action.target)
        self._sink: Sink | None = sink
        self._ws: aiohttp.ClientWebSocketResponse[bool] | None = None
        self._frames: list[bytes] = []
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[tuple[WSMsgType, bytes]] = asyncio.Queue()
        self._task = self._loop.create_task(self._run())
        self._writer: asyncio.Task[None] | None = None
        self._left = False

    # --- orders --------------------------------------------------------------------------------------------------------------

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames in order."""
        for frame in frames:
            self._outbox.put_nowait((WSMsgType.BINARY if isinstance(frame, ev.Binary) else WSMsgType.TEXT, frame))

    def ping(self, payload: bytes) -> None:
        """Send a WebSocket ping."""
        self._outbox.put_nowait((WSMsgType.PING, payload))

    def pause(self, paused: bool) -> None:
        """Stop or resume reading; the socket's own flow control does the rest."""
        if paused:
            self._may_read.clear()
        else:
            self._may_read.set()

    def close(self, code: int | None) -> None:
        """Close with a code, or abort. No input follows. The connection goes right behind the close frame: a peer that does not answer must
        not hold a second socket open beside the next link's (discord R25, R27)."""
        self._sink = None
        self._frames.clear()
        ws = self._ws
        if ws is None or ws.closed:
            self._task.cancel()
        elif code is None:
            self._abort()
            self._task.cancel()
        else:
            self._loop.create_task(self._goodbye(ws, code))

    async def _goodbye(self, ws: aiohttp.ClientWebSocketResponse[bool], code: int) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await ws.send_frame(code.to_bytes(2, "big"), WSMsgType.CLOSE)
            ws._response.close()
            self._left = True
        except (TimeoutError, aiohttp.ClientError, OSError):
            self._abort()
        self._task.cancel()

    def _abort(self) -> None:
        if self._ws is None:
            return
        transport = self._ws.get_extra_info("socket") and getattr(self._ws._conn, "transport", None)
        if transport is not None:
            transport.abort()
        # aiohttp reports a connection that nobody closed as an error in the log, whenever the collector finds it.
        self._ws._response.close()

    # --- life ------------------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        name = self._action.link
        try:
            async with asyncio.timeout(self._action.timeout):
                self._ws = ws = await self._session.ws_connect(
                    yarl.URL(self._url, encoded=True),
                    headers=list(self._action.headers),
                    protocols=tuple(self._action.subprotocols),
                    autoping=False,
                    autoclose=True,
                    compress=0,
                    max_msg_size=MAX_FRAME,
                    decode_text=False,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                )
        except aiohttp.WSServerHandshakeError as error:
            body = await self._refusal() if error.status in TOLD else b""
            self._say(ev.LinkRefused(name, error.status, body, error.message, list((error.headers or {}).items())))
            return
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            self._say(ev.LinkRefused(name, 0, b"", f"{type(error).__name__}: {error}"))
            return
        self._writer = self._loop.create_task(self._write(ws))
        self._say(ev.LinkOpened(name, ws.protocol))
        code: int | None = None
        reason = ""
        try:
            code, reason = await self._read(ws)
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error)
        finally:
            self._writer.cancel()
            self._flush()
            self._say(ev.LinkClosed(name, code, reason))
            if not ws.closed and not self._left:
                self._abort()

    async def _refusal(self) -> bytes:
        """What the upstream says about a refused upgrade: the WebSocket client keeps the status only, so it is asked once more."""
        key = base64.b64encode(os.urandom(16)).decode()
        headers = [
            *self._action.headers,
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
        ]
        body = b""
        try:
            async with asyncio.timeout(self._action.timeout):
                async with self._http.exchange("GET", "http" + self._url[2:], headers, upgrade=True) as answer:
                    if answer.status != 101:
                        async for piece in answer.body():
                            body += piece
                            if len(body) >= MAX_REFUSAL:
                                break
        except (SidecarError, TimeoutError, OSError):
            pass
        return body[:MAX_REFUSAL]

    async def _read(self, ws: aiohttp.ClientWebSocketResponse[bool]) -> tuple[int | None, str]:
        frames = self._frames
        receive = ws.receive
        text, binary = WSMsgType.TEXT, WSMsgType.BINARY
        while True:
            kind, data, extra = await receive()
            if kind is text or kind is binary:
                if not frames:
                    self._loop.call_soon(self._flush)
                frames.append(data if kind is text else ev.Binary(data))
                if len(frames) >= BATCH:
                    self._flush()
                    # Let the engine and the writer have a turn, and heed flow control.
                    await asyncio.sleep(0)
                    await self._may_read.wait()
                continue
            self._flush()
            if kind is WSMsgType.PING:
                self._outbox.put_nowait((WSMsgType.PONG, data))
            elif kind is WSMsgType.PONG:
                self._say(ev.PongReceived(self._action.link, bytes(data)))
            elif kind is WSMsgType.CLOSE:
                return int(data or 1005), str(extra or "")
            else:
                error = ws.exception()
                return None, str(error or "")

    def _flush(self) -> None:
        if self._frames:
            frames, self._frames[:] = self._frames[:], []
            self._say(ev.FramesReceived(self._action.link, frames))

    def _say(self, event: Any) -> None:
        if self._sink is not None:
            self._sink(event)

    async def _write(self, ws: aiohttp.ClientWebSocketResponse[bool]) -> None:
        try:
            while True:
                kind, data = await self._outbox.get()
                await ws.send_frame(data, kind)
        except (aiohttp.ClientError, OSError):
            pass  # the reader notices and tells


def _absolute(base: str, target: str) -> str:
    url = target if "://" in target else base.rstrip("/") + target
    scheme = urlsplit(url).scheme
    return {"http": "ws", "https": "wss"}.get(scheme, scheme) + url[len(scheme) :]
