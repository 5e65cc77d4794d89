"""The sidecar's own paths over a real socket: health, status, the page, consumer reset."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from yarl import URL

from sidecar import __version__
from sidecar.config import load
from sidecar.core import actions as act
from sidecar.core.admission import Admission
from sidecar.core.layout import Batch, CursorRow, Table, cursor_key
from sidecar.core.record import Gap
from sidecar.errors import DataDirInUse, JournalFull, SidecarError
from sidecar.journal.model import ModelStore
from sidecar.journal.store import Lost, Store
from sidecar.ops import consumer_cli, page, status_cli
from tests.downstream.native_world import World, until, world


async def status(w: World) -> dict[str, Any]:
    code, body, headers = await w.get("/_sidecar/status")
    assert code == 200 and headers["Content-Type"] == "application/json"
    shown: dict[str, Any] = json.loads(body)
    return shown


# --- health ------------------------------------------------------------------------------------------------------------------------


def test_health_is_open_to_anyone_and_the_rest_asks_for_the_local_token() -> None:
    async def scenario() -> None:
        async with world(token="local-secret") as w:
            for path in ("livez", "readyz", "startupz"):
                assert (await w.get("/_sidecar/" + path))[0] == 200
            for path in ("", "status", "metrics", "stream?stream=alice", "nothing", "consumers/reset"):
                assert (await w.get("/_sidecar/" + path))[0] == 401, path
            assert (await w.get("/_sidecar/status", Authorization="Bearer local-secret"))[0] == 200

    asyncio.run(scenario())


def test_ready_once_started_and_alive_before() -> None:
    async def scenario() -> None:
        w = World(ModelStore())
        await w.start()
        try:
            assert [(await w.get("/_sidecar/" + p))[0] for p in ("livez", "startupz", "readyz")] == [200, 503, 503]
            w.begin()
            assert [(await w.get("/_sidecar/" + p))[0] for p in ("livez", "startupz", "readyz")] == [200, 200, 200]
        finally:
            await w.stop()

    asyncio.run(scenario())


def test_an_upstream_that_is_away_shows_in_readyz_and_does_not_make_it_fail() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.tell(act.Status({"upstream": "waiting"}))
            code, body, _ = await w.get("/_sidecar/readyz")
            assert code == 200 and "upstream waiting: 1" in body
            assert "alice" not in body, "anyone may read this"

    asyncio.run(scenario())


def test_not_ready_while_the_journal_takes_no_writes_and_while_stopping() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            await w.admitted(b"1")
            store.full = True
            w.admit(b"2")
            await until(lambda: bool(w.engine.paused))
            code, body, _ = await w.get("/_sidecar/readyz")
            assert code == 503 and "paused" in body
            assert (await w.get("/_sidecar/livez"))[0] == 200
            shown = await status(w)
            assert shown["ready"] is False and shown["paused"]
            assert shown["problems"][0]["mend"] == JournalFull.default_mend
            store.full = False
            w.engine.timer(("engine", "retry"))
            await until(lambda: not w.engine.paused)
            assert (await w.get("/_sidecar/readyz"))[0] == 200
            w.engine.drain()
            assert (await w.get("/_sidecar/readyz"))[0] == 503

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "method", "code"),
    [
        ("/_sidecar/nothing", "GET", 404),
        ("/_sidecar/livez/", "GET", 404),
        ("/%5Fsidecar/status", "GET", 404),
        ("//_sidecar/status", "GET", 404),
        ("/_sidecar/status", "POST", 405),
        ("/_sidecar/livez", "DELETE", 405),
        ("/_sidecar/", "PUT", 405),
        ("/_sidecar/consumers/reset", "GET", 405),
        ("/_sidecar/status", "HEAD", 200),
        ("/_sidecar", "GET", 308),
    ],
)
def test_unknown_paths_and_methods(path: str, method: str, code: int) -> None:
    async def scenario() -> None:
        async with world() as w:
            url = URL(w.url + path, encoded=True)
            async with w.session.request(method, url, allow_redirects=False) as response:
                assert response.status == code
                assert (response.headers.get("Allow") is not None) == (code == 405)

    asyncio.run(scenario())


# --- status -----------------------------------------------------------------------------------------------------------------------


def test_status_tells_streams_consumers_gaps_and_upstream() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(b"1", b"2", b"3")
            w.gap(Gap("lost", "seq", 4, 9, 6))
            await until(lambda: w.head == 4)
            reader = await w.ws("stream=alice&consumer=bob&after=0")
            await reader.take(5)
            await reader.ack(1)
            await until(lambda: w.cursor("bob") == 1)
            await reader.leave()
            async with w.session.ws_connect(w.url + "/agent"):
                await until(lambda: ("alice", "agent") in w.engine.courier.consumers)
                shown = await status(w)
            assert shown["version"] == __version__ and shown["dialect"] == "relaycast" and shown["ready"] is True
            (row,) = shown["streams"]
            wanted = {"name": "alice", "epoch": w.store.epoch, "head": 4, "events": 3, "upstream": "live", "gaps": 1, "details": {"seq": 7}}
            assert {k: row[k] for k in wanted} == wanted
            (gap,) = row["last_gaps"]
            assert (gap["reason"], gap["from"], gap["to"], gap["count"]) == ("lost", 4, 9, 6)
            assert gap["wall"] > 1_700_000_000
            agent, bob = row["consumers"]
            assert (agent["name"], agent["kind"], agent["cursor"], agent["lag"], agent["sessions"]) == ("agent", "agent", 0, 4, 1)
            assert agent["quality"] == "none"
            assert (bob["name"], bob["kind"], bob["cursor"], bob["lag"], bob["sessions"]) == ("bob", "native", 1, 3, 0)
            assert bob["quality"] == "handled"
            assert shown["problems"] == [] and shown["sockets"] == []

    asyncio.run(scenario())


def test_facts_of_a_stream_alone_win_and_a_moment_gets_its_age() -> None:
    async def scenario() -> None:
        async with world() as w:
            since = time.time() - 600
            own = {"alice": {"upstream": "waiting", "part": "0/2", "session_since": since}, "elsewhere": {"upstream": "live"}}
            w.tell(act.Status({"upstream": "live", "part": "all", "streams": own}))
            (row,) = (await status(w))["streams"]
            assert row["upstream"] == "waiting"
            assert row["details"] == {"seq": 7, "part": "0/2", "session_since": since, "session_age_s": row["details"]["session_age_s"]}
            assert 600 <= row["details"]["session_age_s"] < 660
            assert "upstream waiting: 1" in (await w.get("/_sidecar/readyz"))[1]

    asyncio.run(scenario())


def test_gaps_outlive_a_restart() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            w.gap(Gap("lost", "seq", 4, 9))
            await until(lambda: w.head == 1)
        async with world(store) as w:
            assert (await status(w))["streams"][0]["gaps"] == 1

    asyncio.run(scenario())


def test_problems_name_their_mend() -> None:
    async def scenario() -> None:
        lost = Lost("journal.mdb.damaged-x", "page 3 is torn", 1.0)
        async with world(ModelStore(lost=lost)) as w:
            w.tell(act.Fatal("token_refused", "set SIDECAR_UPSTREAM_TOKEN"))
            w.server.tunnels["c9"] = "/v1/other"
            async with w.session.ws_connect(w.url + "/agent"):
                await until(lambda: len(w.engine.courier.sessions) == 1)
                w.do(act.Downgrade(next(iter(w.engine.courier.sessions)), "written"))
                shown = await status(w)
            whats = [p["what"] for p in shown["problems"]]
            for word, what in zip(("damaged-x", "token_refused", "/v1/other", "agent"), whats, strict=True):
                assert word in what
            assert all(p["mend"] for p in shown["problems"])
            assert shown["sockets"] == [{"path": "/v1/other", "protected": False, "count": 1}]

    asyncio.run(scenario())


def test_what_stopped_the_agents_side_is_a_problem_until_it_is_taken_back() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.do(act.Status({"fatal": {"code": "4004", "mend": "set SIDECAR_UPSTREAM_TOKEN"}}))
            shown = await status(w)
            assert [p["mend"] for p in shown["problems"]] == ["set SIDECAR_UPSTREAM_TOKEN"] and "4004" in shown["problems"][0]["what"]
            assert shown["downstream"] == {}
            w.do(act.Status({"fatal": None}))
            w.tell(act.Fatal("4014", "grant it"))
            w.tell(act.Status({"fatal": None}))
            assert (await status(w))["problems"] == []

    asyncio.run(scenario())


# --- the page ---------------------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_whose_policy_lets_nothing_else_in() -> None:
    async def scenario() -> None:
        async with world() as w:
            code, body, headers = await w.get("/_sidecar/")
            assert code == 200 and headers["Content-Type"].startswith("text/html")
            policy = headers["Content-Security-Policy"]
            for directive in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
                assert directive in policy
            assert "unsafe" not in policy
            for tag in ("script", "style"):
                (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", body, re.DOTALL)
                digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
                assert f"{tag}-src 'sha256-{digest}'" in policy

    asyncio.run(scenario())


def test_the_page_needs_nothing_from_elsewhere_and_sets_text_only_as_text() -> None:
    html = page.HTML.decode()
    assert not re.findall(r"https?://|src=|@import|url\(", html)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(| on[a-z]+=| style=", html)


DETAILS = {
    "session_since": 1.0,
    "session_age_s": 7300,
    "seq": 1234567,
    "part": "0/2",
    "budget": {"used": 2, "window_s": 86400},
    "names": ["a", "b"],
    "none": None,
    "on": True,
}


def test_the_page_and_the_table_say_what_a_dialect_tells_in_the_same_words() -> None:
    said = "session age 2 h, seq 1234567, part 0/2, budget (used 2, window 24 h), names a, b, none -, on yes"
    assert status_cli.facts(DETAILS) == said
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node to run the page's script")
    script = re.findall("<script>(.*?)</script>", page.HTML.decode(), re.DOTALL)[0].rsplit("refresh();", 1)[0]
    ran = subprocess.run([node, "-e", f"{script}\nconsole.log(facts({json.dumps(DETAILS)}))"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == said


# --- consumer reset -----------------------------------------------------------------------------------------------------------------


def order(**members: Any) -> dict[str, Any]:
    return {"name": "bob", "offset": None, "stream": None, "dialect": "relaycast", "upstream": "http://upstream.example"} | members


async def reset(w: World, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    sent = {"Content-Type": "application/json"} | headers
    async with w.session.post(w.url + "/_sidecar/consumers/reset", data=json.dumps(body), headers=sent) as response:
        return response.status, json.loads(await response.text())


def test_reset_over_http_is_answered_when_it_is_on_disk() -> None:
    async def scenario() -> None:
        store = ModelStore()
        async with world(store) as w:
            await w.admitted(b"1", b"2", b"3")
            reader = await w.ws("stream=alice&consumer=bob")
            await reader.next()
            await until(lambda: w.cursor("bob") == 3)
            w.writer.held = True
            answer = asyncio.create_task(reset(w, order(offset=1)))
            await until(lambda: w.engine.courier.consumers["alice", "native:bob"].cursor == 1)
            await status(w)
            assert not answer.done()
            w.writer.held = False
            assert await answer == (200, {"stream": "alice", "consumer": "native:bob", "before": 3, "cursor": 1})
            assert (await reader.closed())[0] == 1012
            row = msgspec.json.decode(store.get(Table.CURSORS, cursor_key(1, "native:bob")) or b"", type=CursorRow)
            assert row.offset == 1
            assert (await reset(w, order()))[1]["cursor"] == 3, "no offset: the head"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "headers", "code", "word"),
    [
        (order(name="eve"), {}, 404, "eve"),
        (order(stream="other"), {}, 404, "other"),
        (order(offset=99), {}, 400, "head"),
        (order(offset="1"), {}, 400, "int"),
        ([], {}, 400, "object"),
        (order(upstream="http://else"), {}, 409, "upstream.example"),
        (order(), {"Content-Type": "text/plain"}, 415, "JSON"),
        (order(name="x" * 70_000), {}, 413, "large"),
    ],
)
def test_reset_says_what_is_wrong(body: Any, headers: Mapping[str, str], code: int, word: str) -> None:
    async def scenario() -> None:
        async with world() as w:
            reader = await w.ws("stream=alice&consumer=bob")
            await reader.next()
            status_, answer = await reset(w, body, **headers)
            assert status_ == code and word in answer["error"] and answer["mend"]
            assert not reader.ws.closed

    asyncio.run(scenario())


def test_a_page_from_elsewhere_cannot_reset() -> None:
    async def scenario() -> None:
        async with world() as w:
            headers = {"Content-Type": "application/json", "Origin": "https://evil.example"}
            async with w.session.post(w.url + "/_sidecar/consumers/reset", data=json.dumps(order()), headers=headers) as response:
                assert response.status == 403

    asyncio.run(scenario())


# --- the command ----------------------------------------------------------------------------------------------------------------------


def settings(tmp_path: Path, url: str = "http://127.0.0.1:1") -> Any:
    return load({
        "SIDECAR_DIALECT": "relaycast", "SIDECAR_UPSTREAM": "http://upstream.example", "SIDECAR_DATA_DIR": str(tmp_path / "data"),
        "SIDECAR_LISTEN": url.removeprefix("http://"),
    })  # fmt: skip


def opened(config: Any) -> Store:
    return Store.open(
        config.data_dir, dialect=config.dialect, upstream=config.upstream, durability="process",
        retention_bytes=config.retention_bytes, retention_s=config.retention_s, wall=1.0,
    )  # fmt: skip


def filled(config: Any) -> None:
    """A journal with streams alice and zoe, three events in alice, bob on both and an agent's consumer on alice."""
    store = opened(config)
    try:
        admission, batch = Admission(store, 10), Batch()
        for name in ("alice", "zoe"):
            admission.open_stream(name, "a", 1.0, batch)
        admission.apply("up:a", [act.Admit("alice", b"%d" % n) for n in range(3)], 1.0, batch)
        admission.close_batch(batch)
        for sid, name, offset in ((1, "agent", 3), (1, "native:bob", 3), (2, "native:bob", 0), (1, "native:agent", 2)):
            batch.put(Table.CURSORS, cursor_key(sid, name), msgspec.json.encode(CursorRow(offset, 5.0, "handled")))
        store.apply(batch)
    finally:
        store.close()


