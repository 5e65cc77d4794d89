"""The page for a person, `/_sidecar/`: one HTML file without anything from elsewhere, under a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final


def _policy(html: bytes) -> str:
    """Content-Security-Policy (CSP level 3) that allows exactly this file's script and style, and reading the status."""
    script, style = (_source(html, tag) for tag in (b"script", b"style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _source(html: bytes, tag: bytes) -> str:
    inner = html.partition(b"<" + tag + b">")[2].partition(b"</" + tag + b">")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner).digest()).decode()}'"


HTML: Final = files("sidecar.ops").joinpath("page.html").read_bytes()
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": _policy(HTML),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
