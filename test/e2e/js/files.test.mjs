// Files through @hopx-ai/sdk: text, bytes, names from every script, big ones,
// directories, and the errors a program can act on.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { FileNotFoundError, HopxError } from '@hopx-ai/sdk';
import { count, create, raw, sh } from './support.mjs';

const sha256 = (data) => createHash('sha256').update(data).digest('hex');
const bigMiB = count('E2E_BIG_MIB', 50);

describe('files', () => {
  let sandbox, scratch;
  before(async () => {
    sandbox = await create();
    scratch = await mkdtemp(join(tmpdir(), 'hutch-e2e-'));
  });
  after(() => rm(scratch, { recursive: true, force: true }));

  const texts = {
    plain: 'Hello, World!\n',
    empty: '',
    unicode: 'smörgås · 日本語 · עברית · 🦫\u{1F468}\u200D\u{1F469}\u200D\u{1F467} · e\u0301',
    controls: 'a\tb\r\nc\u0000d\u001b[31m\u007f',
    'looks like base64': 'YWJjZA==',
    'looks like JSON': '{"error":"no","code":"FILE_NOT_FOUND"}',
  };
  for (const [name, text] of Object.entries(texts)) {
    test(`text: ${name}`, async () => {
      const path = `/workspace/text/${name}.txt`;
      await sandbox.files.write(path, text);
      assert.equal(await sandbox.files.read(path), text);
      assert.equal((await sandbox.files.readBytes(path)).toString('utf8'), text);
      assert.equal(await sh(sandbox, `wc -c < "${path}"`), `${Buffer.byteLength(text)}\n`);
    });
  }

  const names = [
    'åäö.txt', '日本語 ファイル.md', '🦫.bin', 'עברית', 'e\u0301 decomposed', 'a b  c', "it's", '"quoted"', 'a+b%20c', '#1&2=3?4',
    'semi;colon', '$(touch pwned)', '`id`', '-rf', '~', 'back\\slash', 'tab\there', 'x'.repeat(255),
  ];
  for (const name of names) {
    test(`name: ${JSON.stringify(name.length > 40 ? `${name.slice(0, 8)}… (${name.length})` : name)}`, async () => {
      const path = `/workspace/names/${name}`;
      await sandbox.files.write(path, name);
      assert.equal(await sandbox.files.exists(path), true);
      assert.equal(await sandbox.files.read(path), name);
      const listed = (await sandbox.files.list('/workspace/names')).filter((f) => f.name === name);
      assert.equal(listed.length, 1, 'listed once under its name');
      assert.equal(listed[0].path, path);
      assert.equal(listed[0].size, Buffer.byteLength(name));
      assert.equal(await sh(sandbox, 'cat -- "$P"', { env: { P: path } }), name);
      await sandbox.files.remove(path);
      assert.equal(await sandbox.files.exists(path), false);
    });
  }

  test('bytes: every value comes back', async () => {
    const bytes = Buffer.from(Array.from({ length: 1024 }, (_, i) => i % 256));
    await sandbox.files.writeBytes('/workspace/all.bin', bytes);
    assert.deepEqual(await sandbox.files.readBytes('/workspace/all.bin'), bytes);
    assert.equal((await sh(sandbox, 'sha256sum < /workspace/all.bin')).slice(0, 64), sha256(bytes), 'stored decoded');
  });

  test('bytes read as text are a 200 with valid JSON', async () => {
    await sandbox.files.writeBytes('/workspace/raw.bin', Buffer.from([0x89, 0x50, 0xff, 0xfe, 0x00, 0x41]));
    const text = await sandbox.files.read('/workspace/raw.bin');
    assert.equal(typeof text, 'string');
    assert.ok(text.includes('P') && text.endsWith('A'));
  });

  test(`big: ${bigMiB} MiB up by upload, down by download`, async () => {
    const bytes = randomBytes(bigMiB << 20);
    const local = join(scratch, 'big.bin');
    await writeFile(local, bytes);
    await sandbox.files.upload(local, '/workspace/big/uploaded.bin');
    assert.equal((await sh(sandbox, 'sha256sum < /workspace/big/uploaded.bin', { timeout: 120 })).slice(0, 64), sha256(bytes));
    const back = await sandbox.files.download('/workspace/big/uploaded.bin');
    assert.equal(back.length, bytes.length);
    assert.equal(sha256(back), sha256(bytes));
    await sandbox.files.remove('/workspace/big');
  });

  test(`big: ${bigMiB} MiB by writeBytes`, async () => {
    const bytes = randomBytes(bigMiB << 20);
    await sandbox.files.writeBytes('/workspace/big.bin', bytes);
    assert.equal((await sh(sandbox, 'sha256sum < /workspace/big.bin', { timeout: 120 })).slice(0, 64), sha256(bytes));
    await sandbox.files.remove('/workspace/big.bin');
  });

  test(`big: ${bigMiB} MiB of text by read`, async () => {
    await sh(sandbox, `head -c ${bigMiB << 20} /dev/zero | tr '\\0' 'x' > /workspace/big.txt`, { timeout: 120 });
    const text = await sandbox.files.read('/workspace/big.txt');
    assert.equal(text.length, bigMiB << 20);
    await sandbox.files.remove('/workspace/big.txt');
  });

  test('modes are kept, and replaced by a later write', async () => {
    await sandbox.files.write('/workspace/run.sh', '#!/bin/sh\necho ran', { mode: '0755' });
    assert.equal(await sh(sandbox, '/workspace/run.sh'), 'ran\n');
    await sandbox.files.writeBytes('/workspace/secret', Buffer.from('x'), { mode: '0600' });
    assert.equal(await sh(sandbox, 'stat -c %a /workspace/secret'), '600\n');
  });

  test('a write makes the directories above it and replaces what was there', async () => {
    await sandbox.files.write('/workspace/a/b/c/d.txt', 'one, and longer');
    await sandbox.files.write('/workspace/a/b/c/d.txt', 'two');
    assert.equal(await sandbox.files.read('/workspace/a/b/c/d.txt'), 'two');
  });

  test('overwrite: false leaves what is there', async () => {
    await sandbox.files.write('/workspace/keep.txt', 'first');
    await assert.rejects(sandbox.files.write('/workspace/keep.txt', 'second', { overwrite: false }), (error) => {
      assert.equal(error.code, 'FILE_ALREADY_EXISTS');
      assert.equal(error.statusCode, 409);
      return true;
    });
    assert.equal(await sandbox.files.read('/workspace/keep.txt'), 'first');
  });

  test('a Buffer given to write arrives as its bytes', async () => {
    await sandbox.files.write('/workspace/buffer.bin', Buffer.from([1, 2, 250]));
    assert.deepEqual([...await sandbox.files.readBytes('/workspace/buffer.bin')], [1, 2, 250]);
  });

  test('paths outside /workspace, and relative to nothing', async () => {
    await sandbox.files.write('/non-existent.txt', 'root of the sandbox');
    assert.equal(await sandbox.files.read('/non-existent.txt'), 'root of the sandbox');
    await sandbox.files.write('/tmp/./x/../y.txt', 'dots');
    assert.equal(await sandbox.files.read('/tmp/y.txt'), 'dots');
  });

  test('directories: made with parents, listed with both spellings, removed whole', async () => {
    await sandbox.files.mkdir('/workspace/dir/inner');
    await sandbox.files.mkdir('/workspace/dir/inner'); // again is no error
    await sandbox.files.write('/workspace/dir/file.tar.gz', 'abc');
    const listed = await sandbox.files.list('/workspace/dir');
    const byName = Object.fromEntries(listed.map((f) => [f.name, f]));
    assert.deepEqual(Object.keys(byName).sort(), ['file.tar.gz', 'inner']);
    assert.equal(byName.inner.isDir, true);
    assert.equal(byName['file.tar.gz'].isFile, true);
    assert.equal(byName['file.tar.gz'].size, 3);
    assert.equal(byName['file.tar.gz'].extension, 'gz');
    assert.ok(Math.abs(Date.parse(byName['file.tar.gz'].modified) - Date.now()) < 60_000);
    const wire = (await raw('GET', '/files/list?path=%2Fworkspace%2Fdir', { headers: { authorization: `Bearer ${await sandbox.getToken()}` } })).json;
    assert.equal(wire.path, '/workspace/dir');
    assert.equal(wire.count, 2);
    for (const file of wire.files) {
      assert.equal(file.is_dir, file.is_directory);
      assert.equal(file.modified, file.modified_time);
      assert.match(file.permissions, /^[-dl][-rwxsStT]{9}$/);
    }
    await sandbox.files.remove('/workspace/dir');
    assert.equal(await sandbox.files.exists('/workspace/dir'), false);
    await sandbox.files.mkdir('/tmp/empty');
    assert.deepEqual(await sandbox.files.list('/tmp/empty'), []);
  });

  test('a directory of 3,000 entries lists whole', async () => {
    await sh(sandbox, 'mkdir -p /tmp/many && cd /tmp/many && seq -f f%g 3000 | xargs touch', { timeout: 60 });
    const listed = await sandbox.files.list('/tmp/many');
    assert.equal(new Set(listed.map((f) => f.name)).size, 3000);
  });

  describe('what is not there', () => {
    const notFound = (path) => (error) => {
      assert.ok(error instanceof FileNotFoundError, `${error.name}: ${error.message}`);
      assert.ok(error instanceof HopxError);
      assert.equal(error.code, 'FILE_NOT_FOUND');
      assert.equal(error.statusCode, 404);
      assert.equal(error.path, path);
      assert.ok(error.requestId, 'has a request id');
      return true;
    };
    const calls = {
      read: (path) => sandbox.files.read(path),
      remove: (path) => sandbox.files.remove(path),
    };
    for (const [name, call] of Object.entries(calls)) {
      test(name, () => assert.rejects(call('/workspace/never/was.txt'), notFound('/workspace/never/was.txt')));
    }
    test('readBytes', () => assert.rejects(sandbox.files.readBytes('/workspace/never'), (error) => error.statusCode === 404));
    test('list', () => assert.rejects(sandbox.files.list('/workspace/never'), (error) => error.statusCode === 404));
    test('exists is an answer', async () => assert.equal(await sandbox.files.exists('/workspace/never'), false));
    test('reading a directory is an error, not its bytes', () =>
      assert.rejects(sandbox.files.read('/workspace'), (error) => error instanceof HopxError && /directory/.test(error.message) && !(error.statusCode >= 500)));
    test('a file in the place of a directory is an error', async () => {
      await sandbox.files.write('/workspace/plain', 'x');
      await assert.rejects(sandbox.files.write('/workspace/plain/below', 'y'), (error) => !(error.statusCode >= 500));
      assert.equal(await sandbox.files.read('/workspace/plain'), 'x');
    });
  });
});
