"""The reference upstream against the wire page `relaycast`: sections 2 to 7, the table of section 5, the figures of 11."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.demo.ids import EPOCH_MS, event_id
from sidecar.demo.rows import Agent, Channel, Workspace
from sidecar.demo.sockets import Socket
from sidecar.demo.world import World

START = 1_780_000_000.25
HIGHEST = 9007199254740991


class Bench:
    """A world with Ann and Bob in #general, and a clock in hand."""

    def __init__(self) -> None:
        self.at = START
        self.world = World(lambda: self.at)
        self.team: Workspace = self.world.add_workspace()
        self.ann: Agent = self.world.add_agent(self.team, "Ann")
        self.bob: Agent = self.world.add_agent(self.team, "Bob")
        self.general: Channel = self.world.add_channel(self.team, "general", [self.ann, self.bob])

    def open(self, agent: Agent | None = None) -> Socket:
        socket = self.world.connect(f"/v1/ws?token={(agent or self.bob).token}&origin_client=x")
        assert isinstance(socket, Socket)
        return socket

    def post(self, count: int, text: str = "m", *, step: float = 0.0) -> list[str]:
        ids = []
        for index in range(count):
            ids.append(str(self.world.post(self.ann, "general", f"{text}{index}").id))
            self.at += step
        return ids

    def resync(self, socket: Socket, seq: Any, since: Any = None) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """What a resync brought: rows, then the ack if one came."""
        drain(socket)
        asked = {"type": "resync", "last_seen_seq": seq}
        socket.receive(json.dumps(asked if since is None else {**asked, "since": since}))
        rows = drain(socket)
        ack = rows.pop() if rows and rows[-1]["type"] == "resync_ack" else None
        return rows, ack

    def get(self, path: str, agent: Agent | None = None, token: str | None = None) -> Any:
        bearer = token or (agent or self.bob).token
        return self.world.http("GET", path, [("Authorization", f"Bearer {bearer}")], b"")

    def send(self, method: str, path: str, body: Any, *headers: tuple[str, str], token: str | None = None) -> Any:
        bearer = ("Authorization", f"Bearer {token or self.bob.token}")
        return self.world.http(method, path, [bearer, *headers], json.dumps(body).encode())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def drain(socket: Socket) -> list[dict[str, Any]]:
    frames = [json.loads(frame) for frame in socket.outbox]
    socket.outbox.clear()
    return frames


def iso(second: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(second, UTC).isoformat().replace("+00:00", "Z")


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["message"]["text"] for row in rows if "message" in row]


# Frames (section 4)


def test_event_id_has_the_check_value_of_the_wire_page() -> None:
    assert event_id("249685982163529728") == "54ca1feb-0820-5cff-8be7-22df1c4e1a75"
    assert event_id(249686124400766976) == "d36a1e8c-57d2-50f3-b5b3-f74078c1dfb3"
    assert event_id("249685982163529728", joined=True) != event_id("249685982163529728")


def test_frames_have_the_keys_of_the_wire_page_in_their_order(bench: Bench) -> None:
    socket = bench.open()
    root = bench.world.post(bench.ann, "general", 'one "1"')
    answer = bench.world.reply(bench.ann, root, "reply-1")
    bench.world.react(bench.ann, root, "👍")
    direct = bench.world.dm(bench.ann, [bench.bob], "dm-1")
    who = f'"agent_id":"{bench.ann.id}","agent_name":"Ann"'
    assert list(socket.outbox) == [
        f'{{"id":"{event_id(root.id)}","type":"message.created","channel":"general","message":{{"id":"{root.id}",{who},'
        '"text":"one \\"1\\"","attachments":[],"injection_mode":"wait"},"channel_seq":1,"agent_seq":1}',
        f'{{"id":"{event_id(answer.id)}","type":"thread.reply","channel":"general","parent_id":"{root.id}",'
        f'"message":{{"id":"{answer.id}",{who},"text":"reply-1"}},"channel_seq":2,"agent_seq":2}}',
        f'{{"type":"message.reacted","message_id":"{root.id}","emoji":"👍","agent_name":"Ann","action":"added",'
        '"channel_seq":3,"agent_seq":3}',
        f'{{"id":"{event_id(direct.id)}","type":"dm.received","conversation_id":"{direct.place.id}",'
        f'"message":{{"id":"{direct.id}",{who},"text":"dm-1","injection_mode":"wait"}},"agent_seq":4}}',
    ]


