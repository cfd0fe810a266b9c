// What the suites share: which installation they speak to, sandboxes that are
// ended whatever happens, and waiting for conditions instead of for time.
//
//   BASE_URL       the installation, as http://127.0.0.1:PORT
//   HOPX_API_KEY   a key of it
//   E2E_*         counts; each is explained where it is read

import { after } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Sandbox } from '@hopx-ai/sdk';

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: it says which installation to test`);
  return value;
}

export const baseURL = required('BASE_URL').replace(/\/$/, '');
export const apiKey = required('HOPX_API_KEY');

// Connection fields every SDK call needs.
export const where = { apiKey, baseURL };

const open = new Set();

// create makes a sandbox that is killed when this file's tests are over.
export async function create(options = {}) {
  const sandbox = await Sandbox.create({ template: 'code-interpreter', ...where, ...options });
  open.add(sandbox.sandboxId);
  return sandbox;
}

// own takes charge of ending a sandbox that was made some other way.
export function own(id) {
  open.add(id);
  return id;
}

// raw makes one request as a program without an SDK would: no retries, no
// interpretation. json is undefined when the body is not JSON.
export async function raw(method, path, { body, headers = {}, base = baseURL, signal } = {}) {
  const response = await fetch(base + path, {
    method,
    headers: {
      ...(headers.authorization ? {} : { 'x-api-key': apiKey }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    body: body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body),
    signal: signal ?? AbortSignal.timeout(60_000),
    redirect: 'manual',
  });
  const text = await response.text();
  let json;
  try { json = JSON.parse(text); } catch { /* the caller looks at text */ }
  return { status: response.status, headers: response.headers, text, json };
}

// killAll ends every sandbox this file made. A sandbox that will not end is a
// failure of the suite: nothing may be left behind.
export async function killAll() {
  const ids = [...open];
  open.clear();
  const failed = [];
  await each(ids, 8, async (id) => {
    const { status, text } = await raw('DELETE', `/v1/sandboxes/${id}?grace=0`);
    if (status !== 200 && status !== 404) failed.push(`${id}: ${status} ${text}`);
  });
  if (failed.length > 0) throw new Error(`sandboxes left behind: ${failed.join('; ')}`);
}

after(killAll);
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => killAll().finally(() => process.exit(130)));
}

// eventually waits until check returns something true and returns that.
export async function eventually(what, check, { within = 15_000, every = 50 } = {}) {
  const end = performance.now() + within;
  for (let last; ;) {
    try {
      const value = await check();
      if (value) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) {
      throw new Error(`${what}: not within ${within} ms`, { cause: last });
    }
    await delay(every);
  }
}

// each runs fn for every item, at most width at a time, and returns the
// results in order. It waits for all of them even when one fails.
export async function each(items, width, fn) {
  const results = new Array(items.length);
  const errors = [];
  let next = 0;
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, async () => {
    while (next < items.length) {
      const i = next++;
      try { results[i] = await fn(items[i], i); } catch (error) { errors.push(error); }
    }
  }));
  if (errors.length > 0) throw errors.length === 1 ? errors[0] : new AggregateError(errors, `${errors.length} failed`);
  return results;
}

// sh runs a shell line in a sandbox and returns its output; it must succeed.
export async function sh(sandbox, line, options) {
  const result = await sandbox.commands.run(line, options);
  if (result.exit_code !== 0) {
    throw new Error(`${line}: exit ${result.exit_code}: ${result.stderr || result.stdout}`);
  }
  return result.stdout;
}

// count reads a whole number from the environment.
export function count(name, otherwise) {
  const text = process.env[name];
  if (text === undefined || text === '') return otherwise;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new Error(`${name}=${text} is not a count`);
  return value;
}
