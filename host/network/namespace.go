package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespaceDirs are where iproute2 keeps named namespaces: the first that is
// the same directory as the second, which is the one it uses, or the second.
const (
	runNetns    = "/run/netns"
	varRunNetns = "/var/run/netns"
)

// prepareNamespaceDir makes the directory of named namespaces and makes it a
// shared mount of its own, exactly as `ip netns add` does. Otherwise the next
// `ip netns add` of somebody else would bind the directory onto itself and hide
// one copy of each of our mounts, which would then hold a namespace for ever.
func prepareNamespaceDir() (string, error) {
	dir := varRunNetns
	if target, err := filepath.EvalSymlinks("/var/run"); err == nil && target == "/run" {
		dir = runNetns
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return "", fmt.Errorf("bind %s: %w", dir, err)
		}
		err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return "", fmt.Errorf("share %s: %w", dir, err)
	}
	return dir, nil
}

// lockHost keeps other installations' Open, Refresh and Purge out until the
// returned function is called. It locks the directory of named namespaces, the
// one thing all installations on a machine share.
func (n *Net) lockHost() (func(), error) { return lockDir(n.dir) }

func lockDir(dir string) (func(), error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		d.Close() // nothing was written
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { d.Close() }, nil // closing unlocks
}

// inThread runs f on a thread of its own that f may move into another
// namespace. Afterwards the thread is put back; one that cannot be is not given
// back to the scheduler and ends with its goroutine.
func (n *Net) inThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := f()
		if back := unix.Setns(int(n.host.Fd()), unix.CLONE_NEWNET); back != nil {
			n.log.Error("a thread could not leave a sandbox's network namespace; it ends", "err", back)
		} else {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// newNamespace moves the calling thread into a fresh namespace that has no IPv6
// and is held by a file at path, which must not exist.
func newNamespace(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	// Before there is any interface, so that none ever has IPv6. A kernel
	// without IPv6 has no such files.
	for _, c := range []string{"all", "default"} {
		if err := writeSysctl("ipv6", c, "disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	return nil
}

// enterNamespace moves the calling thread into the namespace held at path.
func enterNamespace(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	return nil
}

// dropNamespace takes the name away; the namespace ends with its last process.
// It is fine if there is none.
func dropNamespace(path string) error {
	for {
		// More than one mount lies there if a crash came between two calls.
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not or no longer a mount point
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
