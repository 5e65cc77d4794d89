"""Peers that speak bytes: an upstream whose answers a test writes by hand, an agent that sees exactly what comes over the wire."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from sidecar.downstream.passthrough import RUNNER_OPTIONS, forward, leave_expectation
from sidecar.downstream.tunnel import tunnel, wants_websocket
from sidecar.upstream.http import UpstreamHttp

DEADLINE_S = 20.0


def away(message: str) -> tuple[int, bytes, str]:
    return 503, b'{"message":"%b"}' % message.encode(), "application/json"


class Peer:
    """One end of a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> tuple[bytes, list[bytes]]:
        """Start line and header lines, as they came."""
        data = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        start, *lines = data[:-4].split(b"\r\n")
        return start, lines

    async def exactly(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), DEADLINE_S)

    async def chunked(self) -> bytes:
        """A chunked body, unframed."""
        out = bytearray()
        while size := int((await self.line()).split(b";")[0], 16):
            out += await self.exactly(size)
            assert await self.line() == b""
        assert await self.line() == b""
        return bytes(out)

    async def line(self) -> bytes:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n"), DEADLINE_S))[:-2]

    async def rest(self) -> bytes:
        """Everything until the other end closes."""
        return await asyncio.wait_for(self.reader.read(), DEADLINE_S)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), DEADLINE_S)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Serve = Callable[[Peer], Awaitable[None]]


class Upstream:
    """A listener whose connections a test serves by hand; `peers` counts them."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.peers = 0
        self.errors: list[BaseException] = []


@contextlib.asynccontextmanager
async def upstream(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Serve every connection with `serve` and close it. What `serve` raises fails the test."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        shown.peers += 1
        try:
            await serve(Peer(reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:
            shown.errors.append(error)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls, limit=1 << 18)
    shown = Upstream(server.sockets[0].getsockname()[1], "https" if tls else "http")
    try:
        yield shown
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    if shown.errors:
        raise shown.errors[0]


@contextlib.asynccontextmanager
async def agent(port: int) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 18)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    """An aiohttp Application with one catch-all handler, run as the sidecar runs its own; yields the port."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler, expect_handler=leave_expectation)
    runner = web.AppRunner(app, shutdown_timeout=0.1, **RUNNER_OPTIONS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def proxied(serve: Serve, tls: ssl.SSLContext | None = None, **options: object) -> AsyncIterator[tuple[Upstream, int]]:
    """An upstream, and a sidecar port in front of it that passes everything through; sockets are tunnelled."""
    async with upstream(serve, tls) as up:
        client = UpstreamHttp()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            if wants_websocket(request):
                return await tunnel(request, client, up.url, unavailable=away)
            return await forward(request, client, up.url, unavailable=away, **options)  # type: ignore[arg-type]

        async with serving(handler) as port:
            yield up, port


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def make_certificate(folder: Path, *names: str) -> Path:
    """Put a private CA's certificate and key for 127.0.0.1, upstream.test and these names into a folder; skips without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    known = ",".join(["IP:127.0.0.1", "DNS:upstream.test", *(f"DNS:{name}" for name in names)])
    subject = ["-subj", "/CN=sidecar test", "-addext", f"subjectAltName={known}"]
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*made, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
    return folder


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context
