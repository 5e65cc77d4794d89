"""The guard as a pure function, then in front of an application with an upstream that must not be reached."""

import asyncio

import pytest
from aiohttp import web

from sidecar.downstream.guard import Guard, is_own, names_host
from sidecar.downstream.passthrough import RUNNER_OPTIONS, forward
from sidecar.upstream.http import UpstreamHttp
from tests.downstream.raw import Peer, agent, away, upstream

GUARD = Guard("192.0.2.7", ["agents.example", "Other.Example"], ["https://app.example", "null-ish"], "s3cret-ü")
BEARER = "Bearer s3cret-ü".encode().decode("latin-1")


def judge(
    host: list[str] | str = "127.0.0.1:8787",
    origin: list[str] | None = None,
    target: str = "/v1/agent",
    authorization: list[str] | None = None,
    local_ip: str | None = "10.1.2.3",
) -> int:
    hosts = [host] if isinstance(host, str) else host
    refusal = GUARD.check(hosts, origin or [], local_ip, target, authorization or [])
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8787",
        "localhost.:8787",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.9.9.9:8787",
        "[::1]:8787",
        "[0:0:0:0:0:0:0:1]",
        "192.0.2.7:8787",
        "10.1.2.3",
        "[::ffff:10.1.2.3]:8787",
        "agents.example:443",
        "other.example",
    ],
)
def test_accepted_hosts(host: str) -> None:
    assert judge(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        [],
        ["localhost", "localhost"],
        "",
        "evil.example",
        "localhost.evil.example",
        "agents.example.evil.example",
        "sub.agents.example",
        "10.1.2.4",
        "127.0.0.1.nip.example",
        "127.1",
        "2130706433",
        "localhost:99999",
        "localhost:80:80",
        "localhost:x",
        "localhost, evil.example",
        "evil.example@localhost",
        "localhost/x",
        " localhost",
        "[::1",
        "::1",
        "[::2]",
        "localhost:",
        "localhost\x00",
    ],
)
def test_refused_hosts(host: list[str] | str) -> None:
    assert judge(host) == 403


def test_the_sockets_own_ip_counts_only_on_that_socket() -> None:
    assert judge("10.1.2.3", local_ip=None) == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8787", "http://127.0.0.1:8787"),
        ("127.0.0.1:8787", "ws://127.0.0.1:8787"),
        ("127.0.0.1:8787", "http://127.0.0.1:8787/"),
        ("LocalHost:8787", "http://localhost:8787"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("agents.example", "https://agents.example"),
        ("[::1]:8787", "http://[::1]:8787"),
        ("localhost:8787", "https://app.example"),
    ],
)
def test_accepted_origins(host: str, origin: str) -> None:
    assert judge(host, [origin]) == 200


@pytest.mark.parametrize(
    "origin",
    [
        ["null"],
        [""],
        ["http://evil.example"],
        ["http://127.0.0.1:8788"],
        ["http://127.0.0.1"],
        ["http://localhost:8787"],
        ["https://app.example:443"],
        ["https://APP.example"],
        ["https://app.example.evil.example"],
        ["http://127.0.0.1:8787.evil.example"],
        ["http://127.0.0.1:8787@evil.example"],
        ["http://user@127.0.0.1:8787"],
        ["http://127.0.0.1:8787/path"],
        ["file://127.0.0.1:8787"],
        ["chrome-extension://127.0.0.1:8787"],
        ["127.0.0.1:8787"],
        ["http://127.0.0.1:8787", "http://127.0.0.1:8787"],
        ["http://127.0.0.1:8787 http://evil.example"],
    ],
)
@pytest.mark.parametrize("target", ["/v1/agent", "/_sidecar/livez"])
def test_refused_origins(origin: list[str], target: str) -> None:
    assert judge("127.0.0.1:8787", origin, target) == 403


def test_origin_equality_needs_the_port_of_the_scheme() -> None:
    assert not names_host("https://localhost", "localhost:80")
    assert names_host("wss://localhost:443", "localhost")


@pytest.mark.parametrize(
    ("target", "own"),
    [
        ("/_sidecar", True),
        ("/_sidecar/", True),
        ("/_sidecar/status?x=1", True),
        ("/_sidecar/../v1/agent", True),
        ("//_sidecar/status", True),
        ("/%5fsidecar/status", True),
        ("/%255Fsidecar/status", True),
        ("/_SIDECAR/status", True),
        ("/./_sidecar/status", True),
        ("/v1/../_sidecar/status", True),
        ("/v1/%2e%2e/_sidecar/status", True),
        ("/..%2f_sidecar/status", True),
        ("/_sidecar%2fstatus", True),
        ("/_sidecar;x=1/status", True),
        ("\\_sidecar\\status", True),
        ("/%5c_sidecar/status", True),
        ("http://127.0.0.1:8787/_sidecar/status", True),
        ("http://127.0.0.1:8787//%5fsidecar/status", True),
        ("/_sidecarx/status", False),
        ("/v1/_sidecar/status", False),
        ("/v1/x?path=/_sidecar/status", False),
        ("/", False),
        ("*", False),
    ],
)
def test_what_belongs_to_the_sidecar(target: str, own: bool) -> None:
    assert is_own(target) is own
    assert judge(target=target) == (401 if own else 200)


