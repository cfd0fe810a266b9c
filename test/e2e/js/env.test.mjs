// Environment variables through @hopx-ai/sdk: the layers, what replaces what,
// and that nothing a program stored is masked or lost.

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { create, raw, sh } from './support.mjs';

describe('environment', () => {
  let sandbox;
  before(async () => { sandbox = await create({ envVars: { FROM_CREATE: 'create', LAYERED: 'create' } }); });

  test('a fresh sandbox has a base environment beneath what create gave', async () => {
    const all = await sandbox.env.getAll();
    assert.ok(all.PATH?.includes('/bin'), 'PATH');
    assert.ok(all.HOME?.startsWith('/'), 'HOME');
    assert.equal(all.FROM_CREATE, 'create');
    for (const value of Object.values(all)) assert.equal(typeof value, 'string');
  });

  test('set, get, update and the answer of update', async () => {
    await sandbox.env.set('ONE', '1');
    assert.equal(await sandbox.env.get('ONE'), '1');
    const merged = await sandbox.env.update({ TWO: '2', ONE: 'one' });
    assert.equal(merged.ONE, 'one');
    assert.equal(merged.TWO, '2');
    assert.equal(merged.FROM_CREATE, 'create');
    assert.equal(await sh(sandbox, 'echo $ONE-$TWO-$FROM_CREATE'), 'one-2-create\n');
  });

  test('precedence: the call, then what was set, then create', async () => {
    assert.equal(await sh(sandbox, 'echo $LAYERED'), 'create\n');
    await sandbox.env.set('LAYERED', 'set');
    assert.equal(await sh(sandbox, 'echo $LAYERED'), 'set\n');
    assert.equal(await sh(sandbox, 'echo $LAYERED', { env: { LAYERED: 'call' } }), 'call\n');
    assert.equal(await sh(sandbox, 'echo $LAYERED'), 'set\n');
    const code = await sandbox.runCode('import os\nprint(os.environ["LAYERED"])', { env: { LAYERED: 'call' } });
    assert.equal(code.stdout, 'call\n');
  });

  test('delete removes from every later execution', async () => {
    await sandbox.env.set('SHORT_LIVED', 'here');
    assert.equal(await sh(sandbox, 'echo ${SHORT_LIVED-unset}'), 'here\n');
    await sandbox.env.delete('SHORT_LIVED');
    assert.equal(await sandbox.env.get('SHORT_LIVED'), undefined);
    assert.equal(await sh(sandbox, 'echo ${SHORT_LIVED-unset}'), 'unset\n');
    assert.equal((await sandbox.runCode('import os\nprint(os.environ.get("SHORT_LIVED", "NOT SET"))')).stdout, 'NOT SET\n');
  });

  test('values of every kind come back unchanged and unmasked', async () => {
    const values = {
      API_KEY: 'sk-secret', PASSWORD: 'hunter2', AUTH_TOKEN: 'eyJ', EMPTY_VALUE: '',
      UNICODE: 'åäö 日本 🦫', QUOTES: `'"\``, EQUALS: 'a=b=c', LINES: 'one\ntwo', DOLLAR: '$HOME $(id)', LONG: 'x'.repeat(20_000),
    };
    await sandbox.env.update(values);
    const all = await sandbox.env.getAll();
    for (const [name, value] of Object.entries(values)) {
      assert.equal(all[name], value, name);
      assert.equal(await sh(sandbox, `printf %s "$${name}"`), value, name);
    }
    await sandbox.env.delete('LONG'); // goes through getAll and setAll: nothing else may change
    assert.equal(await sandbox.env.get('API_KEY'), 'sk-secret');
  });

  test('setAll replaces what was set but never the base', async () => {
    const answer = await sandbox.env.setAll({ ONLY: 'this' });
    assert.equal(answer.ONLY, 'this');
    assert.equal(await sandbox.env.get('API_KEY'), undefined);
    assert.equal(await sh(sandbox, 'echo $ONLY ${API_KEY-unset}; command -v ls >/dev/null && test -n "$HOME" && echo base'), 'this unset\nbase\n');
  });

  test('names that cannot be variables are refused and change nothing', async () => {
    const headers = { authorization: `Bearer ${await sandbox.getToken()}` };
    for (const name of ['', 'A=B', 'NUL\u0000']) {
      const answer = await raw('PATCH', '/env', { headers, body: { env_vars: { [name]: 'x' }, merge: true } });
      assert.equal(answer.status, 400, JSON.stringify(name));
      assert.equal(typeof answer.json.error, 'string');
    }
    const all = await sandbox.env.getAll();
    assert.equal(Object.keys(all).includes(''), false);
    assert.equal(await sh(sandbox, 'echo still'), 'still\n');
  });
});
