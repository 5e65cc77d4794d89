"""Pass-through: an agent's HTTP request to the upstream and the answer back, byte for byte, streamed both ways.

Only hop-by-hop fields and `Host` change, and an `Origin` that names the sidecar names the upstream instead (relaycast R30,
discord R7, actioncable R32, fabric R22). A request is written at most once (relaycast R32).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

from aiohttp import web

from sidecar.downstream.guard import names_host
from sidecar.downstream.relayed import RelayedResponse, reply
from sidecar.errors import UpstreamError
from sidecar.upstream import wire
from sidecar.upstream.http import Body, Exchange, UpstreamHttp
from sidecar.upstream.wire import Header

RUNNER_OPTIONS: Final[dict[str, Any]] = {
    "access_log": None,
    "auto_decompress": False,  # a request body stays as the agent encoded it
    "max_line_size": wire.MAX_LINE,
    "max_field_size": wire.MAX_LINE,
    "max_headers": 1024,
}
"""Keyword arguments for web.AppRunner or web.ServerRunner in front of forward() and tunnel()."""

COPY_LIMIT: Final = 1024 * 1024
"""Bytes of a body that are kept for `hold` and `tap`."""
REWRITE_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of an answer that can be rewritten; a larger one passes as it is."""
_LOOK_S: Final = 0.5

Unavailable = Callable[[str], tuple[int, bytes, str]]
"""message -> (status, body, exact content type): the dialect's envelope for an upstream that is away."""
Hold = Callable[[bytes | None], Awaitable[None]]
"""Awaited with the request's whole body before anything is sent upstream; None: larger than COPY_LIMIT, not looked at."""
Tap = Callable[[bytes | None, int, bytes | None], None]
"""(request body, status, answer body) of a whole exchange, before the agent sees its end; None: larger than COPY_LIMIT."""
Rewrite = Callable[[int, Sequence[Header], bytes], bytes]
"""(status, headers, body) -> body. The request was made with `Accept-Encoding: identity`."""

T = TypeVar("T")


async def leave_expectation(request: web.Request) -> None:
    """Pass as `expect_handler=` to Application routes that forward: `100 Continue` is the upstream's to say, not aiohttp's."""


def raw_target(request: web.BaseRequest) -> str:
    """The request target's bytes (as latin-1 text), without scheme and authority if it came in absolute form."""
    target = request.raw_path.encode("utf-8", "surrogateescape").decode("latin-1")
    if target.startswith("/") or target == "*":
        return target
    _, mark, rest = target.partition("://")
    cut = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    return rest[cut:] if mark else target


def raw_headers(request: web.BaseRequest) -> list[Header]:
    """The request's header fields in the wire's order and spelling, bytes as latin-1 text."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]


def upstream_headers(request: web.BaseRequest, base_url: str, *, map_origin: bool) -> list[Header]:
    """The request's header fields, with the sidecar's own `Origin` replaced by the upstream's (actioncable R32)."""
    headers = raw_headers(request)
    host = wire.first(headers, "host")
    if not map_origin or host is None:
        return headers
    origin, _ = wire.split_url(base_url)
    theirs = f"{origin.scheme}://{origin.authority}"
    return [(name, theirs) if name.lower() == "origin" and names_host(value, host) else (name, value) for name, value in headers]