def cursors(config: Any) -> dict[tuple[int, str], CursorRow]:
    store = opened(config)
    try:
        return {
            (int.from_bytes(k[:4], "big"), k[4:].decode()): msgspec.json.decode(v, type=CursorRow) for k, v in store.scan(Table.CURSORS)
        }
    finally:
        store.close()


def test_the_command_writes_the_journal_of_a_stopped_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path)
    filled(config)
    before = cursors(config)
    assert consumer_cli.run(config, "agent", offset=1, stream=None) == 0
    assert "agent of alice: cursor 3 -> 1" in capsys.readouterr().out
    assert consumer_cli.run(config, "bob", offset=None, stream="zoe") == 0
    assert consumer_cli.run(config, "native:agent", offset=0, stream=None) == 0
    after = cursors(config)
    moved = {(1, "agent"): CursorRow(1, 5.0, "handled", 1), (1, "native:agent"): CursorRow(0, 5.0, "handled", 1)}
    assert after == before | moved | {(2, "native:bob"): msgspec.structs.replace(before[2, "native:bob"], resets=1)}
    assert after[2, "native:bob"].offset == 0, "the head of a stream without records"


@pytest.mark.parametrize(
    ("name", "offset", "stream", "words"),
    [
        ("bob", None, None, ("several", "alice, zoe")),
        ("eve", None, None, ("eve", "bob of zoe")),
        ("agent", 4, None, ("above the head", "--head")),
    ],
)
def test_the_command_changes_nothing_it_is_not_sure_of(
    tmp_path: Path, name: str, offset: int | None, stream: str | None, words: tuple[str, str]
) -> None:
    config = settings(tmp_path)
    filled(config)
    before = cursors(config)
    with pytest.raises(SidecarError) as wrong:
        consumer_cli.run(config, name, offset=offset, stream=stream)
    assert words[0] in wrong.value.text and words[1] in wrong.value.text + wrong.value.mend
    assert cursors(config) == before


