package store

import (
	"reflect"
	"testing"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

func exampleTemplate(org hutch.OrgID, name string) hutch.Template {
	r := func(n int) hutch.Resources { return hutch.Resources{VCPU: n, MemoryMB: n * 512, DiskMB: n * 1024} }
	return hutch.Template{Org: org, Name: name, DisplayName: "The " + name, Description: "d", Category: "development", Language: "python",
		Icon: "i", Features: []string{"f"}, Tags: []string{}, Status: hutch.TemplateActive, Image: "sha256:11", Size: 5,
		Env: map[string]string{"A": "1"}, Workdir: "/w", Default: r(2), Min: r(1), Max: r(8), Created: epoch, Updated: epoch}
}

func put(t *testing.T, db *DB, tm hutch.Template) hutch.Template {
	t.Helper()
	got, err := db.PutTemplate(t.Context(), tm)
	if err != nil {
		t.Fatal(err)
	}
	want := tm
	want.ID = got.ID
	want.Created = got.Created
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("put %+v\ngot %+v", want, got)
	}
	return got
}

func TestTemplates(t *testing.T) {
	db, ctx := open(t), t.Context()
	if _, err := db.writer.Exec(`INSERT INTO organizations (id, name, created) VALUES (2, 'other', 0)`); err != nil {
		t.Fatal(err)
	}
	public := exampleTemplate(1, "base")
	public.Public = true
	base := put(t, db, public)
	mine := put(t, db, exampleTemplate(2, "mine"))
	own := put(t, db, exampleTemplate(2, "base")) // hides the public one of that name
	numeric := put(t, db, exampleTemplate(2, string(base.ID)))
	private := put(t, db, exampleTemplate(1, "secret"))
	if base.ID != "1" || mine.ID != "2" || own.ID != "3" {
		t.Fatal("ids", base.ID, mine.ID, own.ID)
	}

	for _, c := range []struct {
		org  hutch.OrgID
		find string
		want hutch.TemplateID
	}{
		{1, "base", base.ID}, {1, "1", base.ID}, {1, "mine", ""}, {1, "2", ""},
		{2, "base", own.ID}, {2, "3", own.ID}, {2, "1", base.ID}, {2, "mine", mine.ID},
		{2, "secret", ""}, {2, string(private.ID), ""}, {2, string(numeric.ID), numeric.ID},
		{2, "01", ""}, {2, "+1", ""}, {2, "0", ""}, {2, "-1", ""}, {2, "", ""}, {2, "99999999999999999999", ""},
	} {
		got, err := db.Template(ctx, c.org, c.find)
		if c.want == "" {
			if hutch.KindOf(err) != hutch.NotFound || err == nil {
				t.Errorf("org %d finds %q: %v, %v", c.org, c.find, got.ID, err)
			}
		} else if err != nil || got.ID != c.want {
			t.Errorf("org %d finds %q: %v, %v; want %v", c.org, c.find, got.ID, err, c.want)
		}
	}

	// A second put is the same template.
	changed := exampleTemplate(2, "mine")
	changed.Status, changed.Image, changed.Fault, changed.Updated, changed.Created = hutch.TemplateFailed, "", "boom", epoch.Add(time.Hour), epoch.Add(time.Hour)
	if again := put(t, db, changed); again.ID != mine.ID || !again.Created.Equal(epoch) {
		t.Fatal("replaced", again)
	}
	broken := exampleTemplate(2, "broken")
	broken.Image = ""
	if _, err := db.PutTemplate(ctx, broken); err == nil {
		t.Error("an active template without an image was kept")
	}

	js := exampleTemplate(2, "js")
	js.Language, js.Category = "javascript", "web"
	put(t, db, js)
	for _, c := range []struct{ category, language string }{{"", ""}, {"web", ""}, {"", "python"}, {"web", "python"}} {
		ts, err := db.Templates(ctx, 2, c.category, c.language)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, x := range ts {
			if (c.category != "" && x.Category != c.category) || (c.language != "" && x.Language != c.language) || x.Name == "secret" {
				t.Errorf("%+v lists %s", c, x.Name)
			}
			n++
		}
		if want := map[string]int{"": 5, "web": 1, "python": 4, "webpython": 0}[c.category+c.language]; n != want {
			t.Errorf("%+v lists %d, want %d", c, n, want)
		}
	}

	sb := example("s1")
	sb.Org, sb.Spec.Template = 2, mine.ID
	insert(t, db, sb)
	wantKind(t, db.DeleteTemplate(ctx, 1, "base"), hutch.Forbidden)
	wantKind(t, db.DeleteTemplate(ctx, 2, "1"), hutch.Forbidden)
	wantKind(t, db.DeleteTemplate(ctx, 2, "secret"), hutch.NotFound)
	wantKind(t, db.DeleteTemplate(ctx, 2, "mine"), hutch.Conflict)
	if _, _, err := db.OrderAny(ctx, "s1", hutch.Gone, hutch.ByRequest); err != nil {
		t.Fatal(err)
	}
	wantKind(t, db.DeleteTemplate(ctx, 2, "mine"), hutch.Conflict) // not gone yet
	if _, err := db.Record(ctx, hutch.Fact{ID: "s1", Is: hutch.Gone}); err != nil {
		t.Fatal(err)
	}
	if err := db.DeleteTemplate(ctx, 2, "mine"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, db.DeleteTemplate(ctx, 2, "mine"), hutch.NotFound)
	// Its number is not given again.
	if back := put(t, db, exampleTemplate(2, "mine")); back.ID == mine.ID {
		t.Error("a number was given twice")
	}
}

