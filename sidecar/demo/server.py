"""The reference upstream on a port: an aiohttp shell around `World`.

    python -m sidecar.demo.server --port 0      # prints one JSON line {"port":N,"control":M,"url":…} and serves

It pings nobody, has no idle timeout and negotiates no deflate, as the Node adapter (wire page sections 2 and 7). A second
port answers the control calls `POST /_/<method>` too and stays open while the first one is told not to listen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from http import HTTPStatus

from aiohttp import WSMsgType, web

from .answers import HttpAnswer
from .control import control
from .sockets import Socket
from .wiretest import wire_routes
from .world import World

__all__ = ["ReferenceServer"]

MAX_BODY = 256 * 1024 * 1024
FRAMES_PER_TURN = 256


class ReferenceServer:
    """One world, served over HTTP and WebSocket on 127.0.0.1.

    Args:
        world: the model to serve; by default a new one on the wall clock.

    Attributes:
        url: `http://host:port` of the served port, after `start`.
        control_url: the same for the port that never stops listening.
    """

    def __init__(self, world: World | None = None) -> None:
        self.world = world if world is not None else World(time.time)
        self.host = ""
        self.port = 0
        self.control_port = 0
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._control: asyncio.Server | None = None
        self._resuming: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def control_url(self) -> str:
        return f"http://{self.host}:{self.control_port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> ReferenceServer:
        """Listen; port 0 takes a free one.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_get("/v1/ws", self._upgrade)
        wire_routes(app, self.world)
        app.router.add_post("/_/{method}", self._told)
        app.router.add_route("*", "/{rest:.*}", self._rest)
        app.on_response_prepare.append(_no_server_name)
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            auto_decompress=False,
            max_line_size=65536,
            max_field_size=65536,
            shutdown_timeout=1.0,
        )
        await self._runner.setup()
        self.host = host
        self._listener = await self._listen(port)
        self._control = await self._listen(0)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.control_port = self._control.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Cut every socket and stop listening."""
        if self._resuming is not None:
            self._resuming.cancel()
        self.cut_all()
        for server in (self._listener, self._control):
            if server is not None:
                server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> ReferenceServer:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def cut_all(self) -> None:
        """Cut every socket without a close frame."""
        self.world.cut_all()

    def pause_listening(self, seconds: float | None = None) -> None:
        """Refuse TCP connections; open ones stay. With `seconds`, listening resumes by itself."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if seconds is not None:
            self._resuming = asyncio.get_running_loop().create_task(self._resume_after(seconds))

    async def resume_listening(self) -> None:
        """Listen on the same port again."""
        if self._listener is None:
            self._listener = await self._listen(self.port)

    async def _resume_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.resume_listening()

    async def _listen(self, port: int) -> asyncio.Server:
        assert self._runner is not None and self._runner.server is not None
        loop = asyncio.get_running_loop()
        return await loop.create_server(self._runner.server, self.host, port, backlog=256)

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self.world.rest_delay:
            await asyncio.sleep(self.world.rest_delay)
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in request.raw_headers]
        return _response(self.world.http(request.method, request.raw_path, headers, body))

    async def _told(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            told = json.loads(raw) if raw.strip() else {}
            answer = await control(self, request.match_info["method"], told)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        return web.json_response(answer)

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return await self._rest(request)
        socket = self.world.connect(request.raw_path)
        if isinstance(socket, HttpAnswer):
            return _refuse(request, socket)
        line = web.WebSocketResponse(autoping=False, autoclose=True, compress=False, max_msg_size=0)
        woken = asyncio.Event()

        def output(changed: Socket) -> None:
            cut = changed.closed is not None and changed.closed[0] is None and not changed.outbox
            if cut and request.transport is not None:
                request.transport.abort()  # also while the writer waits for a peer that does not read
            woken.set()

        socket.on_output = output
        woken.set()
        await line.prepare(request)
        writer = asyncio.get_running_loop().create_task(_write(request, line, socket, woken))
        try:
            async for message in line:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    socket.receive(message.data)
                elif message.type is WSMsgType.PING and socket.answers_pings:
                    await line.pong(message.data)
        finally:
            socket.on_output = None
            socket.close(line.close_code)
            writer.cancel()
        return line


async def _write(request: web.Request, line: web.WebSocketResponse, socket: Socket, woken: asyncio.Event) -> None:
    """Send what the model queues, and end the connection the way the model ended the socket."""
    try:
        while True:
            await woken.wait()
            woken.clear()
            sent = 0
            while socket.outbox:
                await line.send_str(socket.outbox.popleft())
                sent += 1
                if sent % FRAMES_PER_TURN == 0:  # a full socket buffer waits by itself, an empty one must not hog the loop
                    await asyncio.sleep(0)
            if socket.closed is not None:
                break
    except (ConnectionError, RuntimeError):
        return
    code, reason = socket.closed
    if code is None:
        if request.transport is not None:
            request.transport.close()  # what a broken-off replay sent arrives; there is no close frame
    else:
        await line.close(code=code, message=reason.encode())


async def _no_server_name(request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)


def _response(answer: HttpAnswer) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body)
    for key, value in answer.headers:
        if key.lower() == "content-type":
            response.headers[key] = value
        else:
            response.headers.add(key, value)
    return response


def _refuse(request: web.Request, answer: HttpAnswer) -> web.StreamResponse:
    """Refuse an upgrade: bare status line and closed TCP where the model gives no body (section 2)."""
    if answer.body:
        response = _response(answer)
        response.force_close()
        return response
    if request.transport is not None:
        line = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n\r\n"
        request.transport.write(line.encode())
        request.transport.close()
    return web.Response(status=answer.status)  # goes nowhere: aiohttp finds the transport closing


async def _serve(port: int) -> None:
    server = await ReferenceServer().start(port=port)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    print(json.dumps({"port": server.port, "control": server.control_port, "url": server.url}), flush=True)
    await stop.wait()
    await server.stop()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sidecar.demo.server", description="Relaycast reference upstream")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    asyncio.run(_serve(parser.parse_args(argv).port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
