package store

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

func walk(t *testing.T, db *DB, f Filter, between func(page int)) []string {
	t.Helper()
	var out []string
	for page := 0; ; page++ {
		p, err := db.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Sandboxes) > f.Limit && f.Limit > 0 {
			t.Fatalf("page of %d, limit %d", len(p.Sandboxes), f.Limit)
		}
		out = append(out, ids(p.Sandboxes)...)
		if p.Next == "" {
			return out
		}
		if len(p.Sandboxes) == 0 {
			t.Fatal("an empty page says there is more")
		}
		f.Cursor = p.Next
		if between != nil {
			between(page)
		}
	}
}

func TestListFilters(t *testing.T) {
	db, ctx := open(t), t.Context()
	if _, err := db.writer.Exec(`INSERT INTO organizations (id, name, created) VALUES (2, 'other', 0)`); err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		id       string
		org      hutch.OrgID
		want, is hutch.State
		region   string
		template string
		labels   map[string]string
	}{
		{"a", 1, hutch.Running, hutch.Creating, "eu", "7", map[string]string{"k": "1"}},
		{"b", 1, hutch.Running, hutch.Running, "us", "7", map[string]string{"k": "1", "l": "2"}},
		{"c", 1, hutch.Paused, hutch.Running, "us", "8", map[string]string{"k": "2"}},
		{"d", 1, hutch.Paused, hutch.Paused, "us", "8", nil},
		{"e", 1, hutch.Stopped, hutch.Stopped, "eu", "8", map[string]string{"l": "2"}},
		{"f", 1, hutch.Running, hutch.Failed, "eu", "8", nil},
		{"g", 1, hutch.Gone, hutch.Running, "us", "7", map[string]string{"k": "1"}},
		{"h", 1, hutch.Gone, hutch.Gone, "us", "7", nil},
		{"i", 1, hutch.Gone, hutch.Failed, "us", "7", nil},
		{"z", 2, hutch.Running, hutch.Running, "us", "7", map[string]string{"k": "1"}},
	}
	for i, r := range rows {
		sb := example(r.id)
		sb.Org, sb.Region, sb.Metadata, sb.Created = r.org, r.region, r.labels, epoch.Add(time.Duration(i)*time.Millisecond)
		sb.Spec.Template, sb.Spec.TemplateName = hutch.TemplateID(r.template), "name-"+r.template
		insert(t, db, sb)
		if err := force(db, sb.ID, r.want, r.is, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "f e d c b a"},
		{Filter{Org: 2}, "z"},
		{Filter{Org: 3}, ""},
		{Filter{Status: "creating"}, "a"},
		{Filter{Status: "running"}, "c b"},
		{Filter{Status: "paused"}, "d"},
		{Filter{Status: "stopped"}, "e"},
		{Filter{Status: "error"}, "f"},
		{Filter{Status: "killed"}, "i h g"},
		{Filter{Region: "eu"}, "f e a"},
		{Filter{Region: "' OR 1=1 --"}, ""},
		{Filter{Template: "7"}, "b a"},
		{Filter{Template: "name-8"}, "f e d c"},
		{Filter{Metadata: map[string]string{"k": "1"}}, "b a"},
		{Filter{Metadata: map[string]string{"k": "1", "l": "2"}}, "b"},
		{Filter{Metadata: map[string]string{"k": "1"}, Status: "killed"}, "g"},
		{Filter{Metadata: map[string]string{"k": ""}}, ""},
		{Filter{Status: "running", Region: "us", Template: "8", Metadata: map[string]string{"k": "2"}}, "c"},
	} {
		if c.f.Org == 0 {
			c.f.Org = 1
		}
		for _, limit := range []int{0, 1, 2, MaxLimit} {
			c.f.Limit = limit
			if got := walk(t, db, c.f, nil); strings.Join(got, " ") != c.want {
				t.Errorf("%+v: %v, want %s", c.f, got, c.want)
			}
		}
		// The rows say the status they were asked for by.
		if p, err := db.List(ctx, c.f); err != nil {
			t.Error(err)
		} else if c.f.Status != "" && slices.ContainsFunc(p.Sandboxes, func(s hutch.Sandbox) bool { return s.Status() != c.f.Status }) {
			t.Errorf("%+v lists another status", c.f)
		}
	}
	many := map[string]string{}
	for i := range MaxLabelFilter + 1 {
		many[fmt.Sprint(i)] = "v"
	}
	for _, f := range []Filter{{Status: "gone"}, {Status: "x"}, {Limit: -1}, {Limit: MaxLimit + 1}, {Metadata: many}, {Cursor: "x"}} {
		_, err := db.List(ctx, f)
		wantKind(t, err, hutch.Invalid)
	}
}

