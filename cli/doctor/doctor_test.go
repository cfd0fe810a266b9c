package doctor

import (
	"bufio"
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// fit returns a machine with nothing to complain about, on cgroup v1.
func fit() machine {
	return machine{
		files: fstest.MapFS{
			"proc/self/mountinfo":                           {Data: []byte(mountinfoV1)},
			"proc/sys/kernel/pid_max":                       {Data: []byte("4194304\n")},
			"proc/sys/kernel/threads-max":                   {Data: []byte("4190000\n")},
			"proc/sys/kernel/seccomp/actions_avail":         {Data: []byte("kill_process kill_thread trap errno user_notif trace log allow\n")},
			"proc/sys/user/max_user_namespaces":             {Data: []byte("95000\n")},
			"proc/sys/user/max_net_namespaces":              {Data: []byte("95000\n")},
			"proc/sys/user/max_mnt_namespaces":              {Data: []byte("95000\n")},
			"proc/sys/user/max_pid_namespaces":              {Data: []byte("95000\n")},
			"proc/sys/user/max_ipc_namespaces":              {Data: []byte("95000\n")},
			"proc/sys/user/max_uts_namespaces":              {Data: []byte("95000\n")},
			"proc/sys/vm/max_map_count":                     {Data: []byte("65530\n")},
			"proc/sys/net/ipv4/ip_forward":                  {Data: []byte("1\n")},
			"proc/net/tcp":                                  {Data: []byte(tcpHeader + tcpLoopback)},
			"proc/net/tcp6":                                 {Data: []byte(tcpHeader)},
			"proc/swaps":                                    {Data: []byte("Filename\tType\tSize\tUsed\tPriority\n")},
			"sys/devices/system/cpu/smt/active":             {Data: []byte("0\n")},
			"sys/kernel/mm/ksm/run":                         {Data: []byte("0\n")},
			"etc/ssl/certs/ca-certificates.crt":             {Data: []byte("-----BEGIN CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n")},
			"usr/share/keyrings/debian-archive-keyring.gpg": {Data: []byte("keys")},
		},
		release: "6.1.0-18-amd64",
		arch:    "amd64",
		capable: 1<<41 - 1,
		space:   func(string) (uint64, error) { return 100 << 30, nil },
		program: func(name string) (string, error) {
			if name == "debootstrap" {
				return "/usr/sbin/debootstrap", nil
			}
			return "", errors.New("not found")
		},
		nftables: func(context.Context) error { return nil },
		client:   http.DefaultClient,
	}
}

var planned = Options{Data: "/var/lib/hutch", Listen: "http://127.0.0.1:8080", Sandboxes: 64, Tasks: 896, Links: "hx"}

const mountinfoV1 = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`

const mountinfoV2 = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
`

const tcpHeader = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// 127.0.0.1:8080 listens; 10.0.0.1:22 is a connection.
const tcpLoopback = `   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20317 1 0000000000000000 100 0 0 10 0
   1: 0100000A:0016 0200000A:C350 01 00000000:00000000 02:000A7214 00000000     0        0 19000 4 0000000000000000 20 4 31 10 -1
`

// [::]:22 listens, and ::1:631.
const tcp6Wide = `   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17501 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17502 1 0000000000000000 100 0 0 10 0
`

// with returns m with files set or, where the text is "-", removed.
func with(m machine, files map[string]string) machine {
	all := maps.Clone(m.files.(fstest.MapFS))
	for name, text := range files {
		if text == "-" {
			delete(all, name)
		} else {
			all[name] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	m.files = all
	return m
}

func cgroup2Files(subtree string, inner bool) map[string]string {
	f := map[string]string{
		"proc/self/mountinfo":                  mountinfoV2,
		"sys/fs/cgroup/cgroup.controllers":     "cpuset cpu io memory hugetlb pids rdma misc\n",
		"sys/fs/cgroup/cgroup.subtree_control": subtree,
	}
	if inner {
		f["sys/fs/cgroup/cgroup.type"] = "domain\n"
	}
	return f
}

func TestFitMachine(t *testing.T) {
	r := examine(t.Context(), fit(), planned)
	for _, f := range r.Findings {
		if f.Level != OK {
			t.Errorf("%s: %s: %s", f.Name, f.Level, f.Found)
		}
	}
	if r.Worst() != OK {
		t.Errorf("Worst = %s", r.Worst())
	}
}

// TestUnfit spoils one thing of a fit machine at a time: that thing is found,
// with its level and a way to mend it, and nothing else changes.
func TestUnfit(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(machine) machine
		check string
		level Level
		says  string
	}{
		"user":           {func(m machine) machine { m.euid = 1000; m.nftables = nil; return m }, "root", Fail, "not root"},
		"container":      {func(m machine) machine { m.capable &^= 1<<21 | 1<<12; return m }, "root", Fail, "NET_ADMIN, SYS_ADMIN"},
		"old kernel":     {func(m machine) machine { m.release = "4.19.0-26-amd64"; return m }, "kernel", Fail, "4.19"},
		"ageing kernel":  {func(m machine) machine { m.release = "5.8.0"; return m }, "kernel", Warn, "5.8"},
		"strange kernel": {func(m machine) machine { m.release = "mine"; return m }, "kernel", Warn, "mine"},
		"arm":            {func(m machine) machine { m.arch = "arm64"; return m }, "processor", Warn, "arm64"},
		"mips":           {func(m machine) machine { m.arch = "mips64"; return m }, "processor", Fail, "mips64"},
		"no seccomp":     {files(map[string]string{"proc/sys/kernel/seccomp/actions_avail": "-"}), "seccomp", Fail, "no seccomp"},
		"old seccomp":    {files(map[string]string{"proc/sys/kernel/seccomp/actions_avail": "kill trap errno trace allow"}), "seccomp", Fail, "kill_process"},
		"no user ns":     {files(map[string]string{"proc/sys/user/max_user_namespaces": "-"}), "namespaces", Fail, "no user namespaces"},
		"user ns off":    {files(map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}), "namespaces", Fail, "at most 0 user"},
		"few net ns":     {files(map[string]string{"proc/sys/user/max_net_namespaces": "100\n"}), "namespaces", Fail, "at most 100 net"},
		"no memory cgroup": {files(map[string]string{"proc/self/mountinfo": strings.ReplaceAll(strings.ReplaceAll(mountinfoV1, "rw,memory", "rw,devices"),
			"cgroup2 cgroup2", "tmpfs tmpfs")}), "cgroups", Fail, "no memory controller"},
		"hybrid without memory": {files(map[string]string{
			"proc/self/mountinfo":                          strings.ReplaceAll(mountinfoV1, "rw,memory", "rw,devices"),
			"sys/fs/cgroup/unified/cgroup.controllers":     "\n",
			"sys/fs/cgroup/unified/cgroup.subtree_control": "\n",
		}), "cgroups", Fail, "version 2 without cpu, memory, pids"},
		"v2 container": {files(cgroup2Files("", true)), "cgroups", Fail, "cannot be handed to sandboxes"},
		"v2 bare": {func(m machine) machine {
			return with(m, map[string]string{"proc/self/mountinfo": "22 1 254:0 / / rw - ext4 /dev/vda rw\n"})
		}, "cgroups", Fail, "no cpu, memory, pids"},
		"small pid_max": {files(map[string]string{"proc/sys/kernel/pid_max": "32768\n"}), "process ids", Warn, "room for 34 sandboxes"},
		"tiny pid_max":  {files(map[string]string{"proc/sys/kernel/pid_max": "301\n"}), "process ids", Warn, "room for 0 sandboxes"},
		"few threads":   {files(map[string]string{"proc/sys/kernel/threads-max": "10000\n"}), "process ids", Warn, "kernel.threads-max is 10000"},
		"few mappings":  {files(map[string]string{"proc/sys/vm/max_map_count": "1000\n"}), "memory mappings", Fail, "1000"},
		"no nftables": {func(m machine) machine {
			m.nftables = func(context.Context) error { return errors.New("no such thing") }
			return m
		}, "nftables", Fail, "no such thing"},
		"no /proc/sys":   {files(map[string]string{"proc/sys/net/ipv4/ip_forward": "-"}), "IPv4 forwarding", Fail, "does not say"},
		"IPv6 on a link": {files(map[string]string{"sys/class/net/hx1/mtu": "1500", "proc/sys/net/ipv6/conf/hx1/disable_ipv6": "0\n"}), "IPv6 on sandboxes' links", Fail, "hx1"},
		"docker":         {files(map[string]string{"sys/class/net/docker0/mtu": "1500"}), "other firewalls", Warn, "Docker"},
		"wide v6":        {files(map[string]string{"proc/net/tcp6": tcpHeader + tcp6Wide}), "open ports of the host", Warn, "[::]:22"},
		"wide v4":        {files(map[string]string{"proc/net/tcp": tcpHeader + strings.ReplaceAll(tcpLoopback, "0100007F:1F90", "00000000:01BB")}), "open ports of the host", Warn, "0.0.0.0:443"},
		"foreign runsc":  {foreignRunsc, "other runsc", Warn, "/usr/bin/runsc, Debian's package of version 0.0~20221107.0-3"},
		"cuse":           {files(map[string]string{"sys/module/cuse/refcnt": "0"}), "cuse", Warn, "loaded"},
		"smt":            {files(map[string]string{"sys/devices/system/cpu/smt/active": "1\n"}), "hyper-threads", Warn, "on"},
		"ksm":            {files(map[string]string{"sys/kernel/mm/ksm/run": "1\n"}), "memory merging", Warn, "on"},
		"swap":           {files(map[string]string{"proc/swaps": "Filename Type Size Used Priority\n/swapfile file 2097148 0 -2\n"}), "swap", Warn, "/swapfile"},
		"full disk":      {func(m machine) machine { m.space = func(string) (uint64, error) { return 1 << 30, nil }; return m }, "disk space", Fail, "1.0 GiB"},
		"filling disk":   {func(m machine) machine { m.space = func(string) (uint64, error) { return 10 << 30, nil }; return m }, "disk space", Warn, "10.0 GiB"},
		"no debootstrap": {func(m machine) machine {
			m.program = func(string) (string, error) { return "", errors.New("no") }
			return m
		}, "debootstrap", Warn, "not installed"},
		"no keys":         {files(map[string]string{"usr/share/keyrings/debian-archive-keyring.gpg": "-"}), "debootstrap", Warn, "without Debian's keys"},
		"no certificates": {files(map[string]string{"etc/ssl/certs/ca-certificates.crt": "-"}), "certificates", Warn, "no authority"},
	} {
		t.Run(name, func(t *testing.T) {
			r := examine(t.Context(), c.spoil(fit()), planned)
			i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Name == c.check })
			if i < 0 {
				t.Fatalf("no finding is called %q", c.check)
			}
			f := r.Findings[i]
			if f.Level != c.level || !strings.Contains(f.Found, c.says) || f.Mend == "" {
				t.Errorf("got %+v, want %s with %q and a way to mend it", f, c.level, c.says)
			}
			for j, other := range r.Findings {
				if j != i && other.Level != OK && other.Level != Skip {
					t.Errorf("and also %+v", other)
				}
			}
			if r.Worst() != c.level {
				t.Errorf("Worst = %s, want %s", r.Worst(), c.level)
			}
		})
	}
}

