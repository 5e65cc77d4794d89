// What an ordinary agent does over REST with the unmodified npm @relaycast/sdk, once each; prints what it was answered.
//
//   node rest.mjs <folder with node_modules> '{"key","baseUrl","name","peer","channel"}'

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , folder, told] = process.argv;
const { key, baseUrl, name, peer, channel } = JSON.parse(told);
const home = join(folder, 'node_modules', '@relaycast', 'sdk');
const { main } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
const { RelayCast } = await import(pathToFileURL(join(home, main)).href);

const relay = new RelayCast({ apiKey: key, baseUrl });
const { token } = await relay.agents.register({ name });
const agent = relay.as(token);
await agent.channels.join(channel);
const post = await agent.send(channel, 'a post');
const reply = await agent.reply(post.id, 'a reply');
const dm = await agent.dm(peer, 'a dm');
await agent.react(post.id, '👍');
const history = await agent.messages(channel, { limit: 10 });
console.log(
  JSON.stringify({
    token,
    post: post.id,
    reply: reply.id,
    dm: dm.message?.id ?? dm.id,
    history: history.map((row) => row.text),
    reactions: history[0].reactions.map((row) => row.emoji),
  }),
);
