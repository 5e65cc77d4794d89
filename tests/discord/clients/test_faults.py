"""Every fault of the upstream before an unmodified bot: recovered by ourselves, 0 lost, 0 twice, in order, and the bot notices nothing.

The scenarios are played at once, in one event loop: their deadlines (R27) are real, and most of the time is waiting.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.discord.clients.bots import BotClients
from tests.discord.clients.outage import Act, Outage, Outcomes, Scenario, judge, play_all
from tests.discord.upstream.faults import Greeting, RestFault

SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, **more: Any) -> Callable[[Act], Act]:
    """This is played under that name."""

    def named(act: Act) -> Act:
        SCENARIOS[name] = Scenario(act, **more)
        return act

    return named


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, bot_clients: BotClients, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What the selected scenarios came to."""
    return play_all(SCENARIOS, request, bot_clients, tmp_path_factory.mktemp("faults"))


# --- a link that does not open (R27, R28) -----------------------------------------------------------------------------------------


@scenario("U2 HELLO is swallowed", first=True)
async def _(o: Outage) -> None:
    o.faults.swallow_hello = 1
    o.world.cut()
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume resumed": 1}


@scenario("R27 connecting hangs", first=True)
async def _(o: Outage) -> None:
    o.faults.hang_connect = 1
    o.world.cut()
    o.post(5)
    await o.came()
    assert [connect.status for connect in o.ledger.connects] == [101, 0, 101]


@scenario("R28 connecting is refused with 503")
async def _(o: Outage) -> None:
    o.faults.refuse_connect = 2
    o.world.cut()
    o.post(5)
    await o.came()
    assert [connect.status for connect in o.ledger.connects] == [101, 503, 503, 101]


@scenario("R28 the upstream takes no connection at all", first=True)
async def _(o: Outage) -> None:
    kept = []
    for door, url in (("gateway", o.at.upstream.gateway_url), ("resume", o.at.upstream.resume_url)):
        o.at.upstream.stop_listening(door)
        # Bound and not listening: refused, and nobody else gets the port.
        kept.append(socket.socket())
        kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept[-1].bind(("127.0.0.1", int(url.rpartition(":")[2])))
    o.world.cut()
    o.post(5)
    await o.once(lambda: sum("did not open" in line for line in o.at.sidecar.lines) >= 3, "nobody tries")
    for door in ("gateway", "resume"):
        kept.pop(0).close()
        await o.at.upstream.listen(door)
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume resumed": 1}


def _greeted(greeting: Greeting, identifies: int) -> Act:
    async def act(o: Outage) -> None:
        o.faults.instead_of_hello.append(greeting)
        o.world.cut()
        o.post(5)
        await o.came()
        assert not o.faults.instead_of_hello and o.answers()["identify ready"] == identifies

    return act


for what, greeting, identifies in (
    ("op 7", Greeting("op7"), 1),
    ("op 9 true", Greeting("op9", True), 1),
    ("op 9 false", Greeting("op9", False), 2),
    ("a close", Greeting("close", code=4000), 1),
    ("an empty close", Greeting("empty_close"), 1),
    ("a cut", Greeting("cut"), 1),
):
    scenario(f"U3 {what} comes instead of HELLO", kind="python" if identifies > 1 else "djs")(_greeted(greeting, identifies))


# --- a link that dies (R27, section 1.3) -------------------------------------------------------------------------------------------


@scenario("U12 the link is half open", kind="python")
async def _(o: Outage) -> None:
    o.world.silence()
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume resumed": 1}


@scenario("U12 ACKs of heartbeats are swallowed", kind="djs")
async def _(o: Outage) -> None:
    o.faults.swallow_acks = 1
    await o.answered({"resume resumed": 1})
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume resumed": 1}
    assert [closed.code for closed in o.ledger.closes] == [4000]


@scenario("U12 a late ACK is no zombie")
async def _(o: Outage) -> None:
    o.faults.late_ack_s = 0.4
    await o.once(lambda: len(o.ledger.beats) >= 4, "no beats")
    assert len(o.ledger.connects) == 1


@scenario("R27 a frame is torn in the middle", kind="python")
async def _(o: Outage) -> None:
    o.post(5)
    o.world.cut(kind="torn")
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume resumed": 1}


