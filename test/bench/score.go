package main

import (
	"fmt"
	"io"
	"math"
	"slices"
)

// A mode is one way of ComputeSDK's public benchmark to start sandboxes, and
// what came of it here.
type mode struct {
	Name      string   `json:"mode"`
	N         int      `json:"n"`
	Succeeded int      `json:"succeeded"`
	Median    float64  `json:"median_ms"`
	P95       float64  `json:"p95_ms"`
	P99       float64  `json:"p99_ms"`
	Min       float64  `json:"min_ms"`
	Max       float64  `json:"max_ms"`
	Score     float64  `json:"score"`
	WallMS    float64  `json:"wall_ms"`
	Repeated  int      `json:"repeated"` // sandboxes that looked like an earlier one
	Errors    []string `json:"errors,omitempty"`
	Samples   []tti    `json:"samples"`
}

// A tti is one sandbox: the time until it was of use, or why it never was.
type tti struct {
	MS    float64 `json:"ms,omitempty"`
	Error string  `json:"error,omitempty"`
}

// sum does the public benchmark's arithmetic: the slowest and fastest 5 % of
// what succeeded are dropped, percentiles are by nearest rank, and the score is
// 60 % median, 25 % p95 and 15 % p99, each against a ceiling of 10 s, times the
// rate of success.
func (m *mode) sum() {
	var good []float64
	for _, s := range m.Samples {
		if s.Error == "" {
			good = append(good, s.MS)
			continue
		}
		if len(m.Errors) < 5 && !slices.Contains(m.Errors, s.Error) {
			m.Errors = append(m.Errors, s.Error)
		}
	}
	m.N, m.Succeeded = len(m.Samples), len(good)
	if len(good) == 0 {
		return
	}
	slices.Sort(good)
	m.Min, m.Max = good[0], good[len(good)-1]
	if cut := len(good) * 5 / 100; cut > 0 {
		good = good[cut : len(good)-cut]
	}
	half := len(good) / 2
	m.Median = good[half]
	if len(good)%2 == 0 {
		m.Median = (good[half-1] + good[half]) / 2
	}
	m.P95, m.P99 = good[rank(len(good), 95)], good[rank(len(good), 99)]
	points := func(v float64) float64 { return max(0, 100*(1-v/10_000)) }
	timing := 0.60*points(m.Median) + 0.25*points(m.P95) + 0.15*points(m.P99)
	m.Score = math.Round(timing*float64(m.Succeeded)/float64(m.N)*100) / 100
}

func (m *mode) print(w io.Writer) {
	fmt.Fprintf(w, "  %-11s %4d/%-4d %9s %9s %9s %9s %9s %9s %7.2f\n",
		m.Name, m.Succeeded, m.N, ms(m.Median), ms(m.P95), ms(m.P99), ms(m.Min), ms(m.Max), ms(m.WallMS), m.Score)
	for _, e := range m.Errors {
		fmt.Fprintf(w, "    failed: %s\n", e)
	}
	if m.Repeated > 0 {
		fmt.Fprintf(w, "    %d looked like an earlier one in three or more strong signals\n", m.Repeated)
	}
}
