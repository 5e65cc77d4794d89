"""An ordinary bot on the unmodified PyPI discord.py: handlers that write down what they were handed.

    python python_bot.py '{"token","baseUrl","out","busyMs","intents"}'

`baseUrl` is the origin of REST and gateway, given by the library's own two knobs. `out` is the ground truth of what the handlers
got: one JSON line for each event, written synchronously when the handler is done with it (after `busyMs` of work). State changes
(ready, resumed, disconnect) go to stdout. A message "!say …" is answered over REST; "!presence …", "!voice" and "!members" send a
command to the gateway. SIGTERM ends it as its own close does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from typing import Any

import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

SAY = "!say "


class Bot(discord.Client):
    """Every handler's last act is a line in `out`."""

    def __init__(self, told: dict[str, Any], intents: discord.Intents) -> None:
        super().__init__(intents=intents)
        self._out = os.open(told["out"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._busy_s = told.get("busyMs", 0) / 1000

    def _wrote(self, event: str, **shown: Any) -> None:
        if self._busy_s:
            time.sleep(self._busy_s)
        row = {"run": os.getpid(), "event": {"t": event} | {key: str(value) for key, value in shown.items() if value is not None}}
        os.write(self._out, json.dumps(row).encode() + b"\n")

    async def on_ready(self) -> None:
        members = sum(len(guild.members) for guild in self.guilds)
        _tell("ready", user=self.user and str(self.user.id), guilds=[str(guild.id) for guild in self.guilds], members=members)

    async def on_resumed(self) -> None:
        _tell("resumed")

    async def on_disconnect(self) -> None:
        _tell("disconnect")

    async def on_guild_join(self, guild: discord.Guild) -> None:
        _tell("guild_join", guild=str(guild.id))

    async def on_guild_available(self, guild: discord.Guild) -> None:
        _tell("guild_available", guild=str(guild.id))

    async def on_message(self, message: discord.Message) -> None:
        guild = message.guild and message.guild.id
        shown = {"id": message.id, "channel": message.channel.id, "guild": guild, "author": message.author.id}
        self._wrote("MESSAGE_CREATE", content=message.content, **shown)
        if message.content.startswith(SAY):
            await message.channel.send(message.content.removeprefix(SAY))
        await self._command(message)

    async def _command(self, message: discord.Message) -> None:
        name, _, rest = message.content.partition(" ")
        if name == "!presence":
            await self.change_presence(activity=discord.Game(rest))
        elif name == "!voice" and message.guild is not None:
            await message.guild.change_voice_state(channel=message.channel)  # type: ignore[arg-type]
        elif name == "!members" and message.guild is not None:
            _tell("members", count=len(await message.guild.query_members("m", limit=100)))

    async def on_raw_message_edit(self, event: discord.RawMessageUpdateEvent) -> None:
        self._wrote("MESSAGE_UPDATE", id=event.message_id, channel=event.channel_id, content=event.data.get("content"))

    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        self._wrote("MESSAGE_DELETE", id=event.message_id, channel=event.channel_id)

    async def on_raw_reaction_add(self, event: discord.RawReactionActionEvent) -> None:
        self._wrote("MESSAGE_REACTION_ADD", id=event.message_id, channel=event.channel_id, content=event.emoji)

    async def on_raw_reaction_remove(self, event: discord.RawReactionActionEvent) -> None:
        self._wrote("MESSAGE_REACTION_REMOVE", id=event.message_id, channel=event.channel_id, content=event.emoji)

    async def on_interaction(self, interaction: discord.Interaction) -> None:
        self._wrote("INTERACTION_CREATE", id=interaction.id, channel=interaction.channel_id)


def _tell(state: str, **more: Any) -> None:
    print(json.dumps({"type": state} | more), flush=True)


async def main() -> None:
    told = json.loads(sys.argv[1])
    Route.BASE = f"{told['baseUrl']}/api/v10"
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(told["baseUrl"].replace("http", "ws", 1))
    intents = discord.Intents.default()
    intents.message_content = True
    if "intents" in told:
        intents = discord.Intents._from_value(told["intents"])
    discord.utils.setup_logging(root=True)
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with Bot(told, intents) as bot:
            await bot.start(told["token"])
    _tell("ended")


if __name__ == "__main__":
    asyncio.run(main())
