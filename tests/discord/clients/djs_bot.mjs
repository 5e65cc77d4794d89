// An ordinary bot on the unmodified npm discord.js: handlers that write down what they were handed.
//
//   node djs_bot.mjs <folder with node_modules> '{"token","baseUrl","out","busyMs","intents","shards"}'
//
// `baseUrl` is given by the library's own knob. `out` is the ground truth of what the handlers got: one JSON line for each event,
// written synchronously when the handler is done with it (after `busyMs` of work). State changes go to stdout. A message "!say …"
// is answered over REST; "!presence …", "!voice" and "!members" send a command to the gateway. SIGTERM ends it as its own close does.

import { createRequire } from 'node:module';
import { join } from 'node:path';
import { openSync, writeSync } from 'node:fs';

const [, , folder, given] = process.argv;
const told = JSON.parse(given);
const { Client, Events, GatewayIntentBits: Bits, Partials } = createRequire(join(folder, 'package.json'))('discord.js');

const file = openSync(told.out, 'a');
const tell = (type, more = {}) => console.log(JSON.stringify({ type, ...more }));

function wrote(t, shown) {
  const until = performance.now() + (told.busyMs ?? 0);
  while (performance.now() < until);
  writeSync(file, `${JSON.stringify({ run: process.pid, event: { t, ...shown } })}\n`);
}

const plain = [Bits.Guilds, Bits.GuildMessages, Bits.GuildMessageReactions, Bits.DirectMessages, Bits.MessageContent];
const client = new Client({
  rest: { api: `${told.baseUrl}/api` },
  intents: told.intents ?? plain,
  ...(told.shards && { shards: told.shards }),
  partials: [Partials.Channel, Partials.Message, Partials.Reaction],
});

client.on(Events.ClientReady, () => tell('ready', { user: client.user.id, guilds: [...client.guilds.cache.keys()] }));
client.on(Events.ShardReady, () => tell('shard_ready'));
client.on(Events.ShardResume, () => tell('resumed'));
client.on(Events.ShardReconnecting, () => tell('disconnect'));
client.on(Events.ShardDisconnect, (close) => tell('closed', { code: close.code }));
client.on(Events.GuildCreate, (guild) => tell('guild_join', { guild: guild.id }));
client.on(Events.GuildAvailable, (guild) => tell('guild_available', { guild: guild.id }));
client.on(Events.Error, (error) => tell('error', { message: String(error) }));
client.on(Events.ShardError, (error) => tell('error', { message: String(error) }));

client.on(Events.MessageCreate, async (message) => {
  const guild = message.guildId ?? undefined;
  wrote('MESSAGE_CREATE', { id: message.id, channel: message.channelId, guild, author: message.author.id, content: message.content });
  const [name, ...rest] = message.content.split(' ');
  if (name === '!say') await message.channel.send(rest.join(' '));
  if (name === '!presence') client.user.setPresence({ activities: [{ name: rest.join(' ') }] });
  if (name === '!voice') message.guild.shard.send({ op: 4, d: { guild_id: guild, channel_id: message.channelId, self_mute: false, self_deaf: false } });
  if (name === '!members') tell('members', { count: (await message.guild.members.fetch()).size });
});
client.on(Events.MessageUpdate, (_, message) => {
  wrote('MESSAGE_UPDATE', { id: message.id, channel: message.channelId, content: message.content });
});
client.on(Events.MessageDelete, (message) => wrote('MESSAGE_DELETE', { id: message.id, channel: message.channelId }));
for (const [event, t] of [
  [Events.MessageReactionAdd, 'MESSAGE_REACTION_ADD'],
  [Events.MessageReactionRemove, 'MESSAGE_REACTION_REMOVE'],
]) {
  client.on(event, ({ message, emoji }) => wrote(t, { id: message.id, channel: message.channelId, content: emoji.name }));
}
client.on(Events.InteractionCreate, (interaction) => {
  wrote('INTERACTION_CREATE', { id: interaction.id, channel: interaction.channelId });
});

process.once('SIGTERM', async () => {
  await client.destroy();
  tell('ended');
  process.exit(0);
});

client.login(told.token).catch((error) => {
  tell('login_failed', { message: String(error) });
  process.exit(1);
});