func files(changed map[string]string) func(machine) machine {
	return func(m machine) machine { return with(m, changed) }
}

func foreignRunsc(m machine) machine {
	boot := m.program
	m.program = func(name string) (string, error) {
		if name == "runsc" {
			return "/usr/bin/runsc", nil
		}
		return boot(name)
	}
	return with(m, map[string]string{"var/lib/dpkg/status": dpkgStatus})
}

const dpkgStatus = `Package: run
Status: install ok installed
Version: 9

Package: runsc
Status: install ok installed
Architecture: amd64
Version: 0.0~20221107.0-3
Description: application kernel

Package: other
Status: install ok installed
Version: 7
`

func TestDebianVersion(t *testing.T) {
	for _, c := range []struct{ pkg, status, want string }{
		{"runsc", dpkgStatus, "0.0~20221107.0-3"},
		{"other", dpkgStatus, "7"},
		{"absent", dpkgStatus, ""},
		{"runsc", strings.ReplaceAll(dpkgStatus, "install ok installed", "deinstall ok config-files"), ""},
		{"runsc", "", ""},
	} {
		if got := debianVersion(bufio.NewScanner(strings.NewReader(c.status)), c.pkg); got != c.want {
			t.Errorf("%s: got %q, want %q", c.pkg, got, c.want)
		}
	}
}

