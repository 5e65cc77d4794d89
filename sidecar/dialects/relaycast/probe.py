"""How `sidecar check` tries a Relaycast upstream: who am I, then the agent socket (relaycast sections 1 and 2)."""

from urllib.parse import quote

from sidecar.dialects.probe import Answer, Finding, Probe

_TOKEN = "SIDECAR_UPSTREAM_TOKEN"
_UPSTREAM = "SIDECAR_UPSTREAM"


def probes(token: str) -> tuple[Probe, ...]:
    """`GET /v1/agent` with the token, then an upgrade of `/v1/ws`, the token in the query as this era wants it."""
    return (
        Probe("identity (GET /v1/agent)", "/v1/agent", _judge_identity, (("Authorization", f"Bearer {token}"),)),
        Probe("agent socket (/v1/ws)", "/v1/ws?token=" + quote(token, safe=""), _judge_socket, upgrade=True),
    )


def moved_to_node(body: bytes) -> bool:
    """Whether a 401 says that agent sockets are gone from this server (engine 5.0.1 and later), not a bad token."""
    return b"node transport" in body.lower()


def _judge_identity(answer: Answer) -> str | Finding:
    if answer.status == 200:
        data = answer.json().get("data")
        name = data.get("name") if isinstance(data, dict) else None
        return f"the token is agent {name}'s" if isinstance(name, str) else "the token is accepted"
    if answer.status in (401, 403):
        return Finding(
            _TOKEN,
            f"is refused by the upstream (status {answer.status} to GET /v1/agent)",
            "set it to the agent's own token (at_live_...), as the server knows it now; a rotated one no longer counts",
        )
    if answer.status == 404:
        # Some servers lack this path (relaycast R1); the socket then tells whether the token is good.
        return "the upstream has no GET /v1/agent; the agent's stream is named by a hash of its token"
    return _unexpected(answer, "GET /v1/agent")


def _judge_socket(answer: Answer) -> str | Finding:
    if answer.status == 101:
        return "the agent socket opens"
    if answer.status == 401 and moved_to_node(answer.body):
        return Finding(
            _UPSTREAM,
            "runs an engine from 5.0.1 on, where agent sockets have moved to node transport (/v1/node/ws);"
            " the sidecar can tunnel that, not protect it",
            "use a server up to engine 5.0.0; the token itself is not the problem",
        )
    if answer.status in (401, 403):
        return Finding(
            _TOKEN,
            f"is refused at the agent socket (status {answer.status} to /v1/ws)",
            "set it to an agent's token (at_live_...); a workspace key or a node token has no stream of its own here",
        )
    if answer.status in (404, 426):
        return Finding(
            _UPSTREAM,
            f"has no agent socket at /v1/ws (status {answer.status})",
            "set it to the server's bare origin, and let every proxy before it pass WebSocket upgrades",
        )
    return _unexpected(answer, "/v1/ws")


def _unexpected(answer: Answer, what: str) -> Finding:
    return Finding(
        _UPSTREAM,
        f"answers {what} with status {answer.status}",
        "see whether the server is healthy and this is its base URL",
    )
