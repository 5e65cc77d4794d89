"""HTTP answers of the reference upstream: the envelope of wire page section 6."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

__all__ = ["HttpAnswer", "Refusal", "error", "success"]

JSON = ("Content-Type", "application/json")


class HttpAnswer(NamedTuple):
    """An HTTP answer; a refused upgrade of the Node adapter has neither headers nor body (section 2)."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def data(self) -> Any:
        """`data` of the envelope, or `error` where the call failed."""
        envelope = msgspec.json.decode(self.body)
        return envelope["data"] if envelope["ok"] else envelope["error"]


class Refusal(Exception):
    """A REST call ends in an error envelope."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = error(status, code, message)


def success(data: Any, status: int = 200) -> HttpAnswer:
    return HttpAnswer(status, [JSON], msgspec.json.encode({"ok": True, "data": data}))


def error(status: int, code: str, message: str, headers: Iterable[tuple[str, str]] = ()) -> HttpAnswer:
    body = msgspec.json.encode({"ok": False, "error": {"code": code, "message": message}})
    return HttpAnswer(status, [JSON, *headers], body)
