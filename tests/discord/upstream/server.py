"""The reference Discord upstream on loopback ports: a thin aiohttp shell around `World`.

Two ports: REST, metadata and the gateway on the first, a second one for `resume_gateway_url`, as Discord has other hosts for it.
What the model decides (silence, cuts, delays, torn frames) is carried out here; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import WSMsgType, web

from tests.discord.upstream.gateway import Ending, Socket
from tests.discord.upstream.rest import Answer, Rest
from tests.discord.upstream.world import HANG, Settings, World

__all__ = ["ReferenceDiscord"]

FRAMES_PER_TURN = 128
MAX_BODY = 64 * 1024 * 1024
TORN = b"\x81\x7e\x01\x00" + b'{"t":"MESSAGE_CREATE"'
"""The head of a text frame of 256 bytes, and a few of them."""


class ReferenceDiscord:
    """One world served on 127.0.0.1; use as an async context manager.

    Attributes:
        url: REST base and gateway origin, `http://127.0.0.1:port`.
        gateway_url, resume_url: `ws://…`, without a path.
        pongs: payloads of pongs that clients sent, with their socket's number.
    """

    def __init__(self, world: World | None = None, settings: Settings | None = None) -> None:
        self.world = world if world is not None else World(time.time, settings=settings)
        self.rest = Rest(self.world)
        self.pongs: list[tuple[int, bytes]] = []
        self._runner: web.AppRunner | None = None
        self._servers: dict[str, asyncio.Server] = {}
        self._ports: dict[str, int] = {"gateway": 0, "resume": 0}
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['gateway']}"

    @property
    def gateway_url(self) -> str:
        return f"ws://127.0.0.1:{self._ports['gateway']}"

    @property
    def resume_url(self) -> str:
        return f"ws://127.0.0.1:{self._ports['resume']}"

    async def __aenter__(self) -> ReferenceDiscord:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{rest:.*}", self._any)
        app.on_response_prepare.append(_plain_headers)
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            auto_decompress=False,
            max_line_size=65536,
            max_field_size=65536,
            shutdown_timeout=0.5,
        )
        await self._runner.setup()
        for door in self._ports:
            await self.listen(door)
        self.world.gateway_url, self.world.resume_url = self.gateway_url, self.resume_url
        self.world.on_timer = self._set_alarm
        self._set_alarm()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self.world.on_timer = lambda: None
        self.world.cut()
        for door in list(self._servers):
            self.stop_listening(door)
        assert self._runner is not None
        await self._runner.cleanup()

    async def listen(self, door: str) -> None:
        """Listen at a door ("gateway" or "resume"), on the port it had."""
        assert self._runner is not None and self._runner.server is not None
        server = await asyncio.get_running_loop().create_server(self._runner.server, "127.0.0.1", self._ports[door])
        self._servers[door] = server
        self._ports[door] = server.sockets[0].getsockname()[1]

    def stop_listening(self, door: str) -> None:
        """Refuse new TCP connections at a door; open ones stay."""
        self._servers.pop(door).close()

    # -- time

    def _set_alarm(self) -> None:
        due = self.world.next_timer()
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if due is not None:
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, due - self.world.now()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.world.tick()
        self._set_alarm()

    # -- requests

    async def _any(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._gateway(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = self.rest.answer(request.method, request.raw_path, headers, await request.read())
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if answer.cut:
            return await _cut(request, answer)
        return web.Response(status=answer.status, body=answer.body or None, headers=answer.headers)

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        port = request.transport.get_extra_info("sockname")[1]
        door = next(name for name, number in self._ports.items() if number == port)
        headers = {name.lower(): value for name, value in request.headers.items()}
        opened = self.world.connect(door, request.path, dict(request.query), headers)
        if isinstance(opened, int):
            if opened == HANG:
                await asyncio.Event().wait()
            return web.Response(status=opened)
        line = web.WebSocketResponse(autoping=False, autoclose=True, compress=False, max_msg_size=0, timeout=2.0)
        woken = asyncio.Event()
        woken.set()

        def output() -> None:
            if opened.ending is not None and opened.ending.kind == "cut" and request.transport is not None:
                request.transport.abort()  # also while the writer waits for a peer that does not read
            woken.set()

        opened.on_output = output
        try:
            await line.prepare(request)
        except OSError:
            # The client is gone already.
            opened.gone(None)
            return line
        writer = asyncio.get_running_loop().create_task(_write(request, line, opened, woken))
        try:
            async for message in line:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    opened.receive(message.data)
                elif message.type is WSMsgType.PING and not opened.muted:
                    await line.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    self.pongs.append((opened.id, bytes(message.data)))
        finally:
            opened.gone(line.close_code)
            opened.on_output = lambda: None
            woken.set()
            await writer
        return line


async def _write(request: web.Request, line: web.WebSocketResponse, socket: Socket, woken: asyncio.Event) -> None:
    """Send what the model queues, and end the connection the way the model ended the socket."""
    sent = 0
    try:
        while True:
            await woken.wait()
            woken.clear()
            while socket.outbox:
                if request.transport is None or line.closed:
                    return
                frame = socket.outbox.popleft()
                await (line.send_str(frame) if isinstance(frame, str) else line.send_bytes(frame))
                sent += 1
                if sent % FRAMES_PER_TURN == 0:
                    await asyncio.sleep(0)
            if socket.ending is not None:
                await _end(request, line, socket.ending)
                return
            if socket.over:
                return
    except (ConnectionError, RuntimeError):
        return


async def _end(request: web.Request, line: web.WebSocketResponse, ending: Ending) -> None:
    if ending.kind == "close":
        await line.close(code=ending.code)
        return
    transport = request.transport
    if transport is None:
        return
    if ending.kind == "empty_close":
        transport.write(b"\x88\x00")
        transport.close()
        return
    if ending.kind == "torn":
        transport.write(TORN)
        transport.close()
        return
    transport.abort()


async def _cut(request: web.Request, answer: Answer) -> web.StreamResponse:
    """End the connection without an answer, or in the middle of one."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.cut == "within":
        response.content_length = len(answer.body) + 1
        await response.prepare(request)
        await response.write(answer.body)
    if request.transport is not None:
        request.transport.close()
    return response


async def _plain_headers(request: web.Request, response: web.StreamResponse) -> None:
    """aiohttp's own additions: no Server, and no content type where there is no body."""
    response.headers.pop("Server", None)
    if response.status == 204:
        response.headers.pop("Content-Type", None)
