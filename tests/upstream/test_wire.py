"""HTTP/1.1 framing rules, without I/O."""

import pytest

from sidecar.upstream import wire
from sidecar.upstream.wire import Origin, WireError


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://h/", Origin("http", "h", 80, "h"), "/"),
        ("https://h", Origin("https", "h", 443, "h"), "/"),
        ("https://h:443/x", Origin("https", "h", 443, "h"), "/x"),
        ("https://h:8443/x", Origin("https", "h", 8443, "h:8443"), "/x"),
        ("ws://h:80/x", Origin("http", "h", 80, "h"), "/x"),
        ("WSS://h/x", Origin("https", "h", 443, "h"), "/x"),
        ("http://[::1]:81/x", Origin("http", "::1", 81, "[::1]:81"), "/x"),
        ("http://[::1]/x", Origin("http", "::1", 80, "[::1]"), "/x"),
        ("http://u:p@h:81/x@y", Origin("http", "h", 81, "h:81"), "/x@y"),
        ("http://h?", Origin("http", "h", 80, "h"), "/?"),
        ("http://h//a/../%2F?#f", Origin("http", "h", 80, "h"), "//a/../%2F?#f"),
        ("http://h*", Origin("http", "h", 80, "h"), "*"),
    ],
)
def test_split_url(url: str, origin: Origin, target: str) -> None:
    assert wire.split_url(url) == (origin, target)


@pytest.mark.parametrize("url", ["", "h/x", "ftp://h/", "http://", "http://:80/", "http://h:0/", "http://h:99999/", "http://h:x/"])
def test_split_url_refuses(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|int"):
        wire.split_url(url)


def test_a_line_break_cannot_be_smuggled_into_a_head() -> None:
    for headers in ([("X", "a\r\nY: b")], [("X\n", "a")]):
        with pytest.raises(WireError):
            wire.head_bytes("GET / HTTP/1.1", headers)
    with pytest.raises(WireError):
        wire.head_bytes("GET /\r\nX: 1 HTTP/1.1", [])


@pytest.mark.parametrize(
    ("method", "status", "headers", "expected"),
    [
        ("GET", 200, [("content-length", "5")], ("length", 5)),
        ("GET", 200, [("Content-Length", "5"), ("content-length", "5, 5")], ("length", 5)),
        ("GET", 200, [("Transfer-Encoding", "Chunked")], ("chunked", 0)),
        ("GET", 200, [("Transfer-Encoding", "chunked"), ("Content-Length", "5")], ("chunked", 0)),
        ("GET", 200, [], ("eof", 0)),
        ("HEAD", 200, [("Content-Length", "5")], ("none", 0)),
        ("GET", 204, [("Content-Length", "5")], ("none", 0)),
        ("GET", 304, [("Transfer-Encoding", "chunked")], ("none", 0)),
        ("GET", 101, [], ("none", 0)),
    ],
)
def test_framing(method: str, status: int, headers: list[wire.Header], expected: tuple[str, int]) -> None:
    assert wire.framing(method, status, headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "5"), ("Content-Length", "6")],
        [("Content-Length", "-5")],
        [("Content-Length", "5x")],
        [("Content-Length", "²")],
        [("Transfer-Encoding", "gzip, chunked")],
        [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
    ],
)
def test_framing_refuses_what_is_ambiguous(headers: list[wire.Header]) -> None:
    with pytest.raises(WireError):
        wire.framing("GET", 200, headers)


@pytest.mark.parametrize("line", [b"", b"HTTP/2 200 OK", b"HTTP/1.1", b"HTTP/1.1 20 OK", b"HTTP/1.1 abc", b"HTTP/1.1 099 x"])
def test_status_lines_that_are_none(line: bytes) -> None:
    with pytest.raises(WireError):
        wire.parse_status(line)


def test_fields() -> None:
    lines = [b"A: 1 ", b"b:\t2", b"C:", b" folded", b"D: x:y"]
    assert wire.parse_fields(lines) == [("A", "1"), ("b", "2"), ("C", " folded"), ("D", "x:y")]
    for bad in (b"no colon", b": empty", b"A : 1", b"A: 1\r2", b" first"):
        with pytest.raises(WireError):
            wire.parse_fields([bad])


def test_content_length_goes_when_the_body_is_chunked() -> None:
    headers = [("Content-Length", "5"), ("transfer-encoding", "chunked"), ("X", "1")]
    assert wire.end_to_end(headers, chunked=True) == [("transfer-encoding", "chunked"), ("X", "1")]
    assert wire.end_to_end([("X", "1")], chunked=True) == [("X", "1"), ("Transfer-Encoding", "chunked")]


def test_host_is_put_where_it_was_and_once() -> None:
    assert wire.with_host([("A", "1"), ("hOST", "x"), ("Host", "y")], "h") == [("A", "1"), ("hOST", "h")]
    assert wire.with_host([("A", "1")], "h") == [("Host", "h"), ("A", "1")]
