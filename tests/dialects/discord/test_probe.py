"""What `sidecar check` makes of Discord's answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.dialects.discord import probe
from sidecar.dialects.probe import Answer, Finding

ME = {"id": "42", "username": "bot", "bot": True}
GATEWAY = {"url": "wss://gateway.example", "shards": 2, "session_start_limit": {"total": 1000, "remaining": 7, "reset_after": 5000}}


def judge(which: int, body: Any, status: int = 200) -> str | Finding:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return probe.probes("a.b.c")[which].judge(Answer(status, data))


def test_both_are_asked_with_the_bare_token_behind_one_bot() -> None:
    for token in ("a.b.c", "Bot a.b.c"):
        assert [dict(asked.headers)["Authorization"] for asked in probe.probes(token)] == ["Bot a.b.c"] * 2
    assert [asked.target for asked in probe.probes("x")] == ["/api/v10/users/@me", "/api/v10/gateway/bot"]
    assert not any(asked.upgrade for asked in probe.probes("x")), "a check opens no session"


def test_what_is_well_is_said() -> None:
    assert judge(0, ME) == "the token is bot bot's (42)"
    assert judge(1, GATEWAY) == "the gateway is wss://gateway.example, 2 shard(s), 7 IDENTIFYs left"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("status", "variable", "says"),
    [
        (401, "SIDECAR_UPSTREAM_TOKEN", "refused"),
        (403, "SIDECAR_UPSTREAM_TOKEN", "refused"),
        (429, "SIDECAR_UPSTREAM", "limits"),
        (502, "SIDECAR_UPSTREAM", "502"),
    ],
)
def test_a_status_names_the_variable_to_mend(which: int, status: int, variable: str, says: str) -> None:
    found = judge(which, {}, status)
    assert isinstance(found, Finding) and found.variable == variable and says in found.text and found.mend


@pytest.mark.parametrize("body", [b"<html>", b"[]", {}, {"id": 42}])
def test_what_is_not_discord_is_said(body: Any) -> None:
    for which in (0, 1):
        found = judge(which, body)
        assert isinstance(found, Finding) and found.variable == "SIDECAR_UPSTREAM"


def test_a_persons_token_and_a_spent_budget_are_found() -> None:
    person = judge(0, ME | {"bot": False})
    assert isinstance(person, Finding) and "person" in person.text
    spent = judge(1, GATEWAY | {"session_start_limit": {"total": 1000, "remaining": 0, "reset_after": 61000}})
    assert isinstance(spent, Finding) and spent.variable == "SIDECAR_UPSTREAM_TOKEN" and "wait 61 s" in spent.mend
