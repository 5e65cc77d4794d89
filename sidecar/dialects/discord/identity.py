"""Who a token is (discord R9, R22): asked of the upstream, remembered on disk only as a keyed hash, with what was refused set apart.

An account is a bot id. A token that an earlier run has proven is taken at its word and asked again behind the scenes; one that nobody
has seen is asked with `GET /users/@me` first. What the upstream refused is refused here for a minute without asking it: ten thousand
such answers in ten minutes would ban the address (section 1.4). An upstream without that route, as small
stand-ins for Discord are, proves a token by its gateway alone: the account is then named by the token's keyed hash, and keeps that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.discord import gateway

WHO = "/api/v10/users/@me"
VERIFY_S = 5.0
REFUSED_S = 60.0
RETRY_MAX_S = 30.0
BAD_TOKEN = 4004
BAD_INTENTS = (4013, 4014)
NO_ROUTE = (404, 405, 501)
NO_ROUTE_TIMES = 3
"""Said so often in a row, it is believed: a proxy may say it while its server restarts."""

_TOKEN = re.compile(r"[!-~]+")

BY_TOKEN = "token-"

Verdict = Literal["yes", "no", "unknown"]


class _User(msgspec.Struct):
    id: str | int


class Outcome(msgspec.Struct, frozen=True):
    """What asking for a token gave. `unknown`: the upstream is away, or its answer says nothing about the token."""

    token: str
    verdict: Verdict
    account: str = ""


class Identities:
    """Tokens and their bots. `state`: rows `token:<keyed hash>` -> bot id, from earlier runs. `told_s`: seconds that a 429 told to wait,
    0 once they are over."""

    def __init__(self, state: Mapping[str, bytes], keyed_hash: Callable[[str], str]) -> None:
        self.hash = keyed_hash
        self._accounts = {key[6:]: value.decode() for key, value in state.items() if key.startswith("token:")}
        self._verified: set[str] = set()
        self._asking: dict[str, str] = {}
        self._serial = 0
        self._failures = 0
        self.told_s = 0.0
        self._no_route: dict[str, int] = {}

    def account(self, token: str) -> str | None:
        """The bot that this token was proven to be, in this run or an earlier one."""
        return self._accounts.get(self.hash(token))

    def is_verified(self, token: str) -> bool:
        """Was it proven in this run?"""
        return self.hash(token) in self._verified

    def ask(self, token: str) -> list[act.Action]:
        """Verify a token upstream; nothing if that is under way or done in this run, or a 429 told to wait."""
        if self.told_s or token in self._asking.values() or self.is_verified(token):
            return []
        self._serial += 1
        name = f"who:{self._serial}"
        self._asking[name] = token
        return [act.Request(name, "GET", WHO, gateway.headers(token), timeout=VERIFY_S, urgent=True)]

    def answered(self, event: ev.ResponseReceived | ev.RequestFailed) -> tuple[Outcome | None, list[act.Action]]:
        """Take the answer to a request of `ask`: the outcome (None: not one of these), and what to do."""
        token = self._asking.pop(event.request, None)
        if token is None:
            return None, []
        if isinstance(event, ev.ResponseReceived):
            if event.status == 401:
                self._failures = 0
                return Outcome(token, "no"), self.forget(token)
            known = self.account(token) or ""
            if event.status == 200 and (account := _bot_id(event.body)):
                self._failures = 0
                # A name that stands for a token stays: under another one its stream would begin anew.
                account = known if known.startswith(BY_TOKEN) else account
                return Outcome(token, "yes", account), self._learn(token, account)
            said = self._no_route.pop(token, 0) + 1
            if event.status in NO_ROUTE and said < NO_ROUTE_TIMES:
                self._no_route[token] = said
            elif event.status in NO_ROUTE:
                account = known or BY_TOKEN + self.hash(token)[:16]
                return Outcome(token, "yes", account), self._learn(token, account)
        self._failures += 1
        told = event.header("retry-after") if isinstance(event, ev.ResponseReceived) and event.status == 429 else None
        self.told_s = float(told) if told and told.isascii() and told.isdigit() and len(told) < 5 else 0.0
        return Outcome(token, "unknown", self.account(token) or ""), []

    @property
    def retry_s(self) -> float:
        """Seconds until an unanswered question should be asked again: 0.5, 1, 2 … 30, or what a 429 told."""
        return max(self.told_s, float(min(RETRY_MAX_S, 0.25 * 2 ** min(self._failures, 8))))

    def _learn(self, token: str, account: str) -> list[act.Action]:
        hashed = self.hash(token)
        self._verified.add(hashed)
        if self._accounts.get(hashed) == account:
            return []
        self._accounts[hashed] = account
        return [act.Commit([act.PutState("token:" + hashed, account.encode())])]

    def forget(self, token: str) -> list[act.Action]:
        """The upstream refused this token: it leads nowhere from now on."""
        hashed = self.hash(token)
        self._verified.discard(hashed)
        if self._accounts.pop(hashed, None) is None:
            return []
        return [act.Commit([act.PutState("token:" + hashed, None)])]


class Refusals:
    """What the upstream refused lately (R22): a token (4004), or a whole identity with another fatal code. Memory only."""

    def __init__(self, keyed_hash: Callable[[str], str]) -> None:
        self._hash = keyed_hash
        self._tokens: dict[str, float] = {}
        self._accounts: dict[str, tuple[int, float, frozenset[int]]] = {}

    def note(self, token: str, account: str, code: int, intents: frozenset[int], now: float) -> None:
        """Refused at `now` (monotonic seconds). `intents`: those that the identity's agents had asked for."""
        self._tokens = {hashed: until for hashed, until in self._tokens.items() if until > now}
        if code == BAD_TOKEN:
            self._tokens[self._hash(token)] = now + REFUSED_S
        else:
            self._accounts[account] = (code, now + REFUSED_S, intents)

    def code(self, token: str, account: str | None, intents: int | None, now: float) -> int:
        """The close code for a new agent, 0 if the upstream may be asked. One that was mended to ask for other intents may."""
        if self._tokens.get(self._hash(token), 0.0) > now:
            return BAD_TOKEN
        code, until, refused = self._accounts.get(account or "", (0, 0.0, frozenset()))
        if until <= now or (code in BAD_INTENTS and intents is not None and intents not in refused):
            return 0
        return code


def bare(token: str) -> str:
    """A token without the scheme that some write before it."""
    return token.strip().removeprefix("Bot ").strip()


def is_token(token: str) -> bool:
    """Could it be one: is it what a header can hold? Anything else is not asked for."""
    return _TOKEN.fullmatch(token) is not None


def _bot_id(body: bytes) -> str:
    try:
        found = str(msgspec.json.decode(body, type=_User).id)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return found if found.isascii() and found.isdigit() else ""
