package store

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

// timed runs f b.N times and reports the percentiles a user would feel.
func timed(b *testing.B, f func(i int) error) {
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for i := range b.N {
		start := time.Now()
		if err := f(i); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	report(b, took)
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	b.ReportMetric(us(took[len(took)/2]), "p50-µs")
	b.ReportMetric(us(took[len(took)*99/100]), "p99-µs")
	b.ReportMetric(us(took[len(took)-1]), "max-µs")
}

// filled has n sandboxes that run and n that are gone.
func filled(b *testing.B, n int) *DB {
	db := open(b)
	for i := range n {
		sb := example(fmt.Sprintf("s%06d", i))
		insert(b, db, sb)
		if _, err := db.Record(b.Context(), hutch.Fact{ID: sb.ID, Gen: 1, Is: hutch.Running, At: epoch}); err != nil {
			b.Fatal(err)
		}
		insert(b, db, example(fmt.Sprintf("d%06d", i)))
		if _, err := db.Record(b.Context(), hutch.Fact{ID: hutch.SandboxID(fmt.Sprintf("d%06d", i)), Is: hutch.Gone, At: epoch}); err != nil {
			b.Fatal(err)
		}
	}
	return db
}

func BenchmarkInsert(b *testing.B) {
	db := filled(b, 500)
	timed(b, func(i int) error { return db.Insert(b.Context(), example(fmt.Sprint("b", i)), nil) })
}

func BenchmarkSandbox(b *testing.B) {
	db := filled(b, 500)
	timed(b, func(i int) error {
		_, err := db.Sandbox(b.Context(), 1, hutch.SandboxID(fmt.Sprintf("s%06d", i%500)))
		return err
	})
}

func BenchmarkList100(b *testing.B) {
	db := filled(b, 500)
	timed(b, func(int) error {
		p, err := db.List(b.Context(), Filter{Org: 1})
		if err == nil && len(p.Sandboxes) != 100 {
			err = fmt.Errorf("%d rows", len(p.Sandboxes))
		}
		return err
	})
}

func BenchmarkOrder(b *testing.B) {
	db := filled(b, 500)
	for i := range b.N {
		insert(b, db, example(fmt.Sprint("b", i)))
	}
	timed(b, func(i int) error {
		_, _, err := db.Order(b.Context(), 1, hutch.SandboxID(fmt.Sprint("b", i)), hutch.Gone, hutch.ByRequest)
		return err
	})
}

func BenchmarkRecord(b *testing.B) {
	db := filled(b, 500)
	for i := range b.N {
		insert(b, db, example(fmt.Sprint("b", i)))
	}
	timed(b, func(i int) error {
		_, err := db.Record(b.Context(), hutch.Fact{ID: hutch.SandboxID(fmt.Sprint("b", i)), Is: hutch.Gone, At: epoch})
		return err
	})
}

// 64 kills ordered at once, as after a deadline they share.
func BenchmarkOrder64AtOnce(b *testing.B) {
	db := open(b)
	var mu sync.Mutex
	var took []time.Duration
	for i := range b.N {
		b.StopTimer()
		for j := range 64 {
			insert(b, db, example(fmt.Sprint("b", i, "-", j)))
		}
		b.StartTimer()
		var wg sync.WaitGroup
		for j := range 64 {
			wg.Go(func() {
				start := time.Now()
				_, _, err := db.Order(b.Context(), 1, hutch.SandboxID(fmt.Sprint("b", i, "-", j)), hutch.Gone, hutch.ByTimeout)
				if err != nil {
					b.Error(err)
				}
				mu.Lock()
				took = append(took, time.Since(start))
				mu.Unlock()
			})
		}
		wg.Wait()
	}
	report(b, took)
}
