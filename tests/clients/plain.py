"""A small client of these tests, for what the SDKs cannot show: it resyncs without `since` and drops no doubles."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from urllib.parse import quote

import aiohttp

from tests.clients.ledger import key_of

__all__ = ["PlainAgent"]

AGAIN_S = 0.2


class PlainAgent:
    """Connects again and again until `kill`; a later `start` goes on with what it knows, as a client that was offline does."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.last: int | None = None
        self._handled: list[str] = []
        self._line: aiohttp.ClientWebSocketResponse | None = None
        self._task: asyncio.Task[None] | None = None
        self._ponged: asyncio.Queue[bytes] = asyncio.Queue()

    async def start(self, token: str, base_url: str, *, busy_ms: float = 0) -> None:
        """Begin to connect."""
        assert not busy_ms, "this client has no work to do"
        url = f"{base_url}/v1/ws?token={token}&origin_client={quote('@relaycast/sdk', safe='')}&origin_version=4.2.0"
        self._task = asyncio.get_running_loop().create_task(self._run(url))

    async def kill(self) -> None:
        """Go offline."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def tail(self) -> str:
        return f"{dict(self.states)}, last seq {self.last}"

    def handled(self, run: int | None = None) -> list[str]:
        assert run is None, "this client has one life"
        return self._handled

    async def passed(self) -> None:
        """Wait for a WebSocket ping's pong: what the server sent on this socket before it has arrived."""
        assert self._line is not None
        await self._line.send_str('{"type":"ping"}')
        await self._line.ping(b"passed")
        await self._ponged.get()

    async def _run(self, url: str) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                try:
                    async with http.ws_connect(url, autoping=False, max_msg_size=0) as line:
                        await self._serve(line)
                except aiohttp.ClientError:
                    self.states["error"] += 1
                await asyncio.sleep(AGAIN_S)

    async def _serve(self, line: aiohttp.ClientWebSocketResponse) -> None:
        self._line = line
        if self.last is not None:
            await line.send_str(json.dumps({"type": "resync", "last_seen_seq": self.last}))
        self.states["open"] += 1
        async for message in line:
            if message.type is aiohttp.WSMsgType.PING:
                await line.pong(message.data)
            elif message.type is aiohttp.WSMsgType.PONG:
                self._ponged.put_nowait(bytes(message.data))
            elif message.type is aiohttp.WSMsgType.TEXT:
                self._take(json.loads(message.data))

    def _take(self, event: dict[str, object]) -> None:
        seq = event.get("agent_seq")
        if isinstance(seq, int):
            self.last = seq
        if event["type"] in ("resync_ack", "pong"):
            self.states["resynced" if event["type"] == "resync_ack" else "pong"] += 1
        else:
            self._handled.append(key_of(event))
