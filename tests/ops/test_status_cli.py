"""`sidecar status`: the table, the JSON, and what it says when no sidecar answers."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sidecar.config import Access
from sidecar.errors import NotRunning, SidecarError
from sidecar.ops import status_cli

STATUS = {
    "version": "0.1.0",
    "upstream": "https://api.example.com",
    "ready": True,
    "streams": [{"name": "relaycast:1", "epoch": "ab12", "head": 42, "upstream": {"state": "up", "since": 5}, "gaps": 1}],
    "consumers": [{"stream": "relaycast:1", "name": "agent", "cursor": 40, "lag": 2, "quality": "handled"}],
}

Serve = Callable[[int, bytes], tuple[Access, list[dict[str, str]]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[tuple[HTTPServer, threading.Thread]] = []

    def start(status: int, body: bytes) -> tuple[Access, list[dict[str, str]]]:
        asked: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return Access(listen_host="127.0.0.1", listen_port=server.server_address[1], local_token="tok"), asked

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_table(serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be used for the machine's own sidecar
    access, asked = serve(200, json.dumps(STATUS).encode())
    assert status_cli.run(access, False) == 0
    assert asked[0]["path"] == "/_sidecar/status"
    assert asked[0]["authorization"] == "Bearer tok"
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["ready:", "yes"] in lines
    assert ["NAME", "EPOCH", "HEAD", "UPSTREAM", "GAPS"] in lines
    assert ["relaycast:1", "ab12", "42", "state=up", "since=5", "1"] in lines
    assert ["STREAM", "NAME", "CURSOR", "LAG", "QUALITY"] in lines
    assert ["relaycast:1", "agent", "40", "2", "handled"] in lines


def test_consumers_inside_their_stream() -> None:
    nested = {"streams": [{"name": "s", "consumers": [{"name": "agent", "cursor": 1}]}]}
    assert ["s", "agent", "1", "-", "-"] in [line.split() for line in status_cli.table(nested).splitlines()]


def test_what_a_dialect_tells_of_a_stream_stands_below_in_words() -> None:
    rows = [
        {"name": "a", "details": {"session_since": 1.5, "session_age_s": 300, "budget": {"used": 2, "ceiling": 200}}},
        {"name": "b", "details": {}},
    ]
    text = status_cli.table({"streams": rows})
    assert text.endswith("details\n  a: session age 5 min, budget (used 2, ceiling 200)")
    assert [status_cli.span(s) for s in (0, 119.9, 120, 7199, 7200, 172_799, 172_800)] == [
        "0 s",
        "119 s",
        "2 min",
        "119 min",
        "2 h",
        "47 h",
        "2 days",
    ]


def test_nothing_there_yet() -> None:
    text = status_cli.table({"streams": [], "consumers": []})
    assert "no agent has connected" in text


def test_a_name_cannot_move_the_terminals_cursor() -> None:
    text = status_cli.table({"streams": [{"name": "a\x1b[2J\nb", "epoch": {"k": "\x07"}}]})
    assert all(line.isprintable() for line in text.splitlines())
    assert "a?[2J?b" in text


def test_json_is_what_the_sidecar_sent(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    access, _ = serve(200, json.dumps(STATUS).encode())
    assert status_cli.run(access, True) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_no_sidecar_runs() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(NotRunning, match=f"no sidecar runs at 127.0.0.1:{port}") as caught:
        status_cli.run(Access(listen_host="127.0.0.1", listen_port=port, local_token=None), False)
    assert "sidecar run" in caught.value.mend


def test_a_port_that_is_not_known() -> None:
    with pytest.raises(NotRunning, match="port 0"):
        status_cli.run(Access(listen_host="127.0.0.1", listen_port=0, local_token=None), False)


@pytest.mark.parametrize("token", [None, "wrong"])
def test_the_local_token_is_asked_for(serve: Serve, token: str | None) -> None:
    access, _ = serve(401, b"")
    with pytest.raises(SidecarError) as caught:
        status_cli.run(Access(listen_host=access.listen_host, listen_port=access.listen_port, local_token=token), False)
    assert "SIDECAR_LOCAL_TOKEN" in caught.value.mend
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(("status", "body"), [(404, b""), (200, b"<html>"), (200, b"[]")])
def test_something_else_listens_there(serve: Serve, status: int, body: bytes) -> None:
    access, _ = serve(status, body)
    with pytest.raises(SidecarError, match="is not a sidecar"):
        status_cli.run(access, False)


def test_it_does_not_speak_http() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def greet() -> None:
            conn, _ = listening.accept()
            with conn:
                conn.recv(65536)
                conn.sendall(b"SSH-2.0\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(SidecarError, match="is not a sidecar"):
            status_cli.run(Access(listen_host="0.0.0.0", listen_port=listening.getsockname()[1], local_token=None), False)
        thread.join()
