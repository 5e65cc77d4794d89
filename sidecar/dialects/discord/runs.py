"""Events on their way into a commit: consecutive ones make one run, whatever their channels (discord R26)."""

from __future__ import annotations

from sidecar.core.actions import AdmitRun, Op


def put(ops: list[Op], stream: str, payload: bytes, key: bytes | int, domain: str, flags: int) -> None:
    """Admit one more event: it joins the last operation if that is a run with the same flags.

    The records name no domain then, and one commit's are one block on disk: each an operation and a block of its own cost twice as
    much. Their payloads name the channel."""
    last = ops[-1] if ops else None
    if type(last) is AdmitRun and last.flags == flags:
        last.payloads.append(payload)  # type: ignore[attr-defined]
        last.keys.append(key)  # type: ignore[attr-defined]
        last.domains.append(domain)  # type: ignore[attr-defined]
    else:
        ops.append(AdmitRun(stream, [payload], [key], "", flags, [domain]))
