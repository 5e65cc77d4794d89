"""An ordinary agent, as its own process: connects, handles what comes, reconnects when cut, and never asks for what it missed.

It does what npm `@relaycast/sdk` 2.6.0 does (wire page section 8): `/v1/ws?token=`, a JSON ping every 30 s, a new attempt 1 s x 2^n
after a loss (at most 30 s, jitter 0.5 to 1.5), no resync. It knows no sidecar: only the base URL differs.

    python -m sidecar.demo.agent http://127.0.0.1:8787 at_live_…

Its handler writes one line for each event to standard output, unbuffered: what stands there was handled, also after a SIGKILL.
`open` stands there for each connection. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

import aiohttp
from yarl import URL

from .leash import hold

PING_S = 30.0
CONNECT_S = 10.0
LONGEST_S = 30.0
OPENED = b"open\n"


def handle(line: bytes) -> None:
    """The agent's work on one event: here, to write it down."""
    os.write(1, line)


async def connect_for_ever(base: str, token: str) -> None:
    """Hold a connection; each event is handled before the next one is looked at."""
    url = URL(f"{base}/v1/ws?token={token}", encoded=True)
    attempts = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(connect=CONNECT_S)) as session:
        while True:
            try:
                async with session.ws_connect(url, max_msg_size=0) as line:
                    attempts = 0
                    handle(OPENED)
                    await read(line)
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # refused or cut: the next attempt is the remedy
            await asyncio.sleep(min(2.0**attempts, LONGEST_S) * random.uniform(0.5, 1.5))
            attempts += 1


async def read(line: aiohttp.ClientWebSocketResponse) -> None:
    """Handle events until the connection ends."""
    pinging = asyncio.create_task(ping(line))
    try:
        async for message in line:
            if message.type is aiohttp.WSMsgType.TEXT:
                handle(message.data.encode() + b"\n")
    finally:
        pinging.cancel()


async def ping(line: aiohttp.ClientWebSocketResponse) -> None:
    """Keep the agent's presence fresh, as the SDKs do."""
    while True:
        await asyncio.sleep(PING_S)
        await line.send_str('{"type":"ping"}')


def main() -> None:
    """Run until killed, or until the parent is gone."""
    hold()
    asyncio.run(connect_for_ever(*sys.argv[1:3]))


if __name__ == "__main__":
    main()