@scenario("U9 codes after which a session is resumed", first=True)
async def _(o: Outage) -> None:
    codes = (1000, 1001, 4000, 4001, 4002, 1005, None, 4008)
    for count, code in enumerate(codes, 1):
        await o.live()
        o.post(2)
        o.world.cut(code)
        o.post(3)
        await o.answered({"resume resumed": count})
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume resumed": len(codes)}


@scenario("R30 codes after which only IDENTIFY helps", kind="djs", first=True)
async def _(o: Outage) -> None:
    codes = (4003, 4005, 4006, 4007, 4009)
    for count, code in enumerate(codes, 1):
        await o.live()
        o.post(2)
        o.world.cut(code)
        o.post(3)
        await o.answered({"identify ready": 1 + count})
    await o.came()
    assert o.answers() == {"identify ready": 1 + len(codes)}


# --- RESUME (R27, R30) ---------------------------------------------------------------------------------------------------------------


@scenario("U5 RESUME is swallowed", first=True, kind="python")
async def _(o: Outage) -> None:
    o.faults.swallow_resume = 1
    o.world.cut()
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume swallowed": 1, "resume resumed": 1}


@scenario("U6 three poisoned RESUMEs lead to an IDENTIFY", kind="djs")
async def _(o: Outage) -> None:
    o.world.poison("empty_close")
    o.world.cut()
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 2, "resume empty_close": 3}


@scenario("R30 op 9 true puts a RESUME off")
async def _(o: Outage) -> None:
    o.faults.refuse_resume.append(True)
    o.world.cut()
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume op9 true": 1, "resume resumed": 1}


@scenario("U7 op 9 false ends a session")
async def _(o: Outage) -> None:
    o.faults.refuse_resume.append(False)
    o.world.cut()
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 2, "resume op9": 1}
    assert [connect.door for connect in o.ledger.connects] == ["gateway", "resume", "gateway"]


@scenario("U5 a replay is cut in its middle", kind="python")
async def _(o: Outage) -> None:
    o.faults.cut_replay_after = 4
    o.world.cut()
    o.post(10)
    await o.came()
    assert o.answers() == {"identify ready": 1, "resume cut": 1, "resume resumed": 1}


# --- IDENTIFY (R27, R29) ----------------------------------------------------------------------------------------------------------------


@scenario("U4 IDENTIFY is swallowed", first=True)
async def _(o: Outage) -> None:
    o.faults.swallow_identify = 1
    o.world.invalidate(False)
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 2, "identify swallowed": 1}


@scenario("U7 IDENTIFY is answered with op 9", first=True, kind="python")
async def _(o: Outage) -> None:
    o.faults.refuse_identify = 1
    o.world.invalidate(False)
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 2, "identify op9": 1}


@scenario("U4 IDENTIFY is answered with a cut", first=True)
async def _(o: Outage) -> None:
    o.faults.close_identify.append(None)
    o.world.invalidate(False)
    o.post(5)
    await o.came()
    assert o.answers() == {"identify ready": 2, "identify cut": 1}


@scenario("U4 READY comes late, and messages meanwhile", kind="djs")
async def _(o: Outage) -> None:
    o.faults.late_ready_s = 3.0
    o.world.invalidate(False)
    o.post(5)
    await o.answered({"identify ready": 2})
    o.post(5)
    await o.came()


@scenario("U16 guilds come late, and messages before them", kind="python")
async def _(o: Outage) -> None:
    o.faults.late_guilds_s = 2.0
    o.world.invalidate(False)
    o.post(5)
    await o.once(lambda: any(socket.session and len(o.ledger.identifies) == 2 for socket in o.world.open()), "no second session")
    o.post(5)
    await o.came()


# --- metadata (R27, U11) -------------------------------------------------------------------------------------------------------------


@scenario("U11 metadata are slow")
async def _(o: Outage) -> None:
    o.faults.metadata_delay_s = 30.0
    o.world.invalidate(False)
    o.post(5)
    await o.came()
    assert len(o.ledger.called("/gateway/bot")) == 2 and o.answers() == {"identify ready": 2}


