// Package store remembers: sandboxes, templates, keys and organizations, in
// SQLite. It owns the schema, the SQL drivers and the rules that keep a row
// true under concurrency: which order may follow which fact, that Gone is
// terminal, that a late fact changes nothing.
//
// It does not know why a sandbox is ordered to become something, nor what a
// host does about it; it never starts work of its own.
//
// The SQL is written for SQLite and PostgreSQL alike: $1 parameters, BIGINT
// milliseconds, BOOLEAN, no look inside JSON, changes guarded by the values
// they were decided on.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	hutch "github.com/hutch-sh/hutch"

	"modernc.org/sqlite"
)

// busyMillis is how long a connection waits for another process's write.
const busyMillis = 5000

// readers is how many queries may read at once.
const readers = 4

// A DB is the open database. It is safe for concurrent use; several processes
// may have the same file open.
type DB struct {
	writer  *pool // one connection: writes never contend with one another
	reader  *pool // sees every write that was acknowledged before the read began
	reserve reserve
}

// Open opens the database file at path, creates it (readable by its owner
// only) if there is none, and brings its schema up to date. The folder must
// exist. A file written by a newer program is refused.
//
// An acknowledged write survives the death of the process at any moment, and
// loss of power as far as the disk keeps its word about fdatasync.
func Open(ctx context.Context, path string) (*DB, error) {
	const op = "store.Open"
	fail := func(err error) (*DB, error) {
		return nil, &hutch.Error{Kind: hutch.KindOf(err), Op: op, Msg: "cannot open the database " + path, Err: err}
	}
	if err := prepareDriver(); err != nil {
		return fail(err)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fail(err)
	}
	// SQLite gives its side files the mode of the main one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := f.Close(); err != nil {
		return fail(err)
	}

	w, err := openPool(path, 1, url.Values{"_txlock": {"immediate"}, "_journal_mode": {"WAL"}, "_synchronous": {"FULL"}})
	if err != nil {
		return fail(err)
	}
	if err := migrate(ctx, w.DB); err != nil {
		return fail(errors.Join(err, w.Close()))
	}
	r, err := openPool(path, readers, url.Values{"_query_only": {"1"}})
	if err != nil {
		return fail(errors.Join(err, w.Close()))
	}
	db := &DB{writer: w, reader: r, reserve: reserve{path: path + ".reserve"}}
	if err := db.reserve.fill(); err != nil {
		return fail(errors.Join(err, db.Close()))
	}
	return db, nil
}

// Close waits for what is under way and closes the database. The last process
// to close it folds the write-ahead log into the file.
func (db *DB) Close() error {
	if err := errors.Join(db.reader.Close(), db.writer.Close()); err != nil {
		return &hutch.Error{Op: "store.Close", Msg: "cannot close the database", Err: err}
	}
	return nil
}

// prepareDriver sets what the driver offers only process-wide: locks that
// survive an unrelated close of the file, and a cheaper, equally durable sync.
// Both exist on Linux; elsewhere SQLite's defaults serve.
var prepareDriver = sync.OnceValue(func() error {
	if _, err := sqlite.OFDLocking(true); err != nil && !errors.Is(err, sqlite.ErrOFDLockingUnavailable) {
		return err
	}
	if _, err := sqlite.Fdatasync(true); err != nil && !errors.Is(err, sqlite.ErrFdatasyncUnavailable) {
		return err
	}
	return nil
})

func openPool(path string, conns int, params url.Values) (*pool, error) {
	params.Set("_busy_timeout", fmt.Sprint(busyMillis))
	params.Set("_foreign_keys", "1")
	params.Set("_defensive", "1")
	params.Set("_dqs", "0")
	params.Set("_error_rc", "1")
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: params.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return &pool{DB: db}, nil
}

// A pool is a set of connections and the statements prepared on them.
type pool struct {
	*sql.DB
	prepared sync.Map // query string -> *sql.Stmt; database/sql closes them with the DB
}

// stmt returns query prepared, or nil if it has not been yet.
func (p *pool) stmt(query string) *sql.Stmt {
	s, _ := p.prepared.Load(query)
	st, _ := s.(*sql.Stmt)
	return st
}

// prepare prepares query for later. It needs a free connection, so nobody may
// call it while holding the writer's.
func (p *pool) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := p.stmt(query); s != nil {
		return s, nil
	}
	s, err := p.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if old, loaded := p.prepared.LoadOrStore(query, s); loaded {
		return old.(*sql.Stmt), s.Close()
	}
	return s, nil
}

// A row is what a query yields one of: *sql.Row or *sql.Rows.
type row interface{ Scan(dest ...any) error }

// one reads the only row of query. It returns sql.ErrNoRows if there is none.
func one[T any](ctx context.Context, db *DB, scan func(row) (T, error), query string, args ...any) (T, error) {
	s, err := db.reader.prepare(ctx, query)
	if err != nil {
		var zero T
		return zero, err
	}
	return scan(s.QueryRowContext(ctx, args...))
}

// all reads every row of query.
func all[T any](ctx context.Context, db *DB, scan func(row) (T, error), query string, args ...any) ([]T, error) {
	s, err := db.reader.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// A tx is a write under way.
type tx struct {
	ctx  context.Context
	tx   *sql.Tx
	pool *pool
	new  []string // queries that were not prepared yet
}

func (t *tx) exec(query string, args ...any) (affected int64, err error) {
	var res sql.Result
	if s := t.pool.stmt(query); s != nil {
		res, err = t.tx.StmtContext(t.ctx, s).ExecContext(t.ctx, args...)
	} else {
		t.new = append(t.new, query)
		res, err = t.tx.ExecContext(t.ctx, query, args...)
	}
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t *tx) row(query string, args ...any) row {
	if s := t.pool.stmt(query); s != nil {
		return t.tx.StmtContext(t.ctx, s).QueryRowContext(t.ctx, args...)
	}
	t.new = append(t.new, query)
	return t.tx.QueryRowContext(t.ctx, query, args...)
}

// write runs do in one transaction. ctx bounds the wait for a turn; from then
// on it is not listened to, so that an error always means that nothing was
// written. (Another process may hold the file for busyMillis at most.)
func (db *DB) write(ctx context.Context, do func(*tx) error) error {
	conn, err := db.writer.Conn(ctx)
	if err != nil {
		return err
	}
	t := &tx{ctx: context.WithoutCancel(ctx), pool: db.writer}
	err = t.run(conn, do)
	if cerr := conn.Close(); err == nil && cerr != nil {
		return cerr
	}
	if err != nil {
		return err
	}
	for _, q := range t.new {
		// A statement that cannot be prepared now is only slower next time.
		_, _ = db.writer.prepare(t.ctx, q)
	}
	return nil
}

func (t *tx) run(conn *sql.Conn, do func(*tx) error) (err error) {
	if t.tx, err = conn.BeginTx(t.ctx, nil); err != nil {
		return err
	}
	if err := do(t); err != nil {
		return errors.Join(err, t.tx.Rollback())
	}
	return t.tx.Commit()
}

// writeLast is write for what must succeed even on a full disk: ending things.
func (db *DB) writeLast(ctx context.Context, do func(*tx) error) error {
	err := db.write(ctx, do)
	if isFull(err) && db.reserve.spend() {
		err = db.write(ctx, do)
	}
	return err
}
