package main

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var s sample
	if !math.IsNaN(s.at(50)) {
		t.Error("a percentile of nothing")
	}
	for i := 100; i >= 1; i-- {
		s.MS = append(s.MS, float64(i))
	}
	for p, want := range map[float64]float64{50: 50, 90: 90, 99: 99, 100: 100, 1: 1} {
		if got := s.at(p); got != want {
			t.Errorf("p%g = %g, want %g", p, got, want)
		}
	}
	one := sample{MS: []float64{7}}
	for _, p := range []float64{50, 99, 100} {
		if one.at(p) != 7 {
			t.Errorf("p%g of one value", p)
		}
	}
}

func TestBounds(t *testing.T) {
	s := &series{Name: "x", bounds: []bound{atMost(50, 10, 3), timesBare(1.2, 2)}}
	verdicts := func() (got []string) {
		for _, b := range s.bounds {
			ok, known := b.holds(s)
			got = append(got, map[[2]bool]string{{true, true}: "kept", {false, true}: "broken"}[[2]bool{ok, known}])
		}
		return got
	}
	if v := verdicts(); v[0] != "" || v[1] != "" {
		t.Errorf("of nothing: %q", v)
	}
	for range 3 {
		s.add(product, 9*time.Millisecond, nil)
		s.add(gvisor, 6*time.Millisecond, nil)
	}
	if v := verdicts(); v[0] != "kept" || v[1] != "kept" {
		t.Errorf("9 over 6: %q", v)
	}
	s.add(product, 0, errors.New("no"))
	if v := verdicts(); v[0] != "broken" {
		t.Errorf("with a failure: %q", v)
	}
	for range 9 {
		s.add(product, 20*time.Millisecond, nil)
	}
	if v := verdicts(); v[1] != "broken" {
		t.Errorf("20 over 6: %q", v)
	}
	var b bytes.Buffer
	s.print(&b)
	for _, want := range []string{"hutch / bare", "3.33x", "NOT KEPT", "failed: no"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestScore(t *testing.T) {
	even := func(n int, v float64) (all []tti) {
		for range n {
			all = append(all, tti{MS: v})
		}
		return all
	}
	ramp := func(n int) (all []tti) {
		for i := range n {
			all = append(all, tti{MS: float64(n - i)})
		}
		return all
	}
	for name, c := range map[string]struct {
		samples               []tti
		median, p95, p99, out float64
	}{
		"200 ms throughout": {even(100, 200), 200, 200, 200, 98},
		"at the ceiling":    {even(20, 10_000), 10_000, 10_000, 10_000, 0},
		"half of it fails":  {append(even(50, 200), make([]tti, 50)...), 200, 200, 200, 49},
		"nothing":           {nil, 0, 0, 0, 0},
		"1 to 100: 6 to 95": {ramp(100), 50.5, 91, 95, 99.33},
		"below 20: no trim": {ramp(19), 10, 19, 19, 99.86},
		"one":               {even(1, 1000), 1000, 1000, 1000, 90},
		"above the ceiling": {even(3, 20_000), 20_000, 20_000, 20_000, 0},
	} {
		m := mode{Samples: c.samples}
		for i := range m.Samples {
			if m.Samples[i].MS == 0 {
				m.Samples[i].Error = "failed"
			}
		}
		m.sum()
		if m.Median != c.median || m.P95 != c.p95 || m.P99 != c.p99 || math.Abs(m.Score-c.out) > 0.01 {
			t.Errorf("%s: median %g p95 %g p99 %g score %g", name, m.Median, m.P95, m.P99, m.Score)
		}
	}
}
