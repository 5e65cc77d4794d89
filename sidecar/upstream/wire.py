"""HTTP/1.1 messages as bytes: what is forwarded, how a head is written and read, how a body is framed. No I/O.

Header fields are (name, value) pairs of `str` that stand for the wire's bytes one to one (latin-1), in the wire's order, with
the wire's spelling of the names: a byte that came in goes out (relaycast R30).
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

Header = tuple[str, str]
Framing = Literal["none", "length", "chunked", "eof"]

MAX_LINE: Final = 65536
"""Bytes in one header line or in the status line."""
MAX_HEAD: Final = 4 * MAX_LINE
"""Bytes in a whole head."""

# RFC 9110 section 7.6.1: removed by every intermediary, and so is what `Connection` names.
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"})
_DEFAULT_PORT: Final = {"http": 80, "https": 443}


class WireError(ValueError):
    """The peer's bytes are not an HTTP/1.1 message that can be passed on."""


class Origin(NamedTuple):
    """Where to connect: scheme (http or https), host without brackets, port; and the text for a `Host` field."""

    scheme: str
    host: str
    port: int
    authority: str


class Status(NamedTuple):
    """A status line: code and reason phrase (may be empty)."""

    code: int
    reason: str


def split_url(url: str) -> tuple[Origin, str]:
    """Split an absolute URL into where to connect and the raw target, which is not touched: no decoding, no `..`, no dropping
    of an empty query. ws and wss count as http and https. Raises ValueError."""
    scheme, mark, rest = url.partition("://")
    scheme = {"ws": "http", "wss": "https"}.get(scheme.lower(), scheme.lower())
    if not mark or scheme not in _DEFAULT_PORT:
        raise ValueError("not an http(s) URL")
    cut = min((at for at in map(rest.find, "/?#*") if at >= 0), default=len(rest))
    authority, target = rest[:cut].rpartition("@")[2], rest[cut:]
    host, mark, port = authority.rpartition(":")
    if not mark or port.endswith("]"):
        host, port = authority, ""
    number = int(port) if port else _DEFAULT_PORT[scheme]
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or not 0 < number < 65536:
        raise ValueError("URL without a usable host and port")
    if number == _DEFAULT_PORT[scheme]:
        authority = host
    return Origin(scheme, bare, number, authority), target if target.startswith("/") or target == "*" else "/" + target


def first(headers: Iterable[Header], name: str) -> str | None:
    """The value of the first field of that name (given in lower case), None without one."""
    return next((value for key, value in headers if key.lower() == name), None)


def tokens(headers: Iterable[Header], name: str) -> list[str]:
    """The comma-separated members, lower-cased, of all fields of that name (given in lower case)."""
    return [token for key, value in headers if key.lower() == name for part in value.split(",") if (token := part.strip(" \t").lower())]


def end_to_end(headers: Sequence[Header], *, chunked: bool) -> list[Header]:
    """The fields that pass an intermediary. With `chunked` the body is framed in chunks on the next hop too, and says so where
    the peer said so (at the end if it did not); `Content-Length` then goes (RFC 9112 section 6.3)."""
    drop = _HOP_BY_HOP.union(tokens(headers, "connection"))
    if chunked:
        drop |= {"content-length"}
    kept: list[Header] = []
    framed = not chunked
    for name, value in headers:
        low = name.lower()
        if low == "transfer-encoding" and not framed:
            kept.append((name, "chunked"))
            framed = True
        elif low not in drop:
            kept.append((name, value))
    if not framed:
        kept.append(("Transfer-Encoding", "chunked"))
    return kept


def with_host(headers: Sequence[Header], authority: str) -> list[Header]:
    """The same fields with the upstream's `Host`, in the place and the spelling of the peer's; in front if there was none."""
    out: list[Header] = []
    seen = False
    for name, value in headers:
        if name.lower() != "host":
            out.append((name, value))
        elif not seen:
            out.append((name, authority))
            seen = True
    return out if seen else [("Host", authority), *out]


def head_bytes(start: str, headers: Iterable[Header]) -> bytes:
    """A start line and fields as they go over the wire. Raises WireError for text that would break the message apart."""
    lines = [start, *(f"{name}: {value}" for name, value in headers)]
    if any("\r" in line or "\n" in line for line in lines):
        raise WireError("line break in a header")
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def parse_status(line: bytes) -> Status:
    """Read a status line (RFC 9112 section 4), leniently where it does no harm. Raises WireError."""
    version, _, rest = line.partition(b" ")
    code, _, reason = rest.partition(b" ")
    if not version.startswith(b"HTTP/1.") or len(code) != 3 or not code.isdigit() or code < b"100":
        raise WireError("the upstream's answer does not begin with an HTTP/1 status line")
    return Status(int(code), reason.decode("latin-1"))


def parse_fields(lines: Iterable[bytes]) -> list[Header]:
    """Read header lines, line ends removed; a folded line is joined with a blank (RFC 9112 section 5.2). Raises WireError."""
    out: list[Header] = []
    for line in lines:
        text = line.decode("latin-1")
        if text[:1] in {" ", "\t"} and out:
            name, value = out[-1]
            out[-1] = (name, f"{value} {text.strip()}")
            continue
        name, mark, value = text.partition(":")
        if not mark or not name or name != name.strip() or "\r" in value or "\x00" in value:
            raise WireError("malformed header line in the upstream's answer")
        out.append((name, value.strip(" \t")))
    return out


def framing(method: str, status: int, headers: Sequence[Header]) -> tuple[Framing, int]:
    """How an answer's body is delimited (RFC 9112 section 6.3), and its length in bytes where that is known. Raises WireError."""
    if method == "HEAD" or status < 200 or status in {204, 304}:
        return "none", 0
    coding = tokens(headers, "transfer-encoding")
    if coding:
        if coding != ["chunked"]:
            raise WireError("the upstream's answer uses a transfer coding other than chunked")
        return "chunked", 0
    lengths = set(tokens(headers, "content-length"))
    if not lengths:
        return "eof", 0
    if len(lengths) > 1 or not (text := lengths.pop()).isascii() or not text.isdigit():
        raise WireError("the upstream's answer has no usable Content-Length")
    return "length", int(text)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (not the last, so `data` must not be empty)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: bytes = b"") -> bytes:
    """The end of a chunked body; `trailers` are field lines with their line ends."""
    return b"0\r\n" + trailers + b"\r\n"
