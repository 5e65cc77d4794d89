"""What lies under `/_sidecar/`: health, metrics, status, the page for a person, consumer reset, and the native stream.

The guard has seen every request already: Host and Origin for all, the local token for all but the health paths.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from sidecar.core.delivery import Consumer
from sidecar.dialects.registry import dialect
from sidecar.downstream.guard import path_of
from sidecar.downstream.passthrough import raw_target
from sidecar.downstream.sse import SseConn, wants_events
from sidecar.downstream.tunnel import wants_websocket
from sidecar.errors import SidecarError
from sidecar.ops import metrics, page, status
from sidecar.ops.consumer_cli import Done, Order
from sidecar.ops.consumers import NoSuchConsumer, pick, place
from sidecar.ops.status import Running

MAX_BODY: Final = 64 << 10
WRITE_S: Final = 5.0
POLL_S: Final = 0.01

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Pages:
    """Serves the sidecar's own paths."""

    def __init__(self, sidecar: Running) -> None:
        self._sidecar = sidecar
        self._born = time.monotonic()
        self._paths: Mapping[str, tuple[str, Answer]] = {
            "/_sidecar/livez": ("GET", self._livez),
            "/_sidecar/readyz": ("GET", self._readyz),
            "/_sidecar/startupz": ("GET", self._startupz),
            "/_sidecar/metrics": ("GET", self._metrics),
            "/_sidecar/status": ("GET", self._status),
            "/_sidecar/": ("GET", self._page),
            "/_sidecar": ("GET", self._slash),
            "/_sidecar/consumers/reset": ("POST", self._reset),
        }

    async def handle(self, request: web.BaseRequest, server: Any) -> web.StreamResponse:
        """One request to an own path. Disguises of one (`%5Fsidecar`, `//_sidecar`) are unknown here."""
        path = path_of(raw_target(request))
        if path == "/_sidecar/stream":
            return await self._stream(request, server)
        method, answer = self._paths.get(path, ("", None))
        if answer is None:
            return _json(
                404, {"error": "no such path", "mend": "known are stream, status, metrics, livez, readyz, startupz and /_sidecar/"}
            )
        if request.method not in ((method, "HEAD") if method == "GET" else (method,)):
            return _only(method)
        return await answer(request)

    async def _stream(self, request: web.BaseRequest, server: Any) -> web.StreamResponse:
        if request.method != "GET":
            return _only("GET")
        if wants_websocket(request):
            response: web.StreamResponse = await server.websocket(request, "native")
        elif wants_events(request):
            response = await server.websocket(request, "native", SseConn)
        else:
            body = {"error": "this is a stream", "mend": "connect as a WebSocket, or send `Accept: text/event-stream`"}
            response = _json(406, body)
        return response

    # --- health ------------------------------------------------------------------------------------------------------------------

    async def _livez(self, _: web.BaseRequest) -> web.Response:
        return _text(200, "alive\n")

    async def _readyz(self, _: web.BaseRequest) -> web.Response:
        """Anyone may see this: states and counts, no names."""
        why = status.not_ready(self._sidecar.engine)
        words = status.upstream_words(self._sidecar.engine)
        lines = [f"upstream {word}: {count}" for word, count in sorted(words.items())]
        return _text(503 if why else 200, "\n".join([f"not ready: {why}" if why else "ready", *lines, ""]))

    async def _startupz(self, _: web.BaseRequest) -> web.Response:
        return _text(200, "started\n") if self._sidecar.engine.started else _text(503, "starting\n")

    # --- telling -----------------------------------------------------------------------------------------------------------------

    async def _metrics(self, _: web.BaseRequest) -> web.Response:
        own = dialect(self._sidecar.settings.dialect).counters
        return _response(200, metrics.render(self._sidecar, own), metrics.CONTENT_TYPE)

    async def _status(self, _: web.BaseRequest) -> web.Response:
        return _json(200, status.document(self._sidecar, self._born))

    async def _page(self, _: web.BaseRequest) -> web.Response:
        return _response(200, page.HTML, "text/html; charset=utf-8", page.HEADERS)

    async def _slash(self, _: web.BaseRequest) -> web.Response:
        return _response(308, b"", "text/plain", {"Location": "/_sidecar/"})

    # --- doing -------------------------------------------------------------------------------------------------------------------

    async def _reset(self, request: web.BaseRequest) -> web.Response:
        """`sidecar consumer reset`, in the running sidecar. Answered when the new cursor is on disk."""
        if request.content_type != "application/json":
            # What a foreign page can send without asking first (a form) is no JSON.
            return _json(415, {"error": "this takes JSON", "mend": "use `sidecar consumer reset`"})
        if (request.content_length or MAX_BODY + 1) > MAX_BODY:
            return _json(413, {"error": "the body is too large, or its length is not given", "mend": "use `sidecar consumer reset`"})
        engine, settings = self._sidecar.engine, self._sidecar.settings
        try:
            order = msgspec.json.decode(await request.read(), type=Order)
            if (order.dialect, order.upstream) != (settings.dialect, settings.upstream):
                text = f"the sidecar that listens here serves {settings.dialect} at {settings.upstream}"
                return _json(409, {"error": text, "mend": "set SIDECAR_LISTEN to the address of the sidecar that is meant"})
            stream, name = pick(engine.courier.consumers, order.name, order.stream)
            before = engine.courier.consumers[stream, name].cursor
            cursor = place(order.offset, engine.admission.books[stream].committed)
        except msgspec.MsgspecError as error:
            return _json(400, {"error": str(error), "mend": "use `sidecar consumer reset`"})
        except SidecarError as error:
            return _json(404 if isinstance(error, NoSuchConsumer) else 400, {"error": error.text, "mend": error.mend})
        if not await _on_disk(engine.reset(stream, name, cursor)):
            text = "the journal takes no writes: the consumer was moved, and is written as soon as it does"
            return _json(503, {"error": text, "mend": status.FULL_MEND})
        return _json(200, Done(stream, name, before, cursor))


async def _on_disk(consumer: Consumer) -> bool:
    deadline = time.monotonic() + WRITE_S
    while not consumer.known:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _response(code: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> web.Response:
    fixed = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(status=code, body=body, headers=fixed | dict(headers or {}))


def _text(code: int, text: str) -> web.Response:
    return _response(code, text.encode(), "text/plain; charset=utf-8")


def _json(code: int, value: Any) -> web.Response:
    return _response(code, msgspec.json.encode(value) + b"\n", "application/json")


def _only(method: str) -> web.Response:
    allowed = "GET, HEAD" if method == "GET" else method
    answer = _json(405, {"error": "this method is not served here", "mend": f"use {allowed}"})
    answer.headers["Allow"] = allowed
    return answer
