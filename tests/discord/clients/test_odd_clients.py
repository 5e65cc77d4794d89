"""Clients that nobody wrote, over real sockets: frames out of order, storms, silence, RESUMEs from anywhere (discord R10, R11, R15, R16,
R22, C2 to C7, C11, C12)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.clients.processes import SidecarProcess, until
from tests.discord.upstream.server import ReferenceDiscord
from tests.discord.upstream.world import Settings, World

TOKEN = "reference-token"
INTENTS = 1 | 1 << 9 | 1 << 15
WAIT_S = 20.0


class Odd:
    """The reference upstream and the sidecar; `raw` opens sockets."""

    def __init__(self, upstream: ReferenceDiscord, sidecar: SidecarProcess, http: aiohttp.ClientSession) -> None:
        self.upstream = upstream
        self.world: World = upstream.world
        self.sidecar = sidecar
        self.http = http
        self.posted: list[str] = []

    def post(self, count: int) -> None:
        for _ in range(count):
            self.posted.append(f"message {len(self.posted)}")
            self.world.post(self.posted[-1])

    async def raw(self, query: str = "v=10&encoding=json", *, autoping: bool = True) -> Raw:
        line = await self.http.ws_connect(f"{self.sidecar.url}/?{query}", max_msg_size=0, autoping=autoping)
        return Raw(line)

    async def agent(self, token: str = TOKEN, intents: int = INTENTS) -> Raw:
        """A socket that has its READY and its guilds."""
        raw = await self.raw()
        await raw.identify(token, intents)
        await raw.event("GUILD_CREATE")
        return raw

    async def resumed(self, session: str, seq: Any, token: str = TOKEN) -> Raw:
        """A socket that asks for a RESUME."""
        raw = await self.raw()
        await raw.say(6, {"token": token, "session_id": session, "seq": seq})
        return raw

    async def journaled(self, *, receipted: bool = False) -> None:
        """Wait until all that was posted is in the journal, or also receipted."""

        async def so() -> bool:
            async with self.http.get(f"{self.sidecar.url}/_sidecar/status") as answer:
                (stream,) = (await answer.json())["streams"]
            return bool(stream["head"] >= len(self.posted) and not (receipted and stream["consumers"][0]["lag"]))

        await until(so, "not in the journal, or not receipted")


class Raw:
    """A gateway socket in a test's own hand. `frames`: what came so far; `code`: the close code once it is closed."""

    def __init__(self, line: aiohttp.ClientWebSocketResponse) -> None:
        self.line = line
        self.frames: list[dict[str, Any]] = []
        self.code: int | None = None
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        # An answer to a ping fails on a connection that is lost already.
        with contextlib.suppress(ConnectionError):
            async for message in self.line:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.frames.append(json.loads(message.data))
        self.code = self.line.close_code

    async def say(self, op: int, d: Any = None) -> None:
        await self.line.send_str(json.dumps({"op": op, "d": d}))

    async def identify(self, token: str = TOKEN, intents: int = INTENTS, **more: Any) -> None:
        await self.say(2, {"token": token, "intents": intents, "properties": {}} | more)

    async def closed(self, code: int) -> None:
        await until(self._reading.done, lambda: f"not closed: {self.frames[-3:]}", WAIT_S)
        assert self.code == code

    async def gone(self) -> None:
        """It ended: with a close code, or the connection was lost."""
        await until(self._reading.done, lambda: f"still open: {self.frames[-3:]}", WAIT_S)

    async def has(self, what: Callable[[dict[str, Any]], bool], count: int = 1) -> dict[str, Any]:
        """Wait until so many frames are of a kind; returns the last."""
        await until(
            lambda: sum(map(what, self.frames)) >= count or self._reading.done(), lambda: f"{len(self.frames)}: {self.frames[-3:]}", WAIT_S
        )
        found = [frame for frame in self.frames if what(frame)]
        assert len(found) >= count, f"closed with {self.code}: {self.frames[-3:]}"
        return found[count - 1]

    async def op(self, op: int, count: int = 1) -> dict[str, Any]:
        return await self.has(lambda frame: frame["op"] == op, count)

    async def event(self, name: str, count: int = 1) -> dict[str, Any]:
        return await self.has(lambda frame: frame["t"] == name, count)

    @property
    def session(self) -> str:
        return next(str(frame["d"]["session_id"]) for frame in self.frames if frame["t"] == "READY")

    @property
    def seq(self) -> int:
        return max(frame["s"] or 0 for frame in self.frames)

    def contents(self) -> list[str]:
        return [frame["d"]["content"] for frame in self.frames if frame["t"] == "MESSAGE_CREATE"]

    def numbers(self) -> list[int]:
        return [frame["s"] for frame in self.frames if frame["op"] == 0]

    async def messages(self, expected: list[str]) -> None:
        await self.has(lambda frame: frame["t"] == "MESSAGE_CREATE", len(expected))
        assert self.contents() == expected

    def cut(self) -> None:
        """Lose the connection."""
        transport = self.line._conn.transport if self.line._conn else None  # type: ignore[attr-defined]
        if transport is not None:
            transport.abort()