def test_the_command_makes_no_journal_and_names_a_sidecar_it_cannot_reach(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with pytest.raises(SidecarError, match="no journal"):
        consumer_cli.run(config, "bob", offset=None, stream=None)
    assert not config.data_dir.exists()
    store = opened(config)
    try:
        with pytest.raises(DataDirInUse) as held:
            consumer_cli.run(config, "bob", offset=None, stream=None)
        assert held.value.exit_code == 3 and "SIDECAR_LISTEN" in held.value.mend
    finally:
        store.close()


def test_the_command_asks_the_running_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.admitted(b"1", b"2")
            reader = await w.ws("stream=alice&consumer=bob")
            await reader.next()
            config = settings(tmp_path, w.url)
            code = await asyncio.to_thread(consumer_cli.run, config, "bob", offset=1, stream=None)
            assert code == 0 and "bob of alice: cursor 2 -> 1" in capsys.readouterr().out
            with pytest.raises(SidecarError, match="eve"):
                await asyncio.to_thread(consumer_cli.run, config, "eve", offset=1, stream=None)

    asyncio.run(scenario())


@pytest.mark.parametrize(("offset", "cursor"), [(20, 20), (None, 33)])
def test_the_command_knows_the_head_of_a_stream_whose_last_row_holds_many_records(tmp_path: Path, offset: int | None, cursor: int) -> None:
    config = settings(tmp_path)
    filled(config)
    store = opened(config)
    try:
        admission, batch = Admission(store, 10), Batch()
        admission.apply("up:a", [act.AdmitRun("alice", [b"x"] * 30, [b""] * 30)], 1.0, batch)
        admission.close_batch(batch)
        store.apply(batch)
    finally:
        store.close()
    assert consumer_cli.run(config, "agent", offset=offset, stream=None) == 0
    assert cursors(config)[1, "agent"].offset == cursor
