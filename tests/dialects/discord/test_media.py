"""Media on the sidecar's own origin (discord R8), in the real sidecar before the reference upstream. The media hosts are fixed and https:
here a proxy of the environment leads every connection to a stand-in for them that has a certificate of a private CA."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from tests.clients.processes import SidecarProcess
from tests.discord.upstream.server import ReferenceDiscord
from tests.discord.upstream.world import Settings
from tests.downstream.raw import Peer, make_certificate, server_context, upstream

CDN, PROXY, UPLOADS = "cdn.discordapp.com", "media.discordapp.net", "discord-attachments-uploads-prd.storage.googleapis.com"
AUTH = {"Authorization": "Bot reference-token"}
SECRETS = {**AUTH, "Cookie": "a=b", "X-Other": "kept"}
IDENTIFY = {"op": 2, "d": {"token": "reference-token", "intents": 33281, "properties": {}}}


class Media:
    """What the stand-in and the proxy saw: (host, method, raw path) with the fields of each request, and who was dialled."""

    def __init__(self, up: ReferenceDiscord) -> None:
        self.up = up
        self.asked: list[tuple[str, str, str]] = []
        self.fields: list[dict[str, str]] = []
        self.dialled: set[str] = set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers["Host"], request.method, request.raw_path))
        self.fields.append({name.lower(): value for name, value in request.headers.items()})
        found = self.up.rest.answer(request.method, request.raw_path, {}, await request.read())
        return web.Response(status=found.status, body=found.body, headers=found.headers)

    async def proxy(self, peer: Peer, port: int) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        self.dialled.add(head.split()[1].decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        peer.writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer), return_exceptions=True)


@contextlib.asynccontextmanager
async def stand_in(media: Media, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """The media hosts, all of them, on one port."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", media.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Stage:
    """The reference upstream, its media hosts, the real sidecar, and an agent's socket and HTTP client."""

    def __init__(self, up: ReferenceDiscord, media: Media, sidecar: SidecarProcess, http: aiohttp.ClientSession) -> None:
        self.up = up
        self.world = up.world
        self.media = media
        self.url = sidecar.url
        self.http = http
        self.ws: aiohttp.ClientWebSocketResponse

    def post(self, path: str) -> dict[str, Any]:
        """A message with an attachment is posted; what it says of its addresses."""
        self.world.files[path.partition("?")[0]] = (b"bytes of " + path.encode(), "image/png")
        shape = {"id": "5", "filename": "a b.png", "size": 3, "url": f"https://{CDN}{path}", "proxy_url": f"https://{PROXY}{path}"}
        self.world.post("see", attachments=[shape])
        return shape

    def local(self, host: str, path: str) -> str:
        return f"{self.url}/_media/{host}{path}"

    async def identify(self) -> None:
        """Connect the agent; whatever is posted from now on is its."""
        self.ws = await self.http.ws_connect(self.url)
        await self.ws.send_json(IDENTIFY)
        await self.next("READY")

    async def next(self, kind: str) -> dict[str, Any]:
        """The next event of a kind that the agent is handed: its `d`."""
        async for got in self.ws:
            frame = msgspec.json.decode(got.data)
            if frame["t"] == kind:
                return dict(frame["d"])
        raise AssertionError("the socket ended")

    async def message(self) -> dict[str, Any]:
        """The next MESSAGE_CREATE that the agent is handed."""
        return await self.next("MESSAGE_CREATE")


@contextlib.asynccontextmanager
async def on_stage(folder: Path, **knobs: str) -> AsyncIterator[Stage]:
    certificate = make_certificate(folder, CDN, PROXY, UPLOADS)
    async with ReferenceDiscord(settings=Settings(heartbeat_interval_ms=3000)) as up:
        media = Media(up)
        async with stand_in(media, server_context(certificate)) as port, upstream(lambda peer: media.proxy(peer, port)) as proxy:
            env = {"HTTPS_PROXY": proxy.url, "NO_PROXY": "127.0.0.1", "SSL_CERT_FILE": str(certificate / "cert.pem"), **knobs}
            sidecar = SidecarProcess(up.url, folder / "journal", env, "discord")
            try:
                await sidecar.start()
                async with aiohttp.ClientSession() as http, asyncio.timeout(60):
                    stage = Stage(up, media, sidecar, http)
                    await stage.identify()
                    yield stage
            finally:
                await sidecar.kill()


