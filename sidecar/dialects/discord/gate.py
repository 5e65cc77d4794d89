"""Who is let in (discord R9, R22): proven tokens, refused ones, the operator's own, and the shards that each bot is known to have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.base import View
from sidecar.dialects.discord import rest
from sidecar.dialects.discord.identity import Identities, Outcome, Refusals, bare, is_token
from sidecar.dialects.discord.sessions import stream_of
from sidecar.dialects.discord.shards import Shards, token_of


class Gate:
    """`held`: the operator's token, empty if there is none; `shards`: those that are held with it (`i/n`)."""

    def __init__(self, view: View, shards: Sequence[str]) -> None:
        self._view = view
        self._held_shards = shards or ("0/1",)
        self.held = ""
        self.identities = Identities({}, view.keyed_hash)
        self.refusals = Refusals(view.keyed_hash)
        self.shards = Shards({}, view.keyed_hash)

    def started(self, event: ev.Started) -> list[act.Action]:
        """What earlier runs have proven; the operator's token is held at once if it is among it."""
        self.identities = Identities(event.state, self._view.keyed_hash)
        self.shards = Shards(event.state, self._view.keyed_hash)
        self.held = bare(event.credential or "")
        if not self.held:
            return []
        account = self.identities.account(self.held)
        return [*self.held_by(account), *self.identities.ask(self.held)]

    def held_by(self, account: str | None) -> list[act.Action]:
        """Hold this account if the operator's token was proven to be its own."""
        return self._hold(account) if account and self.held and self.identities.account(self.held) == account else []

    def _hold(self, account: str) -> list[act.Action]:
        return [act.Own(account, self.held, streams=[stream_of(account, shard) for shard in self._held_shards])]

    def answered(self, event: ev.ResponseReceived | ev.RequestFailed, tokens: Iterable[str]) -> tuple[Outcome | None, list[act.Action]]:
        """The answer to a question about a token: the outcome (None: it was another request), and what to do. `tokens`: of agents."""
        outcome, actions = self.identities.answered(event)
        if outcome is None:
            token, actions = self.shards.answered(event)
            refused = token and isinstance(event, ev.ResponseReceived) and event.status == 401
            return (Outcome(token, "no") if refused else None), actions
        is_held = outcome.token == self.held
        if outcome.verdict == "unknown" and (is_held or outcome.token in tokens or self.identities.told_s):
            actions.append(act.StartTimer("verify", self.identities.retry_s))
        elif outcome.verdict == "yes" and is_held:
            # An agent may have brought the same token, long after the upstream refused it once.
            actions += [act.Status({"fatal": None}), *self._hold(outcome.account)]
        elif outcome.verdict == "no" and is_held:
            actions.append(act.Fatal("4004", "set SIDECAR_UPSTREAM_TOKEN to a token that the upstream accepts, and restart the sidecar"))
        return outcome, actions

    def ask_again(self, tokens: Iterable[str]) -> list[act.Action]:
        """Verify what is in use and was not answered for yet."""
        self.identities.told_s = 0.0
        return [action for token in sorted({*tokens, self.held} - {""}) for action in self.identities.ask(token)]

    def requested(self, event: ev.HttpRequested, *, media: bool, now: float) -> list[act.Action]:
        """What to do with a plain request at `now` (monotonic seconds). Only one that asks for shards may wait, and for the first time."""
        token = token_of(event.head)
        account = self.identities.account(token) if token else None
        shards = self.shards.of(token, account)
        if shards is None and is_token(token) and rest.asks_for_shards(event.head) and not self.refusals.code(token, account, None, now):
            return self.shards.ask(event, token)
        return [rest.answer(event.exchange, event.head, shards=shards or 1, media=media)]
