"""How the answers of a Relaycast upstream to `sidecar check` are read (relaycast sections 1 and 2)."""

import pytest

from sidecar.dialects.probe import Answer, Finding
from sidecar.dialects.relaycast.probe import moved_to_node, probes

IDENTITY, SOCKET = probes("at_live_a&b")
MOVED = b'{"ok":false,"error":{"message":"Agent realtime WebSockets have moved to node transport"}}'


def test_the_token_goes_where_this_era_wants_it() -> None:
    assert (IDENTITY.target, IDENTITY.headers) == ("/v1/agent", (("Authorization", "Bearer at_live_a&b"),))
    assert (SOCKET.target, SOCKET.headers, SOCKET.upgrade) == ("/v1/ws?token=at_live_a%26b", (), True)
    assert not IDENTITY.upgrade
    assert "at_live" not in IDENTITY.purpose + SOCKET.purpose


@pytest.mark.parametrize(
    ("body", "said"),
    [(b'{"data":{"name":"Al"}}', "Al"), (b"{}", "accepted"), (b"<html>", "accepted"), (b"[]", "accepted"), (b'{"data":[]}', "accepted")],
)
def test_an_identity(body: bytes, said: str) -> None:
    finding = IDENTITY.judge(Answer(200, body))
    assert isinstance(finding, str)
    assert said in finding


def test_a_server_without_the_identity_path_is_no_problem() -> None:
    assert isinstance(IDENTITY.judge(Answer(404, b"")), str)


@pytest.mark.parametrize(
    ("status", "variable"),
    [(401, "SIDECAR_UPSTREAM_TOKEN"), (403, "SIDECAR_UPSTREAM_TOKEN"), (500, "SIDECAR_UPSTREAM"), (301, "SIDECAR_UPSTREAM")],
)
def test_an_identity_refused(status: int, variable: str) -> None:
    finding = IDENTITY.judge(Answer(status, b""))
    assert isinstance(finding, Finding)
    assert finding.variable == variable
    assert finding.mend


@pytest.mark.parametrize(
    ("status", "body", "variable"),
    [
        (401, b"", "SIDECAR_UPSTREAM_TOKEN"),
        (401, MOVED, "SIDECAR_UPSTREAM"),
        (404, b"", "SIDECAR_UPSTREAM"),
        (426, b"", "SIDECAR_UPSTREAM"),
        (200, b"", "SIDECAR_UPSTREAM"),
    ],
)
def test_a_socket_refused(status: int, body: bytes, variable: str) -> None:
    finding = SOCKET.judge(Answer(status, body))
    assert isinstance(finding, Finding)
    assert finding.variable == variable


def test_a_socket_that_opens() -> None:
    assert isinstance(SOCKET.judge(Answer(101, b"")), str)


def test_moved_is_not_a_bad_token() -> None:
    assert moved_to_node(MOVED)
    assert not moved_to_node(b"")
    assert not moved_to_node(b'{"error":{"code":"invalid_token"}}')
