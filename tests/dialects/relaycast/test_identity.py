"""Tokens and their accounts: asked once, remembered as a keyed hash, forgotten when refused."""

from __future__ import annotations

import pytest

from sidecar.core import actions as act
from sidecar.core.events import RequestFailed, ResponseReceived
from sidecar.dialects.relaycast.identity import VERIFY_S, Identities, Outcome

TOKEN = "at_live_1"
WHO = b'{"ok":true,"data":{"id":"249685981215617024","name":"Alice"}}'


def keyed(secret: str) -> str:
    return "h" + secret[::-1]


def fresh(**state: bytes) -> Identities:
    return Identities({f"token:{keyed(k)}": v for k, v in state.items()}, keyed)


def ask(identities: Identities, token: str = TOKEN) -> act.Request:
    (request,) = identities.ask(token)
    assert isinstance(request, act.Request)
    return request


def answer(identities: Identities, request: act.Request, status: int, body: bytes = b"") -> tuple[Outcome | None, list[act.Action]]:
    return identities.answered(ResponseReceived(request.request, status, [], body))


def test_a_token_is_asked_for_at_once_with_a_time_limit_and_only_once() -> None:
    identities = fresh()
    request = ask(identities)
    assert (request.method, request.target, request.timeout, request.urgent) == ("GET", "/v1/agent", VERIFY_S, True)
    assert list(request.headers) == [("Authorization", "Bearer " + TOKEN)]
    assert identities.ask(TOKEN) == []
    assert ask(identities, "at_live_2").request != request.request


def test_a_known_agent_is_remembered_by_a_keyed_hash_alone() -> None:
    """Invariant 10: no credential reaches the disk."""
    identities = fresh()
    outcome, actions = answer(identities, ask(identities), 200, WHO)
    assert outcome == Outcome(TOKEN, "yes", "249685981215617024", fresh=True)
    assert actions == [act.Commit([act.PutState("token:" + keyed(TOKEN), b"249685981215617024")])]
    assert TOKEN not in repr(actions)
    again, nothing = answer(identities, ask(identities), 200, WHO)
    assert again is not None and not again.fresh and nothing == []


@pytest.mark.parametrize("status", [401, 403, 426])
def test_a_refused_token_leads_nowhere_and_its_hash_goes(status: int) -> None:
    identities = fresh(**{TOKEN: b"A"})
    outcome, actions = answer(identities, ask(identities), status)
    assert outcome == Outcome(TOKEN, "no", status=status)
    assert actions == [act.Commit([act.PutState("token:" + keyed(TOKEN), None)])]
    assert identities.vouched(TOKEN) is None and TOKEN not in identities.verified


@pytest.mark.parametrize(("status", "shown"), [(429, 429), (500, 500), (503, 503), (302, 502), (204, 502)])
def test_an_answer_that_says_nothing_about_the_token_is_no_refusal(status: int, shown: int) -> None:
    identities = fresh(**{TOKEN: b"A"})
    outcome, actions = answer(identities, ask(identities), status)
    assert outcome == Outcome(TOKEN, "unreachable", "A", shown) and actions == []
    assert identities.vouched(TOKEN) == "A"


def test_no_answer_leaves_what_was_vouched_for() -> None:
    identities = fresh(**{TOKEN: b"A"})
    request = ask(identities)
    outcome, _ = identities.answered(RequestFailed(request.request, "cut"))
    assert outcome == Outcome(TOKEN, "unreachable", "A", 503)
    assert identities.answered(RequestFailed(request.request, "again")) == (None, [])


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data":{}}', b'{"data":{"id":null}}', b"[" * 5000, b"\xff"])
def test_an_answer_that_is_no_agent_is_no_vouching(body: bytes) -> None:
    identities = fresh()
    outcome, actions = answer(identities, ask(identities), 200, body)
    assert outcome == Outcome(TOKEN, "unreachable", "", 502) and actions == []


def test_a_server_without_the_endpoint_gives_a_stream_by_the_tokens_hash() -> None:
    identities = fresh()
    outcome, (second,) = answer(identities, ask(identities), 404)
    assert outcome is None and isinstance(second, act.Request) and second.target == "/v1/channels"
    outcome, _ = answer(identities, second, 200, b'{"ok":true,"data":[]}')
    assert outcome is not None and outcome.account == "token-" + keyed(TOKEN)[:16]


def test_without_the_endpoint_a_bad_token_is_refused() -> None:
    identities = fresh()
    _, (second,) = answer(identities, ask(identities), 404)
    assert isinstance(second, act.Request)
    outcome, _ = answer(identities, second, 404)
    assert outcome == Outcome(TOKEN, "no", status=404)


def test_a_number_as_id_is_an_id() -> None:
    identities = fresh()
    outcome, _ = answer(identities, ask(identities), 200, b'{"data":{"id":7}}')
    assert outcome is not None and outcome.account == "7"
