"""`sidecar check`: what is in effect, where it comes from, and whether the upstream can be worked with.

The environment itself was validated by `sidecar.config.load`. What is found wrong here is raised as one `ConfigError`, so
that it is told, and ends the process, like every other error of configuration. Nothing is created or changed.
"""

import asyncio
import base64
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sidecar.config import COMMON, Settings, knobs_of
from sidecar.dialects import registry
from sidecar.dialects.probe import Answer, Finding, Probe
from sidecar.environment import FILE
from sidecar.errors import ConfigError, Problem, UpstreamError
from sidecar.logs import Redactor
from sidecar.upstream.http import UpstreamHttp
from sidecar.variables import Variable, quoted, shown

_PROBE_S: Final = 10.0
_BODY_MAX: Final = 65536


def run(settings: Settings, environ: Mapping[str, str]) -> int:
    """Prints the settings in effect and what the probes found; returns 0. Raises ConfigError with every problem found."""
    redact = Redactor(settings.secrets())
    print("settings in effect")
    rows = effective(settings, environ)
    for name, value, source in rows:
        print(redact(f"  {name:<{max(len(n) for n, _, _ in rows)}}  {value}  ({source})"))
    problems = _local_problems(settings, environ)
    for note in _notes(settings, environ):
        print(redact(f"note: {note}"))
    print(f"upstream {settings.upstream}")
    found, upstream_problem = asyncio.run(probe(settings))
    for line in found:
        print(redact(f"  {line}"))
    if upstream_problem is not None:
        problems.append(upstream_problem)
    if problems:
        raise ConfigError(problems)
    print("nothing to mend")
    return 0