@scenario("U11 metadata fail with 500, then with 429", kind="djs", first=True)
async def _(o: Outage) -> None:
    for count, status in enumerate((500, 429), 2):
        await o.live()
        o.faults.metadata_status.append(status)
        o.world.invalidate(False)
        o.post(5)
        await o.answered({"identify ready": count})
        await o.came()
    assert [call.status for call in o.ledger.called("/gateway/bot")][-2:] == [500, 429]


# --- backfill (R33) ---------------------------------------------------------------------------------------------------------------------


def _refused(count: int, **fault: Any) -> Act:
    async def act(o: Outage) -> None:
        other = o.world.add_channel("other")
        o.post(2, o.world.channel, other)
        await o.came()
        o.faults.rest.append(RestFault("messages", times=count, **fault))
        o.world.invalidate(False)
        o.post(5, o.world.channel, other)
        await o.came()
        assert o.faults.rest[0].times == 0 and o.ledger.invalid_requests == (count if fault.get("status") == 429 else 0)

    return act


scenario("R33 backfill is told 429")(_refused(2, status=429, headers={"Retry-After": "1"}))
scenario("R33 backfill is told 500", kind="python")(_refused(2, status=500))
scenario("R33 backfill gets no answer", kind="djs")(_refused(2, cut="before"))
scenario("R33 backfill is cut within an answer")(_refused(2, cut="within"))


@scenario("R33 backfill is told 403: a gap record, and the other channels have all")
async def _(o: Outage) -> None:
    closed, other = o.world.add_channel("closed"), o.world.add_channel("other")
    o.post(2, closed, other)
    await o.came()
    closed.denied = True
    o.world.invalidate(False)
    o.world.post("nobody may read this", closed)
    o.post(5, other)
    await o.came()
    assert await o.reasons() == ["lost", "denied"]
    assert o.ledger.invalid_requests == 1


# --- twice (R2, U15) --------------------------------------------------------------------------------------------------------------------


@scenario("U15 a replay has everything twice, and more than was asked for", kind="djs")
async def _(o: Outage) -> None:
    o.faults.duplicate_replay = 1
    o.world.cut()
    o.post(10)
    await o.came()


@scenario("U15 events come twice, with their number and with another", kind="python")
async def _(o: Outage) -> None:
    o.faults.duplicate_live = 5
    o.post(5)
    o.faults.repeat_live = 5
    o.post(5)
    o.world.again(5)
    await o.came()
    o.world.invalidate(False)
    o.post(5)
    await o.answered({"identify ready": 2})
    o.world.again(5)
    await o.came()


# --- holes (R32, U14) ---------------------------------------------------------------------------------------------------------------------


def _holed(fault: str, count: int = 1) -> Act:
    async def act(o: Outage) -> None:
        other = o.world.add_channel("other")
        o.post(2, o.world.channel, other)
        await o.came()
        setattr(o.faults, fault, count)
        o.world.cut()
        o.post(6, o.world.channel, other)
        await o.answered({"resume resumed": 1})
        o.post(3, o.world.channel, other)
        await o.came()
        assert o.answers() == {"identify ready": 1, "resume resumed": 1}
        assert getattr(o.faults, fault) == 0

    return act


for kind in ("python", "djs", "carbon"):
    scenario(f"U14 a replay has a hole, {kind}", kind=kind)(_holed("hole_in_replay", 5))
    scenario(f"U14 RESUMED comes without a replay, {kind}", kind=kind)(_holed("resumed_without_replay"))
    scenario(f"U14 RESUMED closes ranks over what was lost, {kind}", kind=kind)(_holed("resumed_renumbered"))


@scenario("R32 a living event is lost with its number", kind="djs")
async def _(o: Outage) -> None:
    o.faults.skip_live = 1
    o.post(3)
    await o.came()
    assert o.answers() == {"identify ready": 1}


@scenario("R33 a living event is lost without a trace, and last_message_id tells", kind="python")
async def _(o: Outage) -> None:
    o.faults.lose_live = 1
    o.post(1)
    o.world.rename_channel(o.world.channel, "renamed")
    await o.came()
    assert o.answers() == {"identify ready": 1}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_bot_loses_nothing_and_notices_nothing(name: str, outcomes: Outcomes) -> None:
    judge(name, outcomes)