def _many() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=WAIT_S))


def on_stage(tmp_path: Path, play: Callable[[Odd], Awaitable[None]], **knobs: str) -> None:
    """Play on a stage; a well-behaved agent that was there from the first to the last got everything once."""

    async def stage() -> None:
        env = {f"SIDECAR_{name.upper()}": value for name, value in knobs.items()}
        async with ReferenceDiscord(settings=Settings(heartbeat_interval_ms=3000)) as upstream, _many() as http:
            sidecar = SidecarProcess(upstream.url, tmp_path / "journal", env, "discord")
            await sidecar.start()
            try:
                at = Odd(upstream, sidecar, http)
                good = await at.agent()
                await play(at)
                at.post(5)
                await good.messages(at.posted)
                assert good.code is None
                assert len(at.world.ledger.identifies) == 1
                assert at.world.ledger.wrongs == []
                assert not [line for line in sidecar.lines if "Traceback" in line], sidecar.tail()
            except BaseException as error:
                error.add_note(sidecar.tail())
                raise
            finally:
                await sidecar.kill()

    asyncio.run(stage())


def test_R22_C3_C6_C14_frames_that_no_client_sends(tmp_path: Path) -> None:
    async def play(at: Odd) -> None:
        async def refused(code: int, *frames: str | bytes, agent: bool = False) -> None:
            raw = await (at.agent() if agent else at.raw())
            for frame in frames:
                with contextlib.suppress(ConnectionError):
                    await (raw.line.send_bytes(frame) if isinstance(frame, bytes) else raw.line.send_str(frame))
            await raw.closed(code)

        identify = json.dumps({"op": 2, "d": {"token": TOKEN, "intents": INTENTS, "properties": {}}})
        resume = json.dumps({"op": 6, "d": {"token": TOKEN, "session_id": "x", "seq": 1}})
        beat = '{"op":1,"d":null}'
        etf = b"\x83t\x00\x00\x00\x01m\x00\x00\x00\x02opa\x01"
        for agent in (False, True):
            await asyncio.gather(
                refused(4002, "{", agent=agent),
                refused(4002, "", agent=agent),
                refused(4002, "[]", agent=agent),
                refused(4002, "null", agent=agent),
                refused(4002, '{"op":1e3}', agent=agent),
                refused(4002, "[" * 4000, agent=agent),
                refused(4002, '{"op":1,"d":"' + "x" * 4096 + '"}', agent=agent),
                refused(4002, '{"op":1,"d":"' + "x" * (3 << 20) + '"}', agent=agent),
                refused(4002, etf, agent=agent),
                refused(4002, beat.encode(), agent=agent),
                refused(4001, '{"op":0,"d":{}}', agent=agent),
                refused(4001, '{"op":10}', agent=agent),
            )
        await asyncio.gather(
            refused(4005, identify, agent=True),
            refused(4005, resume, agent=True),
            refused(4005, identify, identify),
            refused(4005, identify, resume),
            refused(4004, identify.replace(TOKEN, "")),
            refused(4004, identify.replace(TOKEN, "a\\r\\nX: y")),
            refused(4004, identify.replace(TOKEN, "\\u00e4\\ud83d\\ude42")),
            refused(4002, identify.replace(TOKEN, "\\ud83d")),
            refused(4013, identify.replace(str(INTENTS), str(1 << 90))),
            refused(4008, *['{"op":3,"d":{}}'] * 121),
        )
        for query in ("v=10&encoding=etf", "v=8", "encoding=etf&compress=zlib-stream"):
            await (await at.raw(query)).closed(4012)
        # More than a socket takes in: it is gone, whatever its client reads of it.
        raw = await at.raw()
        with contextlib.suppress(ConnectionError):
            await raw.line.send_str("x" * (5 << 20))
        await raw.gone()
        # A beat before all else, unknown ops, numbers that say nothing.
        raw = await at.raw("v=9&x=%00")
        for d in (None, 0, -1, 10**40, "x", [], {}, 3.5, True):
            await raw.say(1, d)
        await raw.say(43, {"guild_id": "1"})
        await raw.identify(presence={"status": "dnd"}, shard=[0, 1], compress=True, large_threshold="many")
        await raw.event("GUILD_CREATE")
        await raw.op(11, 9)
        await raw.say(31, {"guild_ids": None})
        await raw.say(8, "nothing")
        await raw.say(1, raw.seq)
        await raw.op(11, 10)
        assert raw.numbers() == [1, 2]

    on_stage(tmp_path, play)


