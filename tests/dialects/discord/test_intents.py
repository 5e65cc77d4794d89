"""Which intent shows which events (discord R23, section 1.7): the whole table, written from Discord's documentation."""

from __future__ import annotations

import pytest

from sidecar.dialects.discord.encoder import Encoder
from sidecar.dialects.discord.intents import Allowance
from tests.dialects.discord.scene import ALL, payload

OWN = "42"
IN_GUILDS = {
    0: "GUILD_CREATE GUILD_UPDATE GUILD_DELETE GUILD_ROLE_CREATE GUILD_ROLE_UPDATE GUILD_ROLE_DELETE CHANNEL_CREATE CHANNEL_UPDATE "
    "CHANNEL_DELETE CHANNEL_PINS_UPDATE THREAD_CREATE THREAD_UPDATE THREAD_DELETE THREAD_LIST_SYNC THREAD_MEMBER_UPDATE "
    "STAGE_INSTANCE_CREATE STAGE_INSTANCE_UPDATE STAGE_INSTANCE_DELETE",
    1: "GUILD_MEMBER_ADD GUILD_MEMBER_UPDATE GUILD_MEMBER_REMOVE",
    2: "GUILD_AUDIT_LOG_ENTRY_CREATE GUILD_BAN_ADD GUILD_BAN_REMOVE",
    3: "GUILD_EMOJIS_UPDATE GUILD_STICKERS_UPDATE GUILD_SOUNDBOARD_SOUND_CREATE GUILD_SOUNDBOARD_SOUND_UPDATE "
    "GUILD_SOUNDBOARD_SOUND_DELETE GUILD_SOUNDBOARD_SOUNDS_UPDATE",
    4: "GUILD_INTEGRATIONS_UPDATE INTEGRATION_CREATE INTEGRATION_UPDATE INTEGRATION_DELETE",
    5: "WEBHOOKS_UPDATE",
    6: "INVITE_CREATE INVITE_DELETE",
    7: "VOICE_CHANNEL_EFFECT_SEND VOICE_STATE_UPDATE",
    8: "PRESENCE_UPDATE",
    9: "MESSAGE_CREATE MESSAGE_UPDATE MESSAGE_DELETE MESSAGE_DELETE_BULK",
    10: "MESSAGE_REACTION_ADD MESSAGE_REACTION_REMOVE MESSAGE_REACTION_REMOVE_ALL MESSAGE_REACTION_REMOVE_EMOJI",
    11: "TYPING_START",
    16: "GUILD_SCHEDULED_EVENT_CREATE GUILD_SCHEDULED_EVENT_UPDATE GUILD_SCHEDULED_EVENT_DELETE GUILD_SCHEDULED_EVENT_USER_ADD "
    "GUILD_SCHEDULED_EVENT_USER_REMOVE",
    20: "AUTO_MODERATION_RULE_CREATE AUTO_MODERATION_RULE_UPDATE AUTO_MODERATION_RULE_DELETE",
    21: "AUTO_MODERATION_ACTION_EXECUTION",
    24: "MESSAGE_POLL_VOTE_ADD MESSAGE_POLL_VOTE_REMOVE",
}
DIRECT = {
    12: "MESSAGE_CREATE MESSAGE_UPDATE MESSAGE_DELETE CHANNEL_PINS_UPDATE",
    13: "MESSAGE_REACTION_ADD MESSAGE_REACTION_REMOVE MESSAGE_REACTION_REMOVE_ALL MESSAGE_REACTION_REMOVE_EMOJI",
    14: "TYPING_START",
    25: "MESSAGE_POLL_VOTE_ADD MESSAGE_POLL_VOTE_REMOVE",
}
ALWAYS = (
    "RESUMED INTERACTION_CREATE USER_UPDATE VOICE_SERVER_UPDATE ENTITLEMENT_CREATE ENTITLEMENT_UPDATE ENTITLEMENT_DELETE "
    "GUILD_MEMBERS_CHUNK RATE_LIMITED SOUNDBOARD_SOUNDS AN_EVENT_OF_TOMORROW"
)
CASES = [
    *((bit, kind, True) for bit, kinds in IN_GUILDS.items() for kind in kinds.split()),
    *((bit, kind, False) for bit, kinds in DIRECT.items() for kind in kinds.split()),
]


def shows(intents: int, kind: str, in_guild: bool) -> bool:
    d = {"id": "1", "user_id": "9", "user": {"id": "9"}} | ({"guild_id": "g1"} if in_guild else {})
    return Encoder(Allowance(intents, OWN)).encode(payload(kind, d), 5) is not None


@pytest.mark.parametrize(("bit", "kind", "in_guild"), CASES)
def test_r23_c13_an_event_is_shown_with_its_intent_and_only_with_it(bit: int, kind: str, in_guild: bool) -> None:
    assert shows(1 << bit, kind, in_guild)
    assert shows(ALL, kind, in_guild)
    assert not shows(ALL & ~(1 << bit), kind, in_guild)


@pytest.mark.parametrize("kind", ALWAYS.split())
def test_r23_what_needs_no_intent_is_always_shown(kind: str) -> None:
    assert shows(0, kind, True) and shows(0, kind, False)