func TestKeys(t *testing.T) {
	db, ctx := open(t), t.Context()
	k := Key{ID: "abcDEF123456", Org: 1, Name: "ci", Hash: []byte{0, 1, 255}, Created: epoch, Expires: epoch.Add(time.Hour)}
	if err := db.InsertKey(ctx, k); err != nil {
		t.Fatal(err)
	}
	wantKind(t, db.InsertKey(ctx, k), hutch.Conflict)
	if got, err := db.Key(ctx, k.ID); err != nil || !reflect.DeepEqual(got, k) {
		t.Fatal(got, err)
	}
	_, err := db.Key(ctx, "abcdef123456") // ids are case-sensitive
	wantKind(t, err, hutch.NotFound)
	if ks, err := db.Keys(ctx, 1); err != nil || len(ks) != 1 {
		t.Fatal(ks, err)
	}
	if ks, err := db.Keys(ctx, 2); err != nil || len(ks) != 0 {
		t.Fatal(ks, err)
	}

	for _, c := range []struct{ at, want time.Duration }{{0, 0}, {time.Second, 0}, {2 * time.Minute, 2 * time.Minute}, {time.Minute, 2 * time.Minute}} {
		if err := db.TouchKey(ctx, k.ID, epoch.Add(c.at)); err != nil {
			t.Fatal(err)
		}
		if got, _ := db.Key(ctx, k.ID); !got.LastUsed.Equal(epoch.Add(c.want)) {
			t.Errorf("touched at %v: last used %v", c.at, got.LastUsed.Sub(epoch))
		}
	}
	if err := db.TouchKey(ctx, "absent", epoch); err != nil {
		t.Error(err)
	}

	wantKind(t, db.RevokeKey(ctx, 2, k.ID), hutch.NotFound)
	if err := db.RevokeKey(ctx, 1, k.ID); err != nil {
		t.Fatal(err)
	}
	first, _ := db.Key(ctx, k.ID)
	if first.Revoked.IsZero() {
		t.Fatal("not revoked")
	}
	if err := db.RevokeKey(ctx, 1, k.ID); err != nil {
		t.Fatal(err)
	}
	if again, _ := db.Key(ctx, k.ID); !again.Revoked.Equal(first.Revoked) {
		t.Error("revoked twice")
	}
}
