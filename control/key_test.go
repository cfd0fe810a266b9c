package control

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
)

// The shape that the command line of HopX checks.
var keyShape = regexp.MustCompile(`^hopx_live_[A-Za-z0-9]{12}\.[A-Za-z0-9_-]{43}$`)

func TestMintKey(t *testing.T) {
	w := newWorld(t)
	seen := map[string]bool{}
	for range 200 {
		full, k, err := MintKey(t.Context(), w.db, hutch.DefaultOrg, "ci", w.now(), w.now().Add(time.Hour))
		if err != nil || !keyShape.MatchString(full) || k.ID != full[10:22] || seen[full] || seen[k.ID] {
			t.Fatal(full, k, err)
		}
		seen[full], seen[k.ID] = true, true
		stored, err := w.db.Key(t.Context(), k.ID)
		if err != nil || stored.Name != "ci" || len(stored.Hash) != 32 || strings.Contains(string(stored.Hash), full[23:]) {
			t.Fatal(stored, err)
		}
	}
	for _, name := range []string{"", strings.Repeat("n", 101), "a\nb", "\xff"} {
		if _, _, err := MintKey(t.Context(), w.db, hutch.DefaultOrg, name, w.now(), time.Time{}); hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("name %q: %v", name, err)
		}
	}
	// Every digit turns up: the draw is not cut short.
	digits := map[byte]bool{}
	for range 2000 {
		for _, d := range []byte(newKeyID()) {
			digits[d] = true
		}
	}
	if len(digits) != 62 {
		t.Errorf("%d digits", len(digits))
	}
}

