package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/cli"
	"github.com/hutch-sh/hutch/cli/doctor"
)

// TestMain lets scripts run the command line as "hutch", with abilities that
// are faked here, and "bare", which has none.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hutch": func() { os.Exit(cli.Main(context.Background(), os.Args[1:], fakes())) },
		"bare":  func() { os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Deps{Version: "v1"})) },
	})
}

// TestScripts runs testdata/script. A fake API answers on $URL and
// nothing on $DEAD; "announce DIR URL KEY [SOCKET]" leaves a server.json as a server does.
func TestScripts(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the fake API's log of its refusals
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			a := newFakeAPI()
			srv := httptest.NewServer(a)
			env.Defer(srv.Close)
			dead := httptest.NewServer(http.NotFoundHandler())
			dead.Close()
			for name, value := range map[string]string{"URL": srv.URL, "DEAD": dead.URL, "KEY": userKey, "NO_COLOR": "1",
				"GORACE": "atexit_sleep_ms=0", // the race detector's programs sleep for a second otherwise
			} {
				env.Setenv(name, value)
			}
			env.Values["api"] = a
			socket, err := net.Listen("unix", filepath.Join(env.WorkDir, "socket"))
			if err != nil {
				return err
			}
			inner := &httptest.Server{Listener: socket, Config: &http.Server{Handler: a}}
			inner.Start()
			env.Defer(inner.Close)
			return os.Mkdir(filepath.Join(env.WorkDir, "data"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"announce": func(ts *testscript.TestScript, _ bool, args []string) {
				f := cli.ServerFile{URL: args[1], AdminKey: args[2], PID: 4242, Version: "v1"}
				if len(args) > 3 {
					f.Socket = ts.MkAbs(args[3])
				}
				ts.Check(cli.WriteServerFile(ts.MkAbs(args[0]), f))
			},
			"alive": func(ts *testscript.TestScript, _ bool, args []string) {
				got := ts.Value("api").(*fakeAPI).alive()
				slices.Sort(args)
				if !slices.Equal(got, args) {
					ts.Fatalf("alive are %v, want %v", got, args)
				}
			},
			// appears FILE: waits until a program in the background has made it.
			"appears": func(ts *testscript.TestScript, _ bool, args []string) {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for range 1000 {
					if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
						return
					}
					<-tick.C
				}
				ts.Fatalf("%s never appeared", args[0])
			},
			// exits CODE PROGRAM ARGS...: like exec, for failures with a code.
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				code, ok := errors.AsType[interface {
					error
					ExitCode() int
				}](err)
				if !ok || strconv.Itoa(code.ExitCode()) != args[0] {
					ts.Fatalf("ended with %v, want exit code %s", err, args[0])
				}
			},
		},
	})
}

const (
	adminKey = "admin-key"
	userKey  = "hopx_live_abcdefABCDEF.0123456789012345678901234567890123456789012"
)

// fakeAPI answers as a server does for listing and killing. A sandbox called
// "stubborn" needs a second kill; "undead" never dies; "vanished" is listed but
// gone when it is asked for.
type fakeAPI struct {
	mu   sync.Mutex
	live []string
	hits map[string]int
}

func newFakeAPI() *fakeAPI {
	return &fakeAPI{live: []string{"one", "stubborn", "three", "vanished"}, hits: map[string]int{}}
}

func (a *fakeAPI) alive() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(slices.Values(a.live))
}

// ServeHTTP answers /health, lists two at a time, and kills.
func (a *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fail := func(kind hutch.Kind, msg string) {
		api.WriteControl(w, r, &hutch.Error{Kind: kind, Msg: msg, Details: map[string]any{api.RetryAfterDetail: 1}})
	}
	if r.URL.Path == "/health" {
		_ = json.NewEncoder(w).Encode(api.ServerHealth{Status: "healthy"})
		return
	}
	if k := r.Header.Get("X-API-Key"); k != adminKey && k != userKey {
		fail(hutch.Unauthenticated, "A valid key is needed")
		return
	}
	if r.Method == http.MethodGet {
		from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
		to := min(from+2, len(a.live))
		page := api.SandboxList{Data: []api.Sandbox{}, HasMore: to < len(a.live)}
		for _, id := range a.live[from:to] {
			page.Data = append(page.Data, api.Sandbox{ID: id})
		}
		next := strconv.Itoa(to)
		page.NextCursor = &next
		_ = json.NewEncoder(w).Encode(page)
		return
	}
	id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v1/sandboxes/"), "/kill")
	a.hits[id]++
	switch {
	case id == "undead", id == "stubborn" && a.hits[id] == 1:
		fail(hutch.Unavailable, "Still being killed")
	case id == "vanished", !slices.Contains(a.live, id):
		a.live = slices.DeleteFunc(a.live, func(x string) bool { return x == id })
		fail(hutch.NotFound, "Sandbox not found")
	case r.Method != http.MethodPost:
		fail(hutch.Invalid, "not a kill")
	default:
		a.live = slices.DeleteFunc(a.live, func(x string) bool { return x == id })
		_ = json.NewEncoder(w).Encode(api.SandboxStatus{ID: id, Status: "killed"})
	}
}