@pytest.mark.parametrize("target", ["/_sidecar/livez", "/_sidecar/readyz?verbose", "/_sidecar/startupz"])
def test_health_needs_no_token(target: str) -> None:
    assert judge(target=target) == 200


@pytest.mark.parametrize("target", ["/_sidecar/livez/", "/_sidecar/livez/../status", "//_sidecar/livez", "/_sidecar/LIVEZ"])
def test_only_the_plain_spelling_is_health(target: str) -> None:
    assert judge(target=target) == 401


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ([], 401),
        ([BEARER], 200),
        ([BEARER.replace("Bearer", "bearer")], 200),
        ([BEARER + "x"], 401),
        (["Bearer"], 401),
        (["Bearer "], 401),
        ([BEARER.replace("Bearer", "Basic")], 401),
        ([BEARER, BEARER], 401),
    ],
)
def test_the_local_token(authorization: list[str], status: int) -> None:
    for target in ("/_sidecar/status", "/_sidecar/stream?stream=x", "/_sidecar/", "/_sidecar/unknown"):
        assert judge(target=target, authorization=authorization) == status
    assert judge(target="/v1/agent", authorization=authorization) == 200


def test_without_a_local_token_own_paths_are_open() -> None:
    assert Guard().check(["localhost"], [], None, "/_sidecar/status", []) is None
    assert Guard(local_token="").check(["localhost"], [], None, "/_sidecar/status", []) is None


def test_an_absolute_target_must_name_the_same_host() -> None:
    assert judge("127.0.0.1:8787", target="http://127.0.0.1:8787/v1/agent") == 200
    assert judge("127.0.0.1:8787", target="http://evil.example/v1/agent") == 403


def test_refusals_say_what_to_do() -> None:
    host = GUARD.check(["evil.example"], [], None, "/", [])
    origin = GUARD.check(["localhost"], ["null"], None, "/", [])
    token = GUARD.check(["localhost"], [], None, "/_sidecar/", [])
    assert host is not None and "SIDECAR_ALLOWED_HOSTS" in host.text
    assert origin is not None and "SIDECAR_ALLOWED_ORIGINS" in origin.text
    assert token is not None and token.headers == (("WWW-Authenticate", 'Bearer realm="sidecar"'),)


def test_in_front_of_an_application_nothing_refused_reaches_the_upstream() -> None:
    async def scenario() -> None:
        reached: list[bytes] = []

        async def serve(peer: Peer) -> None:
            reached.append((await peer.head())[0])
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with upstream(serve) as up:

            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                if is_own(request.raw_path):
                    return web.Response(status=404, text="no such page\n")
                return await forward(request, UpstreamHttp(), up.url, unavailable=away)

            app = web.Application(middlewares=[Guard(local_token="tok").middleware()])
            app.router.add_route("*", "/{tail:.*}", handler)
            runner = web.AppRunner(app, **RUNNER_OPTIONS)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]

            async def status(*lines: str) -> int:
                async with agent(port) as peer:
                    await peer.send("\r\n".join((*lines, "", "")).encode())
                    return int((await peer.head())[0].split()[1])

            upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x")
            try:
                own = f"Host: 127.0.0.1:{port}"
                assert await status("GET /ok HTTP/1.1", own) == 200
                assert await status("GET /ok HTTP/1.1", own, f"Origin: http://127.0.0.1:{port}") == 200
                assert await status("GET /x HTTP/1.1", "Host: evil.example") == 403
                assert await status("GET /x HTTP/1.0") == 403
                assert await status("GET /x HTTP/1.1", own, "Origin: null") == 403
                assert await status("GET /ws HTTP/1.1", own, "Origin: http://evil.example", *upgrade) == 403
                assert await status("GET /x HTTP/1.1", own, own) in {400, 403}
                assert await status("POST /x HTTP/1.1", own, "Origin: null", "Content-Length: 99999999") == 403
                assert await status("GET /_sidecar/status HTTP/1.1", own) == 401
                assert await status("GET //%5fsidecar/status HTTP/1.1", own) == 401
                assert await status("GET /%5fsidecar/status HTTP/1.1", own, "Authorization: Bearer tok") == 404
            finally:
                await runner.cleanup()
        assert reached == [b"GET /ok HTTP/1.1"] * 2

    asyncio.run(scenario())
