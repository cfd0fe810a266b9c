package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"
)

// banner says where the server is and how to make the first sandbox in each
// language.
func banner(w io.Writer, url, key string, templates int) {
	const text = `
hutch is at  @URL@
API key      @KEY@

curl
  curl -s @URL@/v1/sandboxes -H 'X-API-Key: @KEY@' \
    -d '{"template_name":"code-interpreter","timeout_seconds":600}'
  # take "id" and "auth_token" from the answer, then
  curl -s @URL@/execute -H "Authorization: Bearer $AUTH_TOKEN" -d '{"language":"python","code":"print(6*7)"}'
  curl -s -X POST @URL@/v1/sandboxes/$ID/kill -H 'X-API-Key: @KEY@'

JavaScript (npm install @hopx-ai/sdk)
  import { Sandbox } from '@hopx-ai/sdk';
  const sandbox = await Sandbox.create({ template: 'code-interpreter', apiKey: '@KEY@', baseURL: '@URL@' });
  const result = await sandbox.runCode('print(6*7)');
  console.log(result.stdout);
  await sandbox.kill();

Python (pip install hopx-ai)
  from hopx_ai import Sandbox
  sandbox = Sandbox.create(template="code-interpreter", api_key="@KEY@", base_url="@URL@")
  result = sandbox.run_code("print(6*7)")
  print(result.stdout)
  sandbox.kill()

Ctrl-C stops the server and leaves sandboxes running.
`
	fmt.Fprint(w, strings.NewReplacer("@URL@", url, "@KEY@", key).Replace(text))
	if templates == 0 {
		fmt.Fprint(w, "\nNo templates are prepared yet: run `hutch template prepare` first.\n")
	}
}

// newLog returns the operator's log: for people on a terminal, JSON elsewhere.
func newLog(format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	tty := isatty.IsTerminal(os.Stderr.Fd())
	switch {
	case format == "text" || format == "auto" && tty:
		return slog.New(tint.NewTextHandler(os.Stderr, &tint.Options{Level: l, NoColor: !tty})), nil
	default:
		return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
	}
}