// fakes are abilities as a data directory would give them, kept in plain files
// so that a script can look at them.
func fakes() cli.Deps {
	return cli.Deps{
		Version: "v1.2.3", Commit: "0123456789abcdef", Runtime: "v0.0.0-20260101000000-abcdef",
		Serve: func(ctx context.Context, cfg cli.Serve) error {
			b, err := json.MarshalIndent(cfg, "", " ")
			if err != nil {
				return err
			}
			fmt.Println(string(b))
			if cfg.Region == "forever" {
				if err := os.WriteFile(filepath.Join(cfg.Data, "serving"), nil, 0o600); err != nil {
					return err
				}
				<-ctx.Done()
				fmt.Println("ended cleanly")
			}
			return nil
		},
		KillOffline: func(_ context.Context, data string, ids []string, report func(string, error)) error {
			if _, err := os.Stat(filepath.Join(data, "lock")); err == nil {
				return &hutch.Error{Kind: hutch.Conflict, Op: "kill", Msg: "a server holds this data directory"}
			}
			if len(ids) == 0 {
				ids = []string{"off1", "off2"}
			}
			for _, id := range ids {
				if strings.HasPrefix(id, "off") {
					report(id, nil)
				} else {
					report(id, &hutch.Error{Kind: hutch.NotFound, Msg: "Sandbox not found"})
				}
			}
			return nil
		},
		OpenKeys: func(_ context.Context, data string) (cli.Keys, error) {
			if _, err := os.Stat(data); err != nil {
				return nil, err
			}
			return fakeKeys{filepath.Join(data, "keys.json")}, nil
		},
		OpenTemplates: func(_ context.Context, _ string, src cli.Sources) (cli.Templates, error) {
			return fakeTemplates{src}, nil
		},
		Doctor: func(_ context.Context, o doctor.Options) (doctor.Report, error) {
			r := doctor.Report{Findings: []doctor.Finding{
				{Name: "planned", Level: doctor.OK, Found: strconv.Itoa(o.Sandboxes)},
				{Name: "urls", Level: doctor.Warn, Found: strings.Join(o.Fetch, " "), Mend: "look away"},
			}}
			if os.Getenv("UNFIT") != "" {
				r.Findings = append(r.Findings, doctor.Finding{Name: "machine", Level: doctor.Fail, Found: "broken", Mend: "buy another"})
			}
			return r, nil
		},
	}
}

type fakeKeys struct{ file string }

// Create adds a key whose id counts up.
func (k fakeKeys) Create(ctx context.Context, name string, expires time.Time) (cli.Key, string, error) {
	all, err := k.List(ctx)
	if err != nil {
		return cli.Key{}, "", err
	}
	key := cli.Key{ID: fmt.Sprintf("key%d", len(all)+1), Name: name, Created: time.Unix(1e9, 0), Expires: expires}
	return key, "hopx_live_" + key.ID + ".secret", k.write(append(all, key))
}

// List reads the file.
func (k fakeKeys) List(context.Context) ([]cli.Key, error) {
	var all []cli.Key
	b, err := os.ReadFile(k.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return all, errors.Join(err, json.Unmarshal(b, &all))
}

// Revoke marks a key.
func (k fakeKeys) Revoke(ctx context.Context, id string) error {
	all, err := k.List(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].ID == id {
			all[i].Revoked = time.Unix(1e9, 0)
			return k.write(all)
		}
	}
	return &hutch.Error{Kind: hutch.NotFound, Msg: "there is no key " + id}
}

func (k fakeKeys) write(all []cli.Key) error {
	b, err := json.Marshal(all)
	return errors.Join(err, os.WriteFile(k.file, b, 0o600))
}

// Close has nothing to close.
func (k fakeKeys) Close() error { return nil }

type fakeTemplates struct{ src cli.Sources }

// Prepare reports two steps, one of them done before.
func (f fakeTemplates) Prepare(_ context.Context, names []string, report func(cli.Progress)) error {
	if slices.Contains(names, "nonsense") {
		return &hutch.Error{Kind: hutch.NotFound, Msg: "there is no default template nonsense"}
	}
	report(cli.Progress{Template: "base", Step: 1, Steps: 2, Name: "fetch " + f.src.Mirror})
	report(cli.Progress{Template: "base", Step: 1, Steps: 2, Name: "fetch " + f.src.Mirror, Bytes: 1 << 20, Total: 3 << 20})
	report(cli.Progress{Template: "base", Step: 1, Steps: 2, Name: "fetch " + f.src.Mirror, Done: true, Skipped: true})
	report(cli.Progress{Template: "base", Step: 2, Steps: 2, Name: "write image"})
	report(cli.Progress{Template: "base", Step: 2, Steps: 2, Name: "write image", Bytes: 5 << 20, Done: true})
	return nil
}

// Pull reports one step.
func (f fakeTemplates) Pull(_ context.Context, name, ref string, report func(cli.Progress)) error {
	report(cli.Progress{Template: name, Step: 1, Steps: 1, Name: "pull " + ref, Done: true})
	return nil
}

// List has one.
func (f fakeTemplates) List(context.Context) ([]cli.Template, error) {
	return []cli.Template{{ID: "1", Name: "base", Status: "active", Size: 250 << 20}}, nil
}

// Close has nothing to close.
func (f fakeTemplates) Close() error { return nil }
