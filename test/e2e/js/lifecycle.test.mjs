// The life of a sandbox through @hopx-ai/sdk: create, look, pause and resume,
// timeout, list, tokens, kill, and the errors of each.

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import {
  APIError, AuthenticationError, FileNotFoundError, HTTPClient, HopxError, Sandbox, SandboxExpiredError,
} from '@hopx-ai/sdk';
import { apiKey, baseURL, count, create, each, eventually, own, raw, sh, where } from './support.mjs';

const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const unknown = 'saaaaaaaaaaaaaaaaaaaa'; // the shape of an id, of no sandbox

// withoutKey runs fn while the SDK cannot fall back on a key of the environment.
async function withoutKey(fn) {
  const saved = process.env.HOPX_API_KEY;
  delete process.env.HOPX_API_KEY;
  try { return await fn(); } finally { process.env.HOPX_API_KEY = saved; }
}

const expired = (id) => (error) => {
  assert.ok(error instanceof SandboxExpiredError, `${error.name}: ${error.message}`);
  assert.match(error.message, /not found/i);
  assert.ok(error.requestId, 'has a request id');
  return true;
};

const unauthenticated = (error) => {
  assert.ok(error instanceof AuthenticationError, `${error.name}: ${error.message}`);
  assert.equal(error.statusCode, 401);
  assert.match(error.message, /authentication/i);
  assert.ok(error.requestId, 'has a request id');
  return true;
};