func TestCgroup2(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		level Level
	}{
		"all on":                   {cgroup2Files("cpuset cpu io memory pids", false), OK},
		"the server turns them on": {cgroup2Files("", false), OK},
		"delegated and on":         {cgroup2Files("cpu memory pids", true), OK},
		"delegated, some off":      {cgroup2Files("cpu pids", true), Fail},
	} {
		t.Run(name, func(t *testing.T) {
			if f := cgroups(t.Context(), with(fit(), c.files), planned); f.Level != c.level {
				t.Errorf("got %+v, want %s", f, c.level)
			}
		})
	}
	lacking := cgroup2Files("", true)
	lacking["sys/fs/cgroup/cgroup.controllers"] = "cpu pids"
	if f := cgroups(t.Context(), with(fit(), lacking), planned); f.Level != Fail || !strings.Contains(f.Found, "not given memory") {
		t.Errorf("got %+v", f)
	}
}

func TestProcAddr(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"0100007F:1F90", "127.0.0.1:8080"},
		{"00000000:0016", "0.0.0.0:22"},
		{"00000000000000000000000000000000:0050", "[::]:80"},
		{"00000000000000000000000001000000:0277", "[::1]:631"},
		{"B80D01200000000067452301EFCDAB89:01BB", "[2001:db8::123:4567:89ab:cdef]:443"},
		{"0100007F", ""}, {"0100007F:FFFFF", ""}, {"01007F:0016", ""}, {"zz00007F:0016", ""}, {"", ""},
	} {
		got, ok := procAddr(c.in)
		if c.want == "" {
			if ok {
				t.Errorf("%q: got %v, want an error", c.in, got)
			}
			continue
		}
		if !ok || got != netip.MustParseAddrPort(c.want) {
			t.Errorf("%q: got %v %v, want %s", c.in, got, ok, c.want)
		}
	}
}

