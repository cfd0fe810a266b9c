package installation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sweep removes by force everything that carries the installation's tag. It is
// for what the program under test left behind, and touches nothing else.
func (i *Installation) sweep(ctx context.Context) error {
	tag := i.Tag()
	if len(tag) != 4 {
		return errors.New("nothing can be swept without a tag")
	}
	return errors.Join(
		sweepProcesses(ctx, tag),
		sweepLinks(tag),
		sweepNamespaces(tag),
		sweepRules(ctx, tag),
		i.sweepRoutes(),
		sweepDirs(tag),
	)
}

func sweepDirs(tag string) error {
	groups, err := groupsOf(tag)
	errs := []error{err}
	for _, dir := range groups {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("%s: %w", dir, err))
		}
	}
	run := "/run/hutch-" + tag
	mounts, err := filepath.Glob(run + "/*/*/null-netns")
	errs = append(errs, err)
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(run))...)
}

// groupsOf returns the installation's cgroups, the deepest first.
func groupsOf(tag string) ([]string, error) {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/*/hutch-" + tag, "/sys/fs/cgroup/hutch-" + tag} {
		roots, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, root := range roots {
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				return nil // what vanishes meanwhile needs no sweeping
			})
			if err != nil {
				return nil, err
			}
		}
	}
	slices.Reverse(all)
	return all, nil
}

func sweepProcesses(ctx context.Context, tag string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		groups, err := groupsOf(tag)
		if err != nil {
			return err
		}
		var pids []int
		for _, dir := range groups {
			_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0) // most have no freezer
			_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0)
			found, err := pidsIn(dir)
			if err != nil {
				return err
			}
			pids = append(pids, found...)
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes that do not die: %v", pids)
		case <-time.After(20 * time.Millisecond): // nothing announces an empty group
		}
	}
}

func sweepLinks(tag string) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range all {
		if !strings.HasPrefix(l.Name, "hx"+tag+"-") {
			continue
		}
		if dev, err := netlink.LinkByName(l.Name); err == nil {
			errs = append(errs, netlink.LinkDel(dev))
		}
	}
	return errors.Join(errs...)
}

func sweepNamespaces(tag string) error {
	names, err := filepath.Glob("/run/netns/hutch-" + tag + "-*")
	errs := []error{err}
	for _, n := range names {
		if err := unix.Unmount(n, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, err)
		}
		errs = append(errs, os.Remove(n))
	}
	return errors.Join(errs...)
}

func sweepRules(ctx context.Context, tag string) error {
	out, err := exec.CommandContext(ctx, "nft", "list", "tables").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(out)) {
		if field := strings.Fields(line); len(field) == 3 && field[2] == "hutch_"+tag {
			errs = append(errs, exec.CommandContext(ctx, "nft", "delete", "table", field[1], field[2]).Run())
		}
	}
	return errors.Join(errs...)
}

func (i *Installation) sweepRoutes() error {
	if !i.subnet.IsValid() {
		return nil
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Type: unix.RTN_UNREACHABLE}, netlink.RT_FILTER_TYPE)
	errs := []error{err}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() == i.subnet.String() {
			errs = append(errs, netlink.RouteDel(&r))
		}
	}
	return errors.Join(errs...)
}
