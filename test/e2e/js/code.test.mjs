// Code and commands through @hopx-ai/sdk: the four languages, outcomes that
// are results and not exceptions, and background work that can be listed and
// is gone when it is killed.

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { create, eventually, raw, sh } from './support.mjs';

const go = (body, imports = '"fmt"') => `package main\nimport (${imports})\nfunc main() {\n${body}\n}\n`;

describe('code', () => {
  let sandbox;
  before(async () => { sandbox = await create({ envVars: { GREETING: 'hej åäö', EMPTY: '' } }); });

  const languages = {
    python: 'import os\nprint("sum", 2 + 3, os.environ["GREETING"])',
    javascript: 'console.log("sum", 2 + 3, process.env.GREETING)',
    bash: 'echo "sum $((2 + 3)) $GREETING"',
    go: go('fmt.Println("sum", 2+3, os.Getenv("GREETING"))', '"fmt"; "os"'),
  };
  for (const [language, code] of Object.entries(languages)) {
    test(`${language} runs and sees the environment of create`, async () => {
      const result = await sandbox.runCode(code, { language });
      assert.equal(result.stdout, 'sum 5 hej åäö\n', result.stderr);
      assert.equal(result.stderr, '');
      assert.equal(result.exit_code, 0);
      assert.equal(result.success, true);
      assert.equal(typeof result.execution_time, 'number');
      assert.ok(result.execution_time >= 0 && result.execution_time < 120);
      assert.match(result.toString(), /ExecutionResult/); // formats execution_time: throws on anything but a number
    });
  }

  const aliases = { python3: 'print(1)', node: 'console.log(1)', nodejs: 'console.log(1)', js: 'console.log(1)', sh: 'echo 1', shell: 'echo 1' };
  for (const [language, code] of Object.entries(aliases)) {
    test(`${language} is another name of a language`, async () => {
      const result = await sandbox.runCode(code, { language });
      assert.equal(result.stdout.trim(), '1', result.stderr);
    });
  }

  test('an exception is a result with its traceback', async () => {
    const result = await sandbox.runCode('def f():\n    raise ValueError("of mine")\nf()');
    assert.equal(result.success, false);
    assert.notEqual(result.exit_code, 0);
    assert.match(result.stderr, /Traceback/);
    assert.match(result.stderr, /ValueError: of mine/);
  });

  test('an error in JavaScript is a result', async () => {
    const result = await sandbox.runCode('throw new TypeError("of mine")', { language: 'javascript' });
    assert.equal(result.success, false);
    assert.notEqual(result.exit_code, 0);
    assert.match(result.stderr, /TypeError: of mine/);
  });

  test('a Go program that does not compile is a result', async () => {
    const result = await sandbox.runCode(go('undefined()'), { language: 'go' });
    assert.equal(result.success, false);
    assert.notEqual(result.exit_code, 0);
    assert.match(result.stderr, /undefined/);
  });

  test('an exit code comes through', async () => {
    const result = await sandbox.runCode('echo to-out; echo to-err >&2; exit 37', { language: 'bash' });
    assert.equal(result.exit_code, 37);
    assert.equal(result.success, false);
    assert.equal(result.stdout, 'to-out\n');
    assert.equal(result.stderr, 'to-err\n');
  });

  test('output on stderr alone is no failure', async () => {
    const result = await sandbox.runCode('echo warned >&2', { language: 'bash' });
    assert.equal(result.success, true);
    assert.equal(result.exit_code, 0);
    assert.equal(result.stderr, 'warned\n');
  });

  test('a timeout is a result in time, and ends the whole tree', async () => {
    const started = performance.now();
    const result = await sandbox.runCode('(sleep 4711 & setsid sleep 4711 & sleep 4711)', { language: 'bash', timeout: 1 });
    const took = performance.now() - started;
    assert.equal(result.success, false);
    assert.notEqual(result.exit_code, 0);
    assert.ok(took < 6_000, `took ${took} ms`);
    await eventually('the tree is gone', async () => {
      const left = await sandbox.commands.run('ps -eo args | grep -c "^sleep 4711" || true');
      return left.stdout.trim() === '0';
    });
  });

  test('the environment of one call overrides and stays with the call', async () => {
    const code = 'import os\nprint(os.environ.get("GREETING"), os.environ.get("ONLY_HERE", "unset"))';
    const within = await sandbox.runCode(code, { env: { GREETING: 'mine', ONLY_HERE: 'yes' } });
    assert.equal(within.stdout, 'mine yes\n');
    const afterwards = await sandbox.runCode(code);
    assert.equal(afterwards.stdout, 'hej åäö unset\n');
  });

  test('the working directory is honoured', async () => {
    await sandbox.files.mkdir('/workspace/deeper');
    const result = await sandbox.runCode('import os\nprint(os.getcwd())\nopen("here.txt", "w").write("x")', { workingDir: '/workspace/deeper' });
    assert.equal(result.stdout, '/workspace/deeper\n', result.stderr);
    assert.equal(await sandbox.files.exists('/workspace/deeper/here.txt'), true);
  });

  test('one mebibyte of output arrives whole', async () => {
    const result = await sandbox.runCode('import sys\nsys.stdout.write("0123456789abcdef" * 65536)');
    assert.equal(result.stdout.length, 1 << 20);
    assert.equal(result.stdout, '0123456789abcdef'.repeat(65536));
  });

  test('output that is not UTF-8 is still an answer', async () => {
    const result = await sandbox.runCode('printf "a\\377\\376b"', { language: 'bash' });
    assert.equal(result.exit_code, 0);
    assert.match(result.stdout, /^a.+b$/u);
  });

  test('eight calls at once do not mix', async () => {
    const results = await Promise.all(Array.from({ length: 8 }, (_, i) =>
      sandbox.runCode(`import time\nprint("one ${i}")\ntime.sleep(0.2)\nprint("two ${i}")`)));
    results.forEach((result, i) => assert.equal(result.stdout, `one ${i}\ntwo ${i}\n`));
  });

  test('what a code interpreter must have is there', async () => {
    const result = await sandbox.runCode([
      'import numpy, pandas, matplotlib, seaborn, sklearn, plotly, requests, IPython',
      'matplotlib.use("Agg")',
      'import matplotlib.pyplot as plt',
      'plt.plot([1, 2, 3]); plt.savefig("/tmp/plot.png")',
      'print(pandas.DataFrame({"a": numpy.arange(3)})["a"].sum())',
    ].join('\n'));
    assert.equal(result.stdout, '3\n', result.stderr);
    const png = await sandbox.files.readBytes('/tmp/plot.png');
    assert.equal(png.subarray(1, 4).toString(), 'PNG');
    for (const tool of ['pip', 'pip3', 'node', 'npm', 'go', 'git', 'curl', 'ps', 'bash']) {
      await sh(sandbox, `command -v ${tool}`);
    }
  });
});

