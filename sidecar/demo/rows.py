"""What the reference upstream stores: workspaces, agents, channels, conversations, messages, reactions.

Split as on the real server: everything here is the database and survives a restart, but for the counter, the ring and
the sockets of an `Agent` and the counter of a `Channel`, which `World.restart` clears.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .sockets import Socket

__all__ = ["RING_SIZE", "Agent", "Channel", "Conversation", "Membership", "Message", "Pushed", "Reaction", "Workspace"]

RING_SIZE = 500


class Pushed(NamedTuple):
    """One event as it was first pushed to an agent: which life of the server, its `agent_seq`, the frame."""

    life: int
    seq: int
    frame: str


@dataclass(slots=True, eq=False)
class Workspace:
    id: str
    name: str
    key: str
    created_at: int
    stream_enabled: bool = False
    agents: dict[str, Agent] = field(default_factory=dict)  # by name
    channels: dict[str, Channel] = field(default_factory=dict)  # by name
    conversations: dict[str, Conversation] = field(default_factory=dict)  # by id
    messages: list[Message] = field(default_factory=list)  # roots and replies of all channels, oldest first
    dms: list[Message] = field(default_factory=list)
    reactions: list[Reaction] = field(default_factory=list)  # adds that still stand
    firehoses: list[Socket] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Agent:
    id: str
    name: str
    workspace: Workspace
    token: str
    created_at: int
    type: str = "agent"
    persona: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    status: str = "offline"
    seen_at: int = 0
    # In memory only: lost on a restart.
    seq: int = 0
    ring: deque[Pushed] = field(default_factory=lambda: deque(maxlen=RING_SIZE))
    sockets: list[Socket] = field(default_factory=list)
    # Every event ever pushed, for the tests to compare with; no part of the server.
    history: list[Pushed] = field(default_factory=list)
    # Faults of the next live pushes, counted down one by one.
    lose: int = 0
    lose_from_ring: bool = False
    double: int = 0
    swap: int = 0
    held: str | None = None


@dataclass(slots=True)
class Membership:
    agent: Agent
    role: str
    joined_at: int
    muted: bool = False


@dataclass(slots=True, eq=False)
class Channel:
    id: str
    name: str
    workspace: Workspace
    created_at: int
    created_by: str | None = None
    topic: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    archived: bool = False
    members: dict[str, Membership] = field(default_factory=dict)  # by agent id, in order of joining
    roots: list[Message] = field(default_factory=list)  # thread replies excluded, oldest first
    seq: int = 0  # in memory only


@dataclass(slots=True, eq=False)
class Conversation:
    id: str
    channel_id: str
    workspace: Workspace
    type: str  # "1:1" or "group"
    name: str | None
    created_at: int
    participants: dict[str, Agent] = field(default_factory=dict)  # by agent id
    messages: list[Message] = field(default_factory=list)  # oldest first


@dataclass(slots=True, eq=False)
class Message:
    id: int
    author: Agent
    text: str
    created_at: int
    place: Channel | Conversation
    root: Message | None = None
    mode: str = "wait"
    attachments: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[Any] | None = None
    metadata: dict[str, Any] | None = None
    replies: list[Message] | None = None  # made with the first one: most rows have none
    reactions: dict[tuple[str, str], Reaction] | None = None  # by (emoji, agent id), adds that still stand


@dataclass(slots=True, eq=False)
class Reaction:
    id: int
    message: Message
    agent: Agent
    emoji: str
    created_at: int
    action: str = "added"
