// The hot path of the agent's own SDK (4.x): JSON.parse, then a Set of the last 2048 `type:id` in insertion order.
// usage: node node_lru.mjs FILE WARM      FILE: one frame a line; the first WARM lines are run before the clock starts
// prints {"admitted": of the measured frames, "frames": …, "wall_ns": …, "cpu_us": user + system, all threads}
import { readFileSync } from "node:fs";

const LIMIT = 2048;
const [file, warm] = [process.argv[2], Number(process.argv[3])];

const bytes = readFileSync(file);
const frames = []; // strings, as a WebSocket library hands a text message to its listener
for (let start = 0; start < bytes.length; ) {
  const end = bytes.indexOf(10, start);
  frames.push(bytes.toString("utf8", start, end));
  start = end + 1;
}

const seen = new Set();
function admit(text) {
  const event = JSON.parse(text);
  if (event.id !== undefined) {
    const key = `${event.type}:${event.id}`;
    if (seen.has(key)) return 0;
    seen.add(key);
    if (seen.size > LIMIT) seen.delete(seen.values().next().value);
  }
  return 1;
}

for (let i = 0; i < warm; i++) admit(frames[i]);
const cpu = process.cpuUsage();
const begun = process.hrtime.bigint();
let admitted = 0;
for (let i = warm; i < frames.length; i++) admitted += admit(frames[i]);
const wall = process.hrtime.bigint() - begun;
const used = process.cpuUsage(cpu);
console.log(JSON.stringify({ admitted, frames: frames.length - warm, wall_ns: Number(wall), cpu_us: used.user + used.system }));