def effective(settings: Settings, environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(variable, value as shown, where it comes from) for every variable that counts for this dialect."""
    prefix = registry.prefix(settings.dialect)
    rows: list[tuple[Variable, object]] = []
    for variable in COMMON:
        rows.append((variable, _value(settings, variable.name)))
    for variable in knobs_of(settings.dialect):
        rows.append((variable, getattr(settings.knobs, variable.name.removeprefix(prefix).lower())))
    return [(variable.name, shown(variable, value), _source(variable, environ)) for variable, value in rows]


def _value(settings: Settings, name: str) -> object:
    if name == "SIDECAR_LISTEN":
        host = f"[{settings.listen_host}]" if ":" in settings.listen_host else settings.listen_host
        return f"{host}:{settings.listen_port}"
    return getattr(settings, name.removeprefix("SIDECAR_").lower())


def _source(variable: Variable, environ: Mapping[str, str]) -> str:
    if environ.get(variable.name, "").strip():
        return "environment"
    if variable.secret and environ.get(variable.name + FILE, "").strip():
        return variable.name + FILE
    return "default"


def _local_problems(settings: Settings, environ: Mapping[str, str]) -> list[Problem]:
    """What this machine has against the settings: the data directory, the CA file."""
    problems = []
    nearest = _nearest_existing(settings.data_dir)
    shown_dir = quoted(str(settings.data_dir), 200)
    if not nearest.is_dir():
        text = f"leads through {quoted(str(nearest), 200)}, which is not a directory: {shown_dir}"
        problems.append(Problem("SIDECAR_DATA_DIR", text, "set it to a directory on a local disk"))
    elif not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        verb = "be used" if nearest == settings.data_dir else f"be created in {quoted(str(nearest), 200)}"
        problems.append(
            Problem(
                "SIDECAR_DATA_DIR",
                f"cannot {verb} by this user: {shown_dir}",
                "set it to a directory this user may write, or change its owner",
            )
        )
    authorities = environ.get("SSL_CERT_FILE", "")
    if authorities and not os.access(authorities, os.R_OK):
        # OpenSSL passes over a missing one in silence; every certificate is then untrusted.
        text = f"names a file that cannot be read: {quoted(authorities, 200)}"
        problems.append(Problem("SSL_CERT_FILE", text, "name a PEM file with the private CA, or unset it"))
    return problems


def _nearest_existing(path: Path) -> Path:
    for place in (path, *path.parents):
        if os.path.lexists(place):
            return place
    return Path("/")


def _notes(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    notes = []
    for other in registry.names():
        if other != settings.dialect:
            unused = [variable.name for variable in knobs_of(other) if environ.get(variable.name)]
            notes += [f"{name} is not used: SIDECAR_DIALECT is {settings.dialect}" for name in unused]
    if settings.upstream.startswith("http:") and not settings.upstream.startswith(("http://127.", "http://localhost", "http://[::1]")):
        notes.append("SIDECAR_UPSTREAM is plain http: tokens and events can be read on the way")
    if settings.listen_port and _taken(settings.listen_host, settings.listen_port):
        notes.append("something listens at SIDECAR_LISTEN already; if it is this sidecar, `sidecar status` shows it")
    return notes


def _taken(host: str, port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probing:
            probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probing.bind((host, port))
    except OSError:
        return True
    return False


async def probe(settings: Settings) -> tuple[list[str], Problem | None]:
    """Asks the upstream: first whether it is there, then, with a token, what the dialect wants to know.

    Returns what is well, in order, and the first problem. Stops at that: what comes later would only repeat it.
    """
    steps: list[Probe] = [Probe("reachable (GET /)", "/", _judge_presence)]
    if settings.upstream_token is not None:
        steps += registry.configured(settings.dialect).probes(settings.upstream_token)
    said: list[str] = []
    http = UpstreamHttp(connect_timeout=_PROBE_S / 2)
    for step in steps:
        try:
            async with asyncio.timeout(_PROBE_S):
                finding = step.judge(await _ask(http, settings.upstream, step))
        except UpstreamError as error:
            return said, Problem("SIDECAR_UPSTREAM", f"cannot be worked with ({step.purpose}): {error.text}", _mend(error.text))
        except TimeoutError:
            text = f"gives no answer within {_PROBE_S:g} s ({step.purpose})"
            return said, Problem("SIDECAR_UPSTREAM", text, _mend("without an answer"))
        if isinstance(finding, Finding):
            return said, Problem(finding.variable, finding.text, finding.mend)
        said.append(f"{step.purpose}: {finding}")
    if settings.upstream_token is None:
        said.append("no SIDECAR_UPSTREAM_TOKEN: what an agent's own token may do was not tried")
    return said, None


async def _ask(http: UpstreamHttp, upstream: str, step: Probe) -> Answer:
    headers = [("Accept", "*/*"), *step.headers]
    if step.upgrade:
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        headers += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
        headers += [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key)]
    async with http.exchange("GET", upstream + step.target, headers, upgrade=step.upgrade) as answer:
        body = bytearray()
        if answer.status != 101:
            async for piece in answer.body():
                body += piece
                if len(body) >= _BODY_MAX:
                    break
        return Answer(answer.status, bytes(body[:_BODY_MAX]))


def _judge_presence(answer: Answer) -> str | Finding:
    if answer.status in (502, 503, 504):
        return Finding(
            "SIDECAR_UPSTREAM",
            f"is answered for by a gateway: status {answer.status}, the server behind it is away",
            "see whether the server runs",
        )
    if 300 <= answer.status < 400:
        return f"it answers with a redirect (status {answer.status}), which the sidecar passes on and never follows"
    return f"it answers HTTP (status {answer.status})"


def _mend(text: str) -> str:
    """What to do about a failure to reach the upstream, from its text (sidecar.upstream.dial)."""
    if "TLS certificate" in text:
        return "set SSL_CERT_FILE to a PEM file with the CA that signed it, or correct the host in SIDECAR_UPSTREAM"
    if "proxy" in text:
        return "correct HTTPS_PROXY, or name the host in NO_PROXY"
    if "SSL" in text or "not HTTP" in text or "malformed" in text:
        return "see whether the port speaks TLS (https://) or plain HTTP (http://)"
    return "see whether host and port are right, the server runs, and no firewall or missing proxy setting is in between"
