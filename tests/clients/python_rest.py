"""What an ordinary agent does over REST with the unmodified PyPI relaycast-sdk, once each; prints what it was answered.

python python_rest.py '{"key","baseUrl","name","peer","channel"}'
"""

from __future__ import annotations

import json
import sys

from relay_sdk import Relay  # type: ignore[import-untyped]


def main() -> None:
    told = json.loads(sys.argv[1])
    relay = Relay(api_key=told["key"], base_url=told["baseUrl"])
    token = relay.agents.register(told["name"]).token
    agent = relay.as_agent(token)
    agent.channels.join(told["channel"])
    post = agent.send(told["channel"], "a post")
    reply = agent.reply(post.id, "a reply")
    dm = agent.dm(told["peer"], "a dm")
    agent.react(post.id, "👍")
    history = agent.messages(told["channel"], limit=10)
    dm_id = dm["message"]["id"] if isinstance(dm, dict) else dm.message.id
    answers = {"token": token, "post": post.id, "reply": reply.id, "dm": dm_id}
    reactions = [row.emoji for row in history[0].reactions]
    print(json.dumps({**answers, "history": [row.text for row in history], "reactions": reactions}))


if __name__ == "__main__":
    main()
