package doctor

import (
	"bytes"
	"context"
	"io/fs"
	"slices"
	"strings"
)

// controllers are those without which a sandbox has no limits.
var controllers = []string{"cpu", "memory", "pids"}

// cgroups checks for the controllers, in version 1 or 2, whichever of the two
// has them.
func cgroups(_ context.Context, m machine, _ Options) Finding {
	const name = "cgroups"
	b, err := fs.ReadFile(m.files, "proc/self/mountinfo")
	if err != nil {
		return skip(name, err.Error())
	}
	v1, v2 := cgroupMounts(b)
	var lacks []string
	for _, c := range controllers {
		if v1[c] == "" {
			lacks = append(lacks, c)
		}
	}
	if len(lacks) == 0 {
		return ok(name, "version 1 with "+strings.Join(controllers, ", "))
	}
	if v2 == "" {
		return fail(name, "no "+strings.Join(lacks, ", ")+" controller is mounted",
			"boot without cgroup_disable= and mount cgroups: mount -t cgroup2 none /sys/fs/cgroup")
	}
	return cgroup2(m.files, strings.TrimPrefix(v2, "/"))
}

// cgroup2 checks the version 2 hierarchy mounted at dir.
func cgroup2(files fs.FS, dir string) Finding {
	const name = "cgroups"
	have, err := words(files, dir+"/cgroup.controllers")
	if err != nil {
		return skip(name, err.Error())
	}
	on, err := words(files, dir+"/cgroup.subtree_control")
	if err != nil {
		return skip(name, err.Error())
	}
	var lacks, off []string
	for _, c := range controllers {
		if !slices.Contains(have, c) {
			lacks = append(lacks, c)
		} else if !slices.Contains(on, c) {
			off = append(off, c)
		}
	}
	// The root of the whole machine has no type; the top of what a container
	// sees is an inner node, whose processes stand in the way.
	_, err = fs.Stat(files, dir+"/cgroup.type")
	inner := err == nil
	switch {
	case len(lacks) > 0 && inner:
		return fail(name, "version 2, but this container was not given "+strings.Join(lacks, ", "),
			"start the container with all controllers delegated, for example --cgroupns=private with systemd's Delegate=yes, or run on the host itself")
	case len(lacks) > 0:
		return fail(name, "version 2 without "+strings.Join(lacks, ", "), "boot without cgroup_disable=, and with CONFIG_MEMCG, CONFIG_CFS_BANDWIDTH and CONFIG_CGROUP_PIDS")
	case len(off) > 0 && inner:
		return fail(name, "version 2, but "+strings.Join(off, ", ")+" cannot be handed to sandboxes here",
			"in a container: move its processes into a child cgroup at start and write +"+strings.Join(off, " +")+" to /"+dir+"/cgroup.subtree_control; under systemd: Delegate=yes")
	case len(off) > 0:
		return ok(name, "version 2 with "+strings.Join(controllers, ", ")+"; the server turns on "+strings.Join(off, ", "))
	}
	return ok(name, "version 2 with "+strings.Join(controllers, ", "))
}

// cgroupMounts reads mountinfo: where each controller of version 1 is mounted,
// and where version 2 is.
func cgroupMounts(mountinfo []byte) (v1 map[string]string, v2 string) {
	v1 = map[string]string{}
	for l := range bytes.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(string(l)), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		switch right[0] {
		case "cgroup":
			for _, c := range strings.Split(right[2], ",") {
				if v1[c] == "" {
					v1[c] = left[4]
				}
			}
		case "cgroup2":
			// /sys/fs/cgroup/unified of the hybrid layout has no controllers and
			// must not hide a real one.
			if v2 == "" || left[4] == "/sys/fs/cgroup" {
				v2 = left[4]
			}
		}
	}
	return v1, v2
}

func words(files fs.FS, name string) ([]string, error) {
	b, err := fs.ReadFile(files, name)
	return strings.Fields(string(b)), err
}
