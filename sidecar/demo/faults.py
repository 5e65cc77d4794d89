"""The knobs of the reference upstream that make it lose, double, disorder and refuse, each independent of the others.

Plain attributes are conditions that last until they are set back; methods arm a number of misdeeds that are counted
down as they happen. Where a misdeed belongs to one agent's pushes it stands in the `Agent` row.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .rows import Agent

__all__ = ["Faults", "RestFault"]


@dataclass(slots=True)
class RestFault:
    """The next `times` REST calls that match are answered with `status` and have no effect."""

    times: int
    status: int
    code: str
    headers: list[tuple[str, str]]
    method: str | None = None
    prefix: str = ""

    def takes(self, method: str, target: str) -> bool:
        return self.times > 0 and self.method in (None, method) and target.startswith(self.prefix)


class Faults:
    """State of all faults of one world.

    Attributes:
        half_open: sockets accept and stay silent: no events, no JSON pongs, no WebSocket pongs (L9's network twin).
        deaf: WebSocket pings are answered, JSON pings, resyncs and events are not (L9).
        announce: joins, mutes, new channels and presence changes made over REST push their events to agents.
        extra_keys: the cloud's `workspaceId` and `agentId` after `agent_seq`, and `message.agent_type` (section 1).
        spaced_json: every server frame is formatted with blanks and line breaks.
        json_refusals: refused upgrades carry the cloud's JSON instead of being bare.
        moved: agent sockets answer 401 as servers from 5.0.1 on do (section 1).
        old_kinds: `reaction.added`, `agent.online` and their like instead of the newer names.
        joined_event_ids: event ids of the other hash revision (section 4).
        agent_endpoint: `GET /v1/agent` answers with "channels", "bare" (without them) or is "missing" (404).
        rest_delay: seconds the network shell waits before a REST answer; the model itself knows no waiting.
    """

    def __init__(self) -> None:
        self.half_open = False
        self.deaf = False
        self.announce = False
        self.extra_keys = False
        self.spaced_json = False
        self.json_refusals = False
        self.moved = False
        self.old_kinds = False
        self.joined_event_ids = False
        self.agent_endpoint = "channels"
        self.rest_delay = 0.0
        self.swallow_resyncs = 0
        self.hollow_resyncs = 0
        self.broken_resyncs: deque[tuple[int, bool]] = deque()
        self.upgrade_refusals: deque[tuple[int, bytes]] = deque()
        self.token_refusals: dict[str, int] = {}
        self.rest_faults: list[RestFault] = []

    def refuse_connects(self, status: int, times: int = 1, body: bytes = b"") -> None:
        """Answer the next `times` upgrades with `status`."""
        self.upgrade_refusals.extend([(status, body)] * times)

    def refuse_token(self, agent: Agent, times: int = 1) -> None:
        """Answer 401 to the agent's present token the next `times` it is shown, by upgrade or REST."""
        self.token_refusals[agent.token] = self.token_refusals.get(agent.token, 0) + times

    def swallow_resync(self, times: int = 1) -> None:
        """Answer the next `times` resyncs with nothing at all (L6)."""
        self.swallow_resyncs += times

    def break_resync(self, frames: int, times: int = 1, *, cut: bool = True) -> None:
        """Send only the first `frames` frames of the next `times` replays; then cut the socket, or (`cut=False`) go
        on as if the acknowledgement had been sent (L6)."""
        self.broken_resyncs.extend([(frames, cut)] * times)

    def hollow_resync(self, times: int = 1) -> None:
        """Acknowledge the next `times` resyncs without replaying anything."""
        self.hollow_resyncs += times

    def rate_limit(self, times: int = 1, retry_after: str | None = "1", *, method: str | None = None, prefix: str = "") -> None:
        """Answer the next `times` REST calls with 429; `retry_after` None leaves the header away (section 6)."""
        headers = [("X-RateLimit-Limit", "60"), ("X-RateLimit-Remaining", "0")]
        if retry_after is not None:
            headers.append(("Retry-After", retry_after))
        self.rest_faults.append(RestFault(times, 429, "rate_limit_exceeded", headers, method, prefix))

    def fail_rest(self, times: int = 1, status: int = 503, *, method: str | None = None, prefix: str = "") -> None:
        """Answer the next `times` REST calls with `status`."""
        self.rest_faults.append(RestFault(times, status, "internal_error", [], method, prefix))

    def take_rest_fault(self, method: str, target: str) -> RestFault | None:
        """The armed fault for this call, counted down, or None."""
        for fault in self.rest_faults:
            if fault.takes(method, target):
                fault.times -= 1
                if not fault.times:
                    self.rest_faults.remove(fault)
                return fault
        return None

    def take_token_refusal(self, token: str) -> bool:
        """Whether this use of the token is to be refused; counted down."""
        left = self.token_refusals.get(token, 0)
        if left:
            self.token_refusals[token] = left - 1
        return bool(left)

    def lose_pushes(self, times: int = 1, agent: Agent | None = None, *, from_ring: bool = False) -> None:
        """Do not send the next `times` live events of the agent (None: of each); the counter goes on (L7).

        Args:
            from_ring: the ring does not keep them either.
        """
        for each in self._these(agent):
            each.lose += times
            each.lose_from_ring = from_ring

    def duplicate_pushes(self, times: int = 1, agent: Agent | None = None) -> None:
        """Send each of the next `times` live events twice."""
        for each in self._these(agent):
            each.double += times

    def reorder_pushes(self, times: int = 1, agent: Agent | None = None) -> None:
        """Swap the next two live events, `times` times over."""
        for each in self._these(agent):
            each.swap += times

    def burn_seq(self, times: int = 1, agent: Agent | None = None) -> None:
        """Advance the counter without any event."""
        for each in self._these(agent):
            each.seq += times

    def agents(self) -> list[Agent]:
        """All agents of the world."""
        raise NotImplementedError

    def _these(self, agent: Agent | None) -> list[Agent]:
        return self.agents() if agent is None else [agent]
