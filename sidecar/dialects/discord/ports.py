"""What the parts of the upstream half need of each other: a connection and a shard of their account, a connection of its shard."""

from __future__ import annotations

from typing import Protocol

from sidecar.core.actions import Action
from sidecar.core.events import Moment
from sidecar.dialects.base import View
from sidecar.dialects.discord.backfill import Pace
from sidecar.dialects.discord.budget import Budget
from sidecar.dialects.discord.commands import Commands
from sidecar.dialects.discord.frames import Frame
from sidecar.dialects.discord.session import Session
from sidecar.dialects.discord.settings import DiscordSettings


class Account(Protocol):
    """What a connection needs of its account."""

    out: list[Action]
    moment: Moment
    token: str
    zlib: bool
    budget: Budget
    pace: Pace
    view: View
    name: str
    knobs: DiscordSettings
    max_age: float

    def gateway_url(self) -> str:
        """Where new sessions begin."""

    def ask_metadata(self) -> bool:
        """Ask /gateway/bot; False: it was answered just now, go on."""

    def show(self) -> None:
        """A connection's phase changed: the status page wants to know."""

    def fatal(self, code: int) -> None:
        """The upstream will not have this identity (R31)."""


class Owner(Protocol):
    """What a connection needs of its shard."""

    name: str
    stream: str
    session: Session
    commands: Commands

    def intents(self) -> int:
        """What the next IDENTIFY asks for."""

    def is_wanted(self) -> bool:
        """Is there somebody to hold it for?"""

    def dispatched(self, batch: list[Frame]) -> None:
        """Dispatches in order, READY and RESUMED among them."""

    def resting(self) -> None:
        """A moment of rest: a beat is due."""

    def changed(self) -> None:
        """The phase changed."""
