"""Endpoints of the reference upstream for pass-through tests; no part of Relaycast.

`ANY /_/echo` tells how the request looked; `GET /_/bytes?n=` streams n known bytes; `POST /_/drip` answers each chunk of
the request as it comes and then ticks; `/v1/node/ws` and `/v1/stream` are sockets that echo (for tunnelling).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from hashlib import sha256

from aiohttp import WSMsgType, web

from .world import World

__all__ = ["known_bytes", "wire_routes"]

_BLOCK = bytes(number % 251 for number in range(251 * 256))


def known_bytes(count: int) -> Iterator[bytes]:
    """The bytes of `GET /_/bytes?n=count`, in blocks."""
    while count > 0:
        yield _BLOCK[:count]
        count -= len(_BLOCK)


def wire_routes(app: web.Application, world: World) -> None:
    """Add the endpoints to the application; echo calls are noted in `World.log`, their body as its SHA-256."""

    async def echo(request: web.Request) -> web.Response:
        digest, length = sha256(), 0
        async for chunk in request.content.iter_any():
            digest.update(chunk)
            length += len(chunk)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        world.note(request.method, request.raw_path, token, 200, digest.digest())
        response = web.json_response(
            {
                "method": request.method,
                "target": request.raw_path,
                "headers": [[key.decode("latin-1"), value.decode("latin-1")] for key, value in request.raw_headers],
                "sha256": digest.hexdigest(),
                "length": length,
            }
        )
        for header, value in (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Path=/"), ("X-Twice", "1"), ("X-Twice", "2")):
            response.headers.add(header, value)
        return response

    async def stream(request: web.Request) -> web.StreamResponse:
        count = int(request.query["n"])
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        if "chunked" in request.query:
            response.enable_chunked_encoding()
        else:
            response.content_length = count
        await response.prepare(request)
        for block in known_bytes(count):
            await response.write(block)
        await response.write_eof()
        return response

    async def drip(request: web.Request) -> web.StreamResponse:
        ticks, pause = int(request.query.get("n", "5")), float(request.query.get("ms", "20")) / 1000
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(b"got %d\n" % len(chunk))
        for tick in range(ticks):
            await asyncio.sleep(pause)
            await response.write(b"tick %d\n" % tick)
        await response.write_eof()
        return response

    async def mirror(request: web.Request) -> web.StreamResponse:
        line = web.WebSocketResponse(compress=False, max_msg_size=0)
        if not line.can_prepare(request):
            return web.Response(status=426)
        await line.prepare(request)
        await line.send_str(request.raw_path)
        async for message in line:
            if message.type is WSMsgType.TEXT:
                if message.data == "close 4001":
                    await line.close(code=4001, message=b"as asked")
                    break
                await line.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await line.send_bytes(message.data)
        return line

    app.router.add_route("*", "/_/echo", echo)
    app.router.add_route("*", "/_/echo/{rest:.*}", echo)
    app.router.add_get("/_/bytes", stream)
    app.router.add_post("/_/drip", drip)
    app.router.add_get("/v1/node/ws", mirror)
    app.router.add_get("/v1/stream", mirror)
