"""Who a token is (relaycast R1, R20, R28): asked of the upstream once, remembered on disk only as a keyed hash.

A token's account, which is also its stream's name, is the agent id that `GET /v1/agent` gives. A server without that endpoint but
with the token accepted elsewhere gives a stream named by the token's keyed hash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev

VERIFY_S = 5.0
REFUSED_S = 60.0

Verdict = Literal["yes", "no", "unreachable"]


class _Agent(msgspec.Struct):
    id: str | int


class _Answer(msgspec.Struct):
    data: _Agent


class Outcome(msgspec.Struct, frozen=True):
    """What verifying a token gave. `status`: the upstream's, when it said no; `account`: when yes, or vouched for before; `fresh`: not
    verified in this run before."""

    token: str
    verdict: Verdict
    account: str = ""
    status: int = 503
    fresh: bool = False


class Identities:
    """Tokens and their accounts. `state`: rows `token:<keyed hash>` -> account, from earlier runs."""

    def __init__(self, state: dict[str, bytes], keyed_hash: Callable[[str], str]) -> None:
        self._hash = keyed_hash
        self._vouched = {key[6:]: value.decode() for key, value in state.items() if key.startswith("token:")}
        self.verified: dict[str, str] = {}
        self.asking: dict[str, str] = {}
        self._serial = 0

    def vouched(self, token: str) -> str | None:
        """The account this token had in an earlier run (R28)."""
        return self._vouched.get(self._hash(token))

    def ask(self, token: str) -> list[act.Action]:
        """Verify a token upstream; nothing if that is under way."""
        if token in self.asking.values():
            return []
        return [self._request(token, "/v1/agent", "who")]

    def _request(self, token: str, target: str, kind: str) -> act.Request:
        self._serial += 1
        name = f"{kind}:{self._serial}"
        self.asking[name] = token
        return act.Request(name, "GET", target, [("Authorization", f"Bearer {token}")], timeout=VERIFY_S, urgent=True)

    def answered(self, event: ev.ResponseReceived | ev.RequestFailed) -> tuple[Outcome | None, list[act.Action]]:
        """Take the answer to a request of `ask`; the outcome once it is known, and what to do."""
        token = self.asking.pop(event.request, None)
        if token is None:
            return None, []
        if isinstance(event, ev.RequestFailed):
            return Outcome(token, "unreachable", self.vouched(token) or ""), []
        status = event.status
        if status == 200:
            if event.request.startswith("try:"):
                return self._accept(token, "token-" + self._hash(token)[:16])
            try:
                agent = msgspec.json.decode(event.body, type=_Answer).data
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return Outcome(token, "unreachable", self.vouched(token) or "", 502), []
            return self._accept(token, str(agent.id))
        if status == 404 and event.request.startswith("who:"):
            return None, [self._request(token, "/v1/channels", "try")]
        if status < 400 or status == 429 or status >= 500:
            # This says nothing about the token. A redirect comes from something in between.
            return Outcome(token, "unreachable", self.vouched(token) or "", 502 if status < 400 else status), []
        return Outcome(token, "no", status=status), self.forget(token)

    def _accept(self, token: str, account: str) -> tuple[Outcome, list[act.Action]]:
        fresh = token not in self.verified
        self.verified[token] = account
        hashed = self._hash(token)
        actions: list[act.Action] = []
        if self._vouched.get(hashed) != account:
            self._vouched[hashed] = account
            actions.append(act.Commit([act.PutState("token:" + hashed, account.encode())]))
        return Outcome(token, "yes", account, fresh=fresh), actions

    def forget(self, token: str) -> list[act.Action]:
        """The upstream refused this token: it leads nowhere from now on."""
        self.verified.pop(token, None)
        hashed = self._hash(token)
        if self._vouched.pop(hashed, None) is None:
            return []
        return [act.Commit([act.PutState("token:" + hashed, None)])]
