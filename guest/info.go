package guest

import (
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/guest/language"
	"github.com/hutch-sh/hutch/guest/process"
)

// agentPort is where the agent listens unless it is told otherwise.
const agentPort = "7777"

// languagesFor is how long the answer to "which languages are there" is
// believed: users install interpreters.
const languagesFor = 30 * time.Second

type languageCache struct {
	mu    sync.Mutex
	list  []string
	until time.Time
}

func (c *languageCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
}

// languages returns the languages the template can run.
func (a *Agent) languages() []string {
	a.langs.mu.Lock()
	list, until := a.langs.list, a.langs.until
	a.langs.mu.Unlock()
	if time.Now().Before(until) {
		return list
	}
	env := a.env.For(nil)
	list = language.Available(func(program string) bool {
		_, err := process.Lookup(program, "/", env)
		return err == nil
	})
	a.langs.mu.Lock()
	defer a.langs.mu.Unlock()
	a.langs.list, a.langs.until = list, time.Now().Add(languagesFor)
	return list
}

func (a *Agent) features() api.Features {
	return api.Features{
		CodeExecution: true, FileOperations: true, BackgroundJobs: true, SystemMetrics: true,
		Languages: a.languages(),
	}
}

// health says that the agent is well: it answers, so it is.
func (a *Agent) health(w http.ResponseWriter, r *http.Request) error {
	up := time.Since(a.born)
	answer(w, r, api.AgentHealth{
		Status: "healthy", Agent: Name, Version: Version, Uptime: up.Truncate(time.Second).String(), UptimeSeconds: round2(up.Seconds()),
		GoVersion: runtime.Version(), VMID: a.sandboxID(), Features: a.features(), Timestamp: a.timestamp(),
	})
	return nil
}

func (a *Agent) sandboxID() string {
	if id := a.identity.Load(); id != nil {
		return id.SandboxID
	}
	return ""
}

// ping says that the agent is there.
func (a *Agent) ping(w http.ResponseWriter, r *http.Request) error {
	answer(w, r, api.Ping{Status: "ok", Message: "pong", Timestamp: a.timestamp()})
	return nil
}

// info says what the agent is and what it offers.
func (a *Agent) info(w http.ResponseWriter, r *http.Request) error {
	up := time.Since(a.born)
	ip, port := "", agentPort
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if h, p, err := net.SplitHostPort(local.String()); err == nil {
			ip, port = h, p
		}
	}
	answer(w, r, api.AgentInfo{
		Agent: Name, AgentVersion: Version, Version: Version, VMID: a.sandboxID(),
		OS: runtime.GOOS, Arch: runtime.GOARCH, Platform: runtime.GOOS + "/" + runtime.GOARCH, GoVersion: runtime.Version(),
		Hostname: hostname(), VMIP: ip, IP: ip, VMPort: port, Port: port,
		StartTime: api.Time{Time: a.now().Add(-up)}, Uptime: round2(up.Seconds()), UptimeSeconds: round2(up.Seconds()),
		Endpoints: a.endpoints(), Features: a.features(),
	})
	return nil
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	return h
}

// endpoints names every route a user may call.
func (a *Agent) endpoints() map[string]string {
	out := map[string]string{}
	for _, r := range a.routes.all {
		if r.access == forHost || r.method == "" {
			continue
		}
		name := strings.NewReplacer("/", "_", "{", "", "}", "").Replace(strings.Trim(r.path, "/"))
		if name == "" {
			name = "root"
		}
		if _, taken := out[name]; taken {
			name = strings.ToLower(r.method) + "_" + name
		}
		out[name] = r.method + " " + r.path
	}
	return out
}

// system says how busy the machine is.
func (a *Agent) system(w http.ResponseWriter, r *http.Request) error {
	answer(w, r, a.systemNow())
	return nil
}

func (a *Agent) systemNow() api.System {
	return api.System{
		CPU: a.cpu.usage(a.cores()), Memory: a.memory(), Disk: a.disk(), Hostname: hostname(),
		UptimeSeconds: round2(bootTime().Seconds()), Timestamp: a.timestamp(),
	}
}

func (a *Agent) cores() int {
	if id := a.identity.Load(); id != nil && id.VCPU > 0 {
		return id.VCPU
	}
	return runtime.NumCPU()
}

// bootTime returns how long the guest has run.
func bootTime() time.Duration {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	s, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}
