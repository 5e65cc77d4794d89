"""REST through the sidecar (discord R4, R6 to R8): two answers of its own, media addresses on request, all else as it is.

Some third-party servers add a charset to `application/json`, which some clients do not take; it is left out towards them (R6).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from sidecar.core import actions as act
from sidecar.core.events import Head
from sidecar.dialects.base import HttpError
from sidecar.dialects.discord.media import SHOWN, UPLOADS, localised, remote

_PREFIXES: Final = ("/api/v10", "/api/v9", "/api", "")
_GATEWAY: Final = frozenset(prefix + "/gateway" for prefix in _PREFIXES)
_BOT: Final = frozenset(prefix + "/gateway/bot" for prefix in _PREFIXES)
_JSON: Final = (("Content-Type", "application/json"),)
"""Exactly this: some clients compare it literally (R6)."""
PLAIN: Final = (("application/json; charset=utf-8", "application/json"), ("application/json;charset=utf-8", "application/json"))
"""JSON is UTF-8 with or without it (RFC 8259, section 8.1)."""
_PRIVATE: Final = ("authorization", "cookie")
"""Request fields that are the upstream's alone: a media host is somebody else."""
_UPLOAD: Final = re.compile(r"/channels/[^/?]+/attachments(\?|$)")
_START_LIMIT: Final = {"total": 1000, "remaining": 1000, "reset_after": 14_400_000, "max_concurrency": 1}
"""Local IDENTIFYs cost nothing (R4)."""


def gateway_url(host: str) -> str:
    """The gateway on the origin that a request was sent to, from its `Host`; what follows `?` is the client's to append."""
    return "ws://" + host


def origin_of(host: str) -> str:
    """The sidecar's HTTP origin, from a request's `Host`."""
    return "http://" + host


def asks_for_shards(head: Head) -> bool:
    """Is it the request whose answer names the number of shards?"""
    return head.method == "GET" and head.target.partition("?")[0] in _BOT


def answer(exchange: str, head: Head, *, shards: int, media: bool) -> act.Respond | act.Route:
    """What to do with a plain HTTP request. `shards`: the upstream's last known number; `media`: addresses are rewritten."""
    path = head.target.partition("?")[0]
    if head.method == "GET" and path in _GATEWAY:
        return _respond(exchange, {"url": gateway_url(head.host)})
    if head.method == "GET" and path in _BOT:
        return _respond(exchange, {"url": gateway_url(head.host), "shards": shards, "session_start_limit": _START_LIMIT})
    if media:
        place = remote(head.target)
        if place is not None:
            return act.Route(exchange, base=place[0], target=place[1], drop=_PRIVATE)
        return act.Route(exchange, rewrite="media", only=("application/json",), retype=PLAIN)
    return act.Route(exchange, retype=PLAIN)


def _respond(exchange: str, body: Any) -> act.Respond:
    return act.Respond(exchange, 200, _JSON, msgspec.json.encode(body))


def rewrite_media(head: Head, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """A JSON answer with media addresses on our origin; upload addresses too, in the answer that hands them out (R8)."""
    kind = next((value for name, value in headers if name.lower() == "content-type"), "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        return body
    asks_to_upload = head.method == "POST" and _UPLOAD.search(head.target) is not None
    return localised(body, origin_of(head.host), (*SHOWN, *UPLOADS) if asks_to_upload else SHOWN)


def unavailable(message: str) -> HttpError:
    """R7: the upstream cannot be reached, in Discord's own envelope."""
    return 503, list(_JSON), msgspec.json.encode({"message": message, "code": 0})


REWRITES: Final[Mapping[str, Any]] = {"media": rewrite_media}
