"""A plain WebSocket on a gateway, where a test must see the frames themselves."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import Any

import aiohttp

from tests.clients.processes import until
from tests.discord.clients.stage import TOKEN

__all__ = ["IDENTIFY", "Raw"]

IDENTIFY = {"op": 2, "d": {"token": TOKEN, "intents": 33281, "properties": {"os": "", "browser": "", "device": ""}}}


class Raw:
    """A plain WebSocket on the gateway: what it got, as frames."""

    def __init__(self, url: str, query: str = "v=10&encoding=json") -> None:
        self.address = f"{url}/?{query}"
        self.got: list[dict[str, Any]] = []
        self.code: int | None = None
        self._inflate = zlib.decompressobj()
        self._http = aiohttp.ClientSession()
        self._line: aiohttp.ClientWebSocketResponse
        self._reading: asyncio.Task[None]

    async def open(self, *frames: dict[str, Any]) -> None:
        """Connect, wait for HELLO, send these."""
        self._line = await self._http.ws_connect(self.address)
        self._reading = asyncio.get_running_loop().create_task(self._read())
        await until(lambda: self.ops()[:1] == [10], lambda: f"no HELLO, but {self.got}")
        for frame in frames:
            await self._line.send_json(frame)

    async def send(self, op: int, d: Any) -> None:
        await self._line.send_json({"op": op, "d": d})

    async def _read(self) -> None:
        async for message in self._line:
            data = message.data if isinstance(message.data, str) else self._inflate.decompress(message.data).decode()
            self.got.append(json.loads(data))
        self.code = self._line.close_code

    def ops(self) -> list[int]:
        return [frame["op"] for frame in self.got]

    def types(self) -> list[str]:
        return [frame["t"] for frame in self.got if frame["t"]]

    async def over(self) -> None:
        await asyncio.wait_for(self._reading, 30)
        await self._http.close()

    async def cut(self) -> None:
        """End it from this side, without a word."""
        self._reading.cancel()
        await self._http.close()