describe('create and look', () => {
  let sandbox;
  before(async () => { sandbox = await create({ envVars: { A: 'a' }, timeoutSeconds: 900, region: 'eu-west' }); });

  test('the SDK is the one the lock file names', async () => {
    const { createRequire } = await import('node:module');
    const { readFile } = await import('node:fs/promises');
    const entry = createRequire(import.meta.url).resolve('@hopx-ai/sdk');
    const installed = JSON.parse(await readFile(new URL('../package.json', `file://${entry}`), 'utf8'));
    const locked = JSON.parse(await readFile(new URL('./package-lock.json', import.meta.url), 'utf8'));
    assert.equal(installed.version, locked.packages['node_modules/@hopx-ai/sdk'].version);
  });

  test('its information is complete', async () => {
    const info = await sandbox.getInfo();
    assert.equal(info.sandboxId, sandbox.sandboxId);
    assert.match(info.sandboxId, /^[a-z][a-z0-9]+$/);
    assert.equal(info.status, 'running');
    assert.equal(info.templateName, 'code-interpreter');
    assert.equal(typeof info.templateId, 'string');
    assert.equal(info.region, 'eu-west');
    assert.equal(info.internetAccess, true);
    assert.equal(info.timeoutSeconds, 900);
    assert.ok(Number.isInteger(info.organizationId));
    assert.match(info.publicHost, /^https?:\/\//);
    for (const field of ['vcpu', 'memoryMb', 'diskMb']) assert.ok(Number.isInteger(info.resources[field]), field);
    assert.match(info.createdAt, time);
    assert.match(info.expiresAt, time);
    assert.ok(Math.abs(Date.parse(info.expiresAt) - Date.now() - 900_000) < 60_000);
  });

  test('it is healthy and says what it is', async () => {
    assert.equal(await sandbox.isHealthy(), true);
    await sandbox.ensureHealthy();
    assert.equal((await sandbox.getHealth()).status, 'healthy');
    const info = await sandbox.getAgentInfo();
    assert.ok(info.agent);
    assert.ok(info.version);
  });

  test('the environment of create is there without the SDK\'s own PATCH', async () => {
    const made = await raw('POST', '/v1/sandboxes', { body: { template_name: 'base', env_vars: { RAW: 'yes' } } });
    assert.equal(made.status, 201, made.text);
    own(made.json.id);
    const run = await raw('POST', '/commands/run', {
      base: made.json.public_host, headers: { authorization: `Bearer ${made.json.auth_token}` },
      body: { command: 'bash', args: ['-c', 'echo $RAW'], timeout: 10 },
    });
    assert.equal(run.json.stdout, 'yes\n', run.text);
  });

  test('a second handle reaches the same sandbox', async () => {
    await sandbox.files.write('/workspace/shared.txt', 'one');
    const other = await Sandbox.connect(sandbox.sandboxId, apiKey, baseURL);
    assert.equal((await other.getInfo()).publicHost, (await sandbox.getInfo()).publicHost);
    assert.equal(await other.files.read('/workspace/shared.txt'), 'one');
  });

  test('a template is named by name or by id', async () => {
    const template = await Sandbox.getTemplate('base', where);
    assert.equal(typeof template.id, 'string');
    const byID = await create({ template: undefined, templateId: template.id });
    assert.equal((await byID.getInfo()).templateName, 'base');
    const byIDAsName = await create({ template: template.id });
    assert.equal((await byIDAsName.getInfo()).templateName, 'base');
  });

  test('the templates that must exist are listed and complete', async () => {
    const templates = await Sandbox.listTemplates(where);
    const names = templates.map((t) => t.name);
    for (const name of ['base', 'code-interpreter']) assert.ok(names.includes(name), name);
    for (const t of templates) {
      assert.equal(typeof t.id, 'string');
      assert.equal(typeof t.displayName, 'string');
      assert.ok(Array.isArray(t.features) && Array.isArray(t.tags));
    }
    const full = await Sandbox.getTemplate('code-interpreter', where);
    assert.equal(full.isActive, true);
    assert.ok(full.defaultResources);
    const python = await Sandbox.listTemplates({ ...where, language: 'python' });
    assert.ok(python.length >= 1 && python.every((t) => t.language.includes('python')));
  });

  test('no internet access is echoed and kept', async () => {
    const closed = await create({ template: 'base', internetAccess: false });
    assert.equal((await closed.getInfo()).internetAccess, false);
    const probe = await closed.commands.run('getent hosts example.com || echo no name');
    assert.match(probe.stdout, /no name/);
  });

  test('health needs no key', async () => {
    const health = await Sandbox.healthCheck(baseURL);
    assert.equal(health.status, 'healthy');
  });
});

describe('errors', () => {
  test('no key', () => withoutKey(() =>
    assert.rejects(Sandbox.create({ template: 'base', baseURL }), unauthenticated)));
  for (const bad of ['nonsense', 'hopx_live_000000000000.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', `${apiKey}x`, apiKey.slice(0, -1)]) {
    test(`a key that is not one: ${bad.slice(0, 14)}…`, () =>
      assert.rejects(Sandbox.list({ baseURL, apiKey: bad }), unauthenticated));
  }
  test('a token that is not one', () =>
    assert.rejects(new HTTPClient({ baseURL, jwtToken: 'eyJhbGciOiJub25lIn0.e30.', maxRetries: 1 }).get('/env'), unauthenticated));

  test('an unknown template is not an expired sandbox', () =>
    assert.rejects(create({ template: 'no-such-template' }), (error) => {
      assert.equal(error.statusCode, 404);
      assert.ok(error instanceof FileNotFoundError || error instanceof APIError);
      assert.ok(!(error instanceof SandboxExpiredError), error.message);
      assert.match(error.message, /template/i);
      return true;
    }));

  test('a bad field is a 400 that names it', () =>
    assert.rejects(create({ template: 'base', timeoutSeconds: -5 }), (error) => {
      assert.ok(error instanceof APIError);
      assert.equal(error.statusCode, 400);
      assert.equal(error.code, 'INVALID_REQUEST');
      assert.match(error.message, /timeout/);
      assert.ok(error.requestId);
      return true;
    }));

  // What list() does for every id it finds: a handle without a look.
  const handle = () => new Sandbox(unknown, apiKey, baseURL);
  const verbs = {
    connect: () => Sandbox.connect(unknown, apiKey, baseURL),
    getInfo: () => handle().getInfo(),
    kill: () => handle().kill(),
    pause: () => handle().pause(),
    resume: () => handle().resume(),
    setTimeout: () => handle().setTimeout(60),
    refreshToken: () => handle().refreshToken(),
    runCode: () => handle().runCode('1'),
  };
  for (const [name, call] of Object.entries(verbs)) {
    test(`unknown id: ${name}`, () => assert.rejects(call(), expired(unknown)));
  }
});

describe('pause and resume', () => {
  let sandbox;
  before(async () => { sandbox = await create(); });

  test('memory and processes stay, and stand still meanwhile', async () => {
    await sandbox.commands.runBackground('i=0; while :; do i=$((i+1)); echo $i > /tmp/ticks; sleep 0.05; done', { timeout: 600 });
    const ticks = async () => Number(await sandbox.files.read('/tmp/ticks'));
    await eventually('it ticks', async () => (await ticks()) > 2);
    const pid = await sh(sandbox, 'pgrep -f "echo .i > /tmp/ticks" | head -1');
    const before = await ticks();
    await sandbox.pause();
    assert.equal((await sandbox.getInfo()).status, 'paused');
    await delay(3_000); // the passing of time is what is tested: running on, it would tick 60 times
    await sandbox.resume();
    const first = await ticks();
    assert.equal((await sandbox.getInfo()).status, 'running');
    assert.ok(first - before < 30, `ticked ${first - before} times`);
    await eventually('it ticks on from where it stood', async () => (await ticks()) > first);
    assert.equal(await sh(sandbox, 'pgrep -f "echo .i > /tmp/ticks" | head -1'), pid);
  });

  test('while paused its agent is refused, and both verbs may be repeated', async () => {
    await sandbox.pause();
    await sandbox.pause();
    await assert.rejects(sandbox.commands.run('true'), (error) => {
      assert.ok(error instanceof HopxError);
      assert.equal(error.statusCode, 409, error.message);
      assert.match(error.message, /paused/i);
      return true;
    });
    await sandbox.refreshToken(); // works while paused
    await sandbox.resume();
    await sandbox.resume();
    assert.equal(await sh(sandbox, 'echo back'), 'back\n');
  });

  test('connect resumes a paused sandbox', async () => {
    await sandbox.files.write('/workspace/kept', 'yes');
    await sandbox.pause();
    const again = await Sandbox.connect(sandbox.sandboxId, apiKey, baseURL);
    assert.equal((await again.getInfo()).status, 'running');
    assert.equal(await again.files.read('/workspace/kept'), 'yes');
  });

  test('a filter finds it while paused', async () => {
    await sandbox.pause();
    const paused = await Sandbox.list({ ...where, status: 'paused' });
    assert.ok(paused.some((s) => s.sandboxId === sandbox.sandboxId));
    const running = await Sandbox.list({ ...where, status: 'running' });
    assert.ok(!running.some((s) => s.sandboxId === sandbox.sandboxId));
  });

  test('a paused sandbox is killed like any other', async () => {
    const started = performance.now();
    await sandbox.kill();
    assert.ok(performance.now() - started < 5_000);
    await assert.rejects(sandbox.getInfo(), expired(sandbox.sandboxId));
  });
});

describe('timeout', () => {
  test('none unless asked for', async () => {
    const sandbox = await create({ template: 'base' });
    const wire = (await raw('GET', `/v1/sandboxes/${sandbox.sandboxId}`)).json;
    assert.equal(wire.expires_at, null);
    assert.equal(wire.timeout_seconds, null);
    assert.equal(await sandbox.getTimeToExpiry(), null);
    assert.equal(await sandbox.isExpiringSoon(), null);
    assert.equal((await sandbox.getExpiryInfo()).hasTimeout, false);
  });

  test('set, seen at once, and counted from now', async () => {
    const sandbox = await create({ template: 'base', timeoutSeconds: 600 });
    await sandbox.setTimeout(120);
    const info = await sandbox.getInfo();
    assert.equal(info.timeoutSeconds, 120);
    assert.ok(Math.abs(Date.parse(info.expiresAt) - Date.now() - 120_000) < 15_000);
    assert.equal(await sandbox.isExpiringSoon(300), true);
    assert.equal(await sandbox.isExpiringSoon(30), false);
    const expiry = await sandbox.getExpiryInfo();
    assert.equal(expiry.hasTimeout, true);
    assert.equal(expiry.isExpired, false);
    await assert.rejects(sandbox.setTimeout(0), /greater than 0/); // the SDK's own rule
    const off = await raw('PUT', `/v1/sandboxes/${sandbox.sandboxId}/timeout`, { body: { timeout_seconds: 0 } });
    assert.equal(off.status, 200, off.text);
    assert.equal(await sandbox.getTimeToExpiry(), null);
  });

  test('at its deadline a sandbox ends: not before, and within two seconds', async () => {
    const sandbox = await create({ template: 'base', timeoutSeconds: 3 });
    const deadline = Date.parse((await sandbox.getInfo()).expiresAt);
    let lastAlive = 0;
    const gone = await eventually('it ends', async () => {
      const asked = Date.now();
      const answer = await raw('GET', `/v1/sandboxes/${sandbox.sandboxId}`);
      if (answer.status === 200) { lastAlive = asked; return false; }
      assert.equal(answer.status, 404, answer.text);
      return { at: Date.now(), json: answer.json };
    }, { within: 20_000, every: 20 });
    assert.ok(gone.at >= deadline, `ended ${deadline - gone.at} ms early`);
    assert.ok(lastAlive - deadline < 2_000, `alive ${lastAlive - deadline} ms late`);
    assert.equal(gone.json.details.reason, 'timeout');
    assert.match(gone.json.details.terminated_at, time);
  });

  test('an extension is obeyed', async () => {
    const sandbox = await create({ template: 'base', timeoutSeconds: 2 });
    await sandbox.setTimeout(600);
    await delay(4_000); // past the first deadline
    assert.equal(await sh(sandbox, 'echo alive'), 'alive\n');
  });
});

describe('list', () => {
  const many = count('E2E_LIST', 120);
  test(`${many} sandboxes: every one once, over the pages`, { timeout: 600_000 }, async () => {
    const made = new Set(await each(Array.from({ length: many }), 6, async () => (await create({ template: 'base' })).sandboxId));
    assert.equal(made.size, many);

    const seen = [];
    for await (const sandbox of Sandbox.iter(where)) seen.push(sandbox.sandboxId);
    assert.equal(new Set(seen).size, seen.length, 'none twice');
    for (const id of made) assert.ok(seen.includes(id), `${id} is missing`);

    const running = [];
    for await (const sandbox of Sandbox.iter({ ...where, status: 'running' })) running.push(sandbox.sandboxId);
    for (const id of made) assert.ok(running.includes(id), `${id} is missing among running`);

    assert.equal((await Sandbox.list({ ...where, limit: 7 })).length, 7);
    assert.equal((await Sandbox.list(where)).length, Math.min(100, seen.length));

    const page = (await raw('GET', '/v1/sandboxes?limit=50')).json;
    assert.equal(page.object, 'list');
    assert.equal(page.data.length, 50);
    assert.equal(page.has_more, true);
    assert.equal(typeof page.next_cursor, 'string');
    const created = page.data.map((s) => Date.parse(s.created_at));
    assert.deepEqual(created, [...created].sort((a, b) => b - a), 'newest first');
    for (const item of page.data) {
      assert.equal(item.status, 'running');
      assert.ok(!('auth_token' in item), 'tokens are not listed');
    }

    // Every handle of a list works by itself: its token is fetched on demand.
    const handles = await Sandbox.list({ ...where, limit: 10 });
    await each(handles, 4, async (handle) => {
      const result = await handle.runCode('echo $((6*7))', { language: 'bash' });
      assert.equal(result.stdout, '42\n');
    });

    await each([...made], 8, async (id) => {
      const answer = await raw('POST', `/v1/sandboxes/${id}/kill`);
      assert.equal(answer.status, 200, answer.text);
    });
    for await (const sandbox of Sandbox.iter(where)) assert.ok(!made.has(sandbox.sandboxId), 'a killed one is listed');
  });
});

describe('tokens', () => {
  test('a refresh is new, later, and takes nothing from the old', async () => {
    const sandbox = await create({ template: 'base' });
    const first = await sandbox.getToken();
    assert.match(first, /^eyJ/);
    const refresh = () => raw('POST', `/v1/sandboxes/${sandbox.sandboxId}/token/refresh`);
    const [one, two] = [await refresh(), await refresh()];
    assert.equal(one.status, 200, one.text);
    assert.match(one.json.token_expires_at, time);
    assert.notEqual(one.json.auth_token, first);
    assert.notEqual(two.json.auth_token, one.json.auth_token);
    assert.ok(Date.parse(two.json.token_expires_at) > Date.parse(one.json.token_expires_at), 'strictly later');
    assert.ok(Date.parse(one.json.token_expires_at) - Date.now() > 23 * 3_600_000, 'a day at least');
    await sandbox.refreshToken();
    assert.notEqual(await sandbox.getToken(), first);
    for (const token of [first, one.json.auth_token, two.json.auth_token, await sandbox.getToken()]) {
      const answer = await raw('GET', '/env', { headers: { authorization: `Bearer ${token}` } });
      assert.equal(answer.status, 200, answer.text);
    }
    await sandbox.kill();
    for (const token of [first, two.json.auth_token]) {
      const answer = await raw('GET', '/env', { headers: { authorization: `Bearer ${token}` } });
      assert.ok(answer.status === 401 || answer.status === 404, `a token of a dead sandbox: ${answer.status}`);
    }
  });
});

describe('kill', () => {
  test('after it there is nothing, and repeating it is no error', async () => {
    const sandbox = await create({ template: 'base' });
    await sandbox.kill();
    await assert.rejects(sandbox.getInfo(), expired(sandbox.sandboxId));
    await assert.rejects(Sandbox.connect(sandbox.sandboxId, apiKey, baseURL), expired(sandbox.sandboxId));
    await assert.rejects(sandbox.commands.run('true'), HopxError);
    for await (const other of Sandbox.iter(where)) assert.notEqual(other.sandboxId, sandbox.sandboxId);
    await sandbox.kill();
    const answer = await raw('GET', `/v1/sandboxes/${sandbox.sandboxId}`);
    assert.equal(answer.status, 404);
    assert.equal(answer.json.code, 'RESOURCE_NOT_FOUND');
    assert.equal(answer.json.details.reason, 'request');
  });

  test('it does not wait for what runs, and what runs does not hang', async () => {
    const sandbox = await create({ template: 'base' });
    const running = sandbox.commands.run('trap "" TERM; touch /tmp/up; while :; do sleep 1; done', { timeout: 600 });
    const settled = running.then((result) => ({ result }), (error) => ({ error }));
    await eventually('it runs', () => sandbox.files.exists('/tmp/up'));
    const started = performance.now();
    const answer = await raw('POST', `/v1/sandboxes/${sandbox.sandboxId}/kill`);
    const took = performance.now() - started;
    assert.equal(answer.status, 200, answer.text);
    assert.ok(took < 1_000, `kill took ${took} ms`);
    const end = await Promise.race([settled, eventually('never', () => false, { within: 30_000 }).catch(() => 'hung')]);
    assert.notEqual(end, 'hung', 'a call to a killed sandbox must end');
    assert.ok(end.error, 'and must not pretend success');
  });
});
