// An ordinary bot on the unmodified npm @buape/carbon: listeners that write down what they were handed.
//
//   node carbon_bot.mjs <folder with node_modules> '{"token","baseUrl","out","busyMs","intents","clientId","reconnect","race"}'
//
// `baseUrl` is given by the library's own knobs: the gateway plugin's second argument and `requestOptions.baseUrl`. `out` is the
// ground truth of what the listeners got: one JSON line for each event, written synchronously when the listener is done with it
// (after `busyMs` of work). State changes go to stdout. A message "!say …" is answered over REST;
// "!presence …", "!voice" and "!members" send a command to the gateway. SIGTERM ends it as its own close does.
//
// With `race` = {readyTimeoutMs}, the plugin is subclassed in the way that lost READY for good (wire page section 5): it asks for
// the metadata before it lets the base class set `client`, while a lifecycle timer disconnects and connects until READY came.

import { openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , folder, given] = process.argv;
const told = JSON.parse(given);
const home = join(folder, 'node_modules', '@buape', 'carbon', 'dist', 'src');
const load = (path) => import(pathToFileURL(join(home, path)).href);
const carbon = await load('index.js');
const { GatewayPlugin } = await load('plugins/gateway/index.js');

const file = openSync(told.out, 'a');
const tell = (type, more = {}) => console.log(JSON.stringify({ type, ...more }));

function wrote(t, shown) {
  const until = performance.now() + (told.busyMs ?? 0);
  while (performance.now() < until);
  writeSync(file, `${JSON.stringify({ run: process.pid, event: { t, ...shown } })}\n`);
}

function listener(Base, handle) {
  return new (class extends Base {
    async handle(data, client) {
      await handle(data, client);
    }
  })();
}

const emoji = ({ emoji: shown }) => shown.name;
const listeners = [
  listener(carbon.ReadyListener, (data) => tell('ready', { user: data.user.id, guilds: data.guilds.map((guild) => guild.id) })),
  listener(carbon.ResumedListener, () => tell('resumed')),
  listener(carbon.GuildCreateListener, (data) => tell('guild_join', { guild: data.guild.id })),
  listener(carbon.GuildAvailableListener, (data) => tell('guild_available', { guild: data.guild.id })),
  listener(carbon.MessageCreateListener, async ({ rawMessage: m }, client) => {
    wrote('MESSAGE_CREATE', { id: m.id, channel: m.channel_id, guild: m.guild_id, author: m.author.id, content: m.content });
    const [name, ...rest] = m.content.split(' ');
    if (name === '!say') await client.rest.post(`/channels/${m.channel_id}/messages`, { body: { content: rest.join(' ') } });
    if (name === '!presence') {
      plugin.updatePresence({ since: null, activities: [{ name: rest.join(' '), type: 0 }], status: 'online', afk: false });
    }
    if (name === '!voice') plugin.updateVoiceState({ guild_id: m.guild_id, channel_id: m.channel_id, self_mute: false, self_deaf: false });
    if (name === '!members') plugin.requestGuildMembers({ guild_id: m.guild_id, query: '', limit: 0, nonce: m.id });
  }),
  listener(carbon.GuildMembersChunkListener, (data) => tell('members', { count: data.members.length })),
  listener(carbon.MessageUpdateListener, ({ id, channel_id: channel, content }) => wrote('MESSAGE_UPDATE', { id, channel, content })),
  listener(carbon.MessageDeleteListener, ({ id, channel_id: channel }) => wrote('MESSAGE_DELETE', { id, channel })),
  listener(carbon.MessageReactionAddListener, (data) => {
    wrote('MESSAGE_REACTION_ADD', { id: data.message_id, channel: data.channel_id, content: emoji(data) });
  }),
  listener(carbon.MessageReactionRemoveListener, (data) => {
    wrote('MESSAGE_REACTION_REMOVE', { id: data.message_id, channel: data.channel_id, content: emoji(data) });
  }),
  listener(carbon.InteractionCreateListener, (data) => wrote('INTERACTION_CREATE', { id: data.id, channel: data.channel_id })),
];

const gateway = told.baseUrl.replace('http', 'ws');
const metadata = { url: gateway, shards: 1, session_start_limit: { total: 1000, remaining: 1000, reset_after: 0, max_concurrency: 1 } };
const options = { intents: told.intents ?? 46593, autoInteractions: false, ...(told.reconnect && { reconnect: told.reconnect }) };

class LatePlugin extends GatewayPlugin {
  async registerClient(client) {
    const found = await fetch(`${told.baseUrl}/api/v10/gateway/bot`, { headers: { Authorization: `Bot ${told.token}` } });
    if (!found.ok) throw new Error(`metadata: ${found.status}`);
    this.gatewayInfo = await found.json();
    await super.registerClient(client);
  }
}

const plugin = new (told.race ? LatePlugin : GatewayPlugin)(options, metadata);
plugin.emitter.on('error', (error) => tell('error', { message: String(error) }));
plugin.emitter.on('debug', (text) => {
  if (text.includes('closed')) tell('disconnect');
  if (text.includes('opened')) tell('opened');
});
process.on('unhandledRejection', (error) => tell('unhandled', { message: String(error) }));

// yieldIntervalMs 0: at its default the library hands events of one millisecond to listeners in another order than they came.
const client = new carbon.Client(
  {
    baseUrl: 'http://localhost',
    clientId: told.clientId ?? '1',
    publicKey: '00',
    token: told.token,
    disableDeployRoute: true,
    disableInteractionsRoute: true,
    disableEventsRoute: true,
    runtimeProfile: 'persistent',
    eventQueue: { yieldIntervalMs: 0 },
    requestOptions: { baseUrl: `${told.baseUrl}/api/v10` },
  },
  { listeners },
  [plugin],
);

if (told.race) {
  const timer = setInterval(() => {
    if (plugin.isConnected) {
      clearInterval(timer);
      return;
    }
    plugin.disconnect();
    plugin.connect(false);
  }, told.race.readyTimeoutMs);
}
process.once('SIGTERM', () => {
  plugin.disconnect();
  tell('ended');
  setTimeout(() => process.exit(0), 100);
});
tell('started', { shards: client.totalShards ?? null });
