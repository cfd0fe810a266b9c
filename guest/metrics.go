package guest

import (
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/guest/process"
)

// recent is how many durations the 95th percentile is taken from.
const recent = 512

// metrics counts requests. Routes are its only labels, so it cannot grow.
type metrics struct {
	mu     sync.Mutex
	total  uint64
	errors uint64
	routes map[string]*routeCount
	last   []time.Duration // a ring
	next   int
}

type routeCount struct {
	n    uint64
	took time.Duration
}

func newMetrics() *metrics { return &metrics{routes: map[string]*routeCount{}} }

// add counts one request.
func (m *metrics) add(r route, status int, took time.Duration) {
	if r.access == forHost && r.handler != nil {
		return // not the user's business
	}
	label := "other"
	if r.handler != nil {
		label = r.path
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total++
	if status >= 400 {
		m.errors++
	}
	c := m.routes[label]
	if c == nil {
		c = &routeCount{}
		m.routes[label] = c
	}
	c.n++
	c.took += took
	if len(m.last) < recent {
		m.last = append(m.last, took)
		return
	}
	m.last[m.next] = took
	m.next = (m.next + 1) % recent
}

// fill puts the figures into out.
func (m *metrics) fill(out *api.Metrics) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out.TotalRequests, out.TotalErrors, out.ErrorCount = m.total, m.errors, m.errors
	out.RequestsTotal = make(map[string]uint64, len(m.routes))
	out.AvgDurationMS = make(map[string]float64, len(m.routes))
	for path, c := range m.routes {
		out.RequestsTotal[path] = c.n
		out.AvgDurationMS[path] = round2(milliseconds(c.took) / float64(c.n))
	}
	if len(m.last) > 0 {
		sorted := slices.Sorted(slices.Values(m.last))
		out.P95DurationMS = round2(milliseconds(sorted[(len(sorted)*95+99)/100-1]))
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// showMetrics sends all figures.
func (a *Agent) showMetrics(w http.ResponseWriter, r *http.Request) error {
	jobs := a.jobs.Counts()
	out := api.Metrics{
		UptimeSeconds:   round2(time.Since(a.born).Seconds()),
		TotalExecutions: jobs.Total, ActiveExecutions: jobs.Active, FailedExecutions: jobs.Failed,
		System: a.systemNow(), Cache: api.CacheUse{TTL: "0s"}, Timestamp: a.timestamp(),
	}
	all, err := process.All()
	if err != nil {
		return api.AgentInternal("guest.showMetrics", err)
	}
	out.Process.Count = len(all)
	for _, s := range all {
		if stateWord(s.State) == "running" {
			out.Process.Running++
		}
	}
	a.metrics.fill(&out)
	answer(w, r, out)
	return nil
}

// cacheStats sends the figures of a cache that is always empty.
func (a *Agent) cacheStats(w http.ResponseWriter, r *http.Request) error {
	answer(w, r, api.CacheStats{Cache: api.CacheUse{TTL: "0s"}, Timestamp: a.timestamp()})
	return nil
}

// clearCache clears it.
func (a *Agent) clearCache(w http.ResponseWriter, r *http.Request) error {
	answer(w, r, api.CacheCleared{Success: true, Message: "Cache cleared successfully", Timestamp: a.timestamp()})
	return nil
}

// memory says how much memory there is and how much of it is used.
func (a *Agent) memory() api.Usage {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return api.Usage{}
	}
	info := parseMeminfo(string(b))
	total, free := info["MemTotal"], info["MemAvailable"]
	if _, ok := info["MemAvailable"]; !ok {
		free = info["MemFree"]
	}
	used := total - min(free, total)
	if id := a.identity.Load(); id != nil && id.MemoryMB > 0 {
		total = uint64(id.MemoryMB) << 20
	}
	return usage(total, used)
}

// parseMeminfo reads /proc/meminfo into bytes.
func parseMeminfo(s string) map[string]uint64 {
	out := map[string]uint64{}
	for l := range strings.Lines(s) {
		name, rest, ok := strings.Cut(l, ":")
		f := strings.Fields(rest)
		if !ok || len(f) == 0 {
			continue
		}
		n, err := strconv.ParseUint(f[0], 10, 64)
		if err != nil {
			continue
		}
		if len(f) > 1 && f[1] == "kB" {
			n *= 1024
		}
		out[name] = n
	}
	return out
}

func usage(total, used uint64) api.Usage {
	used = min(used, total)
	return api.Usage{Total: total, Used: used, Free: total - used, UsagePercent: percent(used, total)}
}

// disk says how much may be written and how much was.
func (a *Agent) disk() api.Usage {
	var s unix.Statfs_t
	if err := unix.Statfs("/", &s); err != nil {
		return api.Usage{}
	}
	block := uint64(s.Bsize)
	total, used := s.Blocks*block, (s.Blocks-min(s.Bavail, s.Blocks))*block
	if id := a.identity.Load(); id != nil && id.DiskMB > 0 {
		total = uint64(id.DiskMB) << 20
	}
	return usage(total, used)
}

// A cpuMeter measures how busy the processors were between two looks.
type cpuMeter struct {
	mu          sync.Mutex
	busy, total uint64
	last        float64
	at          time.Time
}

// usage returns the busy part of all processors since the last look, or since
// boot.
func (c *cpuMeter) usage(cores int) api.CPUUsage {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := api.CPUUsage{Cores: cores, UsagePercent: c.last}
	if time.Since(c.at) < 100*time.Millisecond { // too short a time to measure
		return out
	}
	b, err := os.ReadFile("/proc/stat") // made by the kernel: no disk, no wait
	if err != nil {
		return out
	}
	busy, total, ok := parseCPU(string(b))
	if !ok {
		return out
	}
	if total > c.total && busy >= c.busy {
		c.last = round2(100 * float64(busy-c.busy) / float64(total-c.total))
	}
	c.busy, c.total, c.at = busy, total, time.Now()
	out.UsagePercent = c.last
	return out
}

// parseCPU reads the first line of /proc/stat.
func parseCPU(s string) (busy, total uint64, ok bool) {
	first, _, _ := strings.Cut(s, "\n")
	f := strings.Fields(first)
	if len(f) < 5 || f[0] != "cpu" {
		return 0, 0, false
	}
	for i, v := range f[1:min(len(f), 9)] { // guest time is in user time already
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, 0, false
		}
		total += n
		if i != 3 && i != 4 { // idle and waiting for the disk
			busy += n
		}
	}
	return busy, total, true
}