describe('commands', () => {
  let sandbox;
  before(async () => { sandbox = await create(); });

  test('a command has output, error output, an exit code and a time', async () => {
    const result = await sandbox.commands.run('echo out; echo err >&2; exit 3');
    assert.equal(result.stdout, 'out\n');
    assert.equal(result.stderr, 'err\n');
    assert.equal(result.exit_code, 3);
    assert.equal(result.success, false);
    assert.equal(typeof result.execution_time, 'number');
  });

  test('pipes, quotes, globs and here-documents are the shell\'s', async () => {
    await sh(sandbox, 'mkdir -p /tmp/g && touch "/tmp/g/a b" /tmp/g/c');
    assert.equal(await sh(sandbox, `printf '%s\\n' /tmp/g/* | sort | tr a-z A-Z`), '/TMP/G/A B\n/TMP/G/C\n');
    assert.equal(await sh(sandbox, `cat <<'EOF'\n$HOME "x" \\\nEOF`), '$HOME "x" \\\n');
  });

  test('a command that does not exist exits 127', async () => {
    const result = await sandbox.commands.run('nonexistent-command-12345');
    assert.equal(result.exit_code, 127);
    assert.match(result.stderr, /not found/);
  });

  test('environment and working directory', async () => {
    assert.equal(await sh(sandbox, 'echo "$A|$B|$(pwd)"', { env: { A: 'one two', B: '"$x"' }, workingDir: '/tmp' }), 'one two|"$x"|/tmp\n');
    assert.equal(await sh(sandbox, 'pwd'), '/workspace\n');
  });

  test('a missing working directory is created or used, never an exception', async () => {
    const result = await sandbox.commands.run('pwd', { workingDir: '/workspace/made/just/now' });
    assert.equal(result.stdout, '/workspace/made/just/now\n', result.stderr);
  });

  test('a signal shows in the exit code', async () => {
    const result = await sandbox.commands.run('kill -KILL $$');
    assert.equal(result.exit_code, 137);
    assert.equal(result.success, false);
  });

  test('a timeout is a result in time, and ends the whole tree', async () => {
    const started = performance.now();
    const result = await sandbox.commands.run('sleep 4712 & setsid sleep 4712 & wait', { timeout: 1 });
    assert.notEqual(result.exit_code, 0);
    assert.ok(performance.now() - started < 6_000);
    await eventually('the tree is gone', async () =>
      (await sandbox.commands.run('ps -eo args | grep -c "^sleep 4712" || true')).stdout.trim() === '0');
  });

  test('a command answers although it left something running', async () => {
    const started = performance.now();
    const result = await sandbox.commands.run('(sleep 30 >/dev/null 2>&1 &) ; echo done');
    assert.equal(result.stdout, 'done\n');
    assert.ok(performance.now() - started < 10_000);
  });
});

