// Times ComputeSDK's public sandbox benchmark against one installation, through
// its own packages: from just before create until the first command has
// succeeded, with a probe of the sandbox's identity in between, as that
// benchmark does. Prints one JSON object; the arithmetic is the Go program's.
//
//   BASE_URL, HOPX_API_KEY   the installation
//   BENCH_MODE               sequential, staggered or burst
//   BENCH_COUNT              how many sandboxes
//   BENCH_STAGGER_MS         between two launches of staggered

import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { hopx } from '@computesdk/hopx';

const mode = process.env.BENCH_MODE;
const count = Number(process.env.BENCH_COUNT);
const stagger = Number(process.env.BENCH_STAGGER_MS ?? 200);
const provider = hopx({ apiKey: process.env.HOPX_API_KEY, baseURL: process.env.BASE_URL });

const markers = ['/tmp/.hutch_bench_marker', '/var/tmp/.hutch_bench_marker'];
const strong = ['ns_mnt', 'ns_pid', 'ns_uts', 'cgroup', 'boot_id', 'pid1'];
const run = randomUUID();
const seen = new Map(strong.map((key) => [key, new Set()]));
let repeated = 0; // sandboxes of which three or more strong signals were seen before

// probe is one shell line that looks for markers of an earlier use, says what
// identifies the place it runs in, and leaves markers.
function probe(token) {
  const link = (name) => `echo "ns_${name}=$(readlink /proc/self/ns/${name} 2>/dev/null || printf unknown)"`;
  return [
    `found=''`,
    `for m in ${markers.join(' ')}; do if [ -f "$m" ]; then found=$m; fi; done`,
    `echo "marker=$found"`,
    link('mnt'), link('pid'), link('uts'),
    `echo "cgroup=$(cat /proc/self/cgroup 2>/dev/null | sha256sum 2>/dev/null | cut -d' ' -f1)"`,
    `echo "boot_id=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || printf unknown)"`,
    `echo "pid1=$(tr -d '\\0' < /proc/1/cmdline 2>/dev/null || printf unknown)"`,
    `echo "uptime=$(cut -d' ' -f1 /proc/uptime 2>/dev/null || printf unknown)"`,
    ...markers.map((m) => `printf %s '${token}' > ${m}`),
  ].join('; ');
}

async function within(promise, ms, what) {
  const timer = new AbortController();
  try {
    return await Promise.race([
      promise,
      delay(ms, undefined, { signal: timer.signal }).then(() => { throw new Error(`${what} took more than ${ms} ms`); }),
    ]);
  } finally {
    timer.abort();
    promise.catch(() => {}); // lost the race: nobody else waits for it
  }
}

// one is one sample.
async function one() {
  let sandbox;
  try {
    const begin = performance.now();
    sandbox = await within(provider.sandbox.create(), 120_000, 'create');
    const identity = await within(sandbox.runCommand(probe(`${run}:${randomUUID()}`)), 30_000, 'the probe');
    if (identity.exitCode !== 0) throw new Error(`the probe exited ${identity.exitCode}: ${identity.stderr}`);
    const said = Object.fromEntries(identity.stdout.split('\n').filter((line) => line.includes('=')).map((line) => {
      const at = line.indexOf('=');
      return [line.slice(0, at), line.slice(at + 1)];
    }));
    if (said.marker) throw new Error(`used before: ${said.marker}`);
    const known = strong.filter((key) => said[key] && said[key] !== 'unknown' && seen.get(key).has(said[key]));
    if (known.length >= 3) repeated++;
    for (const key of strong) if (said[key]) seen.get(key).add(said[key]);
    const first = await within(sandbox.runCommand('node -v'), 30_000, 'the first command');
    if (first.exitCode !== 0) throw new Error(`node -v exited ${first.exitCode}: ${first.stderr}`);
    return { ms: performance.now() - begin };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  } finally {
    if (sandbox) await within(sandbox.destroy(), 15_000, 'destroy').catch((error) => { process.stderr.write(`${error.message}\n`); });
  }
}

const begin = performance.now();
let samples;
if (mode === 'sequential') {
  samples = [];
  for (let i = 0; i < count; i++) samples.push(await one());
} else if (mode === 'staggered' || mode === 'burst') {
  const launched = [];
  for (let i = 0; i < count; i++) {
    launched.push(one());
    if (mode === 'staggered' && i < count - 1) await delay(stagger);
  }
  samples = await Promise.all(launched);
} else {
  throw new Error(`BENCH_MODE=${mode} is not a mode`);
}
process.stdout.write(`${JSON.stringify({ mode, samples, repeated, wall_ms: performance.now() - begin })}\n`);
