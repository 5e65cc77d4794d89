"""How many shards a bot should have (discord R4): told at once if it is known, else asked of the upstream, for a second at most.

An agent that asks on its very first start would else begin with one shard where the upstream requires two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.discord import gateway, rest
from sidecar.dialects.discord.identity import bare

WAIT_S = 1.0


class Shards:
    """`state`: rows `shards:<bot id>` of earlier runs. What an upstream half tells (`learn`) counts more than an answer to our asking."""

    def __init__(self, state: Mapping[str, bytes], keyed_hash: Callable[[str], str]) -> None:
        self._hash = keyed_hash
        self._known = {key[7:]: int(value) for key, value in state.items() if key.startswith("shards:")}
        self._answered: dict[str, int] = {}
        self._waiting: dict[str, tuple[str, list[ev.HttpRequested]]] = {}
        self._serial = 0

    def learn(self, account: str, shards: int) -> list[act.Action]:
        """The upstream says how many this bot should have."""
        if self._known.get(account) == shards:
            return []
        self._known[account] = shards
        return [act.Commit([act.PutState("shards:" + account, b"%d" % shards)])]

    def of(self, token: str, account: str | None) -> int | None:
        """What is known of a token's bot."""
        return self._known.get(account or "") or self._answered.get(self._hash(token))

    def ask(self, event: ev.HttpRequested, token: str) -> list[act.Action]:
        """Let an exchange wait for the upstream's answer; all that wait for the same token wait for one."""
        for waiting_for, those in self._waiting.values():
            if waiting_for == token:
                those.append(event)
                return []
        self._serial += 1
        name = f"shards:{self._serial}"
        self._waiting[name] = (token, [event])
        return [act.Request(name, "GET", gateway.METADATA, gateway.headers(token), timeout=WAIT_S, urgent=True)]

    def answered(self, event: ev.ResponseReceived | ev.RequestFailed) -> tuple[str, list[act.Action]]:
        """Take the answer to a request of `ask`: the token (empty: it was another request), and the answers to those that waited."""
        token, those = self._waiting.pop(event.request, ("", []))
        shards = 1
        if token and isinstance(event, ev.ResponseReceived) and event.status == 200 and (found := gateway.metadata(event.body, 0.0)):
            shards = self._answered[self._hash(token)] = found.shards
        return token, [rest.answer(each.exchange, each.head, shards=shards, media=False) for each in those]


def token_of(head: ev.Head) -> str:
    """The token of a request, empty if it names none."""
    return bare(head.header("authorization") or "")
