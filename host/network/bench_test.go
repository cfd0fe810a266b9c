package network

import (
	"slices"
	"testing"
	"time"
)

func BenchmarkAttach(b *testing.B)     { benchmark(b, "attach") }
func BenchmarkDetach(b *testing.B)     { benchmark(b, "detach") }
func BenchmarkDetachUsed(b *testing.B) { benchmark(b, "used") }

// benchmark times one half of a guest's life and reports percentiles. Between
// two guests it waits until the kernel is done with the last one.
func benchmark(b *testing.B, what string) {
	n := open(b)
	var took []time.Duration
	timed := func(is bool, f func()) {
		began := time.Now()
		f()
		if is {
			took = append(took, time.Since(began))
		}
	}
	for range b.N {
		timed(what == "attach", func() { attach(b, n, 0, true) })
		if what == "used" {
			l := n.Plan(0)
			if _, err := (&plainGuest{t: b, link: l}).udp(l.DNS[0].String()+":53", soon); err != nil {
				b.Fatal(err)
			}
		}
		timed(what != "attach", func() {
			if err := n.Detach(0); err != nil {
				b.Fatal(err)
			}
		})
		n.deferred.Wait()
	}
	slices.Sort(took)
	ms := func(q float64) float64 {
		return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(0.5), "p50-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
}