def test_database_rows_look_as_on_the_wire_page(bench: Bench) -> None:
    root = bench.world.post(bench.ann, "general", "x11")
    bench.world.react(bench.ann, root, "A")
    bench.world.restart()
    socket = bench.open()
    bench.world.burn_seq(1, bench.bob)
    socket.receive(json.dumps({"type": "resync", "last_seen_seq": -1, "since": iso(START - 5)}))
    who = f'"agent_id":"{bench.ann.id}","agent_name":"Ann"'
    assert list(socket.outbox)[:2] == [
        f'{{"id":"{event_id(root.id)}","type":"message.created","channel":"general","message":{{"id":"{root.id}",{who},'
        '"text":"x11","attachments":[]},"replayed":true}',
        f'{{"type":"message.reacted","message_id":"{root.id}","emoji":"A","agent_name":"Ann","action":"added","replayed":true}}',
    ]


def test_message_ids_carry_the_servers_clock_and_always_grow(bench: Bench) -> None:
    ids = [int(number) for number in bench.post(5000)]
    assert (ids[0] >> 22) + EPOCH_MS == int(START * 1000)
    bench.at -= 3600
    ids += [int(number) for number in bench.post(2)]
    assert ids == sorted(set(ids))


def test_every_socket_of_every_member_gets_every_event_the_senders_too(bench: Bench) -> None:
    sockets = [bench.open(), bench.open(), bench.open(bench.ann)]
    bench.post(2)
    assert [[row["agent_seq"] for row in drain(socket)] for socket in sockets] == [[1, 2]] * 3


