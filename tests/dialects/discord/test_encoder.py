"""What an agent sees of an event (discord R15, R23, C13, R8): its number, its intents, its media addresses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.dialects.discord import intents as i
from sidecar.dialects.discord.encoder import Encoder
from sidecar.dialects.discord.intents import Allowance
from tests.dialects.discord.scene import ALL, BOT, Scene, guild, message, payload, run

OWN, OTHER = {"id": BOT}, {"id": "7"}


def shown(intents: int, kind: str, **d: Any) -> Any:
    """The d that an agent with these intents is sent, None if it is not."""
    sent = Encoder(Allowance(intents, BOT)).encode(payload(kind, d), 5)
    return None if sent is None else msgspec.json.decode(sent)["d"]


def bits(*names: int) -> int:
    return sum(1 << name for name in names)


@pytest.mark.parametrize(
    "frame",
    [
        b'{"t":"X","s":9,"op":0,"d":{"a":"\\u00e9", "s":1}}',
        b'{"op":0,"s":null,"t":"X","d":{"a":"\\u00e9", "s":1}}',
        b'{"s":9,"op":0,"t":"X","d":{"a":"\\u00e9", "s":1}}',
    ],
)
def test_r15_only_the_number_changes(frame: bytes) -> None:
    assert Encoder(Allowance(0, BOT)).encode(frame, 77) == b'{"t":"X","s":77,"op":0,"d":{"a":"\\u00e9", "s":1}}'


@pytest.mark.parametrize(
    "frame",
    [
        b'{"op":0,"d":{"a":1 , "s":1,"t":"Y"},"s":9,"t":"X"}',
        b' { "t" : "X", "s":9, "op":0, "d": {"a":1 , "s":1,"t":"Y"} } ',
        b'{"t":"\\u0058","s":9,"op":0,"d":{"a":1 , "s":1,"t":"Y"}}',
        b'{"new":1,"t":"X","s":9,"op":0,"d":{"a":1 , "s":1,"t":"Y"}}',
    ],
)
def test_r15_other_spellings_keep_the_bytes_of_d(frame: bytes) -> None:
    assert Encoder(Allowance(0, BOT)).encode(frame, 77) == b'{"t":"X","s":77,"op":0,"d":{"a":1 , "s":1,"t":"Y"}}'


@pytest.mark.parametrize(
    "frame", [b"", b"x", b"[]", b'{"op":1,"t":"X","d":{}}', b'{"op":0,"t":null,"d":{}}', b'{"op":0,"op":0,"op":0,"d":1}', b"\xff"]
)
def test_what_is_no_dispatch_is_not_sent(frame: bytes) -> None:
    assert Encoder(Allowance(0, BOT)).encode(frame, 77) is None


@given(st.permutations(["t", "s", "op", "d"]), st.booleans(), st.text(), st.integers(1, 10**9))
def test_r15_any_order_and_spacing_reads_the_same(names: list[str], spaced: bool, text: str, s: int) -> None:
    whole = {"t": "MESSAGE_CREATE", "s": 4, "op": 0, "d": {"content": text, "s": '{"t":"X","s":1,"op":0,"d":'}}
    frame = msgspec.json.encode({name: whole[name] for name in names})
    if spaced:
        frame = msgspec.json.format(frame, indent=2)
    sent = Encoder(Allowance(ALL, BOT)).encode(frame, s)
    assert sent is not None
    assert msgspec.json.decode(sent) == whole | {"s": s}


@pytest.mark.parametrize(("bit", "kind"), [(bit, kind) for bit, kinds in i._BY_BIT.items() for kind in kinds.split()])
def test_r23_each_kind_needs_its_intent(bit: int, kind: str) -> None:
    assert shown(ALL & ~bits(bit), kind, id="1") is None
    assert shown(bits(bit), kind, id="1") == {"id": "1"}


@pytest.mark.parametrize(("pair", "kind"), [(pair, kind) for pair, kinds in i._TWO_PLACES.items() for kind in kinds.split()])
def test_r23_guilds_and_direct_messages_have_their_own(pair: tuple[int, int], kind: str) -> None:
    here, direct = bits(pair[0], i.CONTENT), bits(pair[1], i.CONTENT)
    assert shown(here, kind, guild_id="g") is not None
    assert shown(here, kind, id="1") is None
    assert shown(direct, kind, guild_id="g") is None
    assert shown(direct, kind, id="1") is not None
    assert shown(here | direct, kind, id="1") is not None
    assert shown(bits(i.CONTENT), kind, guild_id="g") is None


@pytest.mark.parametrize(
    "kind", ["INTERACTION_CREATE", "USER_UPDATE", "VOICE_SERVER_UPDATE", "ENTITLEMENT_CREATE", "GUILD_MEMBERS_CHUNK", "BRAND_NEW_EVENT"]
)
def test_r23_what_no_intent_covers_is_shown_to_all(kind: str) -> None:
    assert shown(0, kind, id="1") == {"id": "1"}


def test_r23_the_bots_own_doings_are_always_shown() -> None:
    assert shown(0, "VOICE_STATE_UPDATE", user_id=BOT)
    assert shown(0, "VOICE_STATE_UPDATE", user_id="7") is None
    assert shown(bits(i.VOICE), "VOICE_STATE_UPDATE", user_id="7")
    assert shown(0, "GUILD_MEMBER_UPDATE", user=OWN)
    assert shown(0, "GUILD_MEMBER_UPDATE", user=OTHER) is None
    assert shown(bits(i.MEMBERS), "GUILD_MEMBER_UPDATE", user=OTHER)
    threads = bits(i.GUILDS)
    assert shown(threads, "THREAD_MEMBERS_UPDATE", added_members=[{"user_id": BOT}])
    assert shown(threads, "THREAD_MEMBERS_UPDATE", removed_member_ids=[BOT])
    assert shown(threads, "THREAD_MEMBERS_UPDATE", added_members=[{"user_id": "7"}], id=BOT) is None
    assert shown(bits(i.MEMBERS), "THREAD_MEMBERS_UPDATE", added_members=[{"user_id": "7"}])
    assert shown(0, "THREAD_MEMBERS_UPDATE", added_members=[{"user_id": BOT}]) is None


def test_r23_message_content_has_its_own_intent() -> None:
    secret = {"content": "x", "embeds": [1], "attachments": [1], "components": [1], "poll": {"q": 1}}
    empty = {"content": "", "embeds": [], "attachments": [], "components": []}
    both = bits(i.MESSAGES, i.DM_MESSAGES)
    there = {"id": "1", "guild_id": "g", "author": OTHER}
    for kind in ("MESSAGE_CREATE", "MESSAGE_UPDATE"):
        assert shown(both, kind, **there, **secret) == there | empty
        assert shown(both | bits(i.CONTENT), kind, **there, **secret) == there | secret
        # As at Discord: what the bot wrote, what mentions it, and direct messages are its own to read.
        for mine in ({**there, "author": OWN}, {**there, "mentions": [OTHER, OWN]}, {"id": "1", "author": OTHER}):
            assert shown(both, kind, **mine, **secret) == mine | secret
    deeper = {"referenced_message": {**there, **secret}, "message_snapshots": [{"message": dict(secret)}]}
    assert shown(both, "MESSAGE_CREATE", **there, **deeper) == there | {
        "referenced_message": there | empty,
        "message_snapshots": [{"message": empty}],
    }
    assert shown(bits(i.DM_MESSAGES), "MESSAGE_CREATE", **there, **secret) is None


def test_r23_a_guild_shows_members_and_presences_only_to_those_who_asked() -> None:
    members = [{"user": OWN}, {"user": OTHER}, {"user": {"id": "8"}}, {}]
    whole = guild("g", members=members, presences=[{"user": OTHER}], voice_states=[{"user_id": "8"}], member_count=3)
    assert shown(bits(i.GUILDS, i.PRESENCES), "GUILD_CREATE", **whole) == whole
    less = whole | {"members": [members[0], members[2]], "presences": []}
    assert shown(bits(i.GUILDS), "GUILD_CREATE", **whole) == less
    assert shown(bits(i.GUILDS), "GUILD_CREATE", **guild("g")) == guild("g")
    scene = Scene()
    scene.guilds = [whole]
    scene.open("c1").identify("c1", intents=bits(i.GUILDS))
    assert scene.frames("c1")[2]["d"] == less


NAMES = st.sampled_from(
    ["id", "user", "user_id", "guild_id", "author", "mentions", "added_members", "members", "message_snapshots", "poll"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner)
)


@given(st.integers(0, ALL), ANYTHING)
def test_r23_a_payload_of_any_shape_does_no_harm(intents: int, d: Any) -> None:
    encoder = Encoder(Allowance(intents, BOT))
    for kind in ("MESSAGE_CREATE", "GUILD_CREATE", "THREAD_MEMBERS_UPDATE", "GUILD_MEMBER_UPDATE", "VOICE_STATE_UPDATE", "TYPING_START"):
        encoder.encode(payload(kind, d), 1)


def test_r13_without_the_guilds_intent_there_are_no_guilds_behind_ready() -> None:
    scene = Scene().open("c1").identify("c1", intents=bits(i.MESSAGES, i.CONTENT))
    assert scene.types("c1") == ["HELLO", "READY"]
    assert scene.frames("c1")[1]["d"]["guilds"] == [{"id": "g1", "unavailable": True}]
    scene.events("c1", run(1, [message(1)]))
    assert scene.numbers("c1")[1:] == [("m1", 2)]


def test_c13_two_agents_with_different_intents_each_see_their_own() -> None:
    scene = Scene().agent("c1", intents=bits(i.GUILDS, i.MESSAGES, i.CONTENT)).agent("c2", intents=bits(i.GUILDS, i.REACTIONS))
    records = run(1, [message(1), payload("MESSAGE_REACTION_ADD", {"guild_id": "g1"}), message(3)])
    scene.events("c1", records).events("c2", records)
    assert scene.numbers("c1") == [("m1", 3), ("m3", 5)]
    assert scene.numbers("c2") == [("MESSAGE_REACTION_ADD", 4)]


def test_r8_media_addresses_stay_or_are_on_our_origin() -> None:
    url = "https://cdn.discordapp.com/attachments/1/2/a.png?ex=1&is=2"
    there = message(1, attachments=[{"url": url, "proxy_url": url.replace("cdn.discordapp.com", "media.discordapp.net")}])
    assert Scene().agent("c1").events("c1", run(1, [there])).frames("c1")[0]["d"]["attachments"][0]["url"] == url
    scene = Scene(media="local")
    scene.guilds = [guild("g1", icon="https://cdn.discordapp.com/icons/1.png")]
    scene.open("c1").identify("c1").events("c1", run(1, [there]))
    assert scene.frames("c1")[2]["d"]["icon"] == "http://127.0.0.1:8787/_media/cdn.discordapp.com/icons/1.png"
    assert scene.frames("c1")[3]["d"]["attachments"] == [
        {
            "url": "http://127.0.0.1:8787/_media/cdn.discordapp.com/attachments/1/2/a.png?ex=1&is=2",
            "proxy_url": "http://127.0.0.1:8787/_media/media.discordapp.net/attachments/1/2/a.png?ex=1&is=2",
        }
    ]