async def while_connected(request: web.BaseRequest, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, cancelled when the agent's connection goes: aiohttp itself tells a handler only when it reads or writes."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_LOOK_S)
            if not task.done() and (request.transport is None or request.transport.is_closing()):
                task.cancel()
                await asyncio.wait((task,))
        if task.cancelled():
            raise ConnectionResetError("the agent went away")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def forward(
    request: web.BaseRequest,
    http: UpstreamHttp,
    base_url: str,
    *,
    unavailable: Unavailable,
    target: str | None = None,
    hold: Hold | None = None,
    tap: Tap | None = None,
    rewrite: Rewrite | None = None,
    only: Sequence[str] = (),
    drop: Sequence[str] = (),
    retype: Sequence[tuple[str, str]] = (),
    map_origin: bool = True,
) -> web.StreamResponse:
    """Pass `request` to `base_url` + its raw target (or `target`) and stream the answer back. `only`: media types that `rewrite` is for,
    in lower case (none named: all); the others are streamed. `drop`: request fields that are left out, in lower case; `retype`: content
    types that the agent is told instead of the upstream's.

    An upstream that cannot be reached, or closes without any answer, is reported with `unavailable`. One that breaks off in its
    answer breaks the agent's connection off; an agent that goes away resets the exchange upstream. Never raises for either.
    """
    job = _Forward(request, http, unavailable, hold, tap, rewrite, only, dict(retype))
    url = base_url.rstrip("/") + (raw_target(request) if target is None else target)
    headers = [field for field in upstream_headers(request, base_url, map_origin=map_origin) if field[0].lower() not in drop]
    try:
        return await while_connected(request, job.run(url, headers))
    except (ConnectionError, web.RequestPayloadError):
        return gone(request)


async def stream(request: web.BaseRequest, answer: Exchange, *, tap: Tap | None = None, asked: "Copy | None" = None) -> RelayedResponse:
    """Write an upstream's answer to the agent as it arrives; broken off where the upstream breaks off."""
    response = RelayedResponse(request, answer.status, answer.reason, answer.headers, answer.framing)
    answered = Copy()
    await response.start()
    try:
        async for data in answer.body():
            if tap is not None:
                answered.add(data)
            await response.send(data)
    except UpstreamError:
        response.break_off()
        return response
    if tap is not None:
        tap(asked.whole() if asked is not None else b"", answer.status, answered.whole())
    await response.finish(answer.trailers)
    await answer.uploaded()
    return response


async def report(request: web.BaseRequest, unavailable: Unavailable, error: UpstreamError) -> RelayedResponse:
    """Tell the agent in the dialect's own envelope that the upstream did not answer."""
    status, body, content_type = unavailable(error.text)
    return await reply(request, status, HTTPStatus(status).phrase, [("Content-Type", content_type)], body)


def gone(request: web.BaseRequest) -> RelayedResponse:
    """The response object for an agent that is not there any more."""
    response = RelayedResponse(request, 499, "", (), "none")
    response.break_off()
    return response


class _Forward:
    """One exchange being passed through."""

    def __init__(
        self,
        request: web.BaseRequest,
        http: UpstreamHttp,
        unavailable: Unavailable,
        hold: Hold | None,
        tap: Tap | None,
        rewrite: Rewrite | None,
        only: Sequence[str],
        retype: Mapping[str, str],
    ) -> None:
        self._request = request
        self._http = http
        self._unavailable = unavailable
        self._hold = hold
        self._tap = tap
        self._rewrite = rewrite
        self._only = only
        self._retype = retype
        self._asked = Copy()

    async def run(self, url: str, headers: list[Header]) -> web.StreamResponse:
        source = self._body() if self._request.body_exists else None
        body: Body = source if self._hold is None else await self._held(self._hold, source)
        if self._rewrite is not None:
            headers = [(name, "identity" if name.lower() == "accept-encoding" else value) for name, value in headers]
        try:
            async with self._http.exchange(self._request.method, url, headers, body, interim=self._interim) as answer:
                if self._retype:
                    answer.headers = [self._told(*field) for field in answer.headers]
                if self._rewrite is not None and (not self._only or _media_type(answer.headers) in self._only):
                    return await self._rewritten(answer, self._rewrite)
                return await stream(self._request, answer, tap=self._tap, asked=self._asked)
        except UpstreamError as error:
            return await report(self._request, self._unavailable, error)

    def _told(self, name: str, value: str) -> Header:
        return name, self._retype.get(value.lower(), value) if name.lower() == "content-type" else value

    async def _rewritten(self, answer: Exchange, rewrite: Rewrite) -> web.StreamResponse:
        data = bytearray()
        pieces = answer.body()
        async for piece in pieces:
            data += piece
            if len(data) > REWRITE_LIMIT:
                break
        body, headers = bytes(data), answer.headers
        if len(body) <= REWRITE_LIMIT:
            if self._tap is not None:
                self._tap(self._asked.whole(), answer.status, body if len(body) <= COPY_LIMIT else None)
            if answer.framing != "none":
                body = rewrite(answer.status, headers, body)
            if answer.framing == "length":
                size = str(len(body))
                headers = [(name, size if name.lower() == "content-length" else value) for name, value in headers]
        response = RelayedResponse(self._request, answer.status, answer.reason, headers, answer.framing)
        await response.start()
        await response.send(body)
        try:
            async for piece in pieces:
                await response.send(piece)
        except UpstreamError:
            response.break_off()
        await response.finish(answer.trailers)
        return response

    async def _held(self, hold: Hold, body: AsyncIterator[bytes] | None) -> Body:
        pieces: list[bytes] = []
        copy = Copy()
        async for data in body or _of(()):
            pieces.append(data)
            copy.add(data)
            if copy.whole() is None:
                break
        await hold(copy.whole())
        return _of(pieces, body) if body is not None else None

    async def _body(self) -> AsyncIterator[bytes]:
        async for data in self._request.content.iter_any():
            if self._tap is not None:
                self._asked.add(data)
            yield data

    def _interim(self, status: int, reason: str, headers: Sequence[Header]) -> None:
        transport = self._request.transport
        if transport is not None and self._request.version >= (1, 1):
            transport.write(wire.head_bytes(f"HTTP/1.1 {status} {reason}", wire.end_to_end(headers, chunked=False)))


def _media_type(headers: Sequence[Header]) -> str:
    return (wire.first(headers, "content-type") or "").partition(";")[0].strip().lower()


class Copy:
    """A bounded copy of a body that is streaming by."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._over = False

    def add(self, data: bytes) -> None:
        if self._over or len(self._data) + len(data) > COPY_LIMIT:
            self._over = True
            self._data.clear()
        else:
            self._data += data

    def whole(self) -> bytes | None:
        """All of it; None if it grew beyond COPY_LIMIT."""
        return None if self._over else bytes(self._data)


async def _of(pieces: Iterable[bytes], rest: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    for data in pieces:
        yield data
    if rest is not None:
        async for data in rest:
            yield data
