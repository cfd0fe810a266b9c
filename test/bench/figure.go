package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// A series is one thing that was timed, on every system that can do it.
type series struct {
	Name   string             `json:"name"`
	Means  string             `json:"means"`
	By     map[string]*sample `json:"by"` // system -> samples
	bounds []bound
}

// A sample is what was timed on one system.
type sample struct {
	MS     []float64 `json:"ms"`
	Failed int       `json:"failed"`
	Why    []string  `json:"why,omitempty"` // the first few failures
}

// The systems that are compared, in the order they are shown.
const (
	product = "hutch"
	gvisor  = "bare gVisor"
	runc    = "runc"
)

var systems = []string{product, gvisor, runc}

// A bound is what a series must keep to.
type bound struct {
	text  string
	holds func(s *series) (ok, known bool)
}

func (s *series) of(system string) *sample {
	if s.By == nil {
		s.By = map[string]*sample{}
	}
	if s.By[system] == nil {
		s.By[system] = &sample{}
	}
	return s.By[system]
}

// add takes one measurement or its failure.
func (s *series) add(system string, d time.Duration, err error) {
	to := s.of(system)
	if err == nil {
		to.MS = append(to.MS, float64(d)/float64(time.Millisecond))
		return
	}
	to.Failed++
	if len(to.Why) < 3 {
		to.Why = append(to.Why, err.Error())
	}
}

// at is the p-th percentile by nearest rank, NaN of nothing.
func (s *sample) at(p float64) float64 {
	if s == nil || len(s.MS) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s.MS))
	return sorted[rank(len(sorted), p)]
}

// rank is the index of the p-th percentile of n sorted values.
func rank(n int, p float64) int {
	return min(n-1, max(0, int(math.Ceil(p/100*float64(n)))-1))
}

// ratio is the product's p-th percentile over the floor's.
func (s *series) ratio(p float64) float64 { return s.By[product].at(p) / s.By[gvisor].at(p) }

// print writes the series as a table, with what is promised of it.
func (s *series) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.Means)
	fmt.Fprintf(w, "  %-14s %6s %9s %9s %9s %9s %7s\n", "", "n", "p50", "p90", "p99", "max", "failed")
	for _, system := range systems {
		x := s.By[system]
		if x == nil || len(x.MS)+x.Failed == 0 {
			continue
		}
		fmt.Fprintf(w, "  %-14s %6d %9s %9s %9s %9s %7d\n", system, len(x.MS), ms(x.at(50)), ms(x.at(90)), ms(x.at(99)), ms(x.at(100)), x.Failed)
		for _, why := range x.Why {
			fmt.Fprintf(w, "    failed: %s\n", strings.ReplaceAll(why, "\n", " "))
		}
	}
	if r := s.ratio(50); !math.IsNaN(r) {
		fmt.Fprintf(w, "  %-14s %6s %8.2fx %8.2fx %8.2fx\n", "hutch / bare", "", r, s.ratio(90), s.ratio(99))
	}
	for _, b := range s.bounds {
		ok, known := b.holds(s)
		verdict := map[bool]string{true: "kept", false: "NOT KEPT"}[ok]
		if !known {
			verdict = "not measured"
		}
		fmt.Fprintf(w, "  %s: %s\n", b.text, verdict)
	}
}

func ms(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v < 10:
		return fmt.Sprintf("%.2f ms", v)
	case v < 1000:
		return fmt.Sprintf("%.1f ms", v)
	}
	return fmt.Sprintf("%.2f s", v/1000)
}

// atMost promises a percentile of the product in milliseconds, over at least n
// samples without one failure.
func atMost(p, limit float64, n int) bound {
	name := fmt.Sprintf("p%g", p)
	if p == 100 {
		name = "max"
	}
	return bound{
		text: fmt.Sprintf("%s <= %s (n >= %d)", name, ms(limit), n),
		holds: func(s *series) (ok, known bool) {
			x := s.By[product]
			return x != nil && x.Failed == 0 && x.at(p) <= limit, x != nil && len(x.MS)+x.Failed >= n
		},
	}
}

// timesBare promises the product's median as so many times the floor's, and a
// constant on top.
func timesBare(factor, plus float64) bound {
	text := fmt.Sprintf("p50 <= %.1f x bare", factor)
	if plus != 0 {
		text = fmt.Sprintf("p50 <= %s + %.1f x bare", ms(plus), factor)
	}
	return bound{
		text: text,
		holds: func(s *series) (ok, known bool) {
			is, floor := s.By[product].at(50), s.By[gvisor].at(50)
			return is <= plus+factor*floor, !math.IsNaN(is) && !math.IsNaN(floor)
		},
	}
}
