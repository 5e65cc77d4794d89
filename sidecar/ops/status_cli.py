"""`sidecar status`: asks the running sidecar on this machine and prints what it says, as a table or as JSON."""

import http.client
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from sidecar.config import Access, Settings
from sidecar.errors import NotRunning, SidecarError

PATH: Final = "/_sidecar/status"
_TIMEOUT_S: Final = 5.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}

_STREAM_COLUMNS: Final = ("name", "epoch", "head", "upstream", "gaps")
_CONSUMER_COLUMNS: Final = ("stream", "name", "cursor", "lag", "quality")


def run(access: Access | Settings, as_json: bool) -> int:
    """Prints the status and returns 0. Raises NotRunning, or SidecarError if what listens there does not answer well."""
    body = fetch(access)
    if as_json:
        print(body.decode("utf-8", "replace").strip())
        return 0
    try:
        status = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise _something_else(access, "its status is not JSON") from None
    if not isinstance(status, dict):
        raise _something_else(access, "its status is not an object")
    print(table(status))
    return 0


def fetch(access: Access | Settings) -> bytes:
    """The body of the status, as the sidecar sent it. Straight to the listen address, never through a proxy."""
    if access.listen_port == 0:
        raise NotRunning("SIDECAR_LISTEN has port 0, so the port is not known here")
    host = _ANY_ADDRESS.get(access.listen_host, access.listen_host)
    headers = {"Accept": "application/json"}
    if access.local_token:
        headers["Authorization"] = f"Bearer {access.local_token}"
    connection = http.client.HTTPConnection(host, access.listen_port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", PATH, headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (ConnectionRefusedError, socket.gaierror):
        raise NotRunning(f"no sidecar runs at {_address(access)}") from None
    except TimeoutError:
        raise NotRunning(f"what listens at {_address(access)} gives no answer within {_TIMEOUT_S:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise _something_else(access, str(error) or type(error).__name__) from None
    finally:
        connection.close()
    if response.status == 401:
        raise SidecarError(
            f"the sidecar at {_address(access)} refuses the local token" if access.local_token
            else f"the sidecar at {_address(access)} asks for a local token",
            mend="set SIDECAR_LOCAL_TOKEN (or SIDECAR_LOCAL_TOKEN_FILE) as the running sidecar has it",
        )  # fmt: skip
    if response.status != 200:
        raise _something_else(access, f"it answers {PATH} with status {response.status}")
    return body


def table(status: Mapping[str, Any]) -> str:
    """The status for a person: the single values, then streams, then consumers. Keys it does not know are shown too."""
    streams = _rows(status.get("streams"))
    # Consumers stand beside the streams, or inside the stream they belong to.
    consumers = _rows(status.get("consumers"))
    consumers += [{"stream": s.get("name"), **c} for s in streams for c in _rows(s.get("consumers"))]
    head = [f"{name}: {_cell(value)}" for name, value in status.items() if name not in ("streams", "consumers")]
    parts = ["\n".join(head)] if head else []
    parts.append(_grid("streams", _STREAM_COLUMNS, streams, "none yet: no agent has connected"))
    parts.append(_grid("consumers", _CONSUMER_COLUMNS, consumers, "none yet"))
    if told := [f"  {_cell(s.get('name'))}: {said}" for s in streams if (said := facts(s.get("details")))]:
        parts.append("\n".join(["details", *told]))
    return "\n\n".join(parts)


def facts(details: object) -> str:
    """What a dialect tells of a stream, in words: `{"age_s": 240, "budget": {"used": 1}}` is `age 4 min, budget (used 1)`."""
    if not isinstance(details, Mapping):
        return ""
    return ", ".join(_fact(str(name), value) for name, value in details.items() if not str(name).endswith("_since"))


def _fact(name: str, value: object) -> str:
    words = _cell(name.replace("_", " "))
    if isinstance(value, Mapping):
        return f"{words} ({facts(value)})"
    if name.endswith("_s") and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{words[:-2]} {span(value)}"
    return f"{words} {_cell(value)}"


def span(seconds: float) -> str:
    """A length of time for a person, as the page has it."""
    for unit, size, until in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < until:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds / 86400)} days"


def _rows(value: object) -> list[dict[str, Any]]:
    return [dict(row) for row in value if isinstance(row, Mapping)] if isinstance(value, Sequence) else []


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_cell(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value)) or "-"
    # Names come from the upstream: they may not move the terminal's cursor.
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _grid(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], empty: str) -> str:
    if not rows:
        return f"{title}: {empty}"
    cells = [[c.upper() for c in columns], *([_cell(row.get(c)) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return f"{title}\n" + "\n".join(f"  {line}" for line in lines)


def _address(access: Access | Settings) -> str:
    host = f"[{access.listen_host}]" if ":" in access.listen_host else access.listen_host
    return f"{host}:{access.listen_port}"


def _something_else(access: Access | Settings, why: str) -> SidecarError:
    return SidecarError(
        f"what listens at {_address(access)} is not a sidecar that can tell its status: {why}",
        mend="set SIDECAR_LISTEN to the address of the running sidecar",
    )
