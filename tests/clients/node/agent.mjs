// An ordinary agent on the unmodified npm @relaycast/sdk: a wildcard handler that writes down what it was handed.
//
//   node --experimental-websocket agent.mjs <folder with node_modules> '{"token","baseUrl","out","busyMs","raw"}'
//
// `out` is the ground truth of what the handler got: one JSON line for each event, written synchronously when the handler
// is done with it (after `busyMs` of work). With `raw`, each text frame is noted before the SDK sees it. State changes go to stdout.

import { openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , folder, told] = process.argv;
const { token, baseUrl, out, busyMs = 0, raw } = JSON.parse(told);
const home = join(folder, 'node_modules', '@relaycast', 'sdk');
const { main } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
const { RelayCast } = await import(pathToFileURL(join(home, main)).href);

if (raw) {
  const rawFile = openSync(raw, 'a');
  const Plain = globalThis.WebSocket;
  globalThis.WebSocket = class extends Plain {
    constructor(...args) {
      super(...args);
      this.addEventListener('message', (event) => writeSync(rawFile, `${event.data}\n`));
    }
  };
}

const file = openSync(out, 'a');
const states = new Set(['open', 'close', 'error', 'reconnecting', 'resynced', 'permanently_disconnected']);

function handle(event) {
  const until = performance.now() + busyMs;
  while (performance.now() < until);
  writeSync(file, `${JSON.stringify({ run: process.pid, event })}\n`);
}

const agent = new RelayCast({ apiKey: token, baseUrl }).as(token);
agent.connect();
agent.on.any((event) => {
  if (states.has(event.type)) {
    console.log(JSON.stringify(event));
  } else if (event.type !== 'pong') {
    handle(event);
  }
});
