"""An ordinary agent on the unmodified PyPI relaycast-sdk: a wildcard handler that writes down what it was handed.

    python python_agent.py '{"token","baseUrl","out","busyMs"}'

`out` is the ground truth of what the handler got: one JSON line for each event, written synchronously when the handler is
done with it (after `busyMs` of work). State changes go to stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from relay_sdk.ws import WsClient  # type: ignore[import-untyped]


def main() -> None:
    told = json.loads(sys.argv[1])
    out = os.open(told["out"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    busy_s = told.get("busyMs", 0) / 1000

    def handle(event: dict[str, Any]) -> None:
        if event.get("type") in ("open", "close"):
            print(json.dumps(event), flush=True)
        elif event.get("type") != "pong":
            if busy_s:
                time.sleep(busy_s)
            os.write(out, json.dumps({"run": os.getpid(), "event": event}).encode() + b"\n")

    client = WsClient(told["token"], base_url=told["baseUrl"])
    client.on("*", handle)
    asyncio.run(client.connect())
    print(json.dumps({"type": "permanently_disconnected"}), flush=True)


if __name__ == "__main__":
    main()
