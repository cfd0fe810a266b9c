package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Run looks at this machine. The error is about looking, not about what was
// found: a machine that is not fit is a report.
func Run(ctx context.Context, o Options) (Report, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Report{}, fmt.Errorf("uname: %w", err)
	}
	capable, err := capabilities()
	if err != nil {
		return Report{}, err
	}
	m := machine{
		files:    os.DirFS("/"),
		release:  unix.ByteSliceToString(u.Release[:]),
		arch:     runtime.GOARCH,
		euid:     os.Geteuid(),
		capable:  capable,
		space:    space,
		program:  program,
		nftables: o.Nftables,
		client:   &http.Client{Timeout: 10 * time.Second},
	}
	if m.nftables == nil {
		m.nftables = func(context.Context) error { return askNftables() }
	}
	return examine(ctx, m, o), nil
}

// capabilities reads this process's effective set.
func capabilities() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for l := range bytes.Lines(b) {
		if v, ok := strings.CutPrefix(string(l), "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, errors.New("/proc/self/status names no capabilities")
}

func space(path string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// program finds a program in PATH, or where root's programs lie: PATH often
// lacks them.
func program(name string) (string, error) {
	at, err := exec.LookPath(name)
	if err == nil {
		return at, nil
	}
	for _, dir := range []string{"/usr/local/sbin/", "/usr/sbin/", "/sbin/"} {
		if at, e := exec.LookPath(dir + name); e == nil {
			return at, nil
		}
	}
	return "", err
}

// askNftables asks the kernel for the generation of its nftables rules, which
// changes nothing and loads the module if it must.
func askNftables() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	timeout := unix.Timeval{Sec: 2}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	const size = unix.NLMSG_HDRLEN + 4 // and struct nfgenmsg
	kind := uint16(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN)
	msg := binary.NativeEndian.AppendUint32(nil, size)
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST)
	msg = binary.NativeEndian.AppendUint32(msg, 1) // sequence
	msg = binary.NativeEndian.AppendUint32(msg, 0) // from: the kernel fills it in
	msg = append(msg, unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if n < size {
		return errors.New("netlink: the answer is too short")
	}
	if binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		if code := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}