def test_r8_with_local_media_an_agent_needs_no_other_origin_and_the_media_hosts_learn_no_secret(tmp_path: Path) -> None:
    async def play() -> None:
        async with on_stage(tmp_path, SIDECAR_DISCORD_MEDIA="local") as at:
            path = "/attachments/1/5/a%20b+%F0%9F%98%80.png?ex=1&is=2%2F3"
            at.post(path)
            (got,) = (await at.message())["attachments"]
            assert (got["url"], got["proxy_url"]) == (at.local(CDN, path), at.local(PROXY, path))

            # Fetched from the two hosts, as they are named, without what is meant for Discord alone.
            at.world.files[path.partition("?")[0]] = (b"\x00\xff picture", "image/png")
            for host in (CDN, PROXY):
                async with at.http.get(at.local(host, ""), headers=SECRETS) as answer:
                    assert answer.status == 404
                # aiohttp would spell the path anew.
                status, body = await raw_get(at.url, f"/_media/{host}{path}", SECRETS)
                assert (status, body) == (200, b"\x00\xff picture")
                assert at.media.asked[-1] == (host, "GET", path)
            assert all("authorization" not in fields and "cookie" not in fields for fields in at.media.fields)
            assert all(fields["x-other"] == "kept" for fields in at.media.fields)

            # Upload: the address comes in an answer, the bytes go to its host, the message names them.
            channel = f"{at.url}/api/v10/channels/{at.world.channel.id}"
            asked = {"files": [{"id": "0", "filename": "b.txt", "file_size": 2}]}
            async with at.http.post(channel + "/attachments", json=asked, headers=AUTH) as answer:
                (place,) = (await answer.json())["attachments"]
            assert place["upload_url"].startswith(at.local(UPLOADS, "/upload/"))
            async with at.http.put(place["upload_url"], data=b"hi", headers=SECRETS) as answer:
                assert answer.status == 200
            assert at.media.asked[-1][:2] == (UPLOADS, "PUT") and "authorization" not in at.media.fields[-1]
            told = {"attachments": [{"id": "0", "filename": "b.txt", "uploaded_filename": place["upload_filename"]}]}
            async with at.http.post(channel + "/messages", json=told, headers=AUTH) as answer:
                body = await answer.read()
                assert int(answer.headers["Content-Length"]) == len(body)
                (shape,) = msgspec.json.decode(body)["attachments"]
            assert shape["url"].startswith(at.local(CDN, "/attachments/"))
            async with at.http.get(shape["url"]) as answer:
                assert await answer.read() == b"hi"
            assert (await at.message())["attachments"][0]["url"] == shape["url"]
            async with at.http.get(channel + "/messages?limit=5", headers=AUTH) as answer:
                assert {a["url"].split("/_media/")[0] for m in await answer.json() for a in m["attachments"]} == {at.url}

            # No open proxy: any other host is a path of the upstream, and is not there.
            for host in ("evil.example", f"{CDN}@evil.example", f"{CDN}:444", "discord.com", f"{CDN}.", ""):
                status, _ = await raw_get(at.url, f"/_media/{host}/x", SECRETS)
                assert status == 404
            assert at.media.dialled == {f"{host}:443" for host in (CDN, PROXY, UPLOADS)}

    asyncio.run(play())


def test_r8_messages_that_were_read_back_have_local_addresses_too_and_the_journal_has_them_as_they_came(tmp_path: Path) -> None:
    async def play() -> None:
        async with on_stage(tmp_path, SIDECAR_DISCORD_MEDIA="local") as at:
            at.world.invalidate(False)
            at.world.expire()
            shape = at.post("/attachments/1/6/missed.png")
            (got,) = (await at.message())["attachments"]
            assert got["url"] == at.local(CDN, "/attachments/1/6/missed.png")
            name = f"discord:{at.world.bot.user.id}:0/1"
            async with at.http.ws_connect(f"{at.url}/_sidecar/stream?stream={name}&after=0") as native:
                while (frame := await native.receive_json()).get("event", {}).get("t") != "MESSAGE_CREATE":
                    pass
            assert frame["replayed"] and frame["event"]["d"]["attachments"] == [shape]

    asyncio.run(play())


def test_r8_r7_by_default_addresses_stay_and_nothing_is_fetched_here(tmp_path: Path) -> None:
    async def play() -> None:
        async with on_stage(tmp_path) as at:
            shape = at.post("/attachments/1/5/a.png")
            assert (await at.message())["attachments"] == [shape]
            async with at.http.get(f"{at.url}/api/v10/channels/{at.world.channel.id}/messages", headers=AUTH) as answer:
                assert (await answer.json())[0]["attachments"] == [shape]
            async with at.http.get(at.local(CDN, "/attachments/1/5/a.png")) as answer:
                assert answer.status == 404
            assert at.media.dialled == set()

    asyncio.run(play())


async def raw_get(url: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """GET a target that goes over the wire as it stands."""
    host = url.removeprefix("http://")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    fields = {"Host": host, "Connection": "close", **headers}
    writer.write(f"GET {target} HTTP/1.1\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in fields.items()) + b"\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body
