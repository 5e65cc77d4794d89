"""The native stream over real sockets: cursors, gaps, windows, backpressure, restarts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from sidecar.core import layout
from sidecar.core.layout import Batch, Table
from sidecar.core.record import REPLAYED, Gap
from sidecar.journal.model import ModelStore
from tests.downstream.native_world import DEADLINE_S, Reader, offsets, until, world
from tests.downstream.raw import agent


def events(first: int, last: int) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(first, last + 1)]


def numbers(frames: list[Any]) -> list[int]:
    return [frame["event"]["n"] for frame in frames]


# --- reading and cursors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse", [False, True])
def test_all_that_is_kept_then_what_comes_live_with_gaps_in_their_place(sse: bool) -> None:
    async def scenario() -> None:
        async with world() as w:
            w.admit(*events(1, 3))
            w.gap(Gap("lost", "seq", 4, 9, 6), "general")
            w.admit(*events(5, 6), flags=REPLAYED)
            await until(lambda: w.head == 6)
            reader = await (w.sse if sse else w.ws)("stream=alice&after=0")
            hello, *frames = await reader.take(7)
            assert hello == {"type": "hello", "stream": "alice", "epoch": w.store.epoch, "head": 6, "after": 0}
            assert offsets(frames) == [1, 2, 3, 4, 5, 6]
            assert frames[3] == {
                "type": "gap", "offset": 4, "reason": "lost", "unit": "seq", "from": 4, "to": 9, "count": 6, "domain": "general",
            }  # fmt: skip
            assert [f["replayed"] for f in frames if f["type"] == "event"] == [False, False, False, True, True]
            w.admit(b"\xff\x00", *events(8, 8))
            live = await reader.take(2)
            assert live[0]["event_b64"] == "/wA=" and offsets(live) == [7, 8]

    asyncio.run(scenario())


def test_without_a_consumer_nothing_is_kept_and_reading_again_is_no_repeat() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 5))
            for _ in range(2):
                reader = await w.ws("stream=alice&after=0")
                assert offsets((await reader.take(6))[1:]) == [1, 2, 3, 4, 5]
                await reader.leave()
            assert w.counters.total("redelivered") == 0
            assert [name for _, name in w.engine.courier.consumers] == []

    asyncio.run(scenario())


def test_a_new_consumer_starts_at_the_head_and_a_known_one_at_its_durable_cursor() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            await w.admitted(*events(1, 5))
            reader = await w.ws("stream=alice&consumer=bob")
            assert (await reader.next())["after"] == 5
            w.admit(*events(6, 9))
            assert numbers(await reader.take(4)) == [6, 7, 8, 9]
            await reader.ack(7)
            await until(lambda: w.cursor("bob") == 7)
            await reader.leave()
            again = await w.ws("stream=alice&consumer=bob")
            assert (await again.next())["after"] == 7
            assert numbers(await again.take(2)) == [8, 9]
        async with world(store) as w:
            reader = await w.ws("stream=alice&consumer=bob")
            assert (await reader.next())["after"] == 7
            assert numbers(await reader.take(2)) == [8, 9]

    asyncio.run(scenario())


def test_after_never_moves_a_cursor_back_and_is_no_ack() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 9))
            first = await w.ws("stream=alice&consumer=bob&after=0")
            await first.take(10)
            await first.ack(6)
            await until(lambda: w.cursor("bob") == 6)
            back = await w.ws("stream=alice&consumer=bob&after=2")
            assert numbers((await back.take(8))[1:]) == [3, 4, 5, 6, 7, 8, 9]
            await back.ack(4)
            ahead = await w.ws("stream=alice&consumer=bob&after=8")
            assert numbers((await ahead.take(2))[1:]) == [9]
            await ahead.leave()
            assert w.counters.total("redelivered") == 0, "what the client asked for is no repeat of ours"
            plain = await w.ws("stream=alice&consumer=bob")
            assert (await plain.next())["after"] == 6
            assert numbers(await plain.take(3)) == [7, 8, 9]
            assert w.counters.total("redelivered") == 3, "these were out without an ack"

    asyncio.run(scenario())


def test_an_ack_above_the_head_counts_as_the_head() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 3))
            reader = await w.ws("stream=alice&consumer=bob&after=0")
            await reader.take(4)
            await reader.ack(10**30)
            await until(lambda: w.cursor("bob") == 3)
            w.admit(*events(4, 4))
            assert numbers([await reader.next()]) == [4]

    asyncio.run(scenario())


def test_native_and_agent_consumers_of_one_name_are_two() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 3))
            reader = await w.ws("stream=alice&consumer=agent&after=0")
            await reader.take(4)
            await reader.ack(2)
            await until(lambda: w.cursor("agent") == 2)
            async with w.session.ws_connect(w.url + "/agent"):
                await until(lambda: ("alice", "agent") in w.engine.courier.consumers)
                assert w.engine.courier.consumers["alice", "agent"].cursor == 0

    asyncio.run(scenario())


# --- the window ------------------------------------------------------------------------------------------------------------------


def test_the_window_counts_acks_on_disk() -> None:
    async def scenario() -> None:
        async with world(window=4) as w:
            await w.admitted(*events(1, 10))
            reader = await w.ws("stream=alice&consumer=bob&after=0")
            assert numbers((await reader.take(5))[1:]) == [1, 2, 3, 4]
            w.writer.held = True
            await reader.ack(2)
            session = next(iter(w.engine.courier.sessions.values()))
            await until(lambda: session.consumer.cursor == 2)
            assert session.position == 4
            w.writer.held = False
            assert numbers(await reader.take(2)) == [5, 6]
            assert session.position == 6

    asyncio.run(scenario())


def test_a_client_that_acks_in_strides_that_do_not_divide_the_window_never_waits_for_ever() -> None:
    async def scenario() -> None:
        async with world(window=8) as w:
            await w.admitted(*events(1, 40))
            reader = await w.ws("stream=alice&consumer=bob&after=0")
            await reader.next()
            taken: list[int] = []
            while len(taken) < 40:
                taken += numbers(await reader.take(min(5, 40 - len(taken))))
                session = next(iter(w.engine.courier.sessions.values()))
                assert session.position <= session.consumer.durable + 8
                await reader.ack(taken[-1])
            assert taken == list(range(1, 41))
            await until(lambda: session.out_records == 0 and session.out_bytes == 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("query", ["stream=alice&after=0", "stream=alice&after=0&consumer=bob"])
def test_sse_and_nameless_readers_need_no_acks(query: str) -> None:
    async def scenario() -> None:
        async with world(window=4) as w:
            await w.admitted(*events(1, 50))
            readers: list[Any] = [await w.sse(query)]
            if "consumer" not in query:
                readers.append(await w.ws(query))
            for reader in readers:
                assert numbers((await reader.take(51))[1:]) == list(range(1, 51))
            assert w.cursor("bob") in (None, 0), "what was only sent is not taken"

    asyncio.run(scenario())


@pytest.mark.parametrize("sse", [False, True])
def test_a_reader_that_does_not_read_holds_a_window_in_memory_and_then_gets_all(sse: bool) -> None:
    async def scenario() -> None:
        async with world() as w:
            big = [b'{"n":%d,"x":"%b"}' % (n, b"x" * 100_000) for n in range(1, 201)]
            await w.admitted(*big)
            async with agent(int(w.url.rpartition(":")[2])) as peer:
                accept = "Accept: text/event-stream" if sse else UPGRADE
                head = f"GET /_sidecar/stream?stream=alice&after=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n{accept}\r\n\r\n"
                await peer.send(head.encode())
                await until(lambda: bool(w.driver.conns))
                (conn,) = w.driver.conns.values()
                transport = conn.request.transport  # type: ignore[attr-defined]
                # 20 MB wait in the journal; the kernel's buffers are full, and beyond them there is one window.
                await until(lambda: transport.get_write_buffer_size() > 0)
                (session,) = w.engine.courier.sessions.values()
                # Another reader gets everything meanwhile.
                other = await w.ws("stream=alice&after=0")
                assert offsets((await other.take(201))[1:]) == list(range(1, 201))
                assert 0 < session.position < 200
                assert transport.get_write_buffer_size() < 2 << 20
                data = b""
                while b'"offset":200' not in data:
                    data = data[-64:] + await asyncio.wait_for(peer.reader.read(1 << 20), 20)

    asyncio.run(scenario())


UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="


# --- gaps made when reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse", [False, True])
def test_what_retention_removed_is_a_gap_first(sse: bool) -> None:
    async def scenario() -> None:
        store = ModelStore(retention_s=1000)
        async with world(store) as w:
            await w.admitted(*events(1, 4))
            await w.admitted(*events(5, 6))
        kept = store.prune(10**12)
        assert kept
        first = next(iter(kept.values()))
        async with world(store) as w:
            reader = await (w.sse if sse else w.ws)("stream=alice&after=1")
            hello, gap, *rest = await reader.take(2 + 7 - first)
            assert hello["after"] == 1
            assert gap == {"type": "gap", "offset": first - 1, "reason": "retention", "unit": "offset", "from": 2, "to": first - 1}
            assert offsets(rest) == list(range(first, 7))

    asyncio.run(scenario())


def test_above_the_head_and_another_epoch_are_a_gap_and_then_all() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 2))
            for query, reason in (("after=7", "rewound"), ("after=1&epoch=other", "epoch")):
                reader = await w.ws(f"stream=alice&{query}")
                frames = await reader.take(4)
                assert [f.get("reason", f["type"]) for f in frames] == ["hello", reason, "event", "event"]
                await reader.leave()
            assert (w.counters.total("native_rewound"), w.counters.total("native_epoch")) == (1, 1)

    asyncio.run(scenario())


# --- connections -----------------------------------------------------------------------------------------------------------------------


def test_the_second_connection_closes_the_first_with_4409_and_takes_over() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 3))
            first = await w.ws("stream=alice&consumer=bob&after=0")
            await first.take(4)
            await first.ack(1)
            await until(lambda: w.cursor("bob") == 1)
            second = await w.ws("stream=alice&consumer=bob")
            assert (await first.closed())[0] == 4409
            assert numbers((await second.take(3))[1:]) == [2, 3]

    asyncio.run(scenario())


def test_rubbish_closes_with_4400() -> None:
    async def scenario() -> None:
        async with world() as w:
            reader = await w.ws("stream=alice&consumer=bob")
            await reader.next()
            await reader.ws.send_str("hello?")
            code, reason = await reader.closed()
            assert code == 4400 and "ack" in reason

    asyncio.run(scenario())


@pytest.mark.parametrize("sse", [False, True])
def test_refusals_are_plain_http_before_any_upgrade(sse: bool) -> None:
    async def scenario() -> None:
        async with world() as w:
            for query, status, word in (("stream=nobody", 404, "alice"), ("stream=alice&after=-1", 400, "after"), ("", 400, "stream")):
                headers = {"Accept": "text/event-stream"} if sse else dict(line.split(": ") for line in UPGRADE.split("\r\n"))
                async with w.session.get(f"{w.url}/_sidecar/stream?{query}", headers=headers) as response:
                    assert response.status == status
                    assert response.headers["Content-Type"] == "application/json"
                    assert word in json.dumps(await response.json())

    asyncio.run(scenario())


def test_a_refused_upgrade_ends_its_connection() -> None:
    async def scenario() -> None:
        async with world() as w:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(w.url.rpartition(":")[2]))
            writer.write(f"GET /_sidecar/stream?stream=nobody HTTP/1.1\r\nHost: 127.0.0.1\r\n{UPGRADE}\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
            assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
            assert b"\r\nConnection: close\r\n" in answer
            writer.close()

    asyncio.run(scenario())


def test_neither_websocket_nor_sse_is_406_and_other_methods_are_405() -> None:
    async def scenario() -> None:
        async with world() as w:
            status, body, _ = await w.get("/_sidecar/stream?stream=alice")
            assert status == 406 and "text/event-stream" in body
            async with w.session.post(w.url + "/_sidecar/stream?stream=alice") as response:
                assert response.status == 405

    asyncio.run(scenario())


def test_a_failed_handshake_leaves_no_session() -> None:
    async def scenario() -> None:
        async with world() as w:
            async with agent(int(w.url.rpartition(":")[2])) as peer:
                bad = UPGRADE.replace("Version: 13", "Version: 99")
                await peer.send(f"GET /_sidecar/stream?stream=alice&consumer=bob HTTP/1.1\r\nHost: 127.0.0.1\r\n{bad}\r\n\r\n".encode())
                start, _ = await peer.head()
                assert b" 4" in start
            await until(lambda: not w.engine.courier.sessions)

    asyncio.run(scenario())


@pytest.mark.parametrize("sse", [False, True])
def test_a_client_that_goes_away_without_a_word_is_noticed(sse: bool) -> None:
    async def scenario() -> None:
        async with world() as w:
            async with agent(int(w.url.rpartition(":")[2])) as peer:
                accept = "Accept: text/event-stream" if sse else UPGRADE
                await peer.send(f"GET /_sidecar/stream?stream=alice HTTP/1.1\r\nHost: 127.0.0.1\r\n{accept}\r\n\r\n".encode())
                await until(lambda: len(w.engine.courier.sessions) == 1)
                peer.reset()
            await until(lambda: not w.engine.courier.sessions and not w.driver.conns)

    asyncio.run(scenario())


def test_the_local_token_and_foreign_origins_are_the_guards_business() -> None:
    async def scenario() -> None:
        async with world(token="local-secret", origins=["https://app.example"]) as w:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await w.ws("stream=alice")
            assert refused.value.status == 401
            good = {"Authorization": "Bearer local-secret"}
            reader = await w.sse("stream=alice", **good, Origin="https://app.example")
            assert reader.response.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert (await reader.next())["type"] == "hello"
            headers = {"Accept": "text/event-stream", "Origin": "https://evil.example", **good}
            async with w.session.get(w.url + "/_sidecar/stream?stream=alice", headers=headers) as response:
                assert response.status == 403

    asyncio.run(scenario())


# --- server-sent events ---------------------------------------------------------------------------------------------------------------


def test_an_event_source_that_reconnects_skips_nothing_and_repeats_nothing() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 3))
            first = await w.sse("stream=alice")
            assert (await first.next())["after"] == 3 and first.last_id == "3"
            first.leave()
            # Cut right after hello: what comes meanwhile must not be lost.
            w.admit(*events(4, 6))
            second = await w.sse("stream=alice", **{"Last-Event-ID": first.last_id})
            assert numbers((await second.take(3))[1:]) == [4, 5]
            assert second.last_id == "5"
            second.leave()
            third = await w.sse("stream=alice", **{"Last-Event-ID": second.last_id})
            assert numbers((await third.take(2))[1:]) == [6]

    asyncio.run(scenario())


def test_last_event_id_is_an_ack_of_a_named_consumer() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 2))
            first = await w.sse("stream=alice&consumer=bob")
            await first.next()
            w.admit(*events(3, 9))
            await first.take(7)
            await until(lambda: w.cursor("bob") == 2)
            session = next(iter(w.engine.courier.sessions.values()))
            await until(lambda: not session.barriers)
            assert w.engine.courier.consumers["alice", "native:bob"].cursor == 2, "what was only sent is not taken"
            first.leave()
            second = await w.sse("stream=alice&consumer=bob", **{"Last-Event-ID": "6"})
            assert (await second.next())["after"] == 6
            await until(lambda: w.cursor("bob") == 6)
            third = await w.sse("stream=alice&consumer=bob")
            assert (await third.next())["after"] == 6
            # The one that was replaced hears why, in an event that onmessage does not see.
            assert numbers(await second.take(3)) == [7, 8, 9]
            name, data = await second.event()
            assert name == "closed" and json.loads(data)["code"] == 4409

    asyncio.run(scenario())


def test_pretty_printed_payloads_survive_sse() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(b'{\r\n  "n": 1,\n  "t": "a\\nb"\r}')
            reader = await w.sse("stream=alice&after=0")
            assert (await reader.take(2))[1]["event"] == {"n": 1, "t": "a\nb"}

    asyncio.run(scenario())


def test_a_planned_stop_ends_streams_as_http_and_websocket_end_them() -> None:
    async def scenario() -> None:
        async with world() as w:
            sse = await w.sse("stream=alice")
            ws = await w.ws("stream=alice")
            await sse.next()
            await ws.next()
            w.engine.drain()
            w.engine.close()
            assert (await ws.closed())[0] == 1012
            assert (await sse.event())[0] == "closed"
            assert await sse.response.content.read() == b"", "a whole answer: its last chunk came"

    asyncio.run(scenario())


# --- reset -----------------------------------------------------------------------


def test_engine_reset_moves_a_cursor_back_and_its_connections_begin_anew() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            await w.admitted(*events(1, 5))
            reader = await w.ws("stream=alice&consumer=bob&after=0")
            await reader.take(6)
            await reader.ack(5)
            await until(lambda: w.cursor("bob") == 5)
            consumer = w.engine.reset("alice", "native:bob", 2)
            code, reason = await reader.closed()
            assert code == 1012 and "reset" in reason
            await until(lambda: consumer.known)
            again = await w.ws("stream=alice&consumer=bob")
            assert numbers((await again.take(4))[1:]) == [3, 4, 5]
            assert w.counters.total("redelivered") == 0, "the operator asked for them"
        row = json.loads(store.get(Table.CURSORS, layout.cursor_key(1, "native:bob")) or b"")
        assert row["offset"] == 2

    asyncio.run(scenario())


def test_a_reset_is_not_undone_by_a_write_that_failed_meanwhile() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            await w.admitted(*events(1, 5))
            reader: Reader = await w.ws("stream=alice&consumer=bob&after=0")
            await reader.take(6)
            await reader.ack(4)
            await until(lambda: w.cursor("bob") == 4)
            w.writer.held = True
            store.fail_at(1, OSError("disk"))
            await reader.ack(5)
            await until(lambda: any(cursor == 5 for _, cursor in w.engine.courier.in_flight))
            consumer = w.engine.reset("alice", "native:bob", 2)
            put: list[int] = []
            apply = store.apply

            def noted(batch: Batch) -> None:
                apply(batch)
                put.extend(json.loads(value)["offset"] for _, value in batch.puts.get(Table.CURSORS, []))

            store.apply = noted  # type: ignore[method-assign]
            w.writer.held = False
            await until(lambda: consumer.known)
            await until(lambda: not w.engine.courier.dirty and w.engine._flying is None)
            assert put == [2]

    asyncio.run(scenario())


def test_reset_of_an_agents_consumer_closes_its_socket() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(*events(1, 2))
            ws = await w.session.ws_connect(w.url + "/agent")
            await until(lambda: ("alice", "agent") in w.engine.courier.consumers)
            w.engine.reset("alice", "agent", 1)
            message = await asyncio.wait_for(ws.receive(), 20)
            assert message.type is aiohttp.WSMsgType.CLOSE and ws.close_code == 1012

    asyncio.run(scenario())