def test_R16_C7_a_resume_from_anywhere_is_exact_or_op_9_and_the_socket_stays(tmp_path: Path) -> None:
    async def play(at: Odd) -> None:
        mate = at.world.add_bot("mate", "another-token")
        at.world.add_guild("own", [mate])
        first = await at.agent()
        at.post(20)
        await first.messages(at.posted)
        session, last = first.session, first.seq
        assert last == 22
        for seq in (2, 3, 12, last):
            raw = await at.resumed(session, seq)
            resumed = await raw.event("RESUMED")
            assert raw.contents() == at.posted[seq - 2 :]
            assert isinstance(resumed["d"], dict)
            assert resumed["s"] == raw.seq == last
        await first.closed(4000)
        other = await at.agent("another-token")
        wrong: list[tuple[Any, Any, str]] = [
            (session, 0, TOKEN),
            (session, 1, TOKEN),
            (session, last + 1, TOKEN),
            (session, -5, TOKEN),
            (session, None, TOKEN),
            (session, "3", TOKEN),
            (session, True, TOKEN),
            (session, 10**30, TOKEN),
            (None, None, TOKEN),
            ("0" * 32, 5, TOKEN),
            ({}, 5, TOKEN),
            (session, 5, "another-token"),
            (session, 5, "wrong-token"),
            (session, 5, ""),
            (other.session, 2, TOKEN),
        ]
        for name, seq, token in wrong:
            raw = await at.resumed(name, seq, token)
            assert (await raw.op(9))["d"] is False
            await raw.identify()
            ready = await raw.event("READY")
            assert ready["s"] == 1
            assert raw.session not in (session, other.session)
        # Nobody lost a session by it.
        assert other.code is None
        raw = await at.resumed(session, 12)
        await raw.event("RESUMED")
        assert raw.contents() == at.posted[10:]
        mine = [i for i in at.world.ledger.identifies if i.token == TOKEN]
        assert len(mine) == 1
        at.world.ledger.identifies[:] = mine

    on_stage(tmp_path, play)


def test_C11_C5_cut_and_resumed_in_the_middle_of_replays_the_last_one_counts_and_none_is_mixed(tmp_path: Path) -> None:
    async def play(at: Odd) -> None:
        first = await at.agent()
        session = first.session
        first.cut()
        at.post(2000)
        await at.journaled()
        # A socket that reads nothing, replaced before it has anything; one that breaks off; one that takes all.
        asked = [await at.resumed(session, 2) for _ in range(5)]
        for raw in asked[:4]:
            await raw.closed(4000)
        last = asked[-1]
        await last.has(lambda frame: frame["t"] == "MESSAGE_CREATE", 100)
        last.cut()
        await last.gone()
        seen = last.contents()
        assert seen == at.posted[: len(seen)]
        again = await at.resumed(session, last.seq)
        await again.event("RESUMED")
        assert seen + again.contents() == at.posted
        assert again.numbers() == sorted(again.numbers())
        for raw in asked[:4]:
            assert raw.contents() == at.posted[: len(raw.contents())]
            assert not [frame for frame in raw.frames if frame["t"] == "RESUMED"]
        # Cut right behind READY, before its guilds were read: op 9, then all again.
        raw = await at.raw()
        await raw.identify()
        await raw.event("READY")
        name = raw.session
        raw.cut()
        back = await at.resumed(name, 1)
        await back.op(9)
        await back.identify()
        await back.event("GUILD_CREATE")

    on_stage(tmp_path, play)


def test_R10_R11_C2_three_hundred_sockets_that_never_identify_and_a_storm_of_beats_block_nobody(tmp_path: Path) -> None:
    async def play(at: Odd) -> None:
        mute = await asyncio.gather(*[at.raw() for _ in range(300)])
        for raw in mute:
            await raw.op(10)
        agents = await asyncio.gather(*[at.agent() for _ in range(20)])
        storm = agents[0]
        for n in range(3000):
            await storm.say(1, n if n % 2 else None)
        at.post(100)
        for raw in agents:
            await raw.messages(at.posted)
        await storm.op(11, 3000)
        assert all(raw.code is None for raw in (*mute, *agents))
        for raw in mute[:150]:
            raw.cut()
        for raw in mute[150:160]:
            await raw.identify()
        for raw in mute[150:160]:
            await raw.event("GUILD_CREATE")
        assert len({raw.session for raw in (*mute[150:160], *agents)}) == 30

    on_stage(tmp_path, play)


