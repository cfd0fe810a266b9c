// ComputeSDK through its own packages: computesdk and @computesdk/hopx, with
// nothing changed but baseURL. It covers every flow of ComputeSDK's public
// provider suite (create, commands, information, address of a port, files,
// quoting, live output, find by id, list, destroy), each in a fresh sandbox as
// that suite does, and the isolation probe of its public benchmark.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { hopx } from '@computesdk/hopx';
import { compute } from 'computesdk';
import { apiKey, baseURL, each, eventually, own, raw } from './support.mjs';

// The SDK makes the address of a port only from hosts it knows the shape of,
// which takes an installation with a domain. The driver runs this file under
// one; E2E_DOMAIN says so.
const domain = process.env.E2E_DOMAIN;
const needsDomain = domain ? {} : { skip: 'needs an installation with a domain (E2E_DOMAIN)' };

const provider = hopx({ apiKey, baseURL });

async function make(options) {
  const sandbox = await provider.sandbox.create(options);
  own(sandbox.sandboxId);
  return sandbox;
}

const gone = async (id) => (await raw('GET', `/v1/sandboxes/${id}`)).status === 404;

describe('provider', () => {
  let sandbox;
  beforeEach(async () => { sandbox = await make(); });
  afterEach(async () => {
    await sandbox.destroy(); // swallows every error, so ask
    assert.ok(await gone(sandbox.sandboxId), 'destroyed');
  });

  test('create: a valid id and the provider\'s name', () => {
    assert.match(sandbox.sandboxId, /^[a-z][a-z0-9]+$/);
    assert.equal(sandbox.provider, 'hopx');
    assert.equal(sandbox.getInstance().sandboxId, sandbox.sandboxId);
    assert.equal(sandbox.getProvider().name, 'hopx');
  });

  test('command', async () => {
    const result = await sandbox.runCommand('echo "Hello from command"');
    assert.equal(result.stdout, 'Hello from command\n');
    assert.equal(result.stderr, '');
    assert.equal(result.exitCode, 0);
    assert.equal(typeof result.durationMs, 'number');
  });

  test('command: directory, environment, timeout', async () => {
    const result = await sandbox.runCommand('printenv A && pwd', { cwd: '/tmp', env: { A: 'two words' } });
    assert.equal(result.stdout, 'two words\n/tmp\n', result.stderr);
    const slow = await sandbox.runCommand('sleep 60', { timeout: 1_000 });
    assert.notEqual(slow.exitCode, 0);
    assert.ok(slow.durationMs < 10_000);
  });

  test('background command', async () => {
    const started = performance.now();
    const result = await sandbox.runCommand('sleep 1', { background: true });
    assert.equal(result.exitCode, 0);
    assert.ok(performance.now() - started < 10_000);
    const kept = await sandbox.runCommand('sh -c "sleep 1; echo done > /tmp/later"', { background: true });
    assert.equal(kept.exitCode, 0);
    await eventually('it went on after the answer', () => sandbox.filesystem.exists('/tmp/later'));
  });

  test('information', async () => {
    const info = await sandbox.getInfo();
    assert.equal(info.id, sandbox.sandboxId);
    assert.equal(info.provider, 'hopx');
    assert.equal(info.status, 'running');
    assert.ok(info.createdAt instanceof Date && !Number.isNaN(info.createdAt.getTime()));
    assert.equal(info.metadata.templateName, 'code-interpreter');
  });

  test('address of a port', needsDomain, async () => {
    for (const [port, protocol] of [[3000], [8080, 'wss']]) {
      const url = await sandbox.getUrl({ port, protocol });
      assert.match(url, /^(https?|wss?):\/\/.+/);
      assert.ok(url.includes(`${port}-${sandbox.sandboxId}.`), url);
    }
    await sandbox.filesystem.writeFile('/tmp/www/index.html', 'seen from outside');
    await sandbox.runCommand('python3 -m http.server 3000 --bind 0.0.0.0 --directory /tmp/www', { background: true });
    const url = await sandbox.getUrl({ port: 3000 });
    await eventually('the address answers', async () => (await (await fetch(url)).text()) === 'seen from outside');
  });

  test('an invalid command', async () => {
    const result = await sandbox.runCommand('nonexistent-command-12345');
    assert.equal(result.exitCode, 127);
    assert.match(result.stderr, /not found/);
  });

  describe('files', () => {
    const file = '/tmp/test-file.txt';
    const dir = '/tmp/test-dir';
    const content = 'Hello, ComputeSDK filesystem! åäö\n';

    test('write and read', async () => {
      await sandbox.filesystem.writeFile(file, content);
      assert.equal(await sandbox.filesystem.readFile(file), content);
    });
    test('exists', async () => {
      assert.equal(await sandbox.filesystem.exists(file), false);
      await sandbox.filesystem.writeFile(file, content);
      assert.equal(await sandbox.filesystem.exists(file), true);
    });
    test('make a directory', async () => {
      await sandbox.filesystem.mkdir(dir);
      assert.equal(await sandbox.filesystem.exists(dir), true);
    });
    test('list a directory', async () => {
      await sandbox.filesystem.mkdir(`${dir}/inner`);
      await sandbox.filesystem.writeFile(`${dir}/file1.txt`, 'content1');
      await sandbox.filesystem.writeFile(`${dir}/file2.txt`, 'content2');
      const entries = await sandbox.filesystem.readdir(dir);
      const kinds = Object.fromEntries(entries.map((e) => [e.name, e.type]));
      assert.deepEqual(kinds, { inner: 'directory', 'file1.txt': 'file', 'file2.txt': 'file' });
      assert.equal(entries.find((e) => e.name === 'file1.txt').size, 8);
    });
    test('remove', async () => {
      await sandbox.filesystem.writeFile(file, content);
      await sandbox.filesystem.remove(file);
      assert.equal(await sandbox.filesystem.exists(file), false);
      await sandbox.filesystem.writeFile(`${dir}/deep/file.txt`, content);
      await sandbox.filesystem.remove(dir);
      assert.equal(await sandbox.filesystem.exists(dir), false);
    });
    test('a file that is not there', () => assert.rejects(sandbox.filesystem.readFile('/nonexistent/file.txt'), /not found/i));
  });

  describe('quoting', () => {
    test('spaces', async () => {
      const result = await sandbox.runCommand(`sh -c 'echo "hello world"'`);
      assert.deepEqual([result.exitCode, result.stdout.trim()], [0, 'hello world']);
    });
    test('special characters', async () => {
      const result = await sandbox.runCommand(`sh -c 'echo "$HOME"'`);
      assert.equal(result.exitCode, 0);
      assert.match(result.stdout.trim(), /^\//);
    });
    test('pipes and redirections', async () => {
      const result = await sandbox.runCommand(`sh -c 'echo "test content" > /tmp/test-quoting.txt && cat /tmp/test-quoting.txt'`);
      assert.deepEqual([result.exitCode, result.stdout.trim()], [0, 'test content']);
    });
  });

  // ComputeSDK streams through a small daemon that it starts in the sandbox and
  // reads back through the address of a port. That daemon listens on the
  // sandbox's own loopback only, so the output comes at the end; it comes whole.
  describe('output through callbacks', () => {
    test('arrives whole and once', async () => {
      const chunks = [];
      const result = await sandbox.runCommand(`sh -c 'for i in 1 2 3 4 5; do echo tick $i; sleep 0.2; done'`, {
        onStdout: (text) => chunks.push(text),
      });
      assert.equal(result.exitCode, 0);
      assert.equal(chunks.join(''), result.stdout);
      assert.equal(result.stdout, 'tick 1\ntick 2\ntick 3\ntick 4\ntick 5\n');
    });
    test('keeps error output apart and reports the exit code', async () => {
      const out = [];
      const err = [];
      const result = await sandbox.runCommand(`sh -c 'echo out; echo err 1>&2; exit 3'`, {
        onStdout: (text) => out.push(text), onStderr: (text) => err.push(text),
      });
      assert.equal(result.exitCode, 3);
      assert.ok(out.join('').includes('out') && !out.join('').includes('err'));
      assert.ok(err.join('').includes('err'));
    });
    test('a command that outruns its timeout is stopped', async () => {
      const started = performance.now();
      const end = await sandbox.runCommand(`sh -c 'echo starting; sleep 60'`, { timeout: 5_000, onStdout: () => {} })
        .then((result) => result.exitCode, () => 'refused');
      assert.notEqual(end, 0);
      assert.ok(performance.now() - started < 30_000);
    });
  });
});

describe('life through the provider', () => {
  test('create, find by id, list, destroy, find nothing', async () => {
    const { sandboxId } = await make();
    const found = await provider.sandbox.getById(sandboxId);
    assert.equal(found?.sandboxId, sandboxId);
    assert.equal((await found.runCommand('echo found')).stdout, 'found\n');
    const listed = await provider.sandbox.list();
    assert.ok(Array.isArray(listed));
    const ours = listed.find((s) => s.sandboxId === sandboxId);
    assert.ok(ours);
    assert.equal((await ours.getInfo()).status, 'running');
    await provider.sandbox.destroy(sandboxId);
    assert.equal(await provider.sandbox.getById(sandboxId), null);
    assert.ok(!(await provider.sandbox.list()).some((s) => s.sandboxId === sandboxId));
    assert.ok(await gone(sandboxId));
  });

  test('destroy of what does not exist is quiet, and find answers null', async () => {
    await provider.sandbox.destroy('saaaaaaaaaaaaaaaaaaaa');
    assert.equal(await provider.sandbox.getById('saaaaaaaaaaaaaaaaaaaa'), null);
  });

  test('options: environment, timeout in milliseconds, template, and those it ignores', async () => {
    const template = (await raw('GET', '/v1/templates/base')).json;
    const sandbox = await make({ envs: { SET: 'at create' }, timeout: 900_000, templateId: template.id, name: 'n', metadata: { a: 1 }, runtime: 'node', ports: [3000] });
    assert.equal((await sandbox.runCommand('echo $SET')).stdout, 'at create\n');
    const info = await sandbox.getInfo();
    assert.equal(info.timeout, 900_000);
    assert.equal(info.metadata.templateName, 'base');
  });

  test('a wrong key is reported as such', () =>
    assert.rejects(hopx({ apiKey: 'hopx_live_000000000000.no', baseURL }).sandbox.create(), /authentication/i));

  test('an aborted create leaves nothing', async () => {
    const ids = async (query) => (await raw('GET', `/v1/sandboxes?limit=1000${query}`)).json.data.map((s) => s.id);
    const before = new Set([...await ids(''), ...await ids('&status=killed')]);
    const fresh = async (query) => (await ids(query)).filter((id) => !before.has(id));
    const controller = new AbortController();
    const creating = provider.sandbox.create({ signal: controller.signal });
    controller.abort();
    await assert.rejects(creating, { name: 'AbortError' });
    // ComputeSDK destroys it itself when the answer comes after all.
    await eventually('it was made and has ended', async () =>
      (await fresh('&status=killed')).length > 0 && (await fresh('')).length === 0, { within: 30_000, every: 200 });
  });
});

describe('life through computesdk', () => {
  test('the compute object with an explicit provider', async () => {
    compute.setConfig({ provider });
    const sandbox = await compute.sandbox.create();
    own(sandbox.sandboxId);
    assert.equal((await sandbox.runCommand('node -v')).exitCode, 0);
    assert.equal((await compute.sandbox.getById(sandbox.sandboxId))?.sandboxId, sandbox.sandboxId);
    assert.ok((await compute.sandbox.list()).some((s) => s.sandboxId === sandbox.sandboxId));
    await compute.sandbox.destroy(sandbox.sandboxId);
    assert.ok(await gone(sandbox.sandboxId));
  });
});

describe('a small data job, start to end', () => {
  test('write a program and its input, run it, read its output', async () => {
    const sandbox = await make({ runtime: 'python' });
    await sandbox.filesystem.writeFile('/workspace/in.json', JSON.stringify({ ages: [30, 25, 35] }));
    await sandbox.filesystem.writeFile('/workspace/job.py', [
      'import json',
      'ages = json.load(open("/workspace/in.json"))["ages"]',
      'json.dump({"n": len(ages), "mean": sum(ages) / len(ages)}, open("/workspace/out.json", "w"))',
      'print("Processed", len(ages))',
    ].join('\n'));
    const run = await sandbox.runCommand('python3 /workspace/job.py');
    assert.equal(run.stdout, 'Processed 3\n', run.stderr);
    assert.deepEqual(JSON.parse(await sandbox.filesystem.readFile('/workspace/out.json')), { n: 3, mean: 30 });
    const listed = (await sandbox.filesystem.readdir('/workspace')).map((e) => e.name);
    for (const name of ['in.json', 'job.py', 'out.json']) assert.ok(listed.includes(name), name);
    assert.match((await sandbox.runCommand('python3 --version')).stdout, /^Python 3/);
  });
});

describe('isolation as the public benchmark probes it', () => {
  test('no sandbox has been used before', async (t) => {
    const probe = [
      'test ! -e /tmp/.hutch_marker && test ! -e /var/tmp/.hutch_marker',
      'for n in mnt pid uts; do echo "ns_$n=$(readlink /proc/self/ns/$n 2>/dev/null || echo unknown)"; done',
      'echo "cgroup=$(sha256sum < /proc/self/cgroup 2>/dev/null | cut -d" " -f1)"',
      'echo "boot_id=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown)"',
      'echo "pid1=$(tr -d "\\0" < /proc/1/cmdline)"',
      'touch /tmp/.hutch_marker /var/tmp/.hutch_marker',
    ].join(' && ');
    const seen = new Set();
    await each([1, 2, 3, 4], 2, async () => {
      const sandbox = await make();
      const result = await sandbox.runCommand(probe);
      assert.equal(result.exitCode, 0, `a marker of another sandbox, or: ${result.stderr}`);
      const signals = result.stdout.trim().split('\n');
      const boot = signals.find((line) => line.startsWith('boot_id='));
      assert.match(boot, /=[0-9a-f-]{36}$/);
      assert.ok(!seen.has(boot), 'a boot of its own');
      // The benchmark only remarks on the rest: gVisor numbers its namespaces
      // from one in every sandbox.
      const repeats = signals.filter((line) => seen.has(line)).map((line) => line.split('=')[0]);
      if (repeats.length > 0) t.diagnostic(`as in another sandbox: ${repeats.join(', ')}`);
      for (const line of signals) seen.add(line);
      await sandbox.destroy();
    });
  });
});
