"""The link's ends: what a link that is given up leaves behind."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.upstream import link as link_module
from sidecar.upstream.link import Link

DEADLINE_S = 20.0


def test_an_aborted_link_leaves_no_connection_behind() -> None:
    async def scenario() -> None:
        gone = asyncio.Event()
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        async def serve(request: web.BaseRequest) -> web.WebSocketResponse:
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for _ in ws:
                pass
            gone.set()
            return ws

        runner = web.ServerRunner(web.Server(serve), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            opened: asyncio.Queue[Any] = asyncio.Queue()
            link: Link | None = Link(session, None, base, act.OpenLink("main", "/v1/ws"), opened.put_nowait)  # type: ignore[arg-type]
            assert isinstance(await asyncio.wait_for(opened.get(), DEADLINE_S), ev.LinkOpened)
            assert link is not None
            task = link._task
            link.close(None)
            link = None
            await asyncio.wait([task], timeout=DEADLINE_S)
            del task
            await asyncio.wait_for(gone.wait(), DEADLINE_S)
            gc.collect()
            await asyncio.sleep(0)
        await runner.cleanup()
        assert [context["message"] for context in told] == []

    asyncio.run(scenario())


def test_R27_a_close_waits_for_no_answer_the_connection_ends_behind_the_close_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CLOSE_S", 1000.0)

    async def scenario() -> None:
        came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            key = next(line for line in head.splitlines() if line.lower().startswith("sec-websocket-key:")).split()[1]
            accept = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            writer.write(b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept)
            came.set_result(await reader.read())
            writer.close()

        server = await asyncio.start_server(mute, "127.0.0.1", 0)
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with aiohttp.ClientSession() as session:
            opened: asyncio.Queue[Any] = asyncio.Queue()
            link: Link | None = Link(session, None, base, act.OpenLink("main", "/"), opened.put_nowait)  # type: ignore[arg-type]
            assert isinstance(await asyncio.wait_for(opened.get(), DEADLINE_S), ev.LinkOpened)
            assert link is not None
            link.close(4000)
            frame = await asyncio.wait_for(came, DEADLINE_S)
            task = link._task
            await asyncio.wait([task], timeout=DEADLINE_S)
            link = None
            del task
            gc.collect()
            await asyncio.sleep(0)
        server.close()
        mask = frame[2:6]
        assert (frame[:2], bytes(a ^ b for a, b in zip(frame[6:], mask, strict=False))) == (b"\x88\x82", (4000).to_bytes(2, "big"))
        assert opened.empty()
        assert [context["message"] for context in told] == []

    asyncio.run(scenario())
