"""Pass-through compared byte by byte with what a direct connection would carry."""

import asyncio
import hashlib
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aiohttp import web

from sidecar.downstream import passthrough
from sidecar.downstream.passthrough import COPY_LIMIT, forward
from sidecar.upstream.http import UpstreamHttp
from sidecar.upstream.wire import Header
from tests.downstream.raw import DEADLINE_S, Peer, agent, away, proxied, serving, until, upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def ask(port: int, request: bytes) -> tuple[bytes, list[bytes], Peer]:
    async with agent(port) as peer:
        await peer.send(request)
        start, lines = await peer.head()
        return start, lines, peer


def lines_of(port: int, *lines: str) -> bytes:
    return "\r\n".join((lines[0], f"Host: 127.0.0.1:{port}", *lines[1:], "", "")).encode("latin-1")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/a%2Fb",
        "//double//slash",
        "/a/../b/./c",
        "/semi;colon=1;x",
        "/q?b=2&a=1&b=1",
        "/q?a+b=c%20d",
        "/empty?",
        "/%E2%9C%93/%41%7e",
        "/q?x=%zz&y=%",
        "/q?a=/../?&=",
        "/emoji/%F0%9F%91%8D/@me",
        "/q?url=http://x/y//z",
        "/pipe|caret^[1]{2}`",
    ],
)
def test_the_target_goes_up_as_it_came(target: str) -> None:
    async def scenario() -> None:
        seen: list[bytes] = []

        async def serve(peer: Peer) -> None:
            seen.append((await peer.head())[0])
            await peer.send(OK)

        async with proxied(serve) as (_, port):
            start, _, _ = await ask(port, lines_of(port, f"GET {target} HTTP/1.1"))
            assert start == b"HTTP/1.1 200 OK"
        assert seen == [f"GET {target} HTTP/1.1".encode("latin-1")]

    asyncio.run(scenario())


def test_an_absolute_target_goes_up_in_origin_form() -> None:
    async def scenario() -> None:
        seen: list[bytes] = []

        async def serve(peer: Peer) -> None:
            seen.append((await peer.head())[0])
            await peer.send(OK)

        async with proxied(serve) as (_, port):
            await ask(port, lines_of(port, f"GET http://127.0.0.1:{port}/a%2Fb?c=%20 HTTP/1.1"))
        assert seen == [b"GET /a%2Fb?c=%20 HTTP/1.1"]

    asyncio.run(scenario())


def test_request_head_changes_only_in_host_and_hop_by_hop_fields() -> None:
    async def scenario() -> None:
        seen: list[list[bytes]] = []

        async def serve(peer: Peer) -> None:
            seen.append((await peer.head())[1])
            await peer.send(OK)

        async with proxied(serve) as (up, port):
            await ask(
                port,
                b"DELETE /x HTTP/1.1\r\nX-First: 1\r\nhOsT: 127.0.0.1:%d\r\nX-Dup: a\r\nConnection: keep-alive, X-Private\r\n"
                b"x-dup: b\r\nX-Private: secret\r\nKeep-Alive: timeout=5\r\nAUTHORIZATION: Bearer at_live_1\r\nTE: trailers\r\n"
                b"X-Empty:\r\nX-Latin: caf\xe9\r\nX-Utf: caf\xc3\xa9\r\nX-Dup: c\r\nCookie: a=1; b=2\r\n\r\n" % port,
            )
            expected = (
                b"X-First: 1|hOsT: 127.0.0.1:%d|X-Dup: a|x-dup: b|AUTHORIZATION: Bearer at_live_1|X-Empty: |X-Latin: caf\xe9|"
                b"X-Utf: caf\xc3\xa9|X-Dup: c|Cookie: a=1; b=2" % up.port
            )
        assert seen == [expected.split(b"|")]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("head", "framed"),
    [
        ("GET /x HTTP/1.1", []),
        ("DELETE /x HTTP/1.1", []),
        ("POST /x HTTP/1.1", []),
        ("POST /x HTTP/1.1|Content-Length: 0", [b"Content-Length: 0"]),
        ("GET /x HTTP/1.1|content-length: 0", [b"content-length: 0"]),
    ],
)
def test_a_request_without_a_body_gets_no_framing_of_ours(head: str, framed: list[bytes]) -> None:
    async def scenario() -> None:
        seen: list[list[bytes]] = []

        async def serve(peer: Peer) -> None:
            seen.append((await peer.head())[1][1:])
            await peer.send(OK)

        async with proxied(serve) as (_, port):
            await ask(port, lines_of(port, *head.split("|")))
        assert seen == [framed]

    asyncio.run(scenario())


