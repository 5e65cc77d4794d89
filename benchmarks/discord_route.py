"""Source, proxy and sinks of the Discord benchmarks, put together."""

from __future__ import annotations

import contextlib
import json
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.discord_sink import INTENTS
from benchmarks.harness import TOKEN, Options, Peer, Proxy, Sidecar, wait_until

GUILDS, CHANNELS = 100, 400


@dataclass(slots=True)
class DiscordRoute:
    """`directory`: where the sidecar's journal lies, empty for a relay; `zlib_stream`: does the sink ask for it?"""

    source: Peer
    proxy: Proxy
    sink: Peer
    directory: str = ""
    zlib_stream: bool = False
    guilds: int = GUILDS

    def connect(self) -> dict[str, Any]:
        """The sink logs in; returns its times (discord_sink.login)."""
        self.sink.ask("connect", port=self.proxy.port, zlib_stream=self.zlib_stream)
        times = self.sink.ask("login", token=TOKEN, guilds=self.guilds)
        wait_until(lambda: self.source.ask("sockets")["sockets"] > 0, 20, "the proxy holds no session of the source")
        return times

    def stop_proxy(self) -> None:
        """Whichever it is by now."""
        self.proxy.stop()

    def head(self) -> int:
        """The offset of the newest journaled event, 0 before there is one."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.proxy.port}/_sidecar/status", timeout=10) as answer:
            streams = json.load(answer)["streams"]
        return int(streams[0]["head"]) if streams else 0


def sidecar(port: int, directory: str, upstream_zlib: bool) -> Sidecar:
    """A real `sidecar run` in front of a gateway at `port`."""
    compress = "zlib-stream" if upstream_zlib else "none"
    # The agent's own intents from the start: one that asks for more later costs another IDENTIFY, and these are 5 s apart.
    return Sidecar(port, directory, dialect="discord", discord_compress=compress, discord_intents=str(INTENTS))


@contextlib.contextmanager
def discord_through(
    kind: str, options: Options, *, upstream_zlib: bool = False, zlib_stream: bool = False, guilds: int = GUILDS, channels: int = CHANNELS
) -> Iterator[DiscordRoute]:
    """A path through `relay` or `sidecar`; whatever happens, its processes end with the block. `channels`: that have messages."""
    with contextlib.ExitStack() as stack:
        source = Peer("discord_source", str(guilds), str(channels))
        stack.callback(source.stop)
        directory = ""
        if kind == "relay":
            proxy: Proxy = Peer("relay", f"http://127.0.0.1:{source.port}")
        else:
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory)) + "/data"
            proxy = sidecar(source.port, directory, upstream_zlib)
        sink = Peer("discord_sink")
        stack.callback(sink.stop)
        route = DiscordRoute(source, proxy, sink, directory, zlib_stream, guilds)
        stack.callback(route.stop_proxy)
        yield route
