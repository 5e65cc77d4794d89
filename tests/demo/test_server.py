"""The reference upstream on real sockets: refusals, cuts, silence, listening, control, and the pass-through endpoints."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import aiohttp
from yarl import URL

from sidecar.demo.rows import Agent
from sidecar.demo.server import ReferenceServer
from sidecar.demo.wiretest import known_bytes

DEADLINE_S = 20.0
Body = Callable[[ReferenceServer, aiohttp.ClientSession, Agent, Agent], Awaitable[None]]


def run(body: Body) -> None:
    """Run a test body against a server with Ann and Bob in #general."""

    async def main() -> None:
        async with ReferenceServer() as server, aiohttp.ClientSession() as client:
            team = server.world.add_workspace()
            ann, bob = server.world.add_agent(team, "Ann"), server.world.add_agent(team, "Bob")
            server.world.add_channel(team, "general", [ann, bob])
            await asyncio.wait_for(body(server, client, ann, bob), DEADLINE_S)

    asyncio.run(main())


def address(server: ReferenceServer, agent: Agent) -> str:
    return f"{server.url}/v1/ws?token={agent.token}"


async def texts(line: aiohttp.ClientWebSocketResponse, count: int) -> list[str]:
    return [json.loads(await line.receive_str())["message"]["text"] for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


async def raw(server: ReferenceServer, target: str) -> bytes:
    """Everything the server sends to a bare upgrade request until it closes the connection."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    return answer


def test_a_refused_upgrade_is_a_bare_status_line() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        assert await raw(server, "/v1/ws?token=at_live_0") == b"HTTP/1.1 401 Unauthorized\r\n\r\n"
        server.world.refuse_connects(503)
        assert await raw(server, f"/v1/ws?token={bob.token}") == b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
        server.world.json_refusals = True
        refused = await raw(server, "/v1/ws?token=at_live_0")
        assert refused.startswith(b"HTTP/1.1 401") and b'"invalid_token"' in refused

    run(body)


def test_live_events_reach_every_socket_and_json_pings_are_answered() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        async with client.ws_connect(address(server, bob)) as one, client.ws_connect(address(server, bob)) as two:
            assert one.compress == 0
            await one.send_str('{"type":"ping"}')
            assert await one.receive_str() == '{"type":"pong"}'
            for index in range(3000):
                server.world.post(ann, "general", str(index))
            wanted = [str(index) for index in range(3000)]
            assert await texts(one, 3000) == wanted and await texts(two, 3000) == wanted

    run(body)


def test_a_cut_has_no_close_frame_and_a_forced_disconnect_has_one() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        line = await client.ws_connect(address(server, bob))
        server.cut_all()
        assert (await line.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert line.close_code == 1006
        line = await client.ws_connect(address(server, bob))
        server.world.rotate_token(bob)
        message = await line.receive()
        assert (message.data, message.extra) == (1000, "force-disconnect")

    run(body)


def test_a_broken_replay_arrives_up_to_the_break() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        for index in range(200):
            # More than the kernel buffers, and a tail that nobody waits for while it is written.
            server.world.post(ann, "general", f"{index}{'x' * (100_000 if index < 120 else 500)}")
        server.world.break_resync(150)
        line = await client.ws_connect(address(server, bob))
        await line.send_str('{"type":"resync","last_seen_seq":0}')
        assert len(await texts(line, 150)) == 150
        assert (await line.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)

    run(body)


def test_a_peer_that_does_not_read_holds_up_nobody() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        _, stuck = await asyncio.open_connection(server.host, server.port, limit=1024)
        stuck.write(
            f"GET /v1/ws?token={bob.token} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        async with client.ws_connect(address(server, bob)) as line:
            await until(lambda: len(bob.sockets) == 2)
            for _ in range(400):
                server.world.post(ann, "general", "x" * 50_000)
            assert len(await texts(line, 400)) == 400
            assert sum(len(socket.outbox) for socket in bob.sockets) > 0  # the stuck one still waits
        await until(lambda: len(bob.sockets) == 1)
        (waiting,) = bob.sockets
        server.cut_all()
        await until(lambda: waiting.on_output is None)  # even that one is cut at once, though its peer never read
        stuck.close()

    run(body)


def test_half_open_answers_no_websocket_ping_and_deaf_does() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        for kind, answers in (("deaf", True), ("half_open", False)):
            line = await client.ws_connect(address(server, bob), autoping=False)
            server.world.go_silent(kind)
            server.world.post(ann, "general", "unheard")
            await line.send_str('{"type":"ping"}')
            await line.ping(b"there?")
            if answers:
                assert await line.receive() == (aiohttp.WSMsgType.PONG, b"there?", "")
            else:
                await client.get(f"{server.url}/v1/agent")  # a round trip that the pong would have beaten
                server.cut_all()
                assert (await line.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            server.cut_all()

    run(body)


def test_listening_stops_and_comes_back_on_the_same_port() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        async def reachable() -> bool:
            try:
                _, writer = await asyncio.open_connection(server.host, server.port)
            except ConnectionRefusedError:
                return False
            writer.close()
            return True

        line = await client.ws_connect(address(server, bob))
        server.pause_listening()
        assert not await reachable()
        server.world.post(ann, "general", "still here")
        assert await texts(line, 1) == ["still here"]
        await server.resume_listening()
        assert await reachable()
        async with client.post(f"{server.control_url}/_/pause_listening", json={"seconds": 0.2}) as answer:
            assert answer.status == 200
        assert not await reachable()
        for _ in range(500):
            if await reachable():
                return
            await asyncio.sleep(0.02)
        raise AssertionError("it never listened again")

    run(body)


def test_rest_passes_status_headers_and_body() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        headers = {"Authorization": f"Bearer {bob.token}"}
        server.world.rate_limit(1, "3")
        async with client.get(f"{server.url}/v1/agent", headers=headers) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
            assert answer.headers["Content-Type"] == "application/json" and "Server" not in answer.headers
            assert len(answer.headers.getall("Date")) == 1
        server.world.rest_delay = 0.01
        async with client.get(f"{server.url}/v1/agent", headers=headers) as answer:
            assert (await answer.json())["data"]["id"] == bob.id

    run(body)


def test_the_echo_tells_target_headers_and_body_as_they_came() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(
            b"PUT /_/echo/a%2Fb//c?z=1&a=%20 HTTP/1.1\r\nhost: x\r\nX-b: 2\r\nX-A: 1\r\nX-b: 3\r\n"
            b"Content-Encoding: gzip\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        )
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        told = json.loads(content)
        assert (told["method"], told["target"]) == ("PUT", "/_/echo/a%2Fb//c?z=1&a=%20")
        assert told["headers"][:4] == [["host", "x"], ["X-b", "2"], ["X-A", "1"], ["X-b", "3"]]
        assert (told["sha256"], told["length"]) == (sha256(b"body").hexdigest(), 4)
        assert head.count(b"Set-Cookie:") == 2 and head.count(b"X-Twice:") == 2
        assert server.world.log[-1].target == "/_/echo/a%2Fb//c?z=1&a=%20"

    run(body)


def test_known_bytes_and_drip_stream() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        for query in ("n=0", "n=3000000", "n=3000000&chunked"):
            async with client.get(f"{server.url}/_/bytes?{query}") as answer:
                count = int(query.split("&")[0][2:])
                assert await answer.read() == b"".join(known_bytes(count)) and answer.status == 200
        held = asyncio.Event()

        async def upload() -> Any:
            yield b"first"
            await held.wait()
            yield b"second!"

        async with client.post(f"{server.url}/_/drip?n=2&ms=1", data=upload()) as answer:
            assert await answer.content.readline() == b"got 5\n"  # answered while the request is still under way
            held.set()
            assert await answer.content.read() == b"got 7\ntick 0\ntick 1\n"

    run(body)


def test_other_sockets_echo() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        async with client.ws_connect(URL(f"{server.url}/v1/node/ws?token=nt_live_1&x=%2F", encoded=True)) as line:
            assert await line.receive_str() == "/v1/node/ws?token=nt_live_1&x=%2F"
            await line.send_str("text")
            await line.send_bytes(b"\x00\xff")
            assert (await line.receive_str(), await line.receive_bytes()) == ("text", b"\x00\xff")
            await line.send_str("close 4001")
            message = await line.receive()
            assert (message.data, message.extra) == (4001, "as asked")

    run(body)


def test_another_process_controls_it_and_reads_what_was_sent() -> None:
    async def body(server: ReferenceServer, client: aiohttp.ClientSession, ann: Agent, bob: Agent) -> None:
        async def tell(method: str, **told: Any) -> Any:
            async with client.post(f"{server.control_url}/_/{method}", json=told) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

        await tell("add_agent", name="Cid")
        await tell("add_channel", name="ops", members=["Bob", "Cid"])
        await tell("join", agent="Ann", channel="ops")
        ids = (await tell("post", agent="Ann", channel="ops", count=3, text="p"))["ids"]
        await tell("lose_pushes", times=1, agent="Bob")
        await tell("reply", agent="Ann", message=ids[0], text="r")
        await tell("react", agent="Cid", message=ids[0], emoji="x")
        await tell("update", agent="Ann", message=ids[0], text="q")
        await tell("dm", agent="Ann", to=["Bob"], text="d")
        await tell("presence", agent="Ann")
        await tell("emit", agents=["Bob"], event={"type": "x.y"})
        await tell("burn_seq", times=2)
        await tell("mute", agent="Bob", channel="ops")
        await tell("post", agent="Ann", channel="ops", count=2, rate=1000)
        for method in ("swallow_resync", "hollow_resync", "rate_limit", "fail_rest", "cut_all", "go_silent"):
            await tell(method)
        await tell("refuse_connects", status=503, times=2)
        await tell("refuse_token", agent="Bob")
        await tell("break_resync", frames=3)
        await tell("forget", messages=ids[1:])
        await tell("set", deaf=True, rest_delay=0.5)
        assert (await tell("rotate_token", agent="Cid"))["token"].startswith("at_live_")
        bobs = next(agent for agent in (await tell("state"))["agents"] if agent["name"] == "Bob")
        assert [json.loads(frame)["type"] for _, _, frame in bobs["events"]] == [
            "message.created", "message.created", "message.created", "thread.reply", "message.reacted",
            "message.updated", "dm.received", "agent.status.active", "x.y",
        ]  # fmt: skip
        assert [seq for _, seq, _ in bobs["events"]] == list(range(1, 10)) and bobs["seq"] == 11
        assert (await tell("restart", counter=7))["life"] == 2 and bob.seq == 7
        assert (len(server.world.broken_resyncs), len(server.world.upgrade_refusals), bob.lose) == (1, 2, 0)
        assert (await tell("log"))["log"] == []
        for method, told in (("set", {"seq": 1}), ("unknown", {}), ("post", {"agent": "Nobody", "channel": "ops"})):
            async with client.post(f"{server.control_url}/_/{method}", json=told) as answer:
                assert answer.status == 400

    run(body)


def test_it_runs_as_a_process_of_its_own() -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sidecar.demo.server", "--port", "0", stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            said = json.loads(await asyncio.wait_for(process.stdout.readline(), DEADLINE_S))
            assert said["url"] == f"http://127.0.0.1:{said['port']}" and said["control"] != said["port"]
            told = f"{said['url']}/_/add_workspace"
            async with aiohttp.ClientSession() as client, client.post(told, json={"name": "w"}) as answer:
                assert (await answer.json())["key"].startswith("rk_live_")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    asyncio.run(main())