func FuzzParseListeners(f *testing.F) {
	f.Add([]byte(tcpHeader + tcpLoopback))
	f.Add([]byte(tcpHeader + tcp6Wide))
	f.Fuzz(func(_ *testing.T, table []byte) { parseListeners(table) })
}

func TestOwnListenerIsNotForeign(t *testing.T) {
	m := with(fit(), map[string]string{"proc/net/tcp": tcpHeader + strings.ReplaceAll(tcpLoopback, "0100007F:1F90", "00000000:1F90")})
	if f := listeners(t.Context(), m, planned)[0]; f.Level != OK {
		t.Errorf("got %+v", f)
	}
}

func TestDiskOfDirectoryToCome(t *testing.T) {
	m := fit()
	m.space = func(path string) (uint64, error) {
		if path == "/var" {
			return 50 << 30, nil
		}
		return 0, errors.New("no such directory")
	}
	if f := disk(t.Context(), m, planned); f.Level != OK || !strings.Contains(f.Found, "/var") {
		t.Errorf("got %+v", f)
	}
}

func TestReach(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v2/":
			w.WriteHeader(http.StatusUnauthorized)
		case "/gone":
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	o := planned
	o.Fetch = []string{srv.URL + "/Release", srv.URL + "/v2/", srv.URL + "/gone", dead.URL}
	m := fit()
	m.client = srv.Client()
	var got []Level
	for _, f := range reach(t.Context(), m, o) {
		got = append(got, f.Level)
	}
	if want := []Level{OK, OK, Warn, Warn}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
