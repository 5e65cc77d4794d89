"""Media on the sidecar's own origin (discord R8, `SIDECAR_DISCORD_MEDIA=local`): addresses there and back, for a fixed list of hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PREFIX: Final = "/_media/"
SHOWN: Final = ("cdn.discordapp.com", "media.discordapp.net")
"""Hosts whose addresses stand in payloads and answers."""
UPLOADS: Final = ("discord-attachments-uploads-prd.storage.googleapis.com",)
"""Hosts that upload addresses name."""


def localised(data: bytes, origin: str, hosts: Sequence[str] = SHOWN) -> bytes:
    """JSON bytes with the addresses of these hosts on `origin` (`http://127.0.0.1:8787`) instead. Slashes may be escaped (RFC 8259,
    section 7)."""
    here = origin.encode() + PREFIX.encode()
    for name in hosts:
        host = name.encode()
        data = data.replace(b"https://" + host + b"/", here + host + b"/")
        data = data.replace(rb"https:\/\/" + host + rb"\/", here + host + b"/")
    return data


def remote(target: str) -> tuple[str, str] | None:
    """The base URL and raw target that a local media target stands for, None if it is none: no other host is ever fetched."""
    if not target.startswith(PREFIX):
        return None
    host, slash, rest = target[len(PREFIX) :].partition("/")
    if not slash or host not in (*SHOWN, *UPLOADS):
        return None
    return "https://" + host, "/" + rest
