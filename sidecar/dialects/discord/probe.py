"""How `sidecar check` tries Discord: whose token is it, what may it identify, has it IDENTIFYs left (discord R4, R9, section 1.4)."""

from __future__ import annotations

from sidecar.dialects.discord import gateway
from sidecar.dialects.discord.identity import bare
from sidecar.dialects.probe import Answer, Finding, Probe

_TOKEN = "SIDECAR_UPSTREAM_TOKEN"
_UPSTREAM = "SIDECAR_UPSTREAM"


def probes(token: str) -> tuple[Probe, ...]:
    """`GET /users/@me`, then `GET /gateway/bot`: neither costs an IDENTIFY."""
    headers = gateway.headers(bare(token))
    return (
        Probe("identity (GET /users/@me)", "/api/v10/users/@me", _judge_identity, headers),
        Probe("gateway (GET /gateway/bot)", "/api/v10/gateway/bot", _judge_gateway, headers),
    )


def _judge_identity(answer: Answer) -> str | Finding:
    if answer.status != 200:
        return _refused(answer, "GET /users/@me")
    user = answer.json()
    if not isinstance(user.get("id"), str):
        return Finding(_UPSTREAM, "answers GET /api/v10/users/@me without an id", "set it to Discord's origin, without a path")
    if user.get("bot") is False:
        return Finding(_TOKEN, "is a person's token, not a bot's", "set it to the token of the bot's own page")
    return f"the token is bot {user.get('username', '?')}'s ({user['id']})"


def _judge_gateway(answer: Answer) -> str | Finding:
    if answer.status != 200:
        return _refused(answer, "GET /gateway/bot")
    told = answer.json()
    limit = told.get("session_start_limit")
    remaining = limit.get("remaining") if isinstance(limit, dict) else None
    if not isinstance(told.get("url"), str) or not isinstance(remaining, int):
        return Finding(_UPSTREAM, "answers GET /api/v10/gateway/bot without url or session_start_limit", "set it to Discord's origin")
    if remaining < 1:
        text = f"has no IDENTIFY left (session_start_limit of {limit.get('total')})"  # type: ignore[union-attr]
        return Finding(_TOKEN, text, f"wait {int(limit.get('reset_after', 0)) // 1000} s; a running session can still be resumed")  # type: ignore[union-attr]
    return f"the gateway is {told['url']}, {told.get('shards', 1)} shard(s), {remaining} IDENTIFYs left"


def _refused(answer: Answer, what: str) -> Finding:
    if answer.status in (401, 403):
        return Finding(
            _TOKEN,
            f"is refused by the upstream (status {answer.status} to {what})",
            "set it to the bot's present token (Developer Portal, Bot, Reset Token), without the word Bot before it",
        )
    if answer.status == 429:
        return Finding(_UPSTREAM, f"limits this address now (429 to {what})", "wait, and look for what else asks with this token")
    text = f"answers {what} with status {answer.status}"
    return Finding(_UPSTREAM, text, "see whether the server is healthy and this is its origin, without a path")
