"""The link's ends: what a link that is given up leaves behind."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import aiohttp
from aiohttp import web

from sidecar.core import actions as act
from sidecar.core import events as ev
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
