package conformance

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control"
	"github.com/hutch-sh/hutch/control/store"
	"github.com/hutch-sh/hutch/test/e2e/caller"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// strangers is the organization beside the default one that tests use.
const strangers hutch.OrgID = 2

// stranger is a caller of another organization. No command makes organizations
// yet, so this one is written into the installation's own database; elsewhere
// HUTCH_OTHER_KEY names a key of one.
func stranger(t *testing.T) caller.Caller {
	t.Helper()
	if url := os.Getenv("HUTCH_URL"); url != "" {
		key := os.Getenv("HUTCH_OTHER_KEY")
		if key == "" {
			t.Skip("SKIP: HUTCH_OTHER_KEY is not set: a key of another organization")
		}
		return caller.Caller{URL: url, Key: key, HTTP: caller.Fresh}
	}
	m := machine(t)
	files := must[[]string](t)(filepath.Glob(filepath.Join(m.Data, "*.db")))
	if len(files) != 1 {
		t.Fatalf("databases: %v", files)
	}
	// The store first: it decides how this process locks database files.
	db := must[*store.DB](t)(store.Open(t.Context(), files[0]))
	defer db.Close()
	raw := must[*sql.DB](t)(sql.Open("sqlite", "file:"+files[0]+"?_pragma=busy_timeout(5000)"))
	defer raw.Close()
	must[sql.Result](t)(raw.ExecContext(t.Context(),
		"INSERT INTO organizations (id, name, created) VALUES (?, 'strangers', 0) ON CONFLICT DO NOTHING", int64(strangers)))
	key, _, err := control.MintKey(t.Context(), db, strangers, t.Name(), time.Now(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return caller.Caller{URL: m.URL, Key: key, HTTP: caller.Fresh}
}