def test_request_bodies_keep_their_framing_and_their_encoding() -> None:
    async def scenario() -> None:
        seen: list[tuple[list[bytes], bytes]] = []
        zipped = bytes.fromhex("1f8b08000000000000034b040043beb7e801000000")

        async def serve(peer: Peer) -> None:
            _, lines = await peer.head()
            body = await (peer.chunked() if b"transfer-encoding: chunked" in lines else peer.exactly(len(zipped)))
            seen.append((lines[1:], body))
            await peer.send(OK)
            assert await peer.rest() == b""

        async with proxied(serve) as (_, port):
            sized = ("POST /x HTTP/1.1", "Content-Encoding: gzip", f"CONTENT-LENGTH: {len(zipped)}", "X-Z: 1")
            await ask(port, lines_of(port, *sized) + zipped)
            chunked = ("PUT /x HTTP/1.1", "transfer-encoding: chunked", "X-Z: 1")
            await ask(port, lines_of(port, *chunked) + b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n")
        assert seen == [
            ([b"Content-Encoding: gzip", b"CONTENT-LENGTH: 21", b"X-Z: 1"], zipped),
            ([b"transfer-encoding: chunked", b"X-Z: 1"], b"abc0123456789"),
        ]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", None),
        ("GET", b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", None),
        ("GET", b"HTTP/1.1 299 Very Odd\r\ncontent-length: 3\r\nSet-Cookie: a=1\r\nX: y\r\nset-cookie: b=2\r\n\r\nabc", None),
        ("GET", b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nX-RateLimit-Remaining: 0\r\nContent-Length: 0\r\n\r\n", None),
        ("GET", b"HTTP/1.1 302 Found\r\nLocation: //else/where\r\nContent-Length: 0\r\n\r\n", None),
        ("GET", b"HTTP/1.1 200 OK\r\nX-Latin: caf\xe9\r\nX-Empty: \r\nContent-Length: 1\r\n\r\n\xff", None),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", None),
        ("GET", b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: x\r\nContent-Length: 0\r\n\r\n", None),
        ("GET", b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", None),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 700\r\n\r\n', None),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nContent-Type: a/b\r\n\r\n", None),
        ("HEAD", b"HTTP/1.1 405 Method Not Allowed\r\n\r\n", None),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX: 1\r\n\r\n3\r\nabc\r\n0\r\n\r\n", None),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 9\r\n\r\n",
            None,
        ),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: x\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        ("GET", b"HTTP/1.0 200 OK\nContent-Length: 2\n\nhi", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
        (
            "GET",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            None,
        ),
    ],
)
def test_answers_come_down_as_they_were_sent(method: str, answer: bytes, expected: bytes | None) -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(answer)
            await peer.rest()

        async with proxied(serve) as (up, port), agent(port) as peer:
            wanted = answer if expected is None else expected
            # Twice on one connection: an answer with an end leaves the agent's connection usable, and nothing trails it.
            for _ in range(2):
                await peer.send(lines_of(port, f"{method} /x HTTP/1.1"))
                assert await peer.exactly(len(wanted)) == wanted
            assert up.peers == 2

    asyncio.run(scenario())


def test_an_answer_that_ends_with_the_connection_still_does() -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 401 Unauthorized\r\n\r\nbare")

        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(lines_of(port, "GET /x HTTP/1.1"))
            assert await peer.rest() == b"HTTP/1.1 401 Unauthorized\r\n\r\nbare"

    asyncio.run(scenario())


def test_an_agent_that_closes_or_speaks_http_1_0_gets_its_end() -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

        async with proxied(serve) as (_, port):
            async with agent(port) as peer:
                await peer.send(lines_of(port, "GET /x HTTP/1.0"))
                assert await peer.rest() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
            async with agent(port) as peer:
                await peer.send(lines_of(port, "GET /x HTTP/1.1", "Connection: close"))
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                assert await peer.rest() == head + b"3\r\nabc\r\n0\r\n\r\n"

    asyncio.run(scenario())


def test_heads_of_64_kib_pass_both_ways() -> None:
    async def scenario() -> None:
        long = "x" * 65_000

        async def serve(peer: Peer) -> None:
            start, lines = await peer.head()
            assert start == f"GET /{long} HTTP/1.1".encode()
            assert f"X-Long: {long}".encode() in lines
            await peer.send(f"HTTP/1.1 200 OK\r\nX-Long: {long}\r\nContent-Length: 0\r\n\r\n".encode())

        async with proxied(serve) as (_, port):
            start, lines, _ = await ask(port, lines_of(port, f"GET /{long} HTTP/1.1", f"X-Long: {long}"))
            assert (start, lines[0]) == (b"HTTP/1.1 200 OK", f"X-Long: {long}".encode())

    asyncio.run(scenario())


@pytest.mark.parametrize("chunked", [False, True])
def test_20_mb_pass_both_ways_in_bounded_memory(chunked: bool) -> None:
    size, piece = 20 * 1024 * 1024, bytes(range(256)) * 256

    async def scenario() -> None:
        received = hashlib.sha256()

        async def serve(peer: Peer) -> None:
            _, lines = await peer.head()
            assert (b"Transfer-Encoding: chunked" in lines) is chunked
            left = size
            while chunked and (count := int(await peer.line(), 16)):
                received.update(await peer.exactly(count))
                await peer.line()
            while not chunked and left:
                data = await peer.reader.read(min(left, 65536))
                left -= len(data)
                received.update(data)
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
            await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
            for _ in range(size // len(piece)):
                await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                await peer.send(b"0\r\n\r\n")
            await peer.rest()

        async with proxied(serve) as (_, port), agent(port) as peer:
            tracemalloc.start()
            framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
            await peer.send(lines_of(port, "PUT /x HTTP/1.1", framing))
            for _ in range(size // len(piece)):
                await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                await peer.send(b"0\r\n\r\n")
            start, lines = await peer.head()
            assert (start, lines) == (b"HTTP/1.1 200 OK", [framing.encode()])
            got, count = hashlib.sha256(), 0
            while count < size:
                data = await peer.exactly(int(await peer.line(), 16)) if chunked else await peer.reader.read(65536)
                assert data
                if chunked:
                    await peer.line()
                count += len(data)
                got.update(data)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        wanted = hashlib.sha256(piece * (size // len(piece))).digest()
        assert received.digest() == got.digest() == wanted
        # The two peers' own readers and writers are in this figure.
        assert peak < 6 * 1024 * 1024

    asyncio.run(scenario())


def test_a_slow_agent_holds_the_upstream_back() -> None:
    async def scenario() -> None:
        sent, bound = 0, 64 * 1024 * 1024  # well above what two kernels' socket buffers take
        stuck = asyncio.Event()

        async def serve(peer: Peer) -> None:
            nonlocal sent
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n")
            while sent < bound:
                try:
                    async with asyncio.timeout(1):
                        await peer.send(b"x" * 65536)
                except TimeoutError:
                    break
                sent += 65536
            stuck.set()

        async with proxied(serve) as (_, port), agent(port) as peer:
            peer.reader._limit = 1  # type: ignore[attr-defined]  # the agent's own reader takes next to nothing
            await peer.send(lines_of(port, "GET /x HTTP/1.1"))
            await asyncio.wait_for(stuck.wait(), DEADLINE_S)
        assert sent < bound

    asyncio.run(scenario())


def test_both_directions_stream() -> None:
    """Each side sends its next piece only after it has seen the other's: nothing is collected on the way."""

    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for n in range(5):
                assert await peer.exactly(2) == b"q%d" % n
                await peer.send(b"2\r\na%d\r\n" % n)
            await peer.send(b"0\r\n\r\n")

        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(lines_of(port, "POST /x HTTP/1.1", "Content-Length: 10"))
            assert (await peer.head())[0] == b"HTTP/1.1 200 OK"
            for n in range(5):
                await peer.send(b"q%d" % n)
                assert await peer.exactly(7) == b"2\r\na%d\r\n" % n
            assert await peer.exactly(5) == b"0\r\n\r\n"

    asyncio.run(scenario())


def test_100_continue_is_the_upstreams_to_say() -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            start, lines = await peer.head()
            assert b"Expect: 100-continue" in lines
            if b"/refuse" in start:
                await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                return
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert await peer.exactly(4) == b"body"
            await peer.send(OK)

        async with proxied(serve) as (_, port):
            async with agent(port) as peer:
                await peer.send(lines_of(port, "PUT /x HTTP/1.1", "Expect: 100-continue", "Content-Length: 4"))
                assert await peer.head() == (b"HTTP/1.1 100 Continue", [])
                await peer.send(b"body")
                assert await peer.exactly(len(OK)) == OK
            start, _, _ = await ask(port, lines_of(port, "PUT /refuse HTTP/1.1", "Expect: 100-continue", "Content-Length: 4"))
            assert start == b"HTTP/1.1 413 Too Large"

    asyncio.run(scenario())


def test_an_answer_before_the_end_of_the_upload_arrives() -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            peer.reset()

        async with proxied(serve) as (_, port), agent(port) as peer:
            peer.writer.write(lines_of(port, "PUT /x HTTP/1.1", "Content-Length: 30000000") + b"x" * 5_000_000)
            assert (await peer.head())[0] == b"HTTP/1.1 413 Too Large"
            assert await peer.exactly(3) == b"big"

    asyncio.run(scenario())


def test_an_upload_goes_on_behind_an_early_answer() -> None:
    async def scenario() -> None:
        received = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(OK)
            assert await peer.exactly(8) == b"the rest"
            received.set()

        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(lines_of(port, "PUT /x HTTP/1.1", "Content-Length: 8"))
            assert await peer.exactly(len(OK)) == OK
            await peer.send(b"the rest")
            await asyncio.wait_for(received.wait(), DEADLINE_S)
            await peer.send(lines_of(port, "PUT /x HTTP/1.1", "Content-Length: 8") + b"the rest")
            assert await peer.exactly(len(OK)) == OK

    asyncio.run(scenario())


def test_unreachable_upstream_is_reported_in_the_dialects_envelope() -> None:
    async def scenario() -> None:
        async with upstream(lambda peer: peer.head()) as up:  # type: ignore[arg-type, return-value]
            url = up.url

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return await forward(request, UpstreamHttp(), url, unavailable=away)

        async with serving(handler) as port, agent(port) as peer:
            for method in ("GET", "POST", "HEAD", "GET"):
                await peer.send(lines_of(port, f"{method} /x HTTP/1.1", "Content-Length: 0"))
                start, lines = await peer.head()
                assert start == b"HTTP/1.1 503 Service Unavailable"
                size = int(lines[1].removeprefix(b"Content-Length: "))
                assert lines == [b"Content-Type: application/json", b"Content-Length: %d" % size]
                if method != "HEAD":
                    assert (await peer.exactly(size)).startswith(b'{"message":"cannot connect to 127.0.0.1:')

    asyncio.run(scenario())


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"SMTP ready\r\n\r\n"])
def test_an_upstream_that_gives_no_answer_is_reported_and_asked_once(method: str, answer: bytes) -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(answer)

        async with proxied(serve) as (up, port):
            start, _, _ = await ask(port, lines_of(port, f"{method} /x HTTP/1.1", "Content-Length: 0"))
            assert start == b"HTTP/1.1 503 Service Unavailable"
            assert up.peers == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("head", "version"),
    [("Content-Length: 10", "1.1"), ("Transfer-Encoding: chunked", "1.1"), ("Transfer-Encoding: chunked", "1.0"), ("X: 1", "1.1")],
)
def test_a_truncated_answer_is_seen_as_truncated(head: str, version: str, reset: bool) -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + b"3\r\nabc\r\n")
            await go.wait()
            if reset:
                peer.reset()

        go = asyncio.Event()
        async with proxied(serve) as (_, port), agent(port) as peer:
            await peer.send(lines_of(port, f"GET /x HTTP/1.{version[-1]}"))
            await peer.head()
            seen = await peer.exactly(8 if version == "1.1" else 3)
            assert b"abc" in seen
            go.set()
            if head == "X: 1" and not reset:
                assert await peer.rest() == b""  # this one is whole: its end is the connection's
            elif version == "1.0" or head == "X: 1":
                with pytest.raises(ConnectionResetError):
                    await peer.rest()
            else:
                assert await peer.rest() == b""  # neither the missing bytes nor a last chunk

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["before the answer", "in its own body", "in the answer"])
def test_an_agent_that_goes_away_resets_the_exchange(when: str) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        ready = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.head()
            if when == "in the answer":
                await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            ready.set()
            try:
                data = await peer.rest()
                # A chunked upload that ends here must not look whole.
                assert when != "in its own body" or not data.endswith(b"0\r\n\r\n")
            except ConnectionResetError:
                pass
            ended.set()

        async with proxied(serve) as (_, port), agent(port) as peer:
            body = "Transfer-Encoding: chunked" if when == "in its own body" else "X: 1"
            await peer.send(lines_of(port, "POST /x HTTP/1.1", body))
            if when == "in its own body":
                await peer.send(b"3\r\nabc\r\n")
            await asyncio.wait_for(ready.wait(), DEADLINE_S)
            peer.close()
            await asyncio.wait_for(ended.wait(), DEADLINE_S)

    asyncio.run(scenario())


def test_a_hundred_requests_at_once() -> None:
    async def scenario() -> None:
        waiting = 0
        together = asyncio.Event()

        async def serve(peer: Peer) -> None:
            nonlocal waiting
            start, _ = await peer.head()
            waiting += 1
            if waiting == 100:
                together.set()
            await together.wait()
            body = start.split()[1] * 100
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        async with proxied(serve) as (up, port):

            async def one(n: int) -> None:
                async with agent(port) as peer:
                    await peer.send(lines_of(port, f"GET /{n} HTTP/1.1"))
                    await peer.head()
                    wanted = b"/%d" % n * 100
                    assert await peer.exactly(len(wanted)) == wanted

            await asyncio.gather(*map(one, range(100)))
            assert up.peers == 100

    asyncio.run(scenario())


def test_an_origin_of_our_own_becomes_the_upstreams() -> None:
    async def scenario() -> None:
        seen: list[bytes] = []

        async def serve(peer: Peer) -> None:
            _, lines = await peer.head()
            seen.extend(line for line in lines if line.startswith(b"origin"))
            await peer.send(OK)

        async with proxied(serve) as (up, port):
            for origin in (f"http://127.0.0.1:{port}", "https://listed.example", f"http://127.0.0.1:{port + 1}"):
                await ask(port, lines_of(port, "GET /x HTTP/1.1", f"origin: {origin}"))
            wanted = (up.url, "https://listed.example", f"http://127.0.0.1:{port + 1}")
        assert seen == [f"origin: {origin}".encode() for origin in wanted]

    asyncio.run(scenario())


def test_target_and_base_path_can_be_set() -> None:
    async def scenario() -> None:
        seen: list[bytes] = []

        async def serve(peer: Peer) -> None:
            seen.append((await peer.head())[0])
            await peer.send(OK)

        async with upstream(serve) as up:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                return await forward(request, UpstreamHttp(), up.url + "/base/", unavailable=away, target="/other%2F?x")

            async with serving(handler) as port:
                await ask(port, lines_of(port, "GET /node/x HTTP/1.1"))
        assert seen == [b"GET /base/other%2F?x HTTP/1.1"]

    asyncio.run(scenario())


def run_hooks(body: bytes, answer: bytes, **hooks: Callable[..., Any]) -> tuple[list[bytes], bytes, bytes]:
    """Send `body` through forward() with hooks. Returns the header lines and body the upstream saw, and all the agent saw."""

    async def scenario() -> tuple[list[bytes], bytes, bytes]:
        seen: list[tuple[list[bytes], bytes]] = []

        async def serve(peer: Peer) -> None:
            _, lines = await peer.head()
            seen.append((lines, await peer.exactly(len(body))))
            await peer.send(answer)

        async with proxied(serve, **hooks) as (_, port), agent(port) as peer:
            head = ("POST /x HTTP/1.1", f"Content-Length: {len(body)}", "accept-encoding: gzip, br", "Connection: close")
            await peer.send(lines_of(port, *head) + body)
            got = await peer.rest()
        return *seen[0], got

    return asyncio.run(scenario())


def test_tap_sees_both_bodies_of_a_whole_exchange() -> None:
    taps: list[tuple[bytes | None, int, bytes | None]] = []
    run_hooks(b"question", OK, tap=lambda *seen: taps.append(seen))
    assert taps == [(b"question", 200, b"ok")]


def test_tap_gives_up_on_large_bodies_but_they_pass() -> None:
    taps: list[tuple[bytes | None, int, bytes | None]] = []
    large = b"x" * (COPY_LIMIT + 1)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large
    _, upward, got = run_hooks(large, answer, tap=lambda *seen: taps.append(seen))
    assert taps == [(None, 200, None)]
    assert upward == large
    assert got.endswith(large)


def test_tap_does_not_see_a_truncated_exchange() -> None:
    taps: list[Any] = []
    run_hooks(b"question", OK[:-1], tap=lambda *seen: taps.append(seen))
    assert taps == []


def test_rewrite_changes_the_body_and_its_length_only() -> None:
    def rewrite(status: int, headers: Sequence[Header], body: bytes) -> bytes:
        assert (status, headers[1]) == (200, ("X", "1"))
        return body.replace(b"ok", b"rewritten")

    answer = b"HTTP/1.1 200 Fine\r\ncontent-length: 2\r\nX: 1\r\nx: 2\r\n\r\nok"
    lines, _, got = run_hooks(b"q", answer, rewrite=rewrite)
    assert got == b"HTTP/1.1 200 Fine\r\ncontent-length: 9\r\nX: 1\r\nx: 2\r\nConnection: close\r\n\r\nrewritten"
    assert b"accept-encoding: identity" in lines


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_too_large_to_rewrite_passes_as_it_is(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "REWRITE_LIMIT", 100_000)
    body = b"ok" * 1_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    _, _, got = run_hooks(b"q", answer if whole else answer[:-1], rewrite=lambda *_: b"never")
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\nConnection: close\r\n\r\n"
    assert got == head + (body if whole else body[:-1])


def test_an_answer_of_another_media_type_than_those_to_rewrite_is_streamed() -> None:
    async def scenario() -> None:
        told = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\ndata: 1\n\n")
            await asyncio.wait_for(told.wait(), DEADLINE_S)
            await peer.send(b"data: 2\n\n")

        async with upstream(serve) as up:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                return await forward(
                    request, UpstreamHttp(), up.url, unavailable=away, rewrite=lambda *_: b"never", only=("application/json",)
                )

            async with serving(handler) as port, agent(port) as peer:
                await peer.send(lines_of(port, "GET /x HTTP/1.0"))
                await peer.head()
                assert await peer.exactly(9) == b"data: 1\n\n"
                told.set()
                assert await peer.exactly(9) == b"data: 2\n\n"

    asyncio.run(scenario())


def test_without_rewrite_the_accepted_encodings_are_the_agents() -> None:
    lines, _, _ = run_hooks(b"q", OK)
    assert b"accept-encoding: gzip, br" in lines


@pytest.mark.parametrize("size", [0, 5, 3 * COPY_LIMIT])
def test_hold_keeps_a_request_back_until_it_returns(size: int) -> None:
    async def scenario() -> None:
        held: list[bytes | None] = []
        go = asyncio.Event()
        received: list[bytes] = []

        async def hold(body: bytes | None) -> None:
            held.append(body)
            await go.wait()

        async def serve(peer: Peer) -> None:
            await peer.head()
            received.append(await peer.exactly(size))
            await peer.send(OK)

        async with proxied(serve, hold=hold) as (up, port), agent(port) as peer:
            body = b"h" * size
            writing = asyncio.create_task(peer.send(lines_of(port, "POST /x HTTP/1.1", f"Content-Length: {size}") + body))
            await until(lambda: bool(held))
            assert up.peers == 0
            go.set()
            assert (await peer.head())[0] == b"HTTP/1.1 200 OK"
            await writing
            assert held == [body if size <= COPY_LIMIT else None]
            assert received == [body]

    asyncio.run(scenario())


def test_a_low_level_server_will_do() -> None:
    """forward() needs no Application: a handler of BaseRequest behind web.ServerRunner is enough."""

    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(OK)

        async with upstream(serve) as up:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                return await forward(request, UpstreamHttp(), up.url, unavailable=away)

            runner = web.ServerRunner(web.Server(handler, auto_decompress=False))
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                async with agent(runner.addresses[0][1]) as peer:
                    for _ in range(2):
                        await peer.send(lines_of(1, "GET /x HTTP/1.1"))
                        assert await peer.exactly(len(OK)) == OK
            finally:
                await runner.cleanup()

    asyncio.run(scenario())


def test_fields_that_are_dropped_stay_here_whatever_their_spelling() -> None:
    async def scenario() -> None:
        seen: list[list[bytes]] = []

        async def serve(peer: Peer) -> None:
            seen.append((await peer.head())[1])
            await peer.send(OK)

        async with upstream(serve) as up:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                return await forward(request, UpstreamHttp(), up.url, unavailable=away, drop=("authorization", "cookie"))

            async with serving(handler) as port:
                await ask(port, lines_of(port, "GET /x HTTP/1.1", "AUTHORIZATION: Bot secret", "Cookie: a=b", "X-Kept: 1"))
        assert seen == [[b"Host: 127.0.0.1:%d" % up.port, b"X-Kept: 1"]]

    asyncio.run(scenario())


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (b"application/json; charset=utf-8", b"application/json"),
        (b"Application/JSON; charset=UTF-8", b"application/json"),
        (b"text/html; charset=utf-8", b"text/html; charset=utf-8"),
    ],
)
def test_a_content_type_is_told_as_the_dialect_wants_it(theirs: bytes, told: bytes, rewritten: bool) -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: 2\r\n\r\n{}" % theirs)

        def keep(status: int, headers: Sequence[Header], body: bytes) -> bytes:
            return body

        async with upstream(serve) as up:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                retype = (("application/json; charset=utf-8", "application/json"),)
                return await forward(request, UpstreamHttp(), up.url, unavailable=away, retype=retype, rewrite=keep if rewritten else None)

            async with serving(handler) as port:
                _, lines, _ = await ask(port, lines_of(port, "GET /x HTTP/1.1"))
        assert b"Content-Type: " + told in lines

    asyncio.run(scenario())
