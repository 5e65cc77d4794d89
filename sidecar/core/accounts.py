"""Accounts: the upstream halves of a process, each with its links, timers and requests, so that one can be stopped without a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.core import actions as act
from sidecar.core.ports import Ports
from sidecar.dialects.base import Half


class Account:
    """One credential's account. `owner`: name of the half's present incarnation, empty while there is none; `links`: generation by
    link; `credentials`: (credential, hints), newest last, in memory only (invariant 10)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.owner = ""
        self.half: Half | None = None
        self.credentials: list[tuple[str, str]] = []
        self.streams: list[str] = []
        self.links: dict[str, int] = {}
        self.timers: set[str] = set()
        self.requests: set[str] = set()
        self.facts: dict[str, Any] = {}

    def learn(self, credential: str, hints: str) -> None:
        """Note a credential as the newest; only the last few are kept."""
        self.credentials = [c for c in self.credentials if c[0] != credential][-7:]
        self.credentials.append((credential, hints))


class Accounts:
    """All accounts. Owner names are `up:<account>`, so that durable state is found again; an incarnation that was stopped has its
    timers, requests and links cancelled, and later inputs of its links carry an old generation."""

    def __init__(self, make: Callable[[str], Half], ports: Ports) -> None:
        self.make = make
        self.ports = ports
        self.by_name: dict[str, Account] = {}
        self.by_owner: dict[str, Account] = {}
        self._of: dict[str, Account] = {}
        self._generation = 0

    def get(self, name: str) -> Account:
        """The account, made if it is new (without a half)."""
        return self.by_name.setdefault(name, Account(name))

    def own(self, action: act.Own) -> Account:
        """Note a credential of an account and its streams."""
        account = self.get(action.account)
        account.learn(action.credential, action.hints)
        for stream in action.streams:
            self.take(account, stream)
        return account

    def take(self, account: Account, stream: str) -> None:
        """A stream belongs to this account from now on: the last one that names it owns it."""
        previous = self._of.get(stream)
        if previous is not None and previous is not account:
            previous.streams.remove(stream)
        if stream not in account.streams:
            account.streams.append(stream)
        self._of[stream] = account

    def of_stream(self, stream: str) -> Account | None:
        """The account that a stream belongs to, if it is known in this process."""
        return self._of.get(stream)

    def start(self, account: Account) -> None:
        """Give an account a new half."""
        self.stop(account)
        account.half = self.make(account.name)
        account.owner = "up:" + account.name
        account.facts = {}
        self.by_owner[account.owner] = account

    def stop(self, account: Account) -> None:
        """Drop the half with all it has under way; nothing of it comes back."""
        if account.half is None:
            return
        owner = account.owner
        for link in account.links:
            self.ports.close_link(owner, link, None)
        for timer in account.timers:
            self.ports.cancel_timer((owner, timer))
        for request in account.requests:
            self.ports.cancel_request(owner, request)
        account.links.clear()
        account.timers.clear()
        account.requests.clear()
        account.half = None
        account.owner = ""
        account.facts = {"upstream": "paused"}
        self.by_owner.pop(owner, None)

    def restart(self, name: str, start: Callable[[Account], None]) -> None:
        """Start an account's half again if it has none, and was not disowned."""
        account = self.by_name.get(name)
        if account is not None and account.half is None and account.credentials:
            start(account)

    # --- what a half orders: noted with its account, so that stopping the half stops it too. A downstream half has no account. ---------

    def open_link(self, owner: str, account: Account | None, action: act.OpenLink) -> None:
        """Dial under a new generation; a link of that name still open is aborted."""
        if account is None:
            return
        if action.link in account.links:
            self.ports.close_link(owner, action.link, None)
        self._generation += 1
        account.links[action.link] = self._generation
        self.ports.open_link(owner, self._generation, action)

    def send_link(self, owner: str, account: Account | None, action: act.SendFrames) -> None:
        """Send on a link that is the half's."""
        if account and action.link in account.links:
            self.ports.send_link(owner, action.link, action.frames)

    def ping_link(self, owner: str, account: Account | None, action: act.PingLink) -> None:
        """Ping a link that is the half's."""
        if account and action.link in account.links:
            self.ports.ping_link(owner, action.link, action.payload)

    def close_link(self, owner: str, account: Account | None, action: act.CloseLink) -> None:
        """Close a link that is the half's; no input of it follows."""
        if account and account.links.pop(action.link, None) is not None:
            self.ports.close_link(owner, action.link, action.code)

    def start_timer(self, owner: str, account: Account | None, action: act.StartTimer) -> None:
        """(Re)start a half's timer."""
        if account:
            account.timers.add(action.timer)
        self.ports.start_timer((owner, action.timer), action.seconds)

    def cancel_timer(self, owner: str, account: Account | None, action: act.CancelTimer) -> None:
        """Stop a half's timer."""
        if account:
            account.timers.discard(action.timer)
        self.ports.cancel_timer((owner, action.timer))

    def request(self, owner: str, account: Account | None, action: act.Request) -> None:
        """Begin a half's own request."""
        if account:
            account.requests.add(action.request)
        self.ports.request(owner, action)

    def cancel_request(self, owner: str, account: Account | None, action: act.CancelRequest) -> None:
        """Forget a half's own request."""
        if account:
            account.requests.discard(action.request)
        self.ports.cancel_request(owner, action.request)
