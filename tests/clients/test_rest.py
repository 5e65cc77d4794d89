"""What unmodified clients do over REST works through the sidecar and reaches the upstream exactly once."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter

from tests.clients.conftest import Clients, Judges
from tests.clients.processes import DEADLINE_S
from tests.clients.stage import Open


def test_rest_calls_work_and_arrive_once(judges: Judges, clients: Clients, sdk: str) -> None:
    async def scenario(open_stage: Open) -> None:
        async with open_stage() as stage:
            peer = stage.helper
            told = {"key": stage.team.key, "baseUrl": stage.url, "name": f"rest-{sdk}", "peer": peer.name, "channel": "general"}
            process = await asyncio.create_subprocess_exec(
                *clients.rest(sdk),
                json.dumps(told),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
            )
            out, trouble = await asyncio.wait_for(process.communicate(), DEADLINE_S)
            assert process.returncode == 0, trouble.decode()
            answers = json.loads(out)
            assert answers["history"] == ["a post"] and answers["reactions"] == ["👍"], answers
            rows = [(row.text, row.author.name) for row in stage.world.messages.values()]
            assert rows == [("a post", f"rest-{sdk}"), ("a reply", f"rest-{sdk}"), ("a dm", f"rest-{sdk}")]
            assert [str(row.id) for row in stage.world.messages.values()] == [answers["post"], answers["reply"], answers["dm"]]
            agent = stage.team.agents[f"rest-{sdk}"]
            assert agent.token == answers["token"]
            asked = Counter(
                (one.method, one.target.partition("?")[0]) for one in stage.world.log if one.token in (agent.token, stage.team.key)
            )
            post = answers["post"]
            assert asked == {
                ("POST", "/v1/agents"): 1,
                ("POST", "/v1/channels/general/join"): 1,
                ("POST", "/v1/channels/general/messages"): 1,
                ("POST", f"/v1/messages/{post}/replies"): 1,
                ("POST", "/v1/dm"): 1,
                ("POST", f"/v1/messages/{post}/reactions"): 1,
                ("GET", "/v1/channels/general/messages"): 1,
            }

    asyncio.run(judges.one(scenario, sdk))
