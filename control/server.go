package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/control/lifecycle"
	"github.com/hutch-sh/hutch/control/store"
)

// Sandboxes is what this package needs of the lifecycle. Every error is a
// [hutch.Error]; NotFound is what is not there or not org's.
type Sandboxes interface {
	Create(ctx context.Context, req lifecycle.CreateRequest) (hutch.Sandbox, []hutch.Step, error)
	Sandbox(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error)
	List(ctx context.Context, f store.Filter) (store.Page, error)
	Kill(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) error
	Delete(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, grace time.Duration) error
	Pause(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error)
	Resume(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error)
	Stop(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error)
	Start(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error)
	SetTimeout(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, d time.Duration) (hutch.Sandbox, error)
	Token(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (token string, expires time.Time, err error)
}

// Config is what an operator may decide about the HTTP surface. The zero value
// of every field but Address is usable.
type Config struct {
	Address Address // where sandboxes are reached; shown to clients

	PrivatePreviews   bool          // previews demand credentials unless a create says otherwise
	MaxTimeout        time.Duration // longest life a client may ask for, and what it gets if it asks for none; 0: no limit
	CreatesPerMinute  int           // per key; 0: 600
	RequestsPerMinute int           // per key, creates not counted; 0: 6000
	AllowedHosts      []string      // if any: the Host headers that are answered, against DNS rebinding; "*.d" stands for every name below d

	Version string // of Hutch, for /health
	Commit  string // of Hutch, for /health
	Runsc   string // commit of the embedded gVisor, for /health

	Log *slog.Logger     // nil: slog.Default()
	Now func() time.Time // nil: time.Now
}

// A Server answers the control plane's routes. It starts no goroutine and
// needs no closing.
type Server struct {
	cfg       Config
	sandboxes Sandboxes
	db        *store.DB
	limits    *limits

	bodyTime   time.Duration // for a request's body to arrive
	answerTime time.Duration // for an answer to be taken
	maxKeys    int           // that an organization may have, revoked ones not counted

	mux     *http.ServeMux
	handler http.Handler
}

// New returns a Server, or an Invalid error that says which setting is wrong.
func New(cfg Config, sandboxes Sandboxes, db *store.DB) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CreatesPerMinute == 0 {
		cfg.CreatesPerMinute = 600
	}
	if cfg.RequestsPerMinute == 0 {
		cfg.RequestsPerMinute = 6000
	}
	var err error
	if cfg.Address, err = cfg.Address.normal(); err != nil {
		return nil, badConfig(err)
	}
	if cfg.CreatesPerMinute < 0 || cfg.RequestsPerMinute < 0 {
		return nil, badConfig(errors.New("a rate limit is negative"))
	}
	if cfg.MaxTimeout < 0 || cfg.MaxTimeout%time.Second != 0 {
		return nil, badConfig(fmt.Errorf("the longest timeout is %v; it must be a positive number of whole seconds", cfg.MaxTimeout))
	}
	s := &Server{
		cfg:       cfg,
		sandboxes: sandboxes,
		db:        db,
		limits:    newLimits(cfg.CreatesPerMinute, cfg.RequestsPerMinute),

		bodyTime:   30 * time.Second,
		answerTime: 30 * time.Second,
		maxKeys:    1000,
	}
	s.mux = s.newMux()
	s.handler = api.Identify(cfg.Log, http.HandlerFunc(s.enter))
	return s, nil
}

// ServeHTTP answers every request in JSON, unknown paths included.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Serves reports whether r's path is one of this server's routes, whatever its
// method: a listener that is shared with the gateway asks.
func (s *Server) Serves(r *http.Request) bool {
	n, ok := normal(r)
	if !ok {
		return false
	}
	_, pattern := s.mux.Handler(n)
	return pattern != "" && pattern != catchAll
}

func badConfig(err error) error {
	return &hutch.Error{Kind: hutch.Invalid, Op: "control.New", Msg: err.Error()}
}

// NewHTTPServer returns an [http.Server] for h with limits fit for hostile
// clients. Bodies and answers have no time limit here, because streams of the
// gateway may share the listener: this package bounds its own. The caller
// serves, shuts down and waits.
func NewHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       3 * time.Minute, // clients reuse idle connections without asking
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
