"""Load frames: `message.created` as the Relaycast wire page, section 4, shows it, every frame exactly 500 bytes."""

from __future__ import annotations

from functools import lru_cache

FRAME_BYTES = 500
SNOWFLAKE_EPOCH_MS = 1_735_689_600_000
_PER_MS = 40  # messages on one millisecond of the snowflake clock: a busy but believable server
_MASK = 0xFFFFFFFF
_FACTORS = (2654435761, 1597334677, 2246822507, 3266489909)


def _mix(lanes: tuple[int, ...], text: str) -> tuple[int, ...]:
    a, b, c, d = lanes
    fa, fb, fc, fd = _FACTORS
    for char in text.encode():
        a = (a ^ char) * fa & _MASK
        b = (b ^ char) * fb & _MASK
        c = (c ^ char) * fc & _MASK
        d = (d ^ char) * fd & _MASK
    return a, b, c, d


@lru_cache(maxsize=4096)
def _prefix(head: str) -> tuple[int, ...]:
    """Consecutive ids share all but their last digits; hashing the head once makes pre-building affordable."""
    return _mix((0xDEADBEEF, 0x41C6CE57, 0xC0DECAFE, 0x9E3779B9), f'["relaycast","{head}')


def event_id(message_id: str) -> str:
    """The event id of a message (wire page section 4, "Event id"), as a UUID in text form."""
    lanes = list(_mix(_prefix(message_id[:-7]), message_id[-7:] + '"]'))
    for i in range(4):
        lane, after = lanes[i], lanes[(i + 1) % 4]
        lanes[i] = ((lane ^ lane >> 16) * 2246822507 & _MASK) ^ ((after ^ after >> 13) * 3266489909 & _MASK)
    raw = bytearray(b"".join(lane.to_bytes(4, "big") for lane in lanes))
    raw[6] = raw[6] & 0x0F | 0x50
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def build(count: int, first_seq: int, start_ms: int) -> list[bytes]:
    """`count` frames with distinct message and event ids and `agent_seq` from `first_seq` on.

    `start_ms` is the Unix time in milliseconds of the first message id. Two calls give distinct ids when their ranges
    of `start_ms` .. `start_ms + count / 40` do not meet.
    """
    frames = []
    for i in range(count):
        message_id = str((start_ms + i // _PER_MS - SNOWFLAKE_EPOCH_MS) << 22 | i % _PER_MS)
        seq = first_seq + i
        head = (
            f'{{"id":"{event_id(message_id)}","type":"message.created","channel":"general","message":'
            f'{{"id":"{message_id}","agent_id":"249685981215617024","agent_name":"Alice","text":"'
        )
        tail = f'","attachments":[],"injection_mode":"wait"}},"channel_seq":{seq},"agent_seq":{seq}}}'
        frames.append(f"{head}{'x' * (FRAME_BYTES - len(head) - len(tail))}{tail}".encode())
    return frames


def span_ms(count: int) -> int:
    """How many milliseconds of the snowflake clock `count` frames of `build` take up, rounded up to the next free."""
    return count // _PER_MS + 1


def with_duplicates(frames: list[bytes], reach: int) -> list[bytes]:
    """`frames` with every tenth frame of the result a repeat of one among the `reach` distinct ones before it.

    Which one is picked by a fixed linear congruence: every run and every language reads the same file.
    """
    out: list[bytes] = []
    state = 1
    for i, frame in enumerate(frames):
        out.append(frame)
        if i % 9 == 8:
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            out.append(frames[max(0, i - (state >> 8) % reach)])
    return out
