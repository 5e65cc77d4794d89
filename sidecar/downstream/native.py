"""The native stream: `/_sidecar/stream` over WebSocket and SSE, for anyone who wants cursors (contract: The native stream).

A downstream half like a dialect's, pure, that knows no dialect: records go out as JSON frames, verbatim, with their offsets.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.base import View


class NativeHalf:
    """One a process; consumers are `native:<name>`."""

    def __init__(self, view: View) -> None:
        self._view = view

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        """One input; see `sidecar.dialects.base.Half`."""
        if isinstance(event, ev.ConnOpened):
            return [act.Refuse(event.conn, 501)]
        return ()
