package gateway

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
)

// An exec-like request, straight to the agent and through the gateway, with
// and without kept connections to the guest.
func BenchmarkExec(b *testing.B) {
	w := newWorld(b)
	a := w.newGuest()
	a.serve(hutch.AgentPort, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(rw, `{"success":true,"stdout":"hello\n"}`)
	}))
	run := func(name, url string, before func()) {
		b.Run(name, func(b *testing.B) {
			took := make([]time.Duration, 0, b.N)
			for range b.N {
				if before != nil {
					before()
				}
				req, err := http.NewRequest("POST", url, strings.NewReader(`{"code":"print('hello')","language":"python"}`))
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+tok(a))
				start := time.Now()
				res, err := w.front.Client().Do(req)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				took = append(took, time.Since(start))
				if res.StatusCode != 200 {
					b.Fatal(res.Status)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
		})
	}
	run("direct", "http://"+a.addr.String()+":7777/execute", nil)
	run("gateway", w.front.URL+"/execute", nil)
	run("gateway, new connection each", w.front.URL+"/execute", func() {
		w.g.mu.Lock()
		l := w.g.lanes[a.id]
		w.g.mu.Unlock()
		if l != nil {
			l.agent.CloseIdleConnections()
		}
	})
}

var tokens = map[hutch.SandboxID]string{}

func tok(g *guest) string {
	if tokens[g.id] == "" {
		tokens[g.id] = g.token()
	}
	return tokens[g.id]
}

// A large answer of a preview.
func BenchmarkDownload(b *testing.B) {
	const size = 64 << 20
	w := newWorld(b)
	a := w.newGuest()
	chunk := make([]byte, 64<<10)
	port := a.serve(0, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		for range size / len(chunk) {
			if _, err := rw.Write(chunk); err != nil {
				return
			}
		}
	}))
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		res, err := w.front.Client().Get(w.front.URL + a.path(port) + "/")
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
			b.Fatal(n, err)
		}
		res.Body.Close()
	}
}