// Pages show everything that stays, once, while rows come and go and many
// share one millisecond.
func TestListIsStable(t *testing.T) {
	db := open(t)
	var stay []string
	for i := range 100 {
		sb := example(fmt.Sprintf("s%03d", i))
		sb.Created = epoch.Add(time.Duration(i/30) * time.Millisecond)
		insert(t, db, sb)
		if i%2 == 0 {
			stay = append(stay, string(sb.ID))
		}
	}
	slices.Reverse(stay)
	got := walk(t, db, Filter{Org: 1, Limit: 7}, func(page int) {
		fresh := example(fmt.Sprintf("x%03d", page))
		fresh.Created = epoch.Add(time.Hour)
		insert(t, db, fresh)
		// The last row shown goes too: the cursor does not need it.
		for _, i := range []int{99 - 2*page, 1 + 2*page} {
			if _, _, err := db.OrderAny(t.Context(), hutch.SandboxID(fmt.Sprintf("s%03d", i)), hutch.Gone, hutch.ByRequest); err != nil {
				t.Fatal(err)
			}
		}
	})
	seen := map[string]int{}
	for _, id := range got {
		seen[id]++
	}
	var stayed []string
	for _, id := range got {
		if seen[id] > 1 {
			t.Errorf("%s was listed twice", id)
		}
		if slices.Contains(stay, id) {
			stayed = append(stayed, id)
		}
	}
	if !reflect.DeepEqual(stayed, stay) {
		t.Errorf("listed %v\nwant %v", stayed, stay)
	}
}

// The lists use their index and sort nothing.
func TestListsUseIndexes(t *testing.T) {
	db := open(t)
	cursor := cursorAfter(example("s1"))
	for _, f := range []Filter{{Org: 1}, {Org: 1, Status: "running"}, {Org: 1, Cursor: cursor}, {Org: 1, Status: "killed", Cursor: cursor}, {Org: 1, Metadata: map[string]string{"k": "v"}}} {
		q, err := listQuery(f)
		if err != nil {
			t.Fatal(err)
		}
		plan(t, db, q.sql.String(), q.args...)
	}
	plan(t, db, selectSandbox+` WHERE state <> 'gone' AND state <> want ORDER BY created, id`)
	plan(t, db, selectSandbox+` WHERE deadline > 0 AND deadline <= $1 AND want <> 'gone' AND want <> on_timeout ORDER BY deadline, id`, 1)
	plan(t, db, `SELECT id FROM sandboxes WHERE state = 'gone' AND ended < $1 LIMIT $2`, 1, 1)
	plan(t, db, countLive, 1)
}

func plan(t *testing.T, db *DB, query string, args ...any) {
	t.Helper()
	rows, err := db.reader.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var a, b, c int
		var s string
		if err := rows.Scan(&a, &b, &c, &s); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, s)
	}
	text := strings.Join(plan, "; ")
	if !strings.Contains(text, "INDEX sandboxes_") || strings.Contains(text, "SCAN sandboxes;") || strings.Contains(text, "TEMP B-TREE FOR ORDER BY") {
		t.Errorf("%s\n  is planned as: %s", query, text)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(cursorAfter(example("s1")))
	f.Add("")
	f.Add("MS4xLng")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("1.9223372036854775807.x' OR '1'='1")))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("1.-5.x")))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("1.007.x")))
	f.Add(strings.Repeat("A", 300))
	db := open(f)
	insert(f, db, example("s1"))
	f.Fuzz(func(t *testing.T, c string) {
		created, id, err := parseCursor(c)
		if err != nil {
			if hutch.KindOf(err) != hutch.Invalid {
				t.Fatalf("%q: %v", c, err)
			}
		} else if created <= 0 || id == "" || cursorAfter(hutch.Sandbox{ID: hutch.SandboxID(id), Created: time.UnixMilli(created)}) != c {
			t.Fatalf("%q means %d %q", c, created, id)
		}
		_, err = db.List(t.Context(), Filter{Org: 1, Cursor: c})
		if err != nil && hutch.KindOf(err) != hutch.Invalid {
			t.Fatalf("%q: %v", c, err)
		}
	})
}
