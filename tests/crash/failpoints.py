"""`python -m sidecar run`, but it kills itself with SIGKILL at a chosen place, and leaves word of what it counted.

    python -m tests.crash.failpoints REPORT POINT CALLS [full] [one]      # environment as for `sidecar run`

It dies at the CALLS-th time that POINT is passed, counted from when two clients (`one`: a client whose frames may be compressed, known
by the pings behind them) have been sent events by this process; with `full` only passes while a client's window is full count. POINT
`none`: somebody else kills it. REPORT gets one JSON line for its death and one each time the metric `redelivered` moves, written at
once, so that they outlive it. Production code knows nothing of this.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from sidecar import cli
from sidecar.core.courier import Courier
from sidecar.downstream.conn import Conn
from sidecar.journal.store import Store
from sidecar.journal.writer import Writer
from sidecar.ops.counters import Counters

POINTS: dict[str, tuple[type, str, bool]] = {
    "admit": (Writer, "submit", False),  # admitted, not given to the journal's thread yet
    "commit": (Store, "_transact", False),  # replaced below: everything put, the transaction not committed
    "committed": (Store, "apply", True),  # on disk, nobody was told
    "send": (Conn, "send", False),
    "sent": (Conn, "send", True),  # in the kernel, the barrier behind it not sent
    "receipt": (Courier, "receipt", False),  # a pong came, the cursor has not moved
    "credited": (Courier, "receipt", True),  # the cursor moved in memory
    "settled": (Courier, "cursors_written", True),  # the cursor is on disk
}
"""Where it can die: class, method, after it (else before)."""
CLIENTS = 2


class Death:
    """Counts passes of one point and dies at the right one."""

    def __init__(self, report: int, calls: int, only_full: bool, clients: int) -> None:
        self.report = report
        self.left = calls
        self.only_full = only_full
        self.clients = clients
        self.served: set[str] = set()
        self.courier: Courier | None = None
        self._lock = threading.Lock()

    def say(self, **facts: Any) -> None:
        os.write(self.report, json.dumps({"pid": os.getpid(), **facts}).encode() + b"\n")

    def fullest(self) -> tuple[int, int]:
        """Records out of the client that has most of them out, and the window."""
        courier = self.courier
        if courier is None:
            return 0, 1
        return max([session.out_records for session in list(courier.sessions.values())], default=0), courier.window

    def passed(self, point: str) -> None:
        if len(self.served) < self.clients:
            return
        out, window = self.fullest()
        if self.only_full and out < window:
            return
        with self._lock:
            self.left -= 1
            if self.left == 0:
                self.say(point=point, out=out, window=window)
                os.kill(os.getpid(), signal.SIGKILL)


def install(death: Death, point: str) -> None:
    """Put the wrappers in place."""
    send, ping, add, begin = Conn.send, Conn.ping, Counters.add, Courier.__init__

    def sending(self: Conn, frames: Any, *rest: Any) -> None:
        send(self, frames, *rest)
        if len(death.served) < death.clients and any(b'"agent_seq"' in frame for frame in frames):
            death.served.add(self.name)

    def pinging(self: Conn, payload: bytes) -> None:
        ping(self, payload)
        if death.clients < CLIENTS:
            death.served.add(self.name)

    def adding(self: Counters, name: str, by: int = 1, **labels: str) -> None:
        add(self, name, by, **labels)
        if name == "redelivered":
            death.say(redelivered=by, **labels)

    def beginning(self: Courier, *arguments: Any, **named: Any) -> None:
        death.courier = self
        begin(self, *arguments, **named)

    setattr(Conn, "send", sending)  # noqa: B010 - a method replaced on purpose
    setattr(Conn, "ping", pinging)  # noqa: B010
    setattr(Counters, "add", adding)  # noqa: B010
    setattr(Courier, "__init__", beginning)  # noqa: B010
    if point == "commit":
        _inside_transactions(death)
    elif point != "none":
        cls, name, after = POINTS[point]
        setattr(cls, name, _wrapped(getattr(cls, name), death, point, after))


def _wrapped(method: Callable[..., Any], death: Death, point: str, after: bool) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **named: Any) -> Any:
        if not after:
            death.passed(point)
        result = method(*arguments, **named)
        if after:
            death.passed(point)
        return result

    return wrapper


def _inside_transactions(death: Death) -> None:
    transact = Store._transact

    def transacting(self: Store, work: Callable[[Any], None]) -> None:
        def worked(transaction: Any) -> None:
            work(transaction)
            death.passed("commit")

        transact(self, worked)

    setattr(Store, "_transact", transacting)  # noqa: B010


def main() -> int:
    """Run the sidecar until it dies."""
    report, point, calls, *rest = sys.argv[1:]
    handle = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    install(Death(handle, int(calls), "full" in rest, 1 if "one" in rest else CLIENTS), point)
    return cli.main(["run"])


if __name__ == "__main__":
    raise SystemExit(main())
