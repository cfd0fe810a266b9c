package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hutch-sh/hutch/api"
)

// killsAtOnce bounds how many kills of one command are under way.
const killsAtOnce = 16

type kill struct {
	deps   Deps
	all    bool
	data   string
	server string
	wait   time.Duration

	mu     sync.Mutex
	killed int
	failed []error
}

func newKill(d Deps) *cobra.Command {
	k := &kill{deps: d}
	c := &cobra.Command{
		Use: "kill [ID...]", GroupID: "sandboxes",
		Short: "End sandboxes at once, for certain",
		Long: `End sandboxes at once, whatever state they are in, and return when nothing of
them is left: no process, no address, no file. Their data is lost.

On the server's machine this needs no key and works with or without a running
server. Elsewhere name the server with --server and the key with HUTCH_API_KEY;
then --all means all sandboxes of that key's organization.`,
		Example: `# One sandbox
hutch kill sjx4qv2m7krt3wz5b6nd

# Every sandbox of this machine, also when the server is down
hutch kill --all

# From somewhere else
HUTCH_API_KEY=hopx_live_... hutch kill --server https://sandboxes.example.com --all`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			switch {
			case k.all && len(ids) > 0:
				return usage("give ids or --all, not both")
			case !k.all && len(ids) == 0:
				return usage("say which sandboxes to end: give their ids, or --all")
			case cmd.Flags().Changed("server") && cmd.Flags().Changed("data"):
				return usage("give --server or --data, not both")
			}
			if cmd.Flags().Changed("data") {
				k.server = "" // the flag is nearer than the variable
			}
			return k.run(cmd.Context(), ids)
		},
	}
	c.Flags().BoolVar(&k.all, "all", false, "end every sandbox there is")
	dataFlag(c, &k.data)
	c.Flags().StringVar(&k.server, "server", "", "address of a server to ask, instead of the one of --data")
	c.Flags().DurationVar(&k.wait, "wait", time.Minute, "how long to go on asking for a sandbox that resists")
	alsoFromEnv(c, "server")
	return c
}

func (k *kill) run(ctx context.Context, ids []string) error {
	if k.server != "" {
		r, err := newRemote(k.server, "", os.Getenv("HUTCH_API_KEY"))
		if err != nil {
			return err
		}
		return k.through(ctx, r, ids)
	}
	r, why := local(ctx, k.data)
	if why == nil {
		return k.through(ctx, r, ids)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.offline(ctx, ids, why)
}

// offline ends sandboxes without a server; why says why there is none.
func (k *kill) offline(ctx context.Context, ids []string, why error) error {
	if k.deps.KillOffline == nil {
		return &failure{what: "no server of " + k.data + " answers", err: why, code: ExitNetwork,
			next: "say where the server is with --server or HUTCH_SERVER"}
	}
	if _, err := os.Stat(k.data); err != nil {
		return &failure{what: "there is no data directory at " + k.data, err: err, code: ExitFailure,
			next: "give the directory that the server was started with: --data DIR"}
	}
	err := k.deps.KillOffline(ctx, k.data, ids, k.report)
	if s, e := ReadServerFile(k.data); err != nil && e == nil && s.PID > 1 && k.killed == 0 && len(k.failed) == 0 {
		// A server is there and does not answer. Say both.
		err = &failure{what: err.Error(), err: why, code: ExitCode(err),
			next: fmt.Sprintf("if process %d is a server that hangs, end it with kill -9 %d and run this again", s.PID, s.PID)}
	}
	return k.conclude(err)
}

// through ends sandboxes by asking a server.
func (k *kill) through(ctx context.Context, r *remote, ids []string) error {
	if k.all {
		var err error
		if ids, err = everyID(ctx, r); err != nil {
			return err
		}
	}
	queue := make(chan string)
	var workers sync.WaitGroup
	for range min(killsAtOnce, len(ids)) {
		workers.Go(func() {
			for id := range queue {
				err := k.one(ctx, r, id)
				if s, ok := errors.AsType[*statusError](err); ok && k.all && s.status == http.StatusNotFound {
					err = nil // it ended by itself meanwhile
				}
				k.report(id, err)
			}
		})
	}
	for _, id := range ids {
		queue <- id
	}
	close(queue)
	workers.Wait()
	return k.conclude(ctx.Err())
}

// everyID lists the sandboxes that are there now.
func everyID(ctx context.Context, r *remote) ([]string, error) {
	var ids []string
	next := "/v1/sandboxes?limit=1000"
	for {
		var page api.SandboxList
		if err := r.call(ctx, http.MethodGet, next, &page); err != nil {
			return nil, err
		}
		for _, sb := range page.Data {
			ids = append(ids, sb.ID)
		}
		if !page.HasMore || page.NextCursor == nil {
			return ids, nil
		}
		next = "/v1/sandboxes?limit=1000&cursor=" + url.QueryEscape(*page.NextCursor)
	}
}

// one ends one sandbox. A server that cannot prove the death in time carries
// the order on; asking again waits for it.
func (k *kill) one(ctx context.Context, r *remote, id string) error {
	deadline := time.Now().Add(k.wait)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var done api.SandboxStatus
		err := r.call(ctx, http.MethodPost, "/v1/sandboxes/"+url.PathEscape(id)+"/kill", &done)
		s, ok := errors.AsType[*statusError](err)
		again := ok && (s.status == http.StatusServiceUnavailable || s.status == http.StatusTooManyRequests)
		if !again || time.Now().After(deadline) {
			return err
		}
		pause := time.NewTimer(max(s.wait, 100*time.Millisecond))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

func (k *kill) report(id string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.failed = append(k.failed, fmt.Errorf("%s: %w", id, err))
		return
	}
	k.killed++
	printf(k.deps.Stdout, "%s killed\n", id)
}

// conclude says what was done and returns the first failure, if any.
func (k *kill) conclude(err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && len(k.failed) == 0 {
		if k.all {
			line(k.deps.Stderr, count(k.killed, "sandbox", "sandboxes")+" killed, none left")
		}
		return nil
	}
	if len(k.failed) == 0 {
		return err
	}
	if len(k.failed) == 1 && k.killed == 0 && err == nil {
		return k.failed[0]
	}
	return &failure{
		what: fmt.Sprintf("%s killed, %d not", count(k.killed, "sandbox", "sandboxes"), len(k.failed)),
		err:  errors.Join(append(k.failed, err)...),
		code: ExitCode(k.failed[0]),
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// printf writes to a stream that nobody can help if it is gone.
func printf(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
