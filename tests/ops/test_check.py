"""`sidecar check` against upstreams that are well, refuse, are away, or speak something else."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sidecar import cli
from sidecar.config import load
from sidecar.demo.server import ReferenceServer
from sidecar.errors import ConfigError, Problem
from sidecar.ops import check

TOKEN = "at_live_hunter2"
Answers = dict[str, tuple[int, bytes]]


class Upstream:
    """An HTTP server with fixed answers by path; other paths get 404. Remembers what was asked."""

    def __init__(self, answers: Answers, tls: ssl.SSLContext | None = None) -> None:
        asked: list[tuple[str, dict[str, str]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, body = answers.get(self.path.partition("?")[0], (404, b""))
                if status == 0:
                    return  # the connection ends without an answer
                if status == 1:
                    self.wfile.write(body)  # whatever it is, it is not HTTP
                    return
                self.send_response(status)
                if status == 101:
                    self.send_header("Upgrade", "websocket")
                    self.send_header("Connection", "Upgrade")
                else:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if status != 101:
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self.asked = asked
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    made: list[Upstream] = []

    def start(answers: Answers, tls: ssl.SSLContext | None = None) -> Upstream:
        made.append(Upstream(answers, tls))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file") or name.startswith("SIDECAR_"):
            monkeypatch.delenv(name)


def environment(tmp_path: Path, url: str, **more: str) -> dict[str, str]:
    return {
        "SIDECAR_DIALECT": "relaycast",
        "SIDECAR_UPSTREAM": url,
        "SIDECAR_DATA_DIR": str(tmp_path / "data"),
        "SIDECAR_LISTEN": "127.0.0.1:0",
    } | more


def run(environ: dict[str, str]) -> int:
    return check.run(load(environ), environ)


def problem(environ: dict[str, str]) -> Problem:
    with pytest.raises(ConfigError) as caught:
        run(environ)
    (found,) = caught.value.problems
    assert found.mend
    return found


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return int(listening.getsockname()[1])


WELL: Answers = {
    "/": (200, b""),
    "/v1/agent": (200, b'{"ok":true,"data":{"id":"1","name":"Alice"}}'),
    "/v1/ws": (101, b""),
}


def test_all_is_well(tmp_path: Path, upstream: Callable[..., Upstream], capsys: pytest.CaptureFixture[str]) -> None:
    server = upstream(WELL)
    secret = "swordfish"
    environ = environment(tmp_path, f"http://{server.address}", SIDECAR_UPSTREAM_TOKEN=TOKEN, SIDECAR_LOCAL_TOKEN=secret)
    assert run(environ) == 0
    out = capsys.readouterr().out
    assert "Alice" in out
    assert "the agent socket opens" in out
    assert out.endswith("nothing to mend\n")
    assert "hunter2" not in out
    assert secret not in out
    assert [path for path, _ in server.asked] == ["/", "/v1/agent", f"/v1/ws?token={TOKEN}"]
    assert server.asked[1][1]["authorization"] == f"Bearer {TOKEN}"
    assert server.asked[2][1]["upgrade"] == "websocket"


def test_the_effective_settings_and_where_they_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    token.write_text("swordfish")
    token.chmod(0o600)
    environ = environment(
        tmp_path,
        f"http://127.0.0.1:{free_port()}",
        SIDECAR_LOCAL_TOKEN_FILE=str(token),
        SIDECAR_LISTEN="[::1]:0",
        SIDECAR_RETENTION_S="1h",
        SIDECAR_RELAYCAST_OVERLAP="8",
    )
    rows = {name: (value, source) for name, value, source in check.effective(load(environ), environ)}
    assert rows["SIDECAR_LISTEN"] == ("[::1]:0", "environment")
    assert rows["SIDECAR_RETENTION_S"] == ("3600 s", "environment")
    assert rows["SIDECAR_RETENTION_BYTES"] == ("1073741824 bytes", "default")
    assert rows["SIDECAR_LOCAL_TOKEN"] == ("set, not shown", "SIDECAR_LOCAL_TOKEN_FILE")
    assert rows["SIDECAR_UPSTREAM_TOKEN"] == ("not set", "default")
    assert rows["SIDECAR_LINGER_S"] == ("300 s", "default")
    assert rows["SIDECAR_RELAYCAST_OVERLAP"] == ("8 events", "environment")
    assert rows["SIDECAR_RELAYCAST_PING_S"] == ("15 s", "default")
    problem(environ)
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in rows)
    assert "swordfish" not in out


def test_without_a_token_only_presence_is_probed(
    tmp_path: Path, upstream: Callable[..., Upstream], capsys: pytest.CaptureFixture[str]
) -> None:
    server = upstream({})
    assert run(environment(tmp_path, f"http://{server.address}/base")) == 0
    assert [path for path, _ in server.asked] == ["/base/"]
    assert "was not tried" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "variable", "words"),
    [
        ({"/": (503, b"")}, "SIDECAR_UPSTREAM", "gateway"),
        ({"/": (0, b"")}, "SIDECAR_UPSTREAM", "without an answer"),
        ({"/": (1, b"SSH-2.0-x\r\n\r\n")}, "SIDECAR_UPSTREAM", "cannot be worked with"),
        ({"/v1/agent": (401, b'{"ok":false}')}, "SIDECAR_UPSTREAM_TOKEN", "refused"),
        ({"/v1/agent": (500, b"")}, "SIDECAR_UPSTREAM", "500"),
        ({"/v1/ws": (401, b"")}, "SIDECAR_UPSTREAM_TOKEN", "agent socket"),
        ({"/v1/ws": (404, b"")}, "SIDECAR_UPSTREAM", "no agent socket"),
        (
            {"/v1/ws": (401, b'{"error":{"message":"Agent realtime WebSockets have moved to node transport"}}')},
            "SIDECAR_UPSTREAM",
            "node transport",
        ),
    ],
)
def test_an_upstream_that_is_not_well(
    tmp_path: Path, upstream: Callable[..., Upstream], changed: Answers, variable: str, words: str
) -> None:
    server = upstream(WELL | changed)
    found = problem(environment(tmp_path, f"http://{server.address}", SIDECAR_UPSTREAM_TOKEN=TOKEN))
    assert found.variable == variable
    assert words in found.text
    assert "hunter2" not in found.text + found.mend


def test_nobody_listens(tmp_path: Path) -> None:
    found = problem(environment(tmp_path, f"http://127.0.0.1:{free_port()}"))
    assert found.variable == "SIDECAR_UPSTREAM"


def test_tls_asked_of_plain_http(tmp_path: Path, upstream: Callable[..., Upstream]) -> None:
    found = problem(environment(tmp_path, f"https://{upstream(WELL).address}"))
    assert found.variable == "SIDECAR_UPSTREAM"
    assert "http://" in found.mend


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return key, cert


def test_a_private_ca(
    tmp_path: Path, upstream: Callable[..., Upstream], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cert = certificate
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    environ = environment(tmp_path, f"https://{upstream(WELL, tls).address}")
    found = problem(environ)
    assert found.variable == "SIDECAR_UPSTREAM"
    assert "SSL_CERT_FILE" in found.mend
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    assert run(environ | {"SSL_CERT_FILE": str(cert)}) == 0


def test_a_ca_file_that_is_not_there(tmp_path: Path, upstream: Callable[..., Upstream]) -> None:
    found = problem(environment(tmp_path, f"http://{upstream(WELL).address}", SSL_CERT_FILE=str(tmp_path / "missing.pem")))
    assert found.variable == "SSL_CERT_FILE"


def test_a_proxy_that_is_away(tmp_path: Path, upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    found = problem(environment(tmp_path, f"http://{upstream(WELL).address}"))
    assert "NO_PROXY" in found.mend


def test_a_data_directory_below_a_file(tmp_path: Path, upstream: Callable[..., Upstream]) -> None:
    (tmp_path / "file").touch()
    url = f"http://{upstream(WELL).address}"
    for path in ("file", "file/data"):
        assert problem(environment(tmp_path, url, SIDECAR_DATA_DIR=str(tmp_path / path))).variable == "SIDECAR_DATA_DIR"


def test_a_data_directory_that_may_not_be_made(tmp_path: Path, upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    assert problem(environment(tmp_path, f"http://{upstream(WELL).address}")).variable == "SIDECAR_DATA_DIR"


def test_nothing_is_created(tmp_path: Path, upstream: Callable[..., Upstream]) -> None:
    assert run(environment(tmp_path, f"http://{upstream(WELL).address}")) == 0
    assert not list(tmp_path.iterdir())


def test_a_listen_address_in_use_is_a_note(tmp_path: Path, upstream: Callable[..., Upstream], capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        listen = f"127.0.0.1:{listening.getsockname()[1]}"
        assert run(environment(tmp_path, f"http://{upstream(WELL).address}", SIDECAR_LISTEN=listen)) == 0
    assert "sidecar status" in capsys.readouterr().out


def test_the_reference_upstream_passes(tmp_path: Path) -> None:
    async def probed(token: str | None) -> tuple[list[str], Problem | None]:
        async with ReferenceServer() as server:
            agent = server.world.add_agent(server.world.add_workspace(), "Alice")
            environ = environment(tmp_path, server.url, SIDECAR_UPSTREAM_TOKEN=token or agent.token)
            return await check.probe(load(environ))

    said, found = asyncio.run(probed(None))
    assert found is None
    assert "Alice" in " ".join(said)
    _, found = asyncio.run(probed("at_live_wrong"))
    assert found is not None
    assert found.variable == "SIDECAR_UPSTREAM_TOKEN"


def test_on_the_command_line(
    tmp_path: Path, upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(tmp_path, f"http://{upstream(WELL).address}").items():
        monkeypatch.setenv(name, value)
    assert cli.main(["check"]) == 0
    monkeypatch.setenv("SIDECAR_UPSTREAM", f"http://127.0.0.1:{free_port()}")
    assert cli.main(["check"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sidecar: error: SIDECAR_UPSTREAM ")
    assert "\n  mend: " in err
