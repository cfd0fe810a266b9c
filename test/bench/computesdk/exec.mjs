// Times `true` as a user of @hopx-ai/sdk sees it, and beside each sample the
// same client's same call against an agent in bare gVisor. Prints one JSON
// object: milliseconds of each.
//
//   BASE_URL, HOPX_API_KEY     the installation
//   BENCH_TEMPLATE             what to make the sandbox from
//   BENCH_COUNT                how many samples
//   BENCH_FLOOR, BENCH_TOKEN   an agent without a product around it

import { Commands, HTTPClient, Sandbox } from '@hopx-ai/sdk';

const count = Number(process.env.BENCH_COUNT);
const sandbox = await Sandbox.create({
  template: process.env.BENCH_TEMPLATE, apiKey: process.env.HOPX_API_KEY, baseURL: process.env.BASE_URL,
});
const hutch = [];
const bare = [];
try {
  const floor = new Commands(new HTTPClient({ baseURL: process.env.BENCH_FLOOR, jwtToken: process.env.BENCH_TOKEN }));
  const time = async (commands, into) => {
    const begin = performance.now();
    const result = await commands.run('true');
    const took = performance.now() - begin;
    if (result.exit_code !== 0) throw new Error(`true exited ${result.exit_code}: ${result.stderr}`);
    into?.push(took);
  };
  for (let i = 0; i < 20; i++) { // until the client itself is warm
    await time(sandbox.commands);
    await time(floor);
  }
  for (let i = 0; i < count; i++) {
    await time(sandbox.commands, hutch);
    await time(floor, bare);
  }
} finally {
  await sandbox.kill();
}
process.stdout.write(`${JSON.stringify({ hutch, bare })}\n`);
