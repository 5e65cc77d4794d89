"""`sidecar consumer reset`: sets a consumer to the head or to an offset, through the running sidecar, or else in the journal itself."""

from __future__ import annotations

import http.client
import time
from typing import Any, Final

import msgspec

from sidecar.config import Settings
from sidecar.core.layout import Batch, CursorRow, StreamRow, Table, cursor_key, pack_pair, unpack_pair, unpack_u32
from sidecar.core.record import count_of
from sidecar.downstream.native import shown
from sidecar.errors import DataDirInUse, NotRunning, SidecarError
from sidecar.journal.directory import JOURNAL
from sidecar.journal.store import Store
from sidecar.ops.consumers import pick, place

PATH: Final = "/_sidecar/consumers/reset"
TIMEOUT_S: Final = 10.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Order(msgspec.Struct):
    """What is asked of the running sidecar. `dialect` and `upstream`: whose consumer is meant; another sidecar refuses."""

    name: str
    offset: int | None
    stream: str | None
    dialect: str
    upstream: str


class Done(msgspec.Struct):
    """What was done."""

    stream: str
    consumer: str
    before: int
    cursor: int


def run(settings: Settings, name: str, *, offset: int | None, stream: str | None) -> int:
    """Sets the consumer, says so and returns 0. `offset` None: the head. Raises SidecarError."""
    order = Order(name, offset, stream, settings.dialect, settings.upstream)
    try:
        done, how = ask(settings, order), "in the running sidecar; its connections begin anew"
    except NotRunning as away:
        try:
            done, how = write(settings, order), "in the journal; no sidecar runs"
        except DataDirInUse as held:
            raise DataDirInUse(
                f"{held.text}, but {away.text}", mend="set SIDECAR_LISTEN to the address that the running sidecar printed"
            ) from held
    print(f"consumer {shown(done.consumer)[0]} of {done.stream}: cursor {done.before} -> {done.cursor} ({how})")
    return 0


def ask(settings: Settings, order: Order) -> Done:
    """Have the running sidecar do it. Raises NotRunning if none answers, SidecarError if it refuses."""
    if settings.listen_port == 0:
        raise NotRunning("SIDECAR_LISTEN has port 0, so the port is not known here")
    host = _ANY_ADDRESS.get(settings.listen_host, settings.listen_host)
    headers = {"Content-Type": "application/json"}
    if settings.local_token:
        headers["Authorization"] = f"Bearer {settings.local_token}"
    address = f"{settings.listen_host}:{settings.listen_port}"
    connection = http.client.HTTPConnection(host, settings.listen_port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", PATH, msgspec.json.encode(order), headers)
        response = connection.getresponse()
        status, body = response.status, response.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise NotRunning(f"no sidecar answers at {address}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if status == 401:
        raise SidecarError(
            f"the sidecar at {address} asks for another local token", mend="set SIDECAR_LOCAL_TOKEN as the running sidecar has it"
        )
    try:
        if status == 200:
            return msgspec.json.decode(body, type=Done)
        refusal: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise NotRunning(f"what listens at {address} is not a sidecar that can reset a consumer (status {status})") from None
    if status == 409:
        # Another sidecar has that address; ours may be stopped.
        raise NotRunning(str(refusal.get("error")))
    raise SidecarError(str(refusal.get("error")), mend=str(refusal.get("mend", "")))


def write(settings: Settings, order: Order) -> Done:
    """Do it in the journal of a sidecar that does not run. Raises DataDirInUse if one does, SidecarError."""
    if not (settings.data_dir / JOURNAL).exists():
        raise SidecarError(f"there is no journal in {settings.data_dir}", mend="set SIDECAR_DATA_DIR to the sidecar's own")
    store = Store.open(
        settings.data_dir,
        dialect=settings.dialect,
        upstream=settings.upstream,
        durability="power",
        retention_bytes=settings.retention_bytes,
        retention_s=settings.retention_s,
        wall=time.time(),
    )
    try:
        return _write(store, order)
    finally:
        store.close()


def _head(store: Store, sid: int) -> int:
    """The last offset of a stream, 0 if it has no records. A row holds a run of them."""
    last = store.floor(Table.RECORDS, pack_pair(sid, (1 << 64) - 1))
    if last is None:
        return 0
    at, first = unpack_pair(last[0])
    return first + count_of(last[1]) - 1 if at == sid else 0


def _write(store: Store, order: Order) -> Done:
    sids = {key[1:].decode(): msgspec.json.decode(value, type=StreamRow).sid for key, value in store.scan(Table.STREAMS, b"s")}
    names = {sid: name for name, sid in sids.items()}
    known = [(names[unpack_u32(key)], key[4:].decode()) for key, _ in store.scan(Table.CURSORS) if unpack_u32(key) in names]
    stream, consumer = pick(known, order.name, order.stream)
    sid = sids[stream]
    cursor = place(order.offset, _head(store, sid))
    key = cursor_key(sid, consumer)
    row = msgspec.json.decode(store.get(Table.CURSORS, key) or b"", type=CursorRow)
    batch = Batch()
    batch.put(Table.CURSORS, key, msgspec.json.encode(msgspec.structs.replace(row, offset=cursor, resets=row.resets + 1)))
    store.apply(batch)
    return Done(stream, consumer, row.offset, cursor)
