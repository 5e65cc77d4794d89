"""The tunnel: the handshake as it came, then bytes; with raw peers, and with ordinary WebSocket ends."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from sidecar.downstream.tunnel import tunnel
from sidecar.upstream.http import UpstreamHttp
from tests.downstream.raw import DEADLINE_S, Peer, agent, away, make_certificate, proxied, server_context, serving, upstream

SWITCH = b"HTTP/1.1 101 Odd Reason\r\nupgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\nX-A: 1\r\nx-a: 2\r\n\r\n"


def handshake(port: int, target: str = "/v1/node/ws?token=nt_live_1%2F") -> bytes:
    return (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: a, b\r\n"
        f"Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: http://127.0.0.1:{port}\r\nX-Dup: 1\r\nx-dup: 2\r\n\r\n"
    ).encode()


def test_handshake_and_bytes_pass_untouched() -> None:
    async def scenario() -> None:
        heads: list[tuple[bytes, list[bytes]]] = []

        async def serve(peer: Peer) -> None:
            heads.append(await peer.head())
            await peer.send(SWITCH + b"\x81\x02hi")  # a first frame in the same write as the head
            assert await peer.exactly(7) == b"\x01\x00\xffjunk"
            await peer.send(b"\x88\x05\x0f\xa0bye")

        async with proxied(serve) as (up, port), agent(port) as peer:
            await peer.send(handshake(port))
            assert await peer.exactly(len(SWITCH)) == SWITCH
            assert await peer.exactly(4) == b"\x81\x02hi"
            await peer.send(b"\x01\x00\xffjunk")
            assert await peer.rest() == b"\x88\x05\x0f\xa0bye"
            wanted = handshake(port).replace(b":%d" % port, b":%d" % up.port)
        start, *lines = wanted[:-4].split(b"\r\n")
        assert heads == [(start, lines)]

    asyncio.run(scenario())


def test_what_an_agent_sends_behind_its_handshake_is_not_lost() -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(SWITCH)
            assert await peer.exactly(5) == b"early"
            await peer.send(b"thanks")

        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(handshake(port) + b"early")
            assert await peer.rest() == SWITCH + b"thanks"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 401 Unauthorized\r\n\r\n",
        b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 14\r\nX: 1\r\n\r\n{"ok":false}\r\n',
        b"HTTP/1.1 426 Upgrade Required\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    ],
)
def test_a_refusal_is_the_upstreams_own(answer: bytes) -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(answer)

        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(handshake(port))
            assert await peer.exactly(len(answer)) == answer
            if b"Content-Length" not in answer and b"chunked" not in answer:
                assert await peer.rest() == b""
            else:  # the connection is an ordinary one again
                await peer.send(handshake(port))
                assert await peer.exactly(len(answer)) == answer

    asyncio.run(scenario())


def test_unreachable_upstream_refuses_the_upgrade() -> None:
    async def scenario() -> None:
        async with upstream(lambda peer: peer.head()) as up:  # type: ignore[arg-type, return-value]
            url = up.url

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return await tunnel(request, UpstreamHttp(), url, unavailable=away)

        async with serving(handler) as port, agent(port) as peer:
            await peer.send(handshake(port))
            assert (await peer.head())[0] == b"HTTP/1.1 503 Service Unavailable"

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["agent closes", "agent resets", "upstream closes", "upstream resets"])
def test_one_end_gone_closes_the_other(end: str) -> None:
    async def scenario() -> None:
        closed = asyncio.Event()
        go = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(SWITCH)
            if end.startswith("agent"):
                try:
                    assert await peer.rest() == b"last words"
                except ConnectionResetError:
                    assert end == "agent resets"
                closed.set()
            else:
                await go.wait()
                await peer.send(b"last words")
                (peer.close if end == "upstream closes" else peer.reset)()

        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(handshake(port))
            assert await peer.exactly(len(SWITCH)) == SWITCH
            go.set()
            if end == "agent closes":
                await peer.send(b"last words")
                peer.close()
            elif end == "agent resets":
                await peer.send(b"last words")
                peer.reset()
            if end.startswith("agent"):
                await asyncio.wait_for(closed.wait(), DEADLINE_S)
            else:
                try:
                    assert await peer.rest() in {b"last words", b""}
                except ConnectionResetError:
                    assert end == "upstream resets"

    asyncio.run(scenario())


def test_last_bytes_arrive_before_the_close() -> None:
    """The upstream writes and closes at once, while the agent does not read and its sockets take next to nothing: what is still
    in this process when the tunnel is over must get there all the same."""

    async def scenario() -> None:
        size = 60_000
        over = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(SWITCH + b"z" * size)

        async with upstream(serve) as up:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                assert request.transport is not None
                request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                try:
                    return await tunnel(request, UpstreamHttp(), up.url, unavailable=away)
                finally:
                    over.set()

            async with serving(handler) as port:
                with socket.socket() as sock:
                    sock.setblocking(False)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(sock, ("127.0.0.1", port))
                    await loop.sock_sendall(sock, handshake(port))
                    await asyncio.wait_for(over.wait(), DEADLINE_S)
                    got = b""
                    async with asyncio.timeout(DEADLINE_S):
                        while data := await loop.sock_recv(sock, 65536):
                            got += data
                    assert got == SWITCH + b"z" * size

    asyncio.run(scenario())


def test_an_upstream_behind_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    block = os.urandom(3_000_000)

    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            _, lines = await peer.head()
            assert f"Origin: https://127.0.0.1:{up.port}".encode() in lines
            await peer.send(SWITCH)
            assert await peer.exactly(len(block)) == block
            await peer.send(block)

        async with proxied(serve, server_context(certificate)) as (up, port), agent(port) as peer:
            await peer.send(handshake(port))
            assert await peer.exactly(len(SWITCH)) == SWITCH
            await peer.send(block)
            assert await peer.rest() == block

    asyncio.run(scenario())


def test_an_agent_that_leaves_during_the_handshake_takes_the_upstreams_connection_along() -> None:
    async def scenario() -> None:
        asked, left = asyncio.Event(), asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.head()
            asked.set()
            assert await peer.rest() == b""
            left.set()

        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(handshake(port))
            await asyncio.wait_for(asked.wait(), DEADLINE_S)
            peer.close()
            await asyncio.wait_for(left.wait(), DEADLINE_S)

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_slow_end_holds_the_other_back(way: str) -> None:
    async def scenario() -> None:
        sent, bound = 0, 64 * 1024 * 1024
        over = asyncio.Event()
        block = b"x" * 65536

        async def flood(peer: Peer) -> None:
            nonlocal sent
            while sent < bound:
                try:
                    async with asyncio.timeout(1):
                        await peer.send(block)
                except TimeoutError:
                    break
                sent += len(block)
            over.set()

        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(SWITCH)
            if way == "down":
                await flood(peer)
            else:
                await over.wait()

        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(handshake(port))
            assert await peer.exactly(len(SWITCH)) == SWITCH
            if way == "up":
                await flood(peer)
            await asyncio.wait_for(over.wait(), DEADLINE_S)
        assert sent < bound

    asyncio.run(scenario())


def test_other_requests_are_served_while_tunnels_are_open() -> None:
    async def scenario() -> None:
        open_now = 0

        async def serve(peer: Peer) -> None:
            nonlocal open_now
            start, _ = await peer.head()
            if b"/ws" in start:
                open_now += 1
                await peer.send(SWITCH)
                await peer.rest()
            else:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with proxied(serve) as (_, port), agent(port) as one, agent(port) as two, agent(port) as three:
            for peer in (one, two):
                await peer.send(handshake(port))
                assert await peer.exactly(len(SWITCH)) == SWITCH
            await three.send(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await three.head())[0] == b"HTTP/1.1 200 OK"
            assert open_now == 2

    asyncio.run(scenario())


def with_sockets(
    server: Callable[[web.WebSocketResponse], Awaitable[None]],
    client: Callable[[aiohttp.ClientWebSocketResponse], Awaitable[None]],
    *,
    compress: bool = False,
) -> None:
    """Run an ordinary WebSocket server and client with a tunnel between them."""

    async def scenario() -> None:
        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            ws = web.WebSocketResponse(autoping=False, protocols=("b",), compress=compress, max_msg_size=0)
            await ws.prepare(request)
            assert request.rel_url.raw_query_string == "token=a%2Fb"
            await server(ws)
            return ws

        async with serving(serve) as upstream_port:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                return await tunnel(request, UpstreamHttp(), f"http://127.0.0.1:{upstream_port}", unavailable=away)

            async with serving(handler) as port, aiohttp.ClientSession() as session:
                url = URL(f"ws://127.0.0.1:{port}/v1/stream?token=a%2Fb", encoded=True)
                options = {"autoping": False, "protocols": ("a", "b"), "compress": 15 if compress else 0, "max_msg_size": 0}
                async with session.ws_connect(url, **options) as ws:  # type: ignore[arg-type]
                    assert ws.protocol == "b"
                    assert bool(ws.compress) is compress
                    await asyncio.wait_for(client(ws), DEADLINE_S)

    asyncio.run(scenario())


def test_messages_pings_and_close_codes_pass() -> None:
    async def server(ws: web.WebSocketResponse) -> None:
        await ws.send_str("text ✓")
        await ws.send_bytes(b"\x00\xff")
        await ws.ping(b"mark-7")
        pong = await ws.receive()
        assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"mark-7")
        assert await ws.receive_str() == "back"
        await ws.close(code=4009, message=b"session timed out")

    async def client(ws: aiohttp.ClientWebSocketResponse) -> None:
        assert await ws.receive_str() == "text ✓"
        assert await ws.receive_bytes() == b"\x00\xff"
        ping = await ws.receive()
        assert (ping.type, ping.data) == (aiohttp.WSMsgType.PING, b"mark-7")
        await ws.pong(b"mark-7")
        await ws.send_str("back")
        end = await ws.receive()
        assert (end.type, end.data, end.extra) == (aiohttp.WSMsgType.CLOSE, 4009, "session timed out")

    with_sockets(server, client)


@pytest.mark.parametrize("compress", [False, True])
def test_big_messages_pass_both_ways(compress: bool) -> None:
    data = os.urandom(1 << 20) * 8
    digest = hashlib.sha256(data).hexdigest()

    async def server(ws: web.WebSocketResponse) -> None:
        got = await ws.receive_bytes()
        await ws.send_str(hashlib.sha256(got).hexdigest())
        await ws.send_bytes(got)
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE

    async def client(ws: aiohttp.ClientWebSocketResponse) -> None:
        await ws.send_bytes(data)
        assert await ws.receive_str() == digest
        assert hashlib.sha256(await ws.receive_bytes()).hexdigest() == digest
        await ws.close()

    with_sockets(server, client, compress=compress)