def test_R21_C6_commands_before_ready_are_kept_and_chunks_go_to_the_asker_alone_also_after_its_resume(tmp_path: Path) -> None:
    async def play(at: Odd) -> None:
        at.world.guild.members += [at.world.add_user(f"member{n}") for n in range(1500)]
        guild = str(at.world.guild.id)
        other = await at.agent()
        # Ahead of IDENTIFY, and right behind it.
        raw = await at.raw()
        await raw.say(3, {"since": None, "activities": [], "status": "idle", "afk": False})
        await raw.identify()
        await raw.say(8, {"guild_id": guild, "query": "", "limit": 0, "nonce": "mine"})
        await raw.event("GUILD_MEMBERS_CHUNK", 2)
        chunks = [frame for frame in raw.frames if frame["t"] == "GUILD_MEMBERS_CHUNK"]
        assert [(frame["d"]["chunk_index"], frame["d"]["nonce"], frame["s"]) for frame in chunks] == [(0, "mine", 2), (1, "mine", 2)]
        assert [command.d["status"] for command in at.world.ledger.commands if command.op == 3] == ["idle"]
        # Asked while the upstream is away; the answer finds the session on another socket.
        at.world.faults.refuse_connect = 1000
        at.world.cut()
        await until(lambda: "the gateway closed" in at.sidecar.tail(), "the cut was not noticed")
        await raw.say(8, {"guild_id": guild, "query": "member7", "limit": 5, "nonce": "later"})
        await raw.say(1, None)
        await raw.op(11)
        raw.cut()
        back = await at.resumed(raw.session, 2)
        await back.event("RESUMED")
        at.world.faults.refuse_connect = 0
        assert (await back.event("GUILD_MEMBERS_CHUNK"))["d"]["nonce"] == "later"
        # The whole list a second time within 30 s is limited: who asked is told.
        await back.say(8, {"guild_id": guild, "query": "", "limit": 0, "nonce": "again"})
        assert (await back.event("RATE_LIMITED"))["d"]["meta"]["nonce"] == "again"
        assert not [frame for frame in other.frames if frame["t"] in ("GUILD_MEMBERS_CHUNK", "RATE_LIMITED")]

    on_stage(tmp_path, play)


def masked(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """A client's frame on the wire."""
    key = os.urandom(4)
    size = len(data)
    head = bytes((0x80 * fin | opcode, 0x80 | (size if size < 126 else 126))) + (struct.pack(">H", size) if size >= 126 else b"")
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


def test_R10_C12_fragments_single_bytes_and_a_peer_that_never_reads(tmp_path: Path) -> None:
    async def play(at: Odd) -> None:
        url = urlsplit(at.sidecar.url)

        async def upgraded() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=1 << 24)
            key = base64.b64encode(os.urandom(16)).decode()
            head = f"GET /gateway HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            writer.write((head + f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            return reader, writer

        identify = json.dumps({"op": 2, "d": {"token": TOKEN, "intents": INTENTS, "properties": {}}}).encode()
        # In fragments with a ping between them, byte by byte.
        reader, writer = await upgraded()
        await reader.readuntil(b"heartbeat_interval")
        wire = (
            masked(1, identify[:10], fin=False) + masked(9, b"between") + masked(0, identify[10:40], fin=False) + masked(0, identify[40:])
        )
        for byte in wire:
            writer.write(bytes((byte,)))
            await writer.drain()
        async with asyncio.timeout(WAIT_S):
            await reader.readuntil(b"between")
            await reader.readuntil(b"GUILD_CREATE")
        writer.close()
        # An unmasked frame breaks the protocol, not the sidecar.
        reader, writer = await upgraded()
        writer.write(b"\x81\x02{}")
        async with asyncio.timeout(WAIT_S):
            await reader.read(1 << 20)
        writer.close()
        # Deaf: it asks and asks, and reads nothing. It gets its window and no more; the others get all.
        reader, deaf = await upgraded()
        deaf.transport.pause_reading()
        deaf.write(masked(1, identify))
        for _ in range(2000):
            deaf.write(masked(1, b'{"op":1,"d":null}'))
        at.post(3000)
        await at.journaled(receipted=True)
        sound = await at.agent()
        at.post(10)
        await sound.messages(at.posted[-10:])
        deaf.close()

    on_stage(tmp_path, play)
