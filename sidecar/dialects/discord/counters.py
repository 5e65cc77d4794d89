"""What the local side of the Discord dialect counts (discord C2, R12, R16): name without `sidecar_` and `_total` -> help text."""

from collections.abc import Mapping
from typing import Final

DOWNSTREAM: Final[Mapping[str, str]] = {
    "identifies": "IDENTIFYs of agents that were answered with READY.",
    "resumes": "RESUMEs of agents that were answered with a replay.",
    "refused_resumes": "RESUMEs of agents that were answered with op 9: a fresh IDENTIFY follows.",
    "mute_sockets": "Sockets of agents that had not identified after 30 s.",
}
