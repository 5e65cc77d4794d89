"""Who is let in (discord R9, R22): proven tokens, refused ones, the operator's own, and the shards that each bot is known to have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.base import View
from sidecar.dialects.discord.identity import Identities, Outcome, Refusals, bare
from sidecar.dialects.discord.sessions import stream_of


class Gate:
    """`held`: the operator's token, empty if there is none; `shards`: those that are held with it (`i/n`)."""

    def __init__(self, view: View, shards: Sequence[str]) -> None:
        self._view = view
        self._held_shards = shards or ("0/1",)
        self.held = ""
        self.identities = Identities({}, view.keyed_hash)
        self.refusals = Refusals(view.keyed_hash)
        self._shards: dict[str, int] = {}

    def started(self, event: ev.Started) -> list[act.Action]:
        """What earlier runs have proven; the operator's token is held at once if it is among it."""
        self.identities = Identities(event.state, self._view.keyed_hash)
        self._shards = {key[7:]: int(value) for key, value in event.state.items() if key.startswith("shards:")}
        self.held = bare(event.credential or "")
        if not self.held:
            return []
        account = self.identities.account(self.held)
        return [*(self._hold(account) if account else []), *self.identities.ask(self.held)]

    def _hold(self, account: str) -> list[act.Action]:
        return [act.Own(account, self.held, streams=[stream_of(account, shard) for shard in self._held_shards])]

    def answered(self, event: ev.ResponseReceived | ev.RequestFailed, tokens: Iterable[str]) -> tuple[Outcome | None, list[act.Action]]:
        """The answer to a question about a token: the outcome (None: it was another request), and what to do. `tokens`: of agents."""
        outcome, actions = self.identities.answered(event)
        if outcome is None:
            return None, actions
        is_held = outcome.token == self.held
        if outcome.verdict == "unknown" and (is_held or outcome.token in tokens):
            actions.append(act.StartTimer("verify", self.identities.retry_s))
        elif outcome.verdict == "yes" and is_held:
            actions += self._hold(outcome.account)
        elif outcome.verdict == "no" and is_held:
            actions.append(act.Fatal("4004", "set SIDECAR_UPSTREAM_TOKEN to a token that the upstream accepts"))
        return outcome, actions

    def ask_again(self, tokens: Iterable[str]) -> list[act.Action]:
        """Verify what is in use and was not answered for yet."""
        return [action for token in sorted({*tokens, self.held} - {""}) for action in self.identities.ask(token)]

    def learn_shards(self, account: str, shards: int) -> list[act.Action]:
        """The upstream says how many shards this bot should have."""
        if self._shards.get(account) == shards:
            return []
        self._shards[account] = shards
        return [act.Commit([act.PutState("shards:" + account, b"%d" % shards)])]

    def shards(self, authorization: str) -> int:
        """The number of shards last known for a request's `Authorization`, else 1 (R4)."""
        token = bare(authorization)
        return self._shards.get(self.identities.account(token) or "", 1) if token else 1