def test_numbers_are_contiguous_over_all_kinds(bench: Bench) -> None:
    socket = bench.open()
    root = bench.world.post(bench.ann, "general", "a")
    bench.world.update(bench.ann, root, "b")
    bench.world.react(bench.bob, root, "x")
    bench.world.react(bench.bob, root, "x", "removed")
    bench.world.presence(bench.ann, "idle")
    bench.world.emit([bench.bob], {"type": "of.the.future", "n": 1})
    rows = drain(socket)
    assert [row["agent_seq"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["type"] for row in rows[1:]] == [
        "message.updated", "message.reacted", "message.reacted", "agent.status.idle", "of.the.future",
    ]  # fmt: skip


def test_a_muted_channel_takes_channel_numbers_but_no_agent_numbers(bench: Bench) -> None:
    socket = bench.open()
    bench.world.mute(bench.bob, "general")
    bench.post(1)
    bench.world.mute(bench.bob, "general", False)
    bench.post(1)
    assert [(row["channel_seq"], row["agent_seq"]) for row in drain(socket)] == [(2, 1)]


def test_subscribe_and_junk_are_ignored_in_silence(bench: Bench) -> None:
    socket = bench.open()
    for frame in (
        '{"type":"subscribe","channels":["general"]}', '{"type":"unsubscribe","channels":["general"]}', "{", "[]", "7",
        '{"type":"resync"}', '{"type":"resync","last_seen_seq":null}', '{"type":"resync","last_seen_seq":true}',
        '{"type":"resync","last_seen_seq":"3"}', '{"type":"nothing"}', b"\xff\xfe",
    ):  # fmt: skip
        socket.receive(frame)
    assert not socket.outbox and socket.closed is None
    socket.receive('{"type":"ping"}')
    assert list(socket.outbox) == ['{"type":"pong"}']
    bench.post(1)
    assert len(socket.outbox) == 2


# Upgrades (section 2)


def test_refused_upgrades_are_bare(bench: Bench) -> None:
    connect = bench.world.connect
    assert connect("/v1/ws?token=at_live_0") == (401, [], b"")
    assert connect("/v1/ws") == (401, [], b"")
    assert connect(f"/v1/other?token={bench.bob.token}") == (404, [], b"")
    assert connect(f"/v1/ws?token={bench.team.key}") == (404, [], b"")


def test_the_firehose_has_no_numbers_and_answers_no_resync(bench: Bench) -> None:
    bench.send("PUT", "/v1/workspace/stream", {"enabled": True}, token=bench.team.key)
    socket = bench.world.connect(f"/v1/ws?token={bench.team.key}")
    assert isinstance(socket, Socket)
    bench.post(1)
    assert [("agent_seq" in row, row["type"]) for row in drain(socket)] == [(False, "message.created")]
    assert bench.resync(socket, -1) == ([], None)


def test_a_moved_server_says_so(bench: Bench) -> None:
    bench.world.moved = True
    answer = bench.world.connect(f"/v1/ws?token={bench.bob.token}")
    assert not isinstance(answer, Socket)
    assert (answer.status, answer.data["message"]) == (401, "Agent realtime WebSockets have moved to node transport")


def test_a_rotated_token_closes_the_sockets_and_is_void(bench: Bench) -> None:
    socket, old = bench.open(), bench.bob.token
    new = bench.world.rotate_token(bench.bob)
    assert socket.closed == (1000, "force-disconnect")
    assert bench.world.connect(f"/v1/ws?token={old}") == (401, [], b"")
    assert isinstance(bench.world.connect(f"/v1/ws?token={new}"), Socket)


# resync (section 5) and the figures (section 11)


def test_660_missed_with_since_five_seconds_early(bench: Bench) -> None:
    bench.post(1, "seen")
    seen_at = bench.at
    bench.at += 1
    missed = bench.post(660, step=0.01)
    rows, ack = bench.resync(bench.open(), 1, iso(seen_at - 5))
    assert ack == {"type": "resync_ack", "last_seen_seq": 1, "current_seq": 661, "replayed": 1161, "gap_detected": True}
    assert len(rows) == 1161
    assert set(missed) <= {row["message"]["id"] for row in rows}
    assert [row["agent_seq"] for row in rows[:500]] == list(range(162, 662))
    assert all(row["replayed"] and "agent_seq" not in row and "channel_seq" not in row for row in rows[500:])
    assert texts(rows[500:]) == ["seen0"] + [f"m{index}" for index in range(660)]


def test_660_missed_without_since_brings_the_ring_alone(bench: Bench) -> None:
    bench.post(661)
    for since in (None, "soon", 1780000000):
        rows, ack = bench.resync(bench.open(), 1, since)
        assert ack is not None
        assert (len(rows), ack["replayed"], ack["gap_detected"]) == (500, 500, True)  # L2


def test_1800_missed_loses_the_middle_without_a_sign(bench: Bench) -> None:
    bench.post(1, "seen")
    since = iso(bench.at)
    bench.at += 1
    root = None
    for index in range(1800):
        root = bench.world.post(bench.ann, "general", f"m{index}")
        bench.at += 0.01
    assert root is not None
    bench.world.react(bench.ann, root, "a")
    bench.world.react(bench.ann, root, "b")
    rows, ack = bench.resync(bench.open(), 1, since)
    assert ack is not None and (ack["replayed"], ack["gap_detected"]) == (1502, True)
    missing = {f"m{index}" for index in range(1800)} - set(texts(rows))
    assert missing == {f"m{index}" for index in range(1000, 1302)}  # L3
    reactions = [row for row in rows if row["type"] == "message.reacted"]
    assert [row.get("replayed", False) for row in reactions] == [False, False, True, True]  # D1
    assert all("id" not in row for row in reactions)


def test_what_shares_the_second_of_since_and_left_the_ring_is_lost(bench: Bench) -> None:
    bench.post(1, "seen")
    since = iso(bench.at)
    bench.post(160, "early")  # in the same wall second
    bench.at += 1
    bench.post(500, "late")
    rows, ack = bench.resync(bench.open(), 1, since)
    assert ack is not None and ack["replayed"] == 1000
    assert set(texts(rows)) == {f"late{index}" for index in range(500)}  # L1: 160 lost, 500 doubles


def test_the_counter_can_be_read_for_nothing(bench: Bench) -> None:
    bench.post(3)
    for asked in (HIGHEST, 3):
        assert bench.resync(bench.open(), asked, iso(START - 9)) == (
            [],
            {"type": "resync_ack", "last_seen_seq": asked, "current_seq": 3, "replayed": 0, "gap_detected": False},
        )
    rows, ack = bench.resync(bench.open(), 1.5)
    assert [row["agent_seq"] for row in rows] == [2, 3] and ack is not None and ack["last_seen_seq"] == 1.5


def test_a_ring_that_reaches_back_far_enough_is_no_gap(bench: Bench) -> None:
    bench.post(501)
    rows, ack = bench.resync(bench.open(), 1, iso(START - 9))
    assert len(rows) == 500 and ack is not None and ack["gap_detected"] is False
    rows, ack = bench.resync(bench.open(), 0, iso(START - 9))
    assert len(rows) == 1001 and ack is not None and ack["gap_detected"] is True


def test_minus_one_gives_all_there_is_also_after_a_restart(bench: Bench) -> None:
    bench.post(3)
    bench.world.restart()
    rows, ack = bench.resync(bench.open(), -1, iso(START - 5))
    assert ack is not None and (ack["replayed"], ack["gap_detected"], ack["current_seq"]) == (3, True, 0)
    rows, ack = bench.resync(bench.open(), 0, iso(START - 5))
    assert (rows, ack and ack["gap_detected"]) == ([], False)
    bench.post(2, "new")
    rows, ack = bench.resync(bench.open(), 0, iso(START - 5))
    assert texts(rows) == ["new0", "new1"] and ack is not None and ack["gap_detected"] is False
    rows, ack = bench.resync(bench.open(), -1)
    assert len(rows) == 2


def test_restart_with_a_lower_counter_offers_nothing(bench: Bench) -> None:
    bench.post(10)
    socket = bench.open()
    bench.world.restart()
    assert socket.closed == (None, "")
    bench.post(4, "new")
    rows, ack = bench.resync(bench.open(), 10, iso(START - 5))
    assert rows == [] and ack is not None  # L4
    assert (ack["replayed"], ack["gap_detected"], ack["current_seq"]) == (0, False, 4)


def test_restart_with_a_higher_counter_hides_the_first_of_the_new_life(bench: Bench) -> None:
    bench.post(10)
    bench.world.restart()
    bench.post(14, "new")
    rows, ack = bench.resync(bench.open(), 10, iso(START - 5))
    assert texts(rows) == ["new10", "new11", "new12", "new13"]  # L5
    assert ack is not None and ack["gap_detected"] is False
    bench.world.restart({"Bob": 40})
    assert bench.resync(bench.open(), HIGHEST)[1]["current_seq"] == 40  # type: ignore[index]


def test_each_query_has_its_own_thousand_and_rows_merge_by_second(bench: Bench) -> None:
    for _ in range(1200):
        bench.at += 1
        root = bench.world.post(bench.ann, "general", "m")
        bench.world.dm(bench.ann, [bench.bob], "d")
        bench.world.react(bench.ann, root, "r")
    bench.world.restart(5000)
    rows, ack = bench.resync(bench.open(), 4000, iso(START))
    assert ack is not None and ack["replayed"] == 3000
    assert [row["type"] for row in rows[:6]] == ["message.created", "dm.received", "message.reacted"] * 2


def test_the_database_knows_memberships_of_now_and_no_mutes(bench: Bench) -> None:
    ops = bench.world.add_channel(bench.team, "ops", [bench.ann])
    bench.world.post(bench.ann, ops, "before Bob came")
    bench.post(1, "general")
    bench.world.dm(bench.ann, [bench.world.add_agent(bench.team, "Cid")], "not for Bob")
    bench.world.join(bench.bob, ops)
    bench.world.mute(bench.bob, ops)
    bench.world.leave(bench.bob, "general")
    rows, _ = bench.resync(bench.open(), -1, iso(START - 5))
    assert texts([row for row in rows if "replayed" in row]) == ["before Bob came"]


def test_only_stored_kinds_come_from_the_database(bench: Bench) -> None:
    root = bench.world.post(bench.ann, "general", "root")
    bench.world.reply(bench.ann, root, "reply")
    bench.world.update(bench.ann, root, "root, edited")
    bench.world.react(bench.ann, root, "stays")
    bench.world.react(bench.ann, root, "goes")
    bench.world.react(bench.ann, root, "goes", "removed")
    bench.world.presence(bench.ann, "active")
    bench.world.dm(bench.ann, [bench.bob, bench.world.add_agent(bench.team, "Cid")], "group")
    bench.world.restart()
    rows, _ = bench.resync(bench.open(), -1, iso(START - 5))
    kinds = [row["type"] for row in rows]
    assert kinds == ["message.created", "thread.reply", "group_dm.received", "message.reacted"]  # L8
    assert texts(rows) == ["root, edited", "reply", "group"]
    assert [row["message"]["attachments"] for row in rows[:3]] == [[], [], []]


def test_live_events_can_stand_inside_a_replay(bench: Bench) -> None:
    bench.post(501)
    socket = bench.open()
    bench.world.on_replay = lambda _, part, index: index == 0 and bench.world.post(bench.bob, "general", part) and None
    rows, ack = bench.resync(socket, 0, iso(START - 5))
    live = [index for index, text in enumerate(texts(rows)) if text in ("ring", "database") and index < 502]
    assert live == [0, 501]  # O1: before the first ring row, and between ring and database
    assert ack is not None and (ack["current_seq"], ack["replayed"]) == (501, 500 + 502)
    bench.world.on_replay = lambda _, part, index: part == "ack" and bench.world.post(bench.bob, "general", "z") and None
    assert texts(bench.resync(socket, 501)[0])[-1] == "z"


# Faults


def test_a_lost_push_leaves_a_hole_that_the_ring_fills(bench: Bench) -> None:
    socket = bench.open()
    bench.world.lose_pushes(2, bench.bob)
    bench.post(3)
    assert [row["agent_seq"] for row in drain(socket)] == [3]  # L7
    assert [row["agent_seq"] for row in bench.resync(socket, 0)[0]] == [1, 2, 3]
    bench.world.lose_pushes(1, bench.bob, from_ring=True)
    bench.post(2)
    assert [row["agent_seq"] for row in bench.resync(socket, 3)[0]] == [5]


def test_burnt_numbers_have_no_event(bench: Bench) -> None:
    socket = bench.open()
    bench.world.burn_seq(2, bench.bob)
    bench.post(1)
    assert [row["agent_seq"] for row in drain(socket)] == [3]
    assert [row["agent_seq"] for row in bench.resync(socket, 0)[0]] == [3]


def test_pushes_doubled_and_swapped(bench: Bench) -> None:
    socket = bench.open()
    bench.world.duplicate_pushes(1, bench.bob)
    bench.post(2)
    bench.world.reorder_pushes(1, bench.bob)
    bench.post(3)
    assert [row["agent_seq"] for row in drain(socket)] == [1, 1, 2, 4, 3, 5]


def test_resyncs_swallowed_hollow_and_broken_off(bench: Bench) -> None:
    bench.post(5)
    socket = bench.open()
    bench.world.swallow_resync()
    assert bench.resync(socket, 0) == ([], None)  # L6
    bench.world.hollow_resync()
    rows, ack = bench.resync(socket, 0)
    assert rows == [] and ack is not None and (ack["replayed"], ack["current_seq"]) == (0, 5)
    bench.world.break_resync(2, cut=False)
    rows, ack = bench.resync(socket, 0)
    assert (len(rows), ack, socket.closed) == (2, None, None)
    bench.world.break_resync(3)
    rows, ack = bench.resync(socket, 0)
    assert (len(rows), ack, socket.closed) == (3, None, (None, ""))
    assert bench.resync(bench.open(), 0)[1] is not None


@pytest.mark.parametrize("kind", ["half_open", "deaf"])
def test_silent_sockets_stay_open_and_say_nothing(bench: Bench, kind: str) -> None:
    socket = bench.open()
    bench.world.go_silent(kind)
    bench.post(2)
    socket.receive('{"type":"ping"}')
    assert bench.resync(socket, 0) == ([], None) and socket.closed is None  # L9
    assert socket.answers_pings is (kind == "deaf")
    assert len(bench.resync(bench.open(), 0)[0]) == 2
    setattr(bench.world, kind, True)
    fresh = bench.open()
    fresh.receive('{"type":"ping"}')
    assert not fresh.outbox


def test_cuts_refusals_and_a_token_refused_once(bench: Bench) -> None:
    target = f"/v1/ws?token={bench.bob.token}"
    socket = bench.open()
    bench.post(1)
    bench.world.cut_all()
    assert socket.closed == (None, "") and not socket.outbox
    bench.world.refuse_connects(503, 2)
    bench.world.refuse_token(bench.bob)
    assert [bench.world.connect(target)[0] for _ in range(3)] == [503, 503, 401]  # type: ignore[index]
    assert isinstance(bench.world.connect(target), Socket)
    bench.world.refuse_token(bench.bob)
    assert [bench.get("/v1/agent").status for _ in range(2)] == [401, 200]


def test_extra_keys_and_layout(bench: Bench) -> None:
    socket = bench.open()
    bench.world.extra_keys = True
    bench.post(1)
    assert socket.outbox[0].endswith(f',"agent_seq":1,"workspaceId":"{bench.team.id}","agentId":"{bench.bob.id}"}}')
    bench.world.extra_keys, bench.world.spaced_json = False, True
    bench.post(1)
    assert '"agent_seq" : 2' in socket.outbox[1] and "\n" in socket.outbox[1]
    assert json.loads(socket.outbox[1])["agent_seq"] == 2


def test_forgotten_messages_are_gone_everywhere(bench: Bench) -> None:
    kept, gone = bench.world.post(bench.ann, "general", "kept"), bench.world.post(bench.ann, "general", "gone")
    bench.world.reply(bench.ann, gone, "with it")
    bench.world.react(bench.ann, gone, "x")
    reply = bench.world.reply(bench.ann, kept, "also gone")
    bench.world.forget([gone, reply])
    bench.world.restart()
    assert texts(bench.resync(bench.open(), -1, iso(START - 5))[0]) == ["kept"]
    assert [row["reply_count"] for row in bench.get("/v1/channels/general/messages").data] == [0]
    assert bench.get(f"/v1/messages/{gone.id}").status == 404


# REST (section 6)


def test_channel_history_pages_as_the_wire_page_says(bench: Bench) -> None:
    ids = bench.post(230)
    root = bench.world.message(ids[0])
    bench.world.reply(bench.ann, root, "not here")

    def page(query: str = "") -> list[str]:
        return [row["id"] for row in bench.get(f"/v1/channels/general/messages{query}").data]

    assert page() == ids[:179:-1]
    assert page("?limit=1000") == ids[:129:-1]
    assert page(f"?limit=100&after={ids[9]}") == ids[:129:-1]  # the newest page above it
    assert page(f"?limit=100&before={ids[130]}") == ids[129:29:-1]
    assert page(f"?limit=5&before={ids[12]}&after={ids[9]}") == [ids[11], ids[10]]
    assert bench.get("/v1/channels/nowhere/messages").status == 404


def test_replies_page_forward_under_the_root(bench: Bench) -> None:
    root = bench.world.post(bench.ann, "general", "root")
    replies = [str(bench.world.reply(bench.ann, root, str(index)).id) for index in range(120)]
    nested = str(bench.world.reply(bench.ann, replies[0], "nested").id)
    first = bench.get(f"/v1/messages/{root.id}/replies?limit=100").data
    assert [row["id"] for row in first["replies"]] == replies[:100]
    assert (first["parent"]["id"], first["parent"]["reply_count"]) == (str(root.id), 121)
    rest = bench.get(f"/v1/messages/{root.id}/replies?limit=100&after={replies[99]}").data["replies"]
    assert [row["id"] for row in rest] == [*replies[100:], nested]
    assert rest[-1]["thread_id"] == str(root.id) and "reply_count" not in rest[-1]


def test_rows_and_memberships(bench: Bench) -> None:
    root = bench.world.post(bench.ann, "general", "root")
    bench.world.react(bench.ann, root, "👍")
    bench.world.react(bench.bob, root, "👍")
    (row,) = bench.get("/v1/channels/general/messages").data
    assert set(row) == {
        "id", "channel_id", "agent_id", "agent_name", "text", "blocks", "metadata", "has_attachments", "thread_id",
        "created_at", "reply_count", "reactions", "read_by_count", "attachments", "injection_mode",
    }  # fmt: skip
    assert row["created_at"] == "2026-05-28T20:26:40.000Z"
    assert row["reactions"] == bench.get(f"/v1/messages/{root.id}/reactions").data
    assert row["reactions"] == [{"emoji": "👍", "count": 2, "agents": ["Ann", "Bob"]}]
    bench.world.mute(bench.bob, "general")
    members = bench.get("/v1/channels/general").data["members"]
    assert [(member["agent_name"], member["role"], member["is_muted"]) for member in members] == [
        ("Ann", "owner", False),
        ("Bob", "member", True),
    ]
    bench.world.add_channel(bench.team, "not-mine", [bench.ann])
    assert [channel["name"] for channel in bench.get("/v1/channels").data] == ["general", "not-mine"]
    assert [channel["name"] for channel in bench.get("/v1/agent").data["channels"]] == ["general"]


def test_who_am_i_can_be_bare_or_missing(bench: Bench) -> None:
    assert bench.get("/v1/agent").data["workspace_id"] == bench.team.id
    bench.world.agent_endpoint = "bare"
    assert "channels" not in bench.get("/v1/agent").data
    bench.world.agent_endpoint = "missing"
    assert bench.get("/v1/agent").status == 404
    assert bench.get("/v1/agents/Ann").status == 403
    assert bench.get("/v1/agents/Ann", token=bench.team.key).data["id"] == bench.ann.id


def test_conversations_are_for_those_who_take_part(bench: Bench) -> None:
    cid = bench.world.add_agent(bench.team, "Cid")
    first = bench.world.dm(bench.ann, [bench.bob], "one")
    last = bench.world.dm(bench.bob, [bench.ann, cid], "two")
    rows = bench.get("/v1/dm/conversations").data
    assert [(row["type"], row["last_message"]["id"]) for row in rows] == [
        ("group", str(last.id)),
        ("1:1", str(first.id)),
    ]
    path = f"/v1/dm/{first.place.id}/messages"
    (row,) = bench.get(path).data
    assert set(row) == {"id", "agent_id", "agent_name", "text", "injection_mode", "attachments", "created_at"}
    assert bench.get(path, cid).status == 403
    assert bench.get(f"/v1/messages/{first.id}", cid).status == 403


def test_answers_have_a_date_and_errors_an_envelope(bench: Bench) -> None:
    answer = bench.get("/v1/agent", token="at_live_none")
    assert answer.headers[0] == ("Date", "Thu, 28 May 2026 20:26:40 GMT")
    assert (answer.status, json.loads(answer.body)["ok"], answer.data["code"]) == (401, False, "unauthorized")
    assert bench.get("/v1/nothing").status == 404


def test_rate_limits_and_failures_count_down(bench: Bench) -> None:
    bench.world.rate_limit(1, "7", method="GET")
    bench.world.fail_rest(1, 502, prefix="/v1/channels")
    assert bench.send("POST", "/v1/agents/heartbeat", {}).status == 200
    limited = bench.get("/v1/channels")
    assert limited.status == 429 and ("Retry-After", "7") in limited.headers
    assert [bench.get("/v1/channels").status for _ in range(2)] == [502, 200]
    bench.world.rate_limit(1, None)
    assert "Retry-After" not in dict(bench.get("/v1/channels").headers)


def test_a_repeat_with_the_same_key_is_not_done_again(bench: Bench) -> None:
    key = ("Idempotency-Key", "k1")
    first = bench.send("POST", "/v1/channels/general/messages", {"text": "once"}, key)
    again = bench.send("POST", "/v1/channels/general/messages", {"text": "once"}, key)
    other = bench.send("POST", "/v1/channels/general/messages", {"text": "once"}, ("X-Idempotency-Key", "k2"))
    assert first.body == again.body != other.body
    assert ("Idempotency-Replayed", "true") in again.headers and len(bench.general.roots) == 2


def test_an_agent_can_register_and_talk_over_rest(bench: Bench) -> None:
    world = bench.world
    team = world.http("POST", "/v1/workspaces", [], b'{"name":"new"}').data
    ann = bench.send("POST", "/v1/agents", {"name": "Ann"}, token=team["api_key"]).data
    bob = bench.send("POST", "/v1/agents", {"name": "Bob"}, token=team["api_key"]).data
    assert bench.send("POST", "/v1/agents", {"name": "Bob"}, token=team["api_key"]).status == 409
    assert bench.send("POST", "/v1/channels", {"name": "a/b"}, token=ann["token"]).status == 201
    joined = bench.send("POST", "/v1/channels/a%2Fb/join", {}, token=bob["token"]).data
    assert joined == {"channel": "a/b", "agent_id": bob["id"], "already_member": False}
    socket = world.connect(f"/v1/ws?token={bob['token']}")
    assert isinstance(socket, Socket)
    root = bench.send("POST", "/v1/channels/a%2Fb/messages", {"text": "hi"}, token=ann["token"]).data
    bench.send("POST", f"/v1/messages/{root['id']}/replies", {"text": "re"}, token=ann["token"])
    bench.send("POST", f"/v1/messages/{root['id']}/reactions", {"emoji": "x"}, token=ann["token"])
    assert bench.send("DELETE", f"/v1/messages/{root['id']}/reactions/x", {}, token=ann["token"]).status == 204
    bench.send("POST", "/v1/dm", {"to": "Bob", "text": "psst"}, token=ann["token"])
    bench.send("POST", "/v1/dm/group", {"participants": ["Bob"], "text": "all"}, token=ann["token"])
    assert [row["type"] for row in drain(socket)] == [
        "message.created", "thread.reply", "message.reacted", "message.reacted", "dm.received", "group_dm.received",
    ]  # fmt: skip
    bench.send("POST", "/v1/agents/disconnect", {}, token=bob["token"])
    assert socket.closed == (1000, "force-disconnect")


def test_the_log_has_what_clients_asked(bench: Bench) -> None:
    bench.world.log.clear()
    socket = bench.open()
    socket.receive('{"type":"ping"}')
    bench.get("/v1/channels?x=1")
    assert [(entry.method, entry.target.partition("&")[0], entry.status, entry.body) for entry in bench.world.log] == [
        ("UPGRADE", f"/v1/ws?token={bench.bob.token}", 101, b""),
        ("WS", f"/v1/ws?token={bench.bob.token}", 0, b'{"type":"ping"}'),
        ("GET", "/v1/channels?x=1", 200, b""),
    ]


def test_the_same_calls_give_the_same_bytes() -> None:
    def run() -> list[str]:
        bench = Bench()
        bench.post(3)
        return [event.frame for event in bench.bob.history]

    assert run() == run()
