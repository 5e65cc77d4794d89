"""`sidecar run`: puts the parts together, starts them in order and stops them in order."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from sidecar import __version__, logs
from sidecar.config import Settings
from sidecar.core.engine import Engine
from sidecar.dialects.registry import dialect as find_dialect
from sidecar.downstream.guard import Guard
from sidecar.downstream.native import NativeHalf
from sidecar.downstream.passthrough import RUNNER_OPTIONS
from sidecar.downstream.server import Server
from sidecar.driver import Driver
from sidecar.errors import JournalDamaged, ListenFailed
from sidecar.journal.store import Store
from sidecar.journal.writer import Writer
from sidecar.ops.counters import Counters
from sidecar.ops.pages import Pages
from sidecar.upstream.http import UpstreamHttp

log = logging.getLogger("sidecar")
POLL_S = 0.02


class Sidecar:
    """One running sidecar. `start` raises SidecarError with its mend; `url` holds from then on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = ""
        self.counters = Counters()
        self.store: Store
        self.writer: Writer
        self.driver: Driver
        self.engine: Engine
        self.server: Server
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self) -> None:
        """Open the journal, listen, hold the upstream if a token is set."""
        s = self.settings
        dialect: Any = find_dialect(s.dialect)
        self.store = Store.open(
            s.data_dir,
            dialect=s.dialect,
            upstream=s.upstream,
            durability=s.durability,
            retention_bytes=s.retention_bytes,
            retention_s=s.retention_s,
            wall=time.time(),
        )
        try:
            self.writer = Writer(self.store, asyncio.get_running_loop())
            http = UpstreamHttp()
            self.driver = Driver(s.upstream, self.writer, http, self.counters)
            self.engine = Engine(
                self.store,
                self.driver,
                upstream=lambda account, view: dialect.upstream(account, s, view),
                downstream={"dialect": lambda view: dialect.downstream(s, view), "native": NativeHalf},
                window=s.window,
                capacity=s.dedupe_events,
                retention_s=s.retention_s,
                lost=bool(self.store.lost),
                keyed_hash=_keyed_hash(self.store.hash_key()),
            )
            self.driver.engine = self.engine
            guard = Guard(s.listen_host, s.allowed_hosts, s.allowed_origins, s.local_token)
            pages = Pages(self)
            self.server = Server(self.engine, self.driver, http, guard, s.upstream, dialect, pages.handle)
            self.engine.start(s.upstream_token)
            await self._listen(s)
        except BaseException:
            await self._close()
            raise

    async def _listen(self, s: Settings) -> None:
        self._runner = web.ServerRunner(web.Server(self.server.handle, **RUNNER_OPTIONS), handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, s.listen_host, s.listen_port)
        try:
            await self._site.start()
        except OSError as error:
            raise ListenFailed(
                f"cannot listen on {s.listen_host}:{s.listen_port}: {error.strerror or error}",
                mend="set SIDECAR_LISTEN to a free host:port (port 0 picks one)",
            ) from error
        port = self._runner.addresses[0][1]
        host = f"[{s.listen_host}]" if ":" in s.listen_host else s.listen_host
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """A planned stop: wait at most SIDECAR_DRAIN_S for receipts, then say goodbye."""
        deadline = time.monotonic() + self.settings.drain_s
        self.engine.drain()
        while not self.engine.drained() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        self.engine.close()
        if self._site is not None:
            # Nobody can be served any more: who came now would be sent away, and come again at once.
            await self._site.stop()
        last = time.monotonic() + 2.0
        while (self.driver.conns or not self.engine.drained()) and time.monotonic() < last:
            await asyncio.sleep(POLL_S)
        await self._close(clean=True)

    async def _close(self, clean: bool = False) -> None:
        if hasattr(self, "driver"):
            await self.driver.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if hasattr(self, "writer"):
            await asyncio.get_running_loop().run_in_executor(None, self.writer.close)
        self.store.close(clean=clean)


def _keyed_hash(key: bytes) -> Callable[[str], str]:
    """What may stand on disk for a credential (invariant 10)."""
    return lambda secret: hashlib.blake2b(secret.encode(), key=key[:64], digest_size=20).hexdigest()


async def _serve(settings: Settings) -> int:
    sidecar = Sidecar(settings)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    await sidecar.start()
    # On stdout whatever the log level: with port 0 this line is the only place where the address stands.
    print(f"sidecar {__version__} listening on {sidecar.url}", flush=True)
    log.info(
        f"listening on {sidecar.url}",
        extra={"version": __version__, "dialect": settings.dialect, "upstream": settings.upstream, "data_dir": str(settings.data_dir)},
    )
    damage: list[JournalDamaged] = []

    def give_up(error: JournalDamaged) -> None:
        damage.append(error)
        stopped.set()

    sidecar.driver.on_damage = give_up
    await stopped.wait()
    log.info("stopping: waiting for receipts", extra={"at_most_s": settings.drain_s})
    await sidecar.stop()
    log.info("stopped")
    if damage:
        raise damage[0]
    return 0


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code; raises SidecarError (with its own) if it cannot start."""
    logs.configure(settings)
    return run_loop(_serve(settings))


def run_loop(main: Any) -> int:
    """asyncio.run on uvloop where it exists."""
    if sys.platform != "win32":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return int(runner.run(main))
    return int(asyncio.run(main))
