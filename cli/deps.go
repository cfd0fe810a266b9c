package cli

import (
	"context"
	"io"
	"time"

	"github.com/hutch-sh/hutch/cli/doctor"
)

// Deps are the abilities that live where this package may not look. A nil
// function is an ability that this build does not have; its command says so.
type Deps struct {
	Version string // of Hutch, such as "v0.1.0"
	Commit  string // of Hutch
	Runtime string // the gVisor that isolates sandboxes, such as "v0.0.0-20260905035102-160fafc42237"

	// Serve runs the server until ctx is done, then ends it within 10 seconds.
	// A clean end is nil.
	Serve func(ctx context.Context, cfg Serve) error

	// KillOffline ends sandboxes of a data directory that no server is using,
	// and returns when nothing of them is left. No ids means all of them. Each
	// result is reported once, from one goroutine at a time. It fails at once,
	// having done nothing, while a server holds the directory.
	KillOffline func(ctx context.Context, data string, ids []string, report func(id string, err error)) error

	// OpenKeys opens the API keys of a data directory, beside a running server
	// or without one.
	OpenKeys func(ctx context.Context, data string) (Keys, error)

	// OpenTemplates opens the templates of a data directory, beside a running
	// server or without one.
	OpenTemplates func(ctx context.Context, data string, src Sources) (Templates, error)

	// Nftables reports whether this machine's kernel can hold the rules that
	// keep sandboxes apart, by making some where nothing else sees them.
	Nftables func(ctx context.Context) error

	// Links returns the prefix of the names of sandboxes' network links on the
	// host, for doctor to look at those that exist; "": none are looked at.
	Links string

	Stdout io.Writer // nil: os.Stdout
	Stderr io.Writer // nil: os.Stderr

	// Doctor replaces the checks of this machine, for tests.
	Doctor func(ctx context.Context, o doctor.Options) (doctor.Report, error)
}

// Keys are the API keys of the default organization.
type Keys interface {
	// Create makes a key and returns it in full, which is the only time anybody
	// sees it. A zero time means that it never expires.
	Create(ctx context.Context, name string, expires time.Time) (Key, string, error)
	List(ctx context.Context) ([]Key, error)
	// Revoke ends a key for good. A server that is running refuses it at once.
	Revoke(ctx context.Context, id string) error
	Close() error
}

// A Key is what may be shown of an API key.
type Key struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Created  time.Time `json:"created_at"`
	Expires  time.Time `json:"expires_at,omitzero"`   // zero: never
	LastUsed time.Time `json:"last_used_at,omitzero"` // zero: never
	Revoked  time.Time `json:"revoked_at,omitzero"`   // zero: it is not
}

// Sources say where templates are made from. An empty URL is the public one.
type Sources struct {
	Mirror   string // base URL of a Debian archive
	Security string // base URL of its security archive
	PyPI     string // a Python package index
	NPM      string // an npm registry
	GoProxy  string // a Go module proxy
	ExtraCA  string // file with PEM certificates to trust beside the system's; "": none

	// AllowPrivate lets a pull reach registries at private addresses and go
	// through the proxy of the environment.
	AllowPrivate bool
}

// Templates are the root filesystems of a data directory.
type Templates interface {
	// Prepare makes those named, or the default ones if none are, and leaves
	// alone what is there already. It may be interrupted: the next one goes on
	// from the last finished step.
	Prepare(ctx context.Context, names []string, report func(Progress)) error
	// Pull makes a template called name from an OCI image. An existing one of
	// that name is replaced; its sandboxes keep what they have.
	Pull(ctx context.Context, name, ref string, report func(Progress)) error
	List(ctx context.Context) ([]Template, error)
	Close() error
}

// A Template is what is shown of one.
type Template struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Status  string    `json:"status"`
	Size    int64     `json:"size"` // bytes of the root filesystem; 0 until it is prepared
	Updated time.Time `json:"updated_at,omitzero"`
}

// Progress says how far the making of a template is. A step is reported when it
// begins, as often as its bytes change while it runs, and once with Done.
type Progress struct {
	Template string
	Step     int    // from 1
	Steps    int    // how many there are; 0: not known
	Name     string // of the step: "download packages"
	Bytes    int64  // how many are done; 0: not counted
	Total    int64  // of how many; 0: not known
	Done     bool   // the step is over
	Skipped  bool   // with Done: it was done by an earlier run
}
