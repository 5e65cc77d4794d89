"""A port that stays while the sidecar behind it comes and goes: whoever connects meanwhile waits, instead of being refused.

Some libraries back off further with each refusal for as long as they live (discord.py for half an hour): fifty deaths of the sidecar
would take hours. A cut of what is behind the door is a cut in front of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Door"]

POLL_S = 0.02


class Door:
    """`inside()`: the address to lead to, `http://host:port`, as soon as it is known. `url`: of the door, from `open` on; `shut`: whoever
    connects waits, whatever there is behind it."""

    def __init__(self, inside: Callable[[], str]) -> None:
        self.url = ""
        self.shut = False
        self._inside = inside
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._through, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Cut all that lead through it."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._lead(reader, writer)
        except asyncio.CancelledError:
            pass  # cut
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            if self.shut:
                await asyncio.sleep(POLL_S)
                continue
            host, _, port = self._inside().removeprefix("http://").partition(":")
            try:
                there = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(POLL_S)
                continue
            ways = [asyncio.ensure_future(_pipe(reader, there[1])), asyncio.ensure_future(_pipe(there[0], writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                # What one side said last still reaches the other.
                await asyncio.wait(ways, timeout=0.2)
            finally:
                for way in ways:
                    way.cancel()
                there[1].transport.abort()
            return


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.write_eof()
