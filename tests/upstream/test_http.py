"""The HTTP client over real sockets: nothing repeated, own requests behind the agents', proxies and private CAs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.errors import UpstreamAway
from sidecar.upstream.dial import Dialer
from sidecar.upstream.http import MAX_OWN_BODY, UpstreamBroke, UpstreamHttp
from sidecar.upstream.wire import split_url
from tests.downstream.raw import DEADLINE_S, Peer, make_certificate, server_context, until, upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def answer_all(peer: Peer) -> None:
    """Answer requests on one connection for as long as they come."""
    while True:
        try:
            await peer.head()
        except asyncio.IncompleteReadError:
            return
        await peer.send(OK)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS"])
def test_nothing_is_repeated_when_the_upstream_drops_kept_connections(method: str) -> None:
    """The upstream answers the first request of each connection and drops the connection when a second one is written to it, as
    a stale keep-alive connection does: a client that reuses connections and repeats would be counted twice or fail."""

    async def scenario() -> None:
        requests = 0

        async def serve(peer: Peer) -> None:
            nonlocal requests
            await peer.head()
            requests += 1
            await peer.send(OK.replace(b"2\r\n\r\nok", b"0\r\n\r\n"))
            try:
                await peer.head()
            except asyncio.IncompleteReadError:
                return
            requests += 1
            peer.reset()

        async with upstream(serve) as up:
            http = UpstreamHttp()
            for _ in range(5):
                async with http.exchange(method, up.url + "/x", [], None) as answer:
                    assert [data async for data in answer.body()] == []
            assert (requests, up.peers) == (5, 5)

    asyncio.run(scenario())


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_request_that_fails_is_not_tried_again(method: str) -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()

        async with upstream(serve) as up:
            http = UpstreamHttp()
            with pytest.raises(UpstreamBroke):
                async with http.exchange(method, up.url + "/x", [], None):
                    pass
            with pytest.raises(UpstreamBroke):
                await http.fetch(method, up.url + "/x")
            assert up.peers == 2

    asyncio.run(scenario())


def test_fetch_sends_what_it_is_told_and_nothing_else() -> None:
    async def scenario() -> None:
        heads: list[tuple[bytes, list[bytes]]] = []

        async def serve(peer: Peer) -> None:
            heads.append(await peer.head())
            if heads[-1][0].startswith(b"POST"):
                assert await peer.exactly(2) == b"{}"
            await peer.send(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")

        async with upstream(serve) as up:
            http = UpstreamHttp()
            status, headers, body = await http.fetch("GET", up.url + "/v1/a%2Fb?x", [("Authorization", "Bearer t")])
            assert (status, headers[0], body) == (429, ("Retry-After", "7"), b"abc")
            await http.fetch("POST", up.url + "/login", [("Content-Type", "application/json")], body=b"{}")
            host = f"Host: 127.0.0.1:{up.port}".encode()
        assert heads == [
            (b"GET /v1/a%2Fb?x HTTP/1.1", [host, b"Authorization: Bearer t"]),
            (b"POST /login HTTP/1.1", [host, b"Content-Type: application/json", b"Content-Length: 2"]),
        ]

    asyncio.run(scenario())


def test_fetch_gives_up_after_its_timeout_and_on_endless_answers() -> None:
    async def scenario() -> None:
        closed = 0

        async def serve(peer: Peer) -> None:
            nonlocal closed
            start, _ = await peer.head()
            try:
                if b"/endless" in start:
                    await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
                    for _ in range(2 * MAX_OWN_BODY // 65536):
                        await peer.send(b"x" * 65536)
                await peer.rest()
            finally:
                closed += 1

        async with upstream(serve) as up:
            http = UpstreamHttp()
            with pytest.raises(TimeoutError):
                await http.fetch("GET", up.url + "/silent", timeout=0.05)
            with pytest.raises(UpstreamBroke, match="larger"):
                await http.fetch("GET", up.url + "/endless")
            await until(lambda: closed == 2)

    asyncio.run(scenario())


def test_a_cancelled_fetch_closes_its_connection_and_frees_the_way() -> None:
    async def scenario() -> None:
        closed = asyncio.Event()
        asked = asyncio.Event()

        async def serve(peer: Peer) -> None:
            start, _ = await peer.head()
            if b"/second" in start:
                await peer.send(OK)
                return
            asked.set()
            await peer.rest()
            closed.set()

        async with upstream(serve) as up:
            http = UpstreamHttp()
            first = asyncio.create_task(http.fetch("GET", up.url + "/first", timeout=DEADLINE_S))
            await asyncio.wait_for(asked.wait(), DEADLINE_S)
            first.cancel()
            await asyncio.wait_for(closed.wait(), DEADLINE_S)
            assert (await http.fetch("GET", up.url + "/second"))[0] == 200

    asyncio.run(scenario())


def test_own_requests_go_one_at_a_time() -> None:
    async def scenario() -> None:
        now = most = 0

        async def serve(peer: Peer) -> None:
            nonlocal now, most
            await peer.head()
            now += 1
            most = max(most, now)
            for _ in range(10):
                await asyncio.sleep(0)
            now -= 1
            await peer.send(OK)

        async with upstream(serve) as up:
            http = UpstreamHttp()
            await asyncio.gather(*(http.fetch("GET", up.url) for _ in range(10)))
            assert (most, up.peers) == (1, 10)

    asyncio.run(scenario())


def test_own_requests_wait_for_an_agents_exchange_and_never_the_other_way_round() -> None:
    async def scenario() -> None:
        order: list[bytes] = []
        finish = asyncio.Event()

        async def serve(peer: Peer) -> None:
            target = (await peer.head())[0].split()[1]
            order.append(target)
            if target == b"/agent1":
                await finish.wait()
            await peer.send(OK)

        async with upstream(serve) as up:
            http = UpstreamHttp(ahead=DEADLINE_S)
            own: asyncio.Task[object] | None = None

            async def agents_own(name: str) -> None:
                async with http.exchange("GET", f"{up.url}/{name}", []) as answer:
                    assert [data async for data in answer.body()] == [b"ok"]

            first = asyncio.create_task(agents_own("agent1"))
            await until(lambda: order == [b"/agent1"])
            own = asyncio.create_task(http.fetch("GET", up.url + "/own"))
            await agents_own("agent2")  # passes the waiting own request
            assert order == [b"/agent1", b"/agent2"]
            finish.set()
            await first
            await own
            assert order == [b"/agent1", b"/agent2", b"/own"]

    asyncio.run(scenario())


def test_a_long_poll_holds_own_requests_back_for_a_bounded_time_and_only_once() -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            start, _ = await peer.head()
            if b"/poll" in start:
                await peer.rest()
            else:
                await peer.send(OK)

        async with upstream(serve) as up:
            http = UpstreamHttp(ahead=0.2)

            async def poll() -> None:
                async with http.exchange("GET", up.url + "/poll", []):
                    pass

            polling = asyncio.create_task(poll())
            await until(lambda: up.peers == 1)
            for _ in range(200):  # each waiting 0.2 s again would go beyond the deadline
                await asyncio.wait_for(http.fetch("GET", up.url + "/own"), DEADLINE_S)
            assert not polling.done()
            polling.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_source_that_fails_reaches_the_caller_and_not_the_upstream_as_an_end() -> None:
    async def scenario() -> None:
        got: list[bytes] = []

        async def serve(peer: Peer) -> None:
            await peer.head()
            got.append(await peer.rest())

        async def source() -> AsyncIterator[bytes]:
            yield b"abc"
            raise LookupError("the agent's body broke off")

        async with upstream(serve) as up:
            with pytest.raises(LookupError):
                async with UpstreamHttp().exchange("POST", up.url, [], source()):
                    pass
            await until(lambda: bool(got))
        assert got[0] in {b"", b"3\r\nabc\r\n"}

    asyncio.run(scenario())


def test_an_answer_that_came_before_a_reset_is_read_to_its_end() -> None:
    """As from a server that refuses a large upload: it answers, and resets because it will not read the rest."""

    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            peer.reset()

        async def source() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        async with upstream(serve) as up, UpstreamHttp().exchange("PUT", up.url, [], source()) as answer:
            await asyncio.wait_for(answer.uploaded(), DEADLINE_S)  # ended by the reset
            assert (answer.status, [data async for data in answer.body()]) == (413, [b"big"])

    asyncio.run(scenario())


def test_connections_that_cannot_be_made() -> None:
    async def scenario() -> None:
        async with upstream(answer_all) as up:
            url = up.url
        http = UpstreamHttp()
        for bad in (url, "http://nowhere.invalid/", url.replace("http:", "https:")):
            with pytest.raises(UpstreamAway, match="cannot connect to"):
                await http.fetch("GET", bad)

    asyncio.run(scenario())


def test_connecting_is_bounded() -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.rest()  # never answers the TLS greeting

        async with upstream(serve) as up:
            http = UpstreamHttp(connect_timeout=0.2)
            with pytest.raises(UpstreamAway, match=r"no connection within 0\.2 s"):
                await asyncio.wait_for(http.fetch("GET", up.url.replace("http:", "https:")), DEADLINE_S)

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_tls_is_verified_and_ssl_cert_file_is_honoured(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with upstream(answer_all, server_context(certificate)) as up:
            with pytest.raises(UpstreamAway, match="certificate is not trusted"):
                await UpstreamHttp().fetch("GET", up.url)
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
            assert (await UpstreamHttp().fetch("GET", up.url))[2] == b"ok"
            with pytest.raises(UpstreamAway, match="certificate is not trusted"):
                await UpstreamHttp().fetch("GET", up.url.replace("127.0.0.1", "localhost"))

    asyncio.run(scenario())


async def proxy(peer: Peer, seen: list[bytes], upstream_port: int) -> None:
    """A forward proxy with CONNECT whose every name leads to one port."""
    start, lines = await peer.head()
    seen.append(start)
    seen.extend(line for line in lines if line.lower().startswith(b"proxy-"))
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream_port)
    if start.startswith(b"CONNECT "):
        await peer.send(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
    else:
        method, target, version = start.split(b" ")
        path = b"/" + target.split(b"/", 3)[3]
        kept = [line for line in lines if not line.lower().startswith(b"proxy-")]
        writer.write(b"\r\n".join((b" ".join((method, path, version)), *kept, b"", b"")))

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.close()

    await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer), return_exceptions=True)


def test_proxies_of_the_environment(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        seen: list[bytes] = []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        async with (
            upstream(answer_all) as plain,
            upstream(answer_all, server_context(certificate)) as secure,
            upstream(lambda peer: proxy(peer, seen, plain.port)) as plain_proxy,
            upstream(lambda peer: proxy(peer, seen, secure.port)) as secure_proxy,
        ):
            monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@127.0.0.1:{plain_proxy.port}")
            monkeypatch.setenv("https_proxy", f"127.0.0.1:{secure_proxy.port}")
            monkeypatch.setenv("NO_PROXY", "127.0.0.1,.direct.test")
            http = UpstreamHttp()
            # Neither name exists: only the proxies can lead there.
            assert (await http.fetch("GET", "http://upstream.test/a%2Fb?"))[2] == b"ok"
            assert (await http.fetch("GET", "https://upstream.test/x"))[2] == b"ok"
            async with http.exchange("GET", "http://upstream.test:81/ws", [], upgrade=True) as answer:
                assert answer.status == 200
            auth = b"Proxy-Authorization: Basic dXNlcjpwQHNz"
            assert seen == [
                b"GET http://upstream.test/a%2Fb? HTTP/1.1",
                auth,
                b"CONNECT upstream.test:443 HTTP/1.1",
                b"CONNECT upstream.test:81 HTTP/1.1",
                auth,
            ]
            assert (await http.fetch("GET", plain.url))[2] == b"ok"
            assert (await http.fetch("GET", secure.url))[2] == b"ok"
            assert len(seen) == 5

    asyncio.run(scenario())


def test_a_proxy_that_refuses_or_is_away_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async def serve(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        async with upstream(serve) as up:
            url = f"http://user:hunter2@127.0.0.1:{up.port}"
            monkeypatch.setenv("HTTPS_PROXY", url)
            with pytest.raises(UpstreamAway, match="the proxy refused with 407") as refused:
                await UpstreamHttp().fetch("GET", "https://upstream.test/")
        with pytest.raises(UpstreamAway, match=r"proxy 127\.0\.0\.1:\d+: ") as down:
            await UpstreamHttp().fetch("GET", "https://upstream.test/")
        assert "hunter2" not in str(refused.value) + str(down.value)

    asyncio.run(scenario())


def test_a_dialer_says_which_proxy_it_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://any.test:3128")
    monkeypatch.setenv("no_proxy", "*.skip.test, exact.test:8443")
    dialer = Dialer()
    assert dialer.proxy_for(split_url("https://x.test")[0]) == "http://any.test:3128"
    assert dialer.proxy_for(split_url("https://exact.test")[0]) == "http://any.test:3128"
    assert dialer.proxy_for(split_url("https://exact.test:8443")[0]) is None
    monkeypatch.setenv("no_proxy", "*")
    assert Dialer().proxy_for(split_url("https://x.test")[0]) is None
