// Prints one JSON object a line for every test that ended, for the Go driver.

export default async function* reporter(source) {
  for await (const { type, data } of source) {
    if (type === 'test:pass' || type === 'test:fail') {
      const error = data.details?.error;
      const cause = error?.cause ?? error;
      yield `${JSON.stringify({
        ok: type === 'test:pass',
        name: data.name,
        nesting: data.nesting,
        file: data.file,
        suite: data.details?.type === 'suite',
        ms: data.details?.duration_ms,
        skip: data.skip === undefined ? undefined : data.skip === true ? 'skipped' : String(data.skip),
        why: error && [error.code ?? error.failureType, cause?.stack ?? String(cause), cause?.cause?.stack].filter(Boolean).join('\n'),
      })}\n`;
    } else if (type === 'test:stderr' || type === 'test:stdout') {
      yield `${JSON.stringify({ output: data.message })}\n`;
    }
  }
}
