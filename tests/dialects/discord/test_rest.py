"""REST through the sidecar (discord R4, R6, R7, R8): what it answers, what it rewrites, and that all else goes its way untouched."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.discord import rest
from tests.dialects.discord.scene import BOT, TOKEN, Scene

JSON = [("Content-Type", "application/json")]


def asked(scene: Scene, target: str, method: str = "GET", headers: Any = (), host: str = "127.0.0.1:8787") -> act.Action:
    scene.did.clear()
    scene.send(ev.HttpRequested("x1", ev.Head(method, target, headers, host)))
    (action,) = scene.did
    return action


@pytest.mark.parametrize("prefix", ["/api/v10", "/api/v9", "/api", ""])
def test_r4_the_gateways_address_is_on_the_origin_that_was_asked_with_nothing_behind_it(prefix: str) -> None:
    scene = Scene()
    scene.who, scene.ready = {}, None
    answer = asked(scene, prefix + "/gateway", host="localhost:1234")
    assert isinstance(answer, act.Respond)
    assert (answer.exchange, answer.status) == ("x1", 200)
    assert msgspec.json.decode(answer.body) == {"url": "ws://localhost:1234"}
    answer = asked(scene, prefix + "/gateway/bot?x=1", headers=[("Authorization", "Bot whoever")])
    assert isinstance(answer, act.Respond)
    assert msgspec.json.decode(answer.body) == {
        "url": "ws://127.0.0.1:8787",
        "shards": 1,
        "session_start_limit": {"total": 1000, "remaining": 1000, "reset_after": 14400000, "max_concurrency": 1},
    }


def test_r6_the_content_type_is_exactly_this() -> None:
    for target in ("/api/v10/gateway", "/api/v10/gateway/bot"):
        answer = asked(Scene(), target)
        assert isinstance(answer, act.Respond)
        assert list(answer.headers) == JSON
    assert rest.unavailable("x")[1] == JSON


def test_r4_shards_are_the_upstreams_last_known_of_that_bot_also_after_a_restart() -> None:
    scene = Scene().agent("c1").upstream(metadata={"shards": 3})
    mine, other = [("authorization", f"Bot {TOKEN}")], [("Authorization", "Bot other")]

    def shards(headers: Any) -> int:
        answer = asked(scene, "/api/v10/gateway/bot", headers=headers)
        assert isinstance(answer, act.Respond)
        return int(msgspec.json.decode(answer.body)["shards"])

    assert (shards(mine), shards(other), shards([])) == (3, 1, 1)
    scene.restart()
    assert shards(mine) == 3
    scene.upstream(metadata={"shards": 3})
    assert scene.did == [each for each in scene.did if isinstance(each, act.Respond)], "what is known is not written again"
    scene.upstream(metadata={"shards": 1})
    assert scene.state[f"shards:{BOT}"] == b"1"
    assert shards(mine) == 1


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/api/v10/gateway"),
        ("POST", "/api/v10/gateway/bot"),
        ("GET", "/api/v10/gateway/"),
        ("GET", "/api/v8/gateway"),
        ("GET", "/api/v10/channels/1/messages/%F0%9F%98%80%2F+?a=b%2Fc"),
        ("PUT", "/_media/cdn.discordapp.com/x"),
        ("GET", "//gateway"),
    ],
)
def test_r7_all_else_goes_to_the_upstream_as_it_is(method: str, target: str) -> None:
    assert asked(Scene(), target, method) == act.Route("x1", retype=rest.PLAIN)


def test_r7_an_upstream_that_is_away_is_told_in_its_own_envelope() -> None:
    status, headers, body = rest.unavailable("no route")
    assert (status, headers, msgspec.json.decode(body)) == (503, JSON, {"message": "no route", "code": 0})


def test_r8_local_media_is_fetched_from_a_fixed_list_of_hosts_only() -> None:
    scene = Scene(media="local")
    cases = {
        "/_media/cdn.discordapp.com/a/b%20c.png?ex=1": ("https://cdn.discordapp.com", "/a/b%20c.png?ex=1"),
        "/_media/media.discordapp.net/x": ("https://media.discordapp.net", "/x"),
        "/_media/discord-attachments-uploads-prd.storage.googleapis.com/u?s=1": (
            "https://discord-attachments-uploads-prd.storage.googleapis.com",
            "/u?s=1",
        ),
    }
    for target, (base, to) in cases.items():
        assert asked(scene, target) == act.Route("x1", base=base, target=to, drop=("authorization", "cookie"))
    for target in ("/_media/evil.example/x", "/_media/cdn.discordapp.com", "/_media/cdn.discordapp.com@evil.example/x", "/_media//x"):
        route = asked(scene, target)
        assert isinstance(route, act.Route)
        assert route.base is None and route.target is None, target


def rewritten(target: str, body: bytes, *, method: str = "GET", kind: str = "application/json") -> bytes:
    head = ev.Head(method, target, [], "localhost:1")
    return bytes(rest.REWRITES["media"](head, 200, [("content-type", kind)], body))


def test_r8_addresses_in_json_answers_are_on_our_origin() -> None:
    routed = act.Route("x1", rewrite="media", only=("application/json",), retype=rest.PLAIN)
    assert asked(Scene(media="local"), "/api/v10/channels/1") == routed
    body = b'{"a":"https://cdn.discordapp.com/x","b":"https://media.discordapp.net/y","c":"https://discord.com/z"}'
    here = b'{"a":"http://localhost:1/_media/cdn.discordapp.com/x","b":"http://localhost:1/_media/media.discordapp.net/y","c":"https://discord.com/z"}'
    assert rewritten("/api/v10/channels/1", body) == here
    assert rewritten("/api/v10/channels/1", body, kind="Application/JSON; charset=utf-8") == here
    assert rewritten("/api/v10/channels/1", body, kind="image/png") == body


def test_r8_upload_addresses_are_so_only_where_they_are_handed_out() -> None:
    place = b"discord-attachments-uploads-prd.storage.googleapis.com/x"
    body = b'{"attachments":[{"upload_url":"https://%b"}]}' % place
    here = b'{"attachments":[{"upload_url":"http://localhost:1/_media/%b"}]}' % place
    assert rewritten("/api/v10/channels/1/attachments?x=1", body, method="POST") == here
    assert rewritten("/api/v10/channels/1/attachments", body) == body
    assert rewritten("/api/v10/guilds/1/attachments", body, method="POST") == body
    assert rewritten("/api/v10/channels/1/messages", body, method="POST") == body


def test_r8_slashes_may_be_escaped() -> None:
    body = rb'{"a":"https:\/\/cdn.discordapp.com\/x\/y","b":"https:\/\/discord.com\/z"}'
    found = msgspec.json.decode(rewritten("/api/v10/channels/1", body))
    assert found == {"a": "http://localhost:1/_media/cdn.discordapp.com/x/y", "b": "https://discord.com/z"}