func TestInstallKey(t *testing.T) {
	w := newWorld(t)
	secret := strings.Repeat("s3cret-_", 6)[:43]
	full := "hopx_live_Operator0001." + secret
	ctx := context.Background()
	for range 2 { // every start installs it
		k, err := InstallKey(ctx, w.db, hutch.DefaultOrg, full, "HUTCH_API_KEY", w.now())
		if err != nil || k.ID != "Operator0001" {
			t.Fatal(k, err)
		}
	}
	w.want(200, ask{method: "GET", path: "/v1/sandboxes", key: full})

	other := "hopx_live_Operator0001." + strings.Repeat("x", 43)
	if _, err := InstallKey(ctx, w.db, hutch.DefaultOrg, other, "x", w.now()); hutch.KindOf(err) != hutch.Conflict {
		t.Errorf("another secret under the same id: %v", err)
	}
	if _, err := InstallKey(ctx, w.db, otherOrg, full, "x", w.now()); hutch.KindOf(err) != hutch.Conflict {
		t.Errorf("another organization's key: %v", err)
	}
	w.want(200, ask{method: "GET", path: "/v1/sandboxes", key: full})
	w.want(401, ask{method: "GET", path: "/v1/sandboxes", key: other})

	w.want(200, ask{method: "DELETE", path: "/v1/api-keys/Operator0001"})
	if _, err := InstallKey(ctx, w.db, hutch.DefaultOrg, full, "x", w.now()); hutch.KindOf(err) != hutch.Conflict || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a revoked key came back: %v", err)
	}
	w.want(401, ask{method: "GET", path: "/v1/sandboxes", key: full})

	for bad, why := range map[string]string{
		"":                                      "does not begin",
		"sk_live_abc":                           "does not begin",
		" " + full:                              "does not begin",
		"hopx_live_" + secret:                   "no dot",
		"hopx_live_short." + secret:             "5 characters between",
		"hopx_live_Operator-001." + secret:      "other characters than letters",
		"hopx_live_Operator0001." + secret[:42]: "42 characters after",
		"hopx_live_Operator0001." + secret + "\n":     "44 characters after",
		"hopx_live_Operator0001." + secret[:42] + "+": "other characters than A-Z",
		"hopx_live_Operator0001." + secret[:42] + ".": "other characters than A-Z",
	} {
		_, err := InstallKey(ctx, w.db, hutch.DefaultOrg, bad, "x", w.now())
		if hutch.KindOf(err) != hutch.Invalid || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestKeyRoutes(t *testing.T) {
	for _, base := range []string{"/auth/api-keys", "/v1/api-keys"} {
		t.Run(base, func(t *testing.T) {
			w := newWorld(t)
			made := w.want(201, ask{method: "POST", path: base, body: `{"name":"laptop","expires_in":"1month"}`})
			full, _ := made.body["full_key"].(string)
			id, _ := made.body["id"].(string)
			if !keyShape.MatchString(full) || made.body["key"] != full || made.body["success"] != true || full[10:22] != id {
				t.Fatalf("%s", made.Body)
			}
			rec := made.body["api_key"].(map[string]any)
			if rec["id"] != id || rec["key_id"] != id || rec["name"] != "laptop" || rec["prefix"] != "hopx_live_"+id || rec["status"] != "active" ||
				rec["expires_at"] != "2026-04-01T12:00:00.123Z" || rec["last_used_at"] != nil || rec["created_at"] != "2026-03-01T12:00:00.123Z" {
				t.Errorf("%v", rec)
			}
			w.want(200, ask{method: "GET", path: "/v1/me", key: full})

			list := w.want(200, ask{method: "GET", path: base})
			if list.body["count"] != 2.0 || len(list.body["api_keys"].([]any)) != 2 || len(list.body["keys"].([]any)) != 2 {
				t.Errorf("%s", list.Body)
			}
			one := w.want(200, ask{method: "GET", path: base + "/" + id})
			if k := one.body["api_key"].(map[string]any); k["last_used_at"] != "2026-03-01T12:00:00.123Z" || k["id"] != id {
				t.Errorf("%s", one.Body)
			}
			for _, out := range []answered{list, one} {
				if strings.Contains(out.Body.String(), full[23:]) {
					t.Error("the key is shown again")
				}
			}

			w.advance(31 * 24 * time.Hour)
			if one := w.want(200, ask{method: "GET", path: base + "/" + id}); one.body["api_key"].(map[string]any)["status"] != "expired" {
				t.Errorf("%s", one.Body)
			}
			w.want(401, ask{method: "GET", path: "/v1/me", key: full})
			w.want(200, ask{method: "DELETE", path: base + "/" + id})
			for _, m := range []string{"GET", "DELETE"} {
				w.want(404, ask{method: m, path: base + "/" + id})
			}
			if list := w.want(200, ask{method: "GET", path: base}); list.body["count"] != 1.0 {
				t.Errorf("%s", list.Body)
			}
			for _, id := range []string{"x", strings.Repeat("k", 12), strings.Repeat("k", 9000), "%00%00%00%00%00%00%00%00%00%00%00%00"} {
				w.want(404, ask{method: "GET", path: base + "/" + id})
			}
			// A key may end itself.
			w.want(200, ask{method: "DELETE", path: base + "/" + w.key[10:22]})
			w.want(401, ask{method: "GET", path: base})
		})
	}
}

func TestCreateKeyFields(t *testing.T) {
	w := newWorld(t)
	for _, body := range []string{
		`{}`, `{"name":null}`, `{"name":""}`, `{"name":1}`, `{"name":["a"]}`, `{"name":"a\u0000"}`, `{"name":"` + strings.Repeat("n", 101) + `"}`,
		`{"name":"a","expires_in":"2weeks"}`, `{"name":"a","expires_in":1}`, `{"name":"a","expires_in":""}`,
	} {
		w.want(400, ask{method: "POST", path: "/v1/api-keys", body: body})
	}
	for life, want := range map[string]any{
		`"1month"`: "2026-04-01T12:00:00.123Z", `"3months"`: "2026-06-01T12:00:00.123Z", `"6months"`: "2026-09-01T12:00:00.123Z",
		`"1year"`: "2027-03-01T12:00:00.123Z", `"never"`: nil, `null`: nil,
	} {
		out := w.want(201, ask{method: "POST", path: "/v1/api-keys", body: `{"name":"a","expires_in":` + life + `}`})
		if got := out.body["api_key"].(map[string]any)["expires_at"]; got != want {
			t.Errorf("%s: %v", life, got)
		}
	}
}

// Tables of HopX's command line are printed from these: no nulls, no numbers.
func TestAccount(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/auth/me", "/v1/me"} {
		out := w.want(200, ask{method: "GET", path: path})
		for _, f := range []string{"user_id", "email", "first_name", "last_name", "role"} {
			if _, ok := out.body[f].(string); !ok {
				t.Errorf("%s: %s is %v", path, f, out.body[f])
			}
		}
		if out.body["organization_id"] != 1.0 || out.body["key_id"] != w.key[10:22] {
			t.Errorf("%s", out.Body)
		}
	}
	for _, path := range []string{"/auth/organization", "/v1/organization"} {
		out := w.want(200, ask{method: "GET", path: path})
		for _, f := range []string{"name", "slug", "plan_id", "created_at"} {
			if _, ok := out.body[f].(string); !ok {
				t.Errorf("%s: %s is %v", path, f, out.body[f])
			}
		}
		if out.body["id"] != 1.0 || out.body["name"] != "default" {
			t.Errorf("%s", out.Body)
		}
	}
	if out := w.want(200, ask{method: "GET", path: "/auth/organization", key: w.other}); out.body["id"] != 2.0 {
		t.Errorf("%s", out.Body)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Version, c.Commit, c.Runsc = "1.2.3", "abc", "160fafc42237" })
	out := w.want(200, ask{method: "GET", path: "/health", key: "-"})
	if out.body["status"] != "healthy" || out.body["version"] != "1.2.3" || out.body["commit"] != "abc" || out.body["runsc"] != "160fafc42237" {
		t.Errorf("%s", out.Body)
	}
}
