"""A child process that does not outlive its parent, however the parent ended: it dies when its standard input is closed.

    python -m sidecar.demo.leash run        # the same as `python -m sidecar run`, on a leash

Nothing is written to that input: it is a pipe whose other end the parent holds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def hold() -> None:
    """From now on, end this process at once when its standard input ends."""
    threading.Thread(target=_watch, name="leash", daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Run a sidecar command on a leash."""
    from sidecar import cli

    hold()
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
