"""What lies under `/_sidecar/`: health, metrics, status, the page for a person, and the native stream."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from sidecar.downstream.guard import path_of
from sidecar.downstream.passthrough import raw_target
from sidecar.downstream.tunnel import wants_websocket


class Pages:
    """Serves the sidecar's own paths; the guard has seen the request already."""

    def __init__(self, sidecar: Any) -> None:
        self._sidecar = sidecar

    async def handle(self, request: web.BaseRequest, server: Any) -> web.StreamResponse:
        """One request to an own path."""
        path = path_of(raw_target(request))
        if path == "/_sidecar/stream" and wants_websocket(request):
            response: web.StreamResponse = await server.websocket(request, "native")
            return response
        if path in ("/_sidecar/livez", "/_sidecar/readyz", "/_sidecar/startupz"):
            return web.Response(status=200)
        if path == "/_sidecar/status":
            return web.Response(body=msgspec.json.encode(self.status()), headers={"Content-Type": "application/json"})
        return web.Response(status=404)

    def status(self) -> dict[str, Any]:
        """The status document (contract: On the listen address)."""
        engine = self._sidecar.engine
        streams = []
        for name, book in engine.admission.books.items():
            account = engine.accounts.of_stream(name)
            consumers = [
                {"name": c.name, "cursor": c.cursor, "lag": book.committed - c.cursor, "quality": c.quality, "sessions": len(c.sessions)}
                for (stream, _), c in engine.courier.consumers.items()
                if stream == name
            ]
            streams.append(
                {
                    "name": name,
                    "epoch": engine.journal.epoch,
                    "head": book.committed,
                    "first": book.first,
                    "upstream": (account.facts.get("upstream", "idle") if account else "idle"),
                    "gaps": engine.gaps[name].count if name in engine.gaps else 0,
                    "consumers": consumers,
                }
            )
        return {"streams": streams, "paused": engine.paused}
