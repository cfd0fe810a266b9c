package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	hutch "github.com/hutch-sh/hutch"

	"go.uber.org/goleak"
)

// childEnv makes the test binary a second process on the database: "<job> <path>".
const childEnv = "STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if job, path, ok := strings.Cut(os.Getenv(childEnv), " "); ok {
		if err := child(job, path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func childCommand(job, path string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+job+" "+path)
	cmd.Stderr = os.Stderr
	return cmd
}

var epoch = time.Date(2026, 11, 24, 9, 0, 0, 123e6, time.UTC)

func open(t testing.TB) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "hutch.db"))
}

func openAt(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func example(id string) hutch.Sandbox {
	return hutch.Sandbox{
		ID: hutch.SandboxID(id), Org: hutch.DefaultOrg, Host: "h1",
		Spec: hutch.Spec{Template: "7", TemplateName: "code-interpreter", Image: "sha256:00",
			Resources: hutch.Resources{VCPU: 2, MemoryMB: 2048, DiskMB: 10240},
			Env:       map[string]string{"A": "b=c\n\x00\""}, Base: map[string]string{"PATH": "/bin"}, Workdir: "/w", Internet: true, Private: true},
		Region: "us-east", Metadata: map[string]string{"user": "ann", "π": "☃"},
		OnTimeout: hutch.Paused, Timeout: 90 * time.Second, Why: hutch.ByRequest,
		Created: epoch, Deadline: epoch.Add(90 * time.Second),
	}
}

func insert(t testing.TB, db *DB, sb hutch.Sandbox) hutch.Sandbox {
	t.Helper()
	if err := db.Insert(context.Background(), sb, nil); err != nil {
		t.Fatal(err)
	}
	got, err := db.Find(context.Background(), sb.ID)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// force puts a row into a state, as any history might have.
func force(db *DB, id hutch.SandboxID, want, is hutch.State, gen int) error {
	ended, addr := 0, ""
	if is == hutch.Gone {
		ended = 1
	}
	if is == hutch.Running || is == hutch.Paused {
		addr = "10.0.0.2"
	}
	_, err := db.writer.Exec(`UPDATE sandboxes SET want = $1, state = $2, gen = $3, ended = $4, addr = $5 WHERE id = $6`,
		string(want), string(is), gen, ended, addr, string(id))
	return err
}

func wantKind(t *testing.T, err error, k hutch.Kind) {
	t.Helper()
	if err == nil || hutch.KindOf(err) != k {
		t.Fatalf("error %v has kind %d, want kind %d", err, hutch.KindOf(err), k)
	}
}

func TestInsertReadsBackWhole(t *testing.T) {
	db, ctx := open(t), t.Context()
	in := example("s1")
	if err := db.Insert(ctx, in, nil); err != nil {
		t.Fatal(err)
	}
	want := in
	want.Want, want.Gen, want.Is = hutch.Running, 1, hutch.Creating
	for _, read := range []func() (hutch.Sandbox, error){
		func() (hutch.Sandbox, error) { return db.Sandbox(ctx, hutch.DefaultOrg, "s1") },
		func() (hutch.Sandbox, error) { return db.Find(ctx, "s1") },
	} {
		got, err := read()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
		}
	}
	_, err := db.Sandbox(ctx, 2, "s1")
	wantKind(t, err, hutch.NotFound)
	_, err = db.Sandbox(ctx, hutch.DefaultOrg, "s2")
	wantKind(t, err, hutch.NotFound)
	wantKind(t, db.Insert(ctx, in, nil), hutch.Conflict)

	bare := hutch.Sandbox{ID: "s3", Org: hutch.DefaultOrg, Created: epoch}
	if got := insert(t, db, bare); got.OnTimeout != hutch.Gone || !got.Deadline.IsZero() || !got.Started.IsZero() || got.Addr.IsValid() {
		t.Fatalf("bare sandbox: %+v", got)
	}
	// Another organization must exist.
	if err := db.Insert(ctx, hutch.Sandbox{ID: "s4", Org: 99, Created: epoch}, nil); err == nil {
		t.Fatal("inserted for an organization that does not exist")
	}
}

func TestInsertIsAllOrNothing(t *testing.T) {
	db, ctx := open(t), t.Context()
	k := &Idempotency{Org: hutch.DefaultOrg, Key: "k", BodyHash: []byte{1, 0, 2}, Created: epoch}
	if err := db.Insert(ctx, example("s1"), k); err != nil {
		t.Fatal(err)
	}
	err := db.Insert(ctx, example("s2"), k)
	wantKind(t, err, hutch.Conflict)
	if e, _ := errors.AsType[*hutch.Error](err); e.Code != CodeKeyTaken {
		t.Fatalf("code %q", e.Code)
	}
	_, err = db.Find(ctx, "s2")
	wantKind(t, err, hutch.NotFound)

	id, hash, found, err := db.Idempotent(ctx, hutch.DefaultOrg, "k")
	if err != nil || !found || id != "s1" || string(hash) != "\x01\x00\x02" {
		t.Fatal(id, hash, found, err)
	}
	if _, _, found, err := db.Idempotent(ctx, 2, "k"); found || err != nil {
		t.Fatal("another organization's key was found", err)
	}
	for range 2 {
		if err := db.ForgetIdempotent(ctx, hutch.DefaultOrg, "k"); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Insert(ctx, example("s2"), &Idempotency{Org: hutch.DefaultOrg, Key: "k", Created: epoch}); err != nil {
		t.Fatal(err)
	}
}

func TestLimitIsExact(t *testing.T) {
	db, ctx := open(t), t.Context()
	const limit, tries = 10, 50
	errs := make([]error, tries)
	var wg sync.WaitGroup
	for i := range tries {
		wg.Go(func() { errs[i] = db.InsertWithin(ctx, example(fmt.Sprint("s", i)), nil, limit) })
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
			continue
		}
		wantKind(t, err, hutch.Exhausted)
	}
	if n, err := db.CountLive(ctx, hutch.DefaultOrg); made != limit || n != limit || err != nil {
		t.Fatalf("made %d, counted %d, %v; want %d", made, n, err, limit)
	}
	sbs, _ := db.Live(ctx, "h1")
	if _, _, err := db.OrderAny(ctx, sbs[0].ID, hutch.Gone, hutch.ByRequest); err != nil {
		t.Fatal(err)
	}
	if err := db.InsertWithin(ctx, example("more"), nil, limit); err != nil {
		t.Fatalf("an order to go did not free its place: %v", err)
	}
}

func TestSetDeadline(t *testing.T) {
	db, ctx := open(t), t.Context()
	insert(t, db, example("s1"))
	at := epoch.Add(time.Hour)
	sb, err := db.SetDeadline(ctx, hutch.DefaultOrg, "s1", time.Hour, at)
	if err != nil || !sb.Deadline.Equal(at) || sb.Timeout != time.Hour {
		t.Fatal(sb, err)
	}
	if due, err := db.Due(ctx, at.Add(-time.Millisecond)); len(due) != 0 || err != nil {
		t.Fatal("due early", due, err)
	}
	if due, err := db.Due(ctx, at); len(due) != 1 || err != nil {
		t.Fatal("not due in time", due, err)
	}
	sb, err = db.SetDeadline(ctx, hutch.DefaultOrg, "s1", 0, time.Time{})
	if err != nil || !sb.Deadline.IsZero() || sb.Timeout != 0 {
		t.Fatal(sb, err)
	}
	if due, _ := db.Due(ctx, at.AddDate(100, 0, 0)); len(due) != 0 {
		t.Fatal("due without a deadline")
	}
	_, err = db.SetDeadline(ctx, 2, "s1", time.Hour, at)
	wantKind(t, err, hutch.NotFound)
	if _, _, err := db.OrderAny(ctx, "s1", hutch.Gone, hutch.ByRequest); err != nil {
		t.Fatal(err)
	}
	_, err = db.SetDeadline(ctx, hutch.DefaultOrg, "s1", time.Hour, at)
	wantKind(t, err, hutch.NotFound)
}

func TestSweeps(t *testing.T) {
	db, ctx := open(t), t.Context()
	// In the order they are made, which is the order they are listed in.
	rows := []struct {
		id              string
		want, is        hutch.State
		due, unmet, liv bool
	}{
		{"creating", hutch.Running, hutch.Creating, true, true, true},
		{"running", hutch.Running, hutch.Running, true, false, true},
		{"pausing", hutch.Paused, hutch.Running, false, true, true}, // on_timeout is paused
		{"paused", hutch.Paused, hutch.Paused, false, false, true},
		{"stopped", hutch.Stopped, hutch.Stopped, true, false, true},
		{"failed", hutch.Running, hutch.Failed, true, true, true},
		{"failed-going", hutch.Gone, hutch.Failed, false, true, true},
		{"going", hutch.Gone, hutch.Running, false, true, true},
		{"gone", hutch.Gone, hutch.Gone, false, false, false},
	}
	var due, unmet, live []string
	for i, r := range rows {
		sb := example(r.id)
		sb.Created, sb.Deadline = epoch.Add(time.Duration(i)*time.Second), epoch.Add(time.Duration(i)*time.Second)
		insert(t, db, sb)
		if err := force(db, sb.ID, r.want, r.is, 1); err != nil {
			t.Fatal(err)
		}
		if r.due {
			due = append(due, r.id)
		}
		if r.unmet {
			unmet = append(unmet, r.id)
		}
		if r.liv {
			live = append(live, r.id)
		}
	}
	other := example("elsewhere")
	other.Host, other.Deadline = "h2", time.Time{}
	insert(t, db, other)
	if err := force(db, other.ID, hutch.Running, hutch.Running, 1); err != nil {
		t.Fatal(err)
	}

	check := func(name string, got []hutch.Sandbox, err error, want []string) {
		t.Helper()
		if g := ids(got); err != nil || !reflect.DeepEqual(g, want) {
			t.Errorf("%s: %v, %v; want %v", name, g, err, want)
		}
	}
	got, err := db.Due(ctx, epoch.Add(time.Minute))
	check("Due", got, err, due)
	got, err = db.Unmet(ctx)
	check("Unmet", got, err, unmet)
	got, err = db.Live(ctx, "h1")
	check("Live", got, err, live)
	got, err = db.Live(ctx, "h2")
	check("Live elsewhere", got, err, []string{"elsewhere"})
}

func ids(sbs []hutch.Sandbox) []string {
	var out []string
	for _, sb := range sbs {
		out = append(out, string(sb.ID))
	}
	return out
}

func TestPrune(t *testing.T) {
	db, ctx := open(t), t.Context()
	const old, fresh = pruneBatch + 20, 5
	for i := range old + fresh {
		sb := example(fmt.Sprint("s", i))
		end := epoch
		if i >= old {
			end = epoch.Add(time.Hour)
		}
		if err := db.Insert(ctx, sb, &Idempotency{Org: 1, Key: string(sb.ID), Created: end}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Record(ctx, hutch.Fact{ID: sb.ID, Host: "h1", Is: hutch.Gone, At: end}); err != nil {
			t.Fatal(err)
		}
	}
	alive := example("alive")
	if err := db.Insert(ctx, alive, &Idempotency{Org: 1, Key: "old key of a live one", Created: epoch}); err != nil {
		t.Fatal(err)
	}
	n, err := db.Prune(ctx, epoch.Add(time.Minute))
	if n != old || err != nil {
		t.Fatalf("pruned %d, %v; want %d", n, err, old)
	}
	for table, want := range map[string]int{"sandboxes": fresh + 1, "sandbox_metadata": 2 * (fresh + 1), "idempotency": fresh} {
		var got int
		if err := db.reader.QueryRow(`SELECT COUNT(*) FROM ` + table).Scan(&got); err != nil || got != want {
			t.Errorf("%s has %d rows, %v; want %d", table, got, err, want)
		}
	}
}

// A write that was given up before its turn must not happen later.
func TestCancelledWriteWritesNothing(t *testing.T) {
	db := open(t)
	insert(t, db, example("s1"))
	entered, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := db.write(context.Background(), func(*tx) error { close(entered); <-leave; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	wg.Go(func() {
		_, _, err := db.OrderAny(ctx, "s1", hutch.Gone, hutch.ByRequest)
		done <- err
	})
	cancel()
	wantKind(t, <-done, hutch.Canceled)
	close(leave)
	wg.Wait()
	if sb, err := db.Find(t.Context(), "s1"); err != nil || sb.Want != hutch.Running {
		t.Fatal(sb.Want, err)
	}
}

func TestReadsSeeAcknowledgedWrites(t *testing.T) {
	db, ctx := open(t), t.Context()
	for i := range 200 {
		id := fmt.Sprint("s", i)
		if err := db.Insert(ctx, example(id), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Find(ctx, hutch.SandboxID(id)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "odd ?#%41 name;&=é")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "x?_pragma=foreign_keys(0)&y#.db")
	db := openAt(t, path)
	insert(t, db, example("s1"))
	for _, suffix := range []string{"", "-wal", "-shm", ".reserve"} {
		st, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path+suffix, st.Mode())
		}
	}
	for _, p := range []*pool{db.writer, db.reader} {
		for pragma, want := range map[string]string{"journal_mode": "wal", "foreign_keys": "1", "busy_timeout": fmt.Sprint(busyMillis)} {
			var got string
			if err := p.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %q, %v; want %q", pragma, got, err, want)
			}
		}
	}
	var sync string
	if err := db.writer.QueryRow("PRAGMA synchronous").Scan(&sync); err != nil || sync != "2" {
		t.Errorf("synchronous is %q, %v; want FULL", sync, err)
	}
	if _, err := db.reader.Exec("DELETE FROM sandboxes"); err == nil {
		t.Error("a reader may write")
	}

	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "no", "folder")); err == nil {
		t.Error("opened in a folder that does not exist")
	}
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), junk); err == nil {
		t.Error("opened a file that is no database")
	}
}

func TestMigrationsFromEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hutch.db")
	db := openAt(t, path)
	var name string
	if err := db.reader.QueryRow(`SELECT name FROM organizations WHERE id = 1`).Scan(&name); err != nil || name != "default" {
		t.Fatal(name, err)
	}
	insert(t, db, example("s1"))
	// Opening it again changes nothing.
	again := openAt(t, path)
	if _, err := again.Find(t.Context(), "s1"); err != nil {
		t.Fatal(err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hutch.db")
	db := openAt(t, path)
	if _, err := db.writer.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if db, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "newer program") {
		if db != nil {
			db.Close()
		}
		t.Fatalf("opened a newer schema: %v", err)
	}
}

func TestChecksHoldInvariants(t *testing.T) {
	db := open(t)
	insert(t, db, example("s1"))
	for name, set := range map[string]string{
		"gone but wanted":          "state = 'gone', ended = 5",
		"ended but not gone":       "ended = 5",
		"gone but never ended":     "want = 'gone', state = 'gone'",
		"an address while stopped": "state = 'stopped', addr = '10.0.0.1'",
		"wanted to be creating":    "want = 'creating'",
		"wanted to be failed":      "want = 'error'",
		"unknown state":            "state = 'zombie'",
		"generation 0":             "gen = 0",
		"deadline to creating":     "on_timeout = 'running'",
		"no owner":                 "org = 77",
	} {
		_, err := db.writer.Exec(`UPDATE sandboxes SET ` + set)
		if code(err)&0xff != 19 { // SQLITE_CONSTRAINT
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Many processes open a file that does not exist yet: all succeed.
func TestProcessesMigrateTogether(t *testing.T) {
	for range 3 {
		path := filepath.Join(t.TempDir(), "hutch.db")
		var cmds []*exec.Cmd
		for range 6 {
			cmd := childCommand("open", path)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			cmds = append(cmds, cmd)
		}
		for _, cmd := range cmds {
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A second process (the command line) writes while the server does.
func TestProcessesShareTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hutch.db")
	db := openAt(t, path)
	cmd := childCommand("insert", path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range childInserts {
		insert(t, db, example(fmt.Sprint("parent", i)))
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if n, err := db.CountLive(t.Context(), 1); n != 2*childInserts || err != nil {
		t.Fatalf("%d rows, %v; want %d", n, err, 2*childInserts)
	}
}

// A full disk refuses what begins and still carries out what ends.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	db := openAt(t, filepath.Join(dir, "hutch.db"))
	var made []hutch.SandboxID
	for i := range 200 {
		made = append(made, insert(t, db, example(fmt.Sprint("s", i))).ID)
	}
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	for chunk := make([]byte, 4096); err == nil; {
		_, err = ballast.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	// Room may be left in the write-ahead log; creates use it up.
	for i := 0; ; i++ {
		err := db.Insert(ctx, example(fmt.Sprint("full", i)), nil)
		if err == nil && i < 10000 {
			continue
		}
		wantKind(t, err, hutch.Unavailable)
		break
	}
	for _, id := range made {
		if _, changed, err := db.OrderAny(ctx, id, hutch.Gone, hutch.ByRequest); err != nil || !changed {
			t.Fatal("kill on a full disk:", changed, err)
		}
		if sb, err := db.Record(ctx, hutch.Fact{ID: id, Host: "h1", Is: hutch.Gone, At: epoch}); err != nil || sb.Is != hutch.Gone {
			t.Fatal("death on a full disk:", sb.Is, err)
		}
	}
	wantKind(t, db.Insert(ctx, example("after"), nil), hutch.Unavailable)
	if err := ballast.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Prune(ctx, epoch.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(db.reserve.path); err != nil || st.Size() != reserveSize {
		t.Fatal("the reserve was not made again", err)
	}
	insert(t, db, example("after"))
}
