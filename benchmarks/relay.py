"""The bare relay: the plainest honest WebSocket relay on aiohttp and uvloop, which keeps nothing."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from benchmarks.peers import say


async def relay(upstream: str) -> None:
    """Serve every path in front of `upstream` (http://host:port): receive, send; bytes, no compression."""

    async def pump(
        source: aiohttp.ClientWebSocketResponse[Any] | web.WebSocketResponse[Any],
        target: aiohttp.ClientWebSocketResponse[Any] | web.WebSocketResponse[Any],
    ) -> None:
        async for message in source:
            await target.send_frame(message.data, message.type)

    async def handle(request: web.Request) -> web.WebSocketResponse[Any]:
        down = web.WebSocketResponse(compress=False, max_msg_size=0, decode_text=False)
        url = f"{upstream}{request.path_qs}"
        async with session.ws_connect(url, compress=0, max_msg_size=0, decode_text=False) as up:
            await down.prepare(request)
            both = [asyncio.ensure_future(pump(up, down)), asyncio.ensure_future(pump(down, up))]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        await down.close()
        return down

    async with aiohttp.ClientSession() as session:
        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        say({"port": runner.addresses[0][1]})
        await asyncio.Event().wait()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvloop.run(relay(sys.argv[1]))
