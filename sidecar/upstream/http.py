"""The only HTTP client: exchanges that pass an agent's request on, and the sidecar's own requests behind them.

    UpstreamError (sidecar.errors)
    ├── UpstreamAway    no connection: nothing was sent
    └── UpstreamBroke   connected, but the answer did not come or is not HTTP; the request may have been carried out

Each request has a connection of its own, opened for it and closed after it, and is written once: a request can neither meet
a stale keep-alive connection nor be repeated (contract, relaycast R32). The price is one handshake a request.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Final

from sidecar.errors import UpstreamError
from sidecar.upstream import wire
from sidecar.upstream.dial import BUFFER, Connection, Dialer
from sidecar.upstream.wire import Framing, Header, WireError

AHEAD_S: Final = 5.0
"""Seconds for which an agent's exchange holds back the sidecar's own requests: a long poll must not starve them."""
MAX_OWN_BODY: Final = 32 * 1024 * 1024

Body = AsyncIterable[bytes] | bytes | None
Interim = Callable[[int, str, Sequence[Header]], None]


class UpstreamBroke(UpstreamError):
    """The upstream took the connection but gave no whole, well-formed answer."""


class Exchange:
    """An upstream's answer whose head has arrived: `status`, `reason`, `headers` (as on the wire), `framing`.

    The caller iterates `body()` to its end, or does not, and then calls `close()`. While it reads, the request's body may still
    be on its way up.
    """

    def __init__(self, link: Connection, method: str) -> None:
        self.status = 0
        self.reason = ""
        self.headers: list[Header] = []
        self.framing: Framing = "none"
        self.trailers = b""
        self._length = 0
        self._link = link
        self._method = method
        self._upload: asyncio.Task[None] | None = None
        self._source_error: Exception | None = None
        self._whole = False
        self._taken = False

    async def begin(self, head: bytes, body: Body, *, chunked: bool, interim: Interim | None) -> None:
        """Send the request and read the answer's head. Raises UpstreamBroke, or whatever the request's body raised."""
        self._link.writer.write(head)
        if body is not None:
            self._upload = asyncio.create_task(self._send(body, chunked))
        try:
            while True:
                self.status, self.reason, self.headers = await self._read_head()
                if self.status >= 200 or self.status == 101:
                    break
                if interim is not None:
                    interim(self.status, self.reason, self.headers)
            self.framing, self._length = wire.framing(self._method, self.status, self.headers)
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise self._failure("closed the connection without an answer") from error
        except WireError as error:
            raise UpstreamBroke(str(error)) from None

    async def body(self) -> AsyncIterator[bytes]:
        """The body's bytes, unframed and otherwise untouched, as they arrive. Raises UpstreamBroke when it ends short."""
        reader = self._link.reader
        try:
            if self.framing == "eof":
                while data := await reader.read(BUFFER):
                    yield data
                if reader.lost is not None:
                    raise EOFError
            elif self.framing == "length":
                async for data in self._take(self._length):
                    yield data
            elif self.framing == "chunked":
                while size := self._chunk_size(await self._line()):
                    async for data in self._take(size):
                        yield data
                    if await self._line():
                        raise WireError("a chunk of the upstream's answer is longer than it says")
                self.trailers = b"".join([line + b"\r\n" for line in await self._lines()])
        except (OSError, EOFError, WireError, asyncio.LimitOverrunError) as error:
            raise self._failure("broke off in the middle of its answer") from error
        if self._source_error is not None:
            raise self._source_error
        self._whole = True

    async def uploaded(self) -> None:
        """Wait until the request's body is sent, or cannot be: an upstream may answer before it has read all."""
        if self._upload is not None:
            await asyncio.wait((self._upload,))

    def upgraded(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """After status 101: the connection itself, from now on the caller's to close."""
        self._taken = True
        return self._link.reader, self._link.writer

    def close(self) -> None:
        """Let go of the connection; one that is in the middle of something is dropped with all that is still buffered."""
        if self._taken:
            return
        unsent = self._upload is not None and not self._upload.done()
        if self._upload is not None:
            self._upload.cancel()
        if self._whole and not unsent:
            self._link.writer.close()
        else:
            self._link.writer.transport.abort()

    async def _send(self, body: AsyncIterable[bytes] | bytes, chunked: bool) -> None:
        writer = self._link.writer
        try:
            if isinstance(body, bytes):
                writer.write(body)
            else:
                async for data in body:
                    if not data:
                        continue
                    try:
                        writer.write(wire.chunk(data) if chunked else data)
                        await writer.drain()
                    except OSError:
                        return  # the upstream reads no more: what it answers, if anything, tells the agent why
                if chunked:
                    writer.write(wire.last_chunk())
            with contextlib.suppress(OSError):
                await writer.drain()
        except Exception as error:
            # The agent went away: the connection ends without the rest of the body or its last chunk, so the upstream can tell.
            self._source_error = error
            writer.transport.abort()

    async def _read_head(self) -> tuple[int, str, list[Header]]:
        line = await self._line()
        status = wire.parse_status(line)
        return status.code, status.reason, wire.parse_fields(await self._lines())

    async def _lines(self) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        while line := await self._line():
            size += len(line)
            if size > wire.MAX_HEAD:
                raise WireError("the upstream's answer has too large a head")
            lines.append(line)
        return lines

    async def _line(self) -> bytes:
        return (await self._link.reader.readuntil(b"\n"))[:-1].removesuffix(b"\r")

    async def _take(self, size: int) -> AsyncIterator[bytes]:
        while size:
            data = await self._link.reader.read(min(size, BUFFER))
            if not data:
                raise EOFError
            size -= len(data)
            yield data

    @staticmethod
    def _chunk_size(line: bytes) -> int:
        digits = line.partition(b";")[0].strip()
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            raise WireError("malformed chunk in the upstream's answer")
        return int(digits, 16)

    def _failure(self, text: str) -> Exception:
        return self._source_error or UpstreamBroke(f"the upstream {text}")


class UpstreamHttp:
    """Sends requests to the upstream. `connect_timeout` in seconds. Own requests (`fetch`) go one at a time and wait while an
    exchange of an agent that is younger than `ahead` seconds is in flight (relaycast R16)."""

    def __init__(self, dialer: Dialer | None = None, *, connect_timeout: float = 5.0, ahead: float = AHEAD_S) -> None:
        self.dialer = dialer or Dialer(connect_timeout=connect_timeout)
        self._ahead_s = ahead
        self._ahead: set[object] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._lanes: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: str,
        headers: Sequence[Header],
        body: Body = None,
        *,
        upgrade: bool = False,
        interim: Interim | None = None,
    ) -> AsyncIterator[Exchange]:
        """Pass one request of an agent on, exactly once, and yield the answer when its head is there.

        `url` is taken literally (its target goes over the wire as it stands). Of `headers`, order, repetition and spelling are
        kept; hop-by-hop fields are dropped and `Host` becomes the upstream's. The body keeps the framing that the fields name:
        with a Content-Length its length, otherwise chunks. `upgrade` keeps `Connection` and `Upgrade`. `interim` is told of 1xx
        answers. Raises UpstreamAway, UpstreamBroke, or what iterating `body` raised.
        """
        token = object()
        timer = asyncio.get_running_loop().call_later(self._ahead_s, self._pass, token)
        self._ahead.add(token)
        self._idle.clear()
        try:
            answer = await self._request(method, url, headers, body, upgrade=upgrade, interim=interim)
            try:
                yield answer
            finally:
                answer.close()
        finally:
            timer.cancel()
            self._pass(token)

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Sequence[Header] = (),
        timeout: float = 10.0,
        body: bytes | None = None,
        lane: str = "",
        urgent: bool = False,
    ) -> tuple[int, list[Header], bytes]:
        """The sidecar's own request: (status, headers, body). `timeout`: seconds from the moment its turn has come; `lane`: of these
        one at a time; `urgent`: no waiting for a turn. Cancelling ends it at once. Raises UpstreamAway, UpstreamBroke, TimeoutError."""
        async with contextlib.AsyncExitStack() as turn:
            if not urgent:
                await turn.enter_async_context(self._lanes.setdefault(lane, asyncio.Lock()))
                # Bounded also under a stream of short exchanges that never leaves a moment of rest.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._ahead_s):
                        await self._idle.wait()
            async with asyncio.timeout(timeout):
                answer = await self._request(method, url, headers, body, upgrade=False, interim=None)
                try:
                    data = bytearray()
                    async for piece in answer.body():
                        data += piece
                        if len(data) > MAX_OWN_BODY:
                            raise UpstreamBroke(f"the upstream's answer is larger than {MAX_OWN_BODY} bytes")
                    return answer.status, answer.headers, bytes(data)
                finally:
                    answer.close()

    def _pass(self, token: object) -> None:
        self._ahead.discard(token)
        if not self._ahead:
            self._idle.set()

    async def _request(
        self, method: str, url: str, headers: Sequence[Header], body: Body, *, upgrade: bool, interim: Interim | None
    ) -> Exchange:
        origin, target = wire.split_url(url)
        sized = "content-length" in {name.lower() for name, _ in wire.end_to_end(headers, chunked=False)}
        chunked = body is not None and not isinstance(body, bytes) and not sized
        fields = list(headers) if upgrade else wire.end_to_end(headers, chunked=chunked)
        if isinstance(body, bytes) and not sized:
            fields.append(("Content-Length", str(len(body))))
        link = await self.dialer.connect(origin, socket_like=upgrade)
        if link.absolute:
            target = f"{origin.scheme}://{origin.authority}{target}"
        answer = Exchange(link, method)
        try:
            fields = [*wire.with_host(fields, origin.authority), *link.proxy_headers]
            head = wire.head_bytes(f"{method} {target} HTTP/1.1", fields)
            await answer.begin(head, body, chunked=chunked, interim=interim)
        except BaseException:
            answer.close()
            raise
        return answer
