"""R4: how many shards an agent is told to begin with, also on its very first start."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.discord.gateway import METADATA
from tests.dialects.discord.scene import BOT, TOKEN, Scene

TWO = msgspec.json.encode({"url": "wss://gateway.example", "shards": 2, "session_start_limit": {"remaining": 9}})


def ask(scene: Scene, exchange: str = "x1", token: str = TOKEN, target: str = "/api/v10/gateway/bot") -> None:
    headers = [("authorization", f"Bot {token}")] if token else []
    scene.send(ev.HttpRequested(exchange, ev.Head("GET", target, headers, "127.0.0.1:8787")))


def shards(scene: Scene) -> dict[str, Any]:
    """What each exchange was answered."""
    found = scene.of(act.Respond)
    assert len({each.exchange for each in found}) == len(found), "answered twice"
    return {each.exchange: msgspec.json.decode(each.body).get("shards") for each in found}


def test_R4_a_two_shard_bots_first_start_waits_for_the_upstreams_answer_and_is_told_two() -> None:
    scene = Scene()
    scene.metadata[TOKEN] = None
    ask(scene)
    ask(scene, "x2", target="/api/gateway/bot?x")
    assert shards(scene) == {}
    (asked,) = scene.pending
    assert (asked.target, asked.timeout, asked.urgent) == (METADATA, 1.0, True)
    assert {name.lower() for name, _ in asked.headers} == {"authorization", "user-agent"}
    scene.send(ev.ResponseReceived(asked.request, 200, [], TWO))
    assert shards(scene) == {"x1": 2, "x2": 2}
    # From now on it is known, also before the bot has identified.
    ask(scene, "x3")
    assert shards(scene)["x3"] == 2
    assert scene.metadata_asked == 1


@pytest.mark.parametrize("answer", [0, 500, 429, b"{}", b"[", msgspec.json.encode({"url": "wss://x", "shards": -3})])
def test_R4_without_an_answer_it_is_one_and_asked_again_the_next_time(answer: int | bytes) -> None:
    scene = Scene()
    scene.metadata[TOKEN] = answer
    ask(scene)
    assert shards(scene) == {"x1": 1}
    scene.metadata[TOKEN] = TWO
    ask(scene, "x2")
    expected = 1 if isinstance(answer, bytes) and b"shards" in answer else 2
    assert shards(scene)["x2"] == expected


def test_R4_what_is_known_or_names_no_token_is_answered_at_once() -> None:
    scene = Scene().agent("c1").upstream(metadata={"shards": 3})
    scene.metadata = {TOKEN: None, "other": None}
    ask(scene)
    ask(scene, "x2", token="")
    ask(scene, "x3", token="not a token")
    ask(scene, "x4", token="other", target="/api/v10/gateway")
    assert (shards(scene), scene.metadata_asked) == ({"x1": 3, "x2": 1, "x3": 1, "x4": None}, 0)
    scene.restart()
    ask(scene, "x5")
    assert shards(scene)["x5"] == 3
    assert scene.state[f"shards:{BOT}"] == b"3"


def test_R9_a_token_that_the_upstream_refuses_here_is_not_asked_for_again_for_a_minute() -> None:
    scene = Scene()
    scene.metadata[TOKEN] = 401
    for n in range(20):
        ask(scene, f"x{n}")
    scene.open("c1").identify("c1")
    assert scene.closed == {"c1": 4004}
    assert (scene.metadata_asked, scene.of(act.Request)) == (1, [])
    assert set(shards(scene).values()) == {1}
