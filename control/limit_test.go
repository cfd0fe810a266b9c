package control

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"
)

func TestLimits(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.CreatesPerMinute, c.RequestsPerMinute = 3, 6 })
	header := func(out answered, name string) int64 {
		t.Helper()
		n, err := strconv.ParseInt(out.Header().Get(name), 10, 64)
		if err != nil {
			t.Fatalf("%s is %q", name, out.Header().Get(name))
		}
		return n
	}
	create := ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`}
	list := ask{method: "GET", path: "/v1/sandboxes"}
	for i := range int64(3) {
		out := w.want(201, create)
		if header(out, "X-RateLimit-Limit") != 3 || header(out, "X-RateLimit-Remaining") != 2-i || header(out, "X-RateLimit-Reset") != w.now().Unix()+1+20*(i+1) {
			t.Errorf("%d: %v, now %d", i, out.Header(), w.now().Unix())
		}
	}
	out := w.want(429, create)
	d := out.body["details"].(map[string]any)
	if out.body["code"] != "RATE_LIMIT_EXCEEDED" || out.Header().Get("Retry-After") != "20" || d["retry_after_seconds"] != 20.0 || header(out, "X-RateLimit-Remaining") != 0 {
		t.Errorf("%v %s", out.Header(), out.Body)
	}
	// The two limits and the keys are apart.
	for range 6 {
		w.want(200, list)
	}
	w.want(429, list)
	w.want(429, create)
	create.key, list.key = w.other, w.other
	w.want(201, create)
	w.want(200, list)
	create.key, list.key = "", ""
	// Bad requests count, unknown keys do not get as far.
	w.want(401, ask{method: "GET", path: "/v1/sandboxes", key: "-"})
	w.advance(20 * time.Second)
	w.want(400, ask{method: "POST", path: "/v1/sandboxes", body: "{"})
	w.want(429, create)
	w.advance(20 * time.Second)
	w.want(201, create)
	if w.fake.creates != 5 {
		t.Errorf("%d creates", w.fake.creates)
	}
	// Public routes have none.
	for range 20 {
		if out := w.want(200, ask{method: "GET", path: "/health"}); out.Header().Get("X-RateLimit-Limit") != "" {
			t.Fatal("a limit on /health")
		}
	}
}

func TestEveryAuthenticatedAnswerTellsTheLimit(t *testing.T) {
	w := newWorld(t)
	for _, rt := range routes {
		if rt.limit == unlimited {
			continue
		}
		out := w.do(ask{method: rt.method, path: fill(rt.pattern, w.some(nil)), body: "{"})
		want := map[class]string{control: "6000", create: "600"}[rt.limit]
		if out.Header().Get("X-RateLimit-Limit") != want || out.Header().Get("X-RateLimit-Remaining") == "" || out.Header().Get("X-RateLimit-Reset") == "" {
			t.Errorf("%s %s: %v", rt.method, rt.pattern, out.Header())
		}
	}
}

// However many keys there are, the counters are bounded, and the busy ones stay.
func TestLimitsAreBounded(t *testing.T) {
	l := newLimits(1, 10)
	now := time.Unix(1e9, 0)
	h := http.Header{}
	if err := l.take(h, "busy", create, now); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxLimited {
		if err := l.take(h, fmt.Sprint("key", i), control, now); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if err := l.take(h, "busy", create, now); err == nil {
				t.Fatal("the busy key was forgotten")
			}
		}
	}
	if l.recent.Len() != maxLimited || len(l.byKey) != maxLimited {
		t.Errorf("%d, %d counters", l.recent.Len(), len(l.byKey))
	}
}
