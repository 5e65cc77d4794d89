"""What every benchmark shares: the processes, memory, the machine's description, the result rows, the options."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import queue
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from benchmarks.baseline import require_disk
from benchmarks.errors import BenchError

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "at_live_bench"
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `met` is None for a figure that has no target of its own."""

    name: str
    target: str
    measured: str
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Options:
    quick: bool
    directory: str
    relay_only: bool = False


# --- processes


class Peer:
    """A `benchmarks.source`, `.sink` or `.relay` that is spoken to in JSON lines."""

    def __init__(self, role: str, *args: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{role}", *args],
            cwd=ROOT,
            env=_environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._child.pid
        self._role = role
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self._answer(20).get("port", 0))

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _answer(self, timeout: float) -> Json:
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise BenchError(f"{self._role}: no answer within {timeout:g} s") from None
        if not line:
            raise BenchError(f"{self._role}: ended with code {self._child.wait(5)}")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise BenchError(f"{self._role}: {answer['error']}")
        return answer

    def send(self, do: str, **args: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": do, **args}) + "\n")
        self._child.stdin.flush()

    def answer(self, timeout: float = 120) -> Json:
        return self._answer(timeout)

    def ask(self, do: str, **args: Any) -> Json:
        self.send(do, **args)
        return self.answer()

    def stop(self) -> None:
        _stop(self._child)


class Sidecar:
    """A real `sidecar run`, as an operator would start it, on a data directory of its own."""

    def __init__(self, upstream_port: int, directory: str, **more: str) -> None:
        """`more`: settings without `SIDECAR_`, in lower case, in place of these or beside them."""
        settings = {
            "SIDECAR_DIALECT": "relaycast",
            "SIDECAR_UPSTREAM": f"http://127.0.0.1:{upstream_port}",
            "SIDECAR_LISTEN": "127.0.0.1:0",
            "SIDECAR_DATA_DIR": directory,
            "SIDECAR_UPSTREAM_TOKEN": TOKEN,
        } | {f"SIDECAR_{name.upper()}": value for name, value in more.items()}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "run"],
            cwd=ROOT,
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._child.pid
        self._output: list[str] = []
        self._ports: queue.Queue[int] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.port = self._ports.get(timeout=20)
        except queue.Empty:
            self.port = 0
        if not self.port:
            self.stop()
            said = "".join(self._output[-5:]).strip() or "nothing"
            raise BenchError(f"`sidecar run` did not say `listening on http://127.0.0.1:PORT`; it said: {said}")

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._output = [*self._output[-50:], line]
            if found := _LISTENING.search(line):
                self._ports.put(int(found[1]))
        self._ports.put(0)

    def stop(self) -> None:
        _stop(self._child)


Proxy = Peer | Sidecar


def _environment(settings: dict[str, str]) -> dict[str, str]:
    """This process's environment without anyone's proxies and without settings left over in the shell."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_") and not k.lower().endswith("_proxy")}
    return kept | settings


def _stop(child: subprocess.Popen[str]) -> None:
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@dataclass(slots=True)
class Route:
    """Source, proxy, sink, connected and idle."""

    source: Peer
    proxy: Proxy
    sink: Peer

    def connect(self) -> None:
        self.sink.ask("connect", port=self.proxy.port, token=TOKEN)
        wait_until(lambda: self.source.ask("sockets")["sockets"] > 0, 20, "the proxy holds no socket to the source")


@contextlib.contextmanager
def through(kind: str, options: Options) -> Iterator[Route]:
    """A path through `relay` or `sidecar`; whatever happens, its processes end with the block."""
    with contextlib.ExitStack() as stack:
        source = Peer("source")
        stack.callback(source.stop)
        if kind == "relay":
            proxy: Proxy = Peer("relay", f"http://127.0.0.1:{source.port}")
        else:
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory))
            proxy = Sidecar(source.port, f"{directory}/data")
        stack.callback(proxy.stop)
        sink = Peer("sink")
        stack.callback(sink.stop)
        yield Route(source, proxy, sink)


def journal_head(port: int) -> int:
    """The offset of the newest journaled event of a sidecar's one stream, 0 before there is one."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/_sidecar/status", timeout=10) as answer:
        streams = json.load(answer)["streams"]
    return int(streams[0]["head"]) if streams else 0


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{otherwise} within {seconds:g} s")
        time.sleep(0.02)


# --- memory


def memory_mib(pid: int) -> dict[str, float]:
    """VmRSS, VmHWM, RssAnon and RssFile of a process, in MiB. Pages of the mapped journal are RssFile."""
    with open(f"/proc/{pid}/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return {key: int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM", "RssAnon", "RssFile")}


class MemoryPeak:
    """The highest RssAnon of a process while the block runs, sampled every 20 ms, in MiB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self.anon = 0.0

    def _sample(self) -> None:
        while True:
            self.anon = max(self.anon, memory_mib(self._pid)["RssAnon"])
            if self._done.wait(0.02):
                return

    def __enter__(self) -> MemoryPeak:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


# --- figures


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def middle(values: Sequence[float]) -> str:
    """Median and range: the range says how far the median is to be believed."""
    median = statistics.median(values)
    digits = 0 if median >= 1000 else 2
    return f"{median:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def machine(directory: str) -> list[tuple[str, str]]:
    """What a reader needs to place the figures."""
    with open("/proc/cpuinfo") as cpuinfo:
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    packages = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "lmdb", "msgspec"))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        ("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ("CPU", f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"),
        ("kernel, filesystem", f"{platform.system()} {platform.release()}, {require_disk(directory)}"),
        ("versions", f"CPython {platform.python_version()}, {packages}, Node {node or 'absent'}"),
        ("sidecar", commit or "unknown"),
    ]


def write_table(out: IO[str], rows: Sequence[Row]) -> None:
    verdict = {True: "met", False: "**missed**", None: ""}
    out.write("| measure | to reach | measured | |\n|---|---|---|---|\n")
    for row in rows:
        out.write(f"| {row.name} | {row.target} | {row.measured} | {verdict[row.met]} |\n")


def run_alone(bench: Callable[[Options], list[Row]], about: str | None) -> None:
    """The command line of one benchmark module."""
    parser = argparse.ArgumentParser(description=about)
    add_options(parser)
    try:
        rows = bench(read_options(parser.parse_args()))
    except BenchError as error:
        sys.exit(f"not measured: {error}")
    write_table(sys.stdout, rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a few seconds each: shows that it runs, no figure to keep")
    parser.add_argument("--dir", default="/var/tmp", help="where journals are put; must be on a disk (default %(default)s)")
    parser.add_argument("--relay-only", action="store_true", help="end to end and latency: the bare relay alone")


def read_options(args: argparse.Namespace) -> Options:
    # A terminated benchmark must still end its children: let the `finally` clauses run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    require_disk(args.dir)
    return Options(args.quick, args.dir, args.relay_only)
