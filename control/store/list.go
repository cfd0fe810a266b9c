package store

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

// Bounds of a [Filter].
const (
	DefaultLimit   = 100  // rows per page when the filter does not say
	MaxLimit       = 1000 // rows per page at most
	MaxLabelFilter = 16   // labels that may be asked for at once
)

// A Filter says which sandboxes of an organization to list. Empty fields do
// not restrict.
type Filter struct {
	Org      hutch.OrgID
	Status   string            // a word of [hutch.Sandbox.Status]; "" is all that are alive, "killed" the others
	Region   string            // exactly as asked for at create
	Template string            // a template's id or name
	Metadata map[string]string // labels it must have, all of them
	Limit    int               // rows per page; 0: [DefaultLimit]
	Cursor   string            // [Page.Next] of the page before
}

// A Page is a part of a list, newest first.
type Page struct {
	Sandboxes []hutch.Sandbox
	Next      string // where the next page begins; "" after the last
}

// List returns one page. Walking all pages shows every sandbox that was there
// the whole time exactly once, whatever comes and goes meanwhile. Invalid for
// an unknown status, a limit out of bounds or a cursor that no page gave.
func (db *DB) List(ctx context.Context, f Filter) (Page, error) {
	const op = "store.List"
	q, err := listQuery(f)
	if err != nil {
		return Page{}, fail(op, err)
	}
	rows, err := all(ctx, db, scanSandbox, q.sql.String(), q.args...)
	if err != nil {
		return Page{}, fail(op, err)
	}
	p := Page{Sandboxes: rows}
	if len(rows) > q.limit {
		p.Sandboxes = rows[:q.limit]
		p.Next = cursorAfter(p.Sandboxes[q.limit-1])
	}
	return p, nil
}

// A query is SQL under construction.
type query struct {
	sql   strings.Builder
	args  []any
	limit int
}

// and adds a condition whose ? become the numbers of args.
func (q *query) and(cond string, args ...any) {
	q.sql.WriteString(" AND ")
	for _, a := range args {
		before, after, _ := strings.Cut(cond, "?")
		q.args = append(q.args, a)
		q.sql.WriteString(before + "$" + strconv.Itoa(len(q.args)))
		cond = after
	}
	q.sql.WriteString(cond)
}

func listQuery(f Filter) (*query, error) {
	q := &query{limit: f.Limit}
	if q.limit == 0 {
		q.limit = DefaultLimit
	}
	if q.limit < 1 || q.limit > MaxLimit {
		return nil, invalid(fmt.Sprintf("limit must be between 1 and %d", MaxLimit))
	}
	if len(f.Metadata) > MaxLabelFilter {
		return nil, invalid(fmt.Sprintf("at most %d metadata filters at once", MaxLabelFilter))
	}

	q.sql.WriteString(selectSandbox + " WHERE org = $1")
	q.args = append(q.args, int64(f.Org))
	switch f.Status {
	case "":
		q.and("want <> 'gone'")
	case "killed":
		q.and("want = 'gone'")
	case string(hutch.Creating), string(hutch.Running), string(hutch.Paused), string(hutch.Stopped), string(hutch.Failed):
		q.and("want <> 'gone' AND state = ?", f.Status)
	default:
		return nil, invalid("status must be one of creating, running, paused, stopped, error, killed")
	}
	if f.Region != "" {
		q.and("region = ?", f.Region)
	}
	if f.Template != "" {
		q.and("(template = ? OR template_name = ?)", f.Template, f.Template)
	}
	for _, k := range slices.Sorted(maps.Keys(f.Metadata)) {
		q.and("EXISTS (SELECT 1 FROM sandbox_metadata m WHERE m.id = sandboxes.id AND m.key = ? AND m.value = ?)", k, f.Metadata[k])
	}
	if f.Cursor != "" {
		created, id, err := parseCursor(f.Cursor)
		if err != nil {
			return nil, err
		}
		q.and("(created, id) < (?, ?)", created, id)
	}
	q.args = append(q.args, q.limit+1) // one more shows whether there is another page
	q.sql.WriteString(" ORDER BY created DESC, id DESC LIMIT $" + strconv.Itoa(len(q.args)))
	return q, nil
}

func invalid(msg string) error { return &hutch.Error{Kind: hutch.Invalid, Msg: msg} }

// A cursor is the place of a row in the order of the list: it stays good when
// that row is gone.
const cursorMark = "1."

func cursorAfter(sb hutch.Sandbox) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorMark + strconv.FormatInt(ms(sb.Created), 10) + "." + string(sb.ID)))
}

func parseCursor(c string) (created int64, id string, err error) {
	bad := invalid("cursor is not one this list gave")
	if len(c) > 256 {
		return 0, "", bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(c)
	if err != nil {
		return 0, "", bad
	}
	rest, ok := strings.CutPrefix(string(b), cursorMark)
	num, id, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || id == "" {
		return 0, "", bad
	}
	created, err = strconv.ParseInt(num, 10, 64)
	if err != nil || created <= 0 {
		return 0, "", bad
	}
	if cursorAfter(hutch.Sandbox{ID: hutch.SandboxID(id), Created: time.UnixMilli(created)}) != c {
		return 0, "", bad
	}
	return created, id, nil
}