describe('background', () => {
  let sandbox;
  before(async () => { sandbox = await create(); });

  const entry = async (id) => (await sandbox.listProcesses()).find((p) => p.process_id === id);

  // ended waits until a job is listed as ended, or no longer listed, and
  // until no process with this mark exists.
  const ended = async (id, mark) => {
    await eventually('the job is no longer running', async () => {
      const job = await entry(id);
      return job === undefined || job.status !== 'running';
    }, { within: 5_000 });
    const left = await sandbox.commands.run(`ps -eo args | grep -c "^${mark}" || true`);
    assert.equal(left.stdout.trim(), '0', 'its processes are gone');
  };

  test('a background command is listed with everything a client reads', async () => {
    const job = await sandbox.commands.runBackground('sleep 4801');
    assert.equal(typeof job.process_id, 'string');
    assert.equal(job.stdout?.trim(), ''); // an example in the field trims it
    const listed = await eventually('it is listed', () => entry(job.process_id), { within: 2_000 });
    assert.equal(listed.status, 'running');
    for (const field of ['process_id', 'execution_id', 'name', 'status', 'language', 'start_time', 'started_at', 'command']) {
      assert.equal(typeof listed[field], 'string', field);
    }
    assert.ok(Number.isInteger(listed.pid));
    assert.match(listed.started_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?Z$/);
    await sandbox.killProcess(job.process_id);
    await ended(job.process_id, 'sleep 4801');
  });

  for (const kind of ['process_id', 'execution_id', 'pid']) {
    test(`kill by ${kind} ends the whole tree`, async () => {
      const mark = { process_id: 4811, execution_id: 4812, pid: 4813 }[kind];
      const job = await sandbox.commands.runBackground(`sleep ${mark} & setsid sleep ${mark} & trap "" TERM; sleep ${mark}; wait`);
      const listed = await eventually('it runs', async () => {
        const job1 = await entry(job.process_id);
        const up = await sandbox.commands.run(`ps -eo args | grep -c "^sleep ${mark}" || true`);
        return up.stdout.trim() === '3' && job1;
      });
      await sandbox.killProcess(String(listed[kind]));
      await ended(job.process_id, `sleep ${mark}`);
    });
  }

  test('background code outlives the request that started it', async () => {
    const job = await sandbox.runCodeBackground('import time\ntime.sleep(1)\nopen("/tmp/bg", "w").write("yes")', { name: 'writer' });
    assert.equal(job.status, 'running');
    assert.equal(typeof job.execution_id, 'string');
    const listed = await eventually('it is listed', () => entry(job.process_id), { within: 2_000 });
    assert.equal(listed.name, 'writer');
    assert.equal(listed.language, 'python');
    await eventually('it wrote', async () => (await sandbox.files.exists('/tmp/bg')) && (await sandbox.files.read('/tmp/bg')) === 'yes');
    await eventually('it is listed as completed', async () => {
      const now = await entry(job.process_id);
      return now === undefined || (now.status === 'completed' && now.exit_code === 0);
    });
  });

  test('an unnamed job is named after its language', async () => {
    const job = await sandbox.runCodeBackground('import time\ntime.sleep(60)');
    const listed = await eventually('it is listed', () => entry(job.process_id), { within: 2_000 });
    assert.ok(listed.name.toLowerCase().includes('python'), listed.name);
    await sandbox.killProcess(job.process_id);
  });

  test('a background job is ended at its timeout', async () => {
    const job = await sandbox.commands.runBackground('sleep 4821', { timeout: 1 });
    await ended(job.process_id, 'sleep 4821');
  });

  test('killing what does not exist is an error that names it', async () => {
    await assert.rejects(sandbox.killProcess('proc_nothing'), (error) => {
      assert.equal(error.statusCode, 404);
      return true;
    });
  });

  test('a job that listens is reached through the gateway', async () => {
    await sandbox.files.write('/tmp/www/index.html', '<h1>hej</h1>');
    const job = await sandbox.commands.runBackground('cd /tmp/www && exec python3 -m http.server 8642 --bind 0.0.0.0');
    await eventually('the page is served', async () => {
      const page = await raw('GET', `/sandboxes/${sandbox.sandboxId}/ports/8642/`);
      return page.status === 200 && page.text.includes('hej');
    });
    await sandbox.killProcess(job.process_id);
  });
});
