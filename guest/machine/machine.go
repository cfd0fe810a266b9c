// Package machine makes the guest's system files say who the sandbox is: host
// name, hosts, resolver, machine id, trusted certificates. It works on a root
// that tenants may have prepared, so it trusts no file to be there or to be
// what it should. It must not know the handshake.
package machine

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// Bundle is where Debian and its relatives keep trusted certificates. Programs
// are pointed at it by [TrustEnv].
const Bundle = "/etc/ssl/certs/ca-certificates.crt"

// Extra is where the extra certificates lie by themselves. Debian's
// update-ca-certificates takes them into the bundle from there when a package
// makes it anew.
const Extra = "/usr/local/share/ca-certificates/hutch-extra.crt"

// otherBundles are where others keep theirs.
var otherBundles = []string{"/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}

const (
	bundleBegin = "# hutch: extra certificates\n"
	bundleEnd   = "# hutch: end of extra certificates\n"
	maxBundle   = 16 << 20
)

// Settings say what the machine should be.
type Settings struct {
	Hostname string
	DNS      []string // none: no name resolution
	ExtraCA  string   // PEM, or ""
	Seed     []byte   // for the machine id; empty: random
	Dirs     []string // to be made if missing
}

var hostnameRule = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$`)

// Check refuses settings that would make files mean something else.
func (s Settings) Check() error {
	if !hostnameRule.MatchString(s.Hostname) {
		return fmt.Errorf("host name %.70q is not one", s.Hostname)
	}
	for _, d := range s.DNS {
		if a, err := netip.ParseAddr(d); err != nil || a.Zone() != "" {
			return fmt.Errorf("resolver address %.50q is not one", d)
		}
	}
	if s.ExtraCA != "" && !strings.Contains(s.ExtraCA, "-----BEGIN CERTIFICATE-----") {
		return errors.New("the extra certificates are not PEM")
	}
	if strings.Contains(s.ExtraCA, bundleBegin) || strings.Contains(s.ExtraCA, bundleEnd) {
		return errors.New("the extra certificates hold our own marks")
	}
	for _, d := range s.Dirs {
		if !filepath.IsAbs(d) || strings.Contains(d, "\x00") {
			return fmt.Errorf("directory %.100q is not an absolute path", d)
		}
	}
	return nil
}

// TrustEnv returns the variables that make common programs trust what
// [Settings.ExtraCA] adds. Node reads its own certificates and ours beside.
func TrustEnv() map[string]string {
	return map[string]string{
		"SSL_CERT_FILE":       Bundle,
		"REQUESTS_CA_BUNDLE":  Bundle,
		"PIP_CERT":            Bundle,
		"CURL_CA_BUNDLE":      Bundle,
		"GIT_SSL_CAINFO":      Bundle,
		"NODE_EXTRA_CA_CERTS": Extra,
	}
}

// Apply sets what it can below root ("" is the real one) and returns what it
// could not. Applying again, other settings or the same, replaces what was.
func Apply(root string, s Settings) []error {
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if root == "" {
		// A sandbox may not be allowed to; then its host has named it already.
		if err := syscall.Sethostname([]byte(s.Hostname)); err != nil && err != syscall.EPERM && err != syscall.ENOSYS {
			try("set the host name", err)
		}
	}
	short, _, _ := strings.Cut(s.Hostname, ".")
	names := s.Hostname
	if short != s.Hostname {
		names += " " + short
	}
	hosts := "127.0.0.1\tlocalhost\n127.0.1.1\t" + names + "\n"
	resolv := "# This sandbox has no name resolution.\n"
	if len(s.DNS) > 0 {
		resolv = ""
		for _, d := range s.DNS {
			resolv += "nameserver " + d + "\n"
		}
		resolv += "options timeout:2 attempts:2\n"
	}
	try("hostname", replace(root+"/etc/hostname", []byte(s.Hostname+"\n"), 0o644))
	try("hosts", replace(root+"/etc/hosts", []byte(hosts), 0o644))
	try("resolver", replace(root+"/etc/resolv.conf", []byte(resolv), 0o644))
	try("machine id", replace(root+"/etc/machine-id", []byte(machineID(s.Seed)+"\n"), 0o444))
	try("certificates", trust(root, s.ExtraCA))
	try("random seed", stir(s.Seed))
	for _, d := range s.Dirs {
		try("directory", os.MkdirAll(root+d, 0o755))
	}
	return errs
}

// machineID derives 32 hex digits from seed, without giving the seed away.
func machineID(seed []byte) string {
	if len(seed) == 0 {
		seed = make([]byte, 32)
		rand.Read(seed) // never fails, since Go 1.24
	}
	h := sha256.Sum256(append([]byte("hutch machine id\n"), seed...))
	h[6] = h[6]&0x0f | 0x40 // a version 4 UUID, as systemd makes them
	h[8] = h[8]&0x3f | 0x80
	return hex.EncodeToString(h[:16])
}

// stir mixes seed into the kernel's random numbers, so that guests restored
// from one snapshot part ways.
func stir(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	h := sha256.Sum256(append([]byte("hutch random\n"), seed...))
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(h[:])
	return err
}

// trust puts extra into the bundle and beside it, or takes what an earlier call
// put there out again.
func trust(root, extra string) error {
	if extra == "" {
		if _, err := os.Lstat(root + Extra); errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil // there is nothing to take out
		}
	}
	bundle, err := readBundle(root + Bundle)
	if err != nil {
		return err
	}
	if len(bundle) == 0 && extra != "" {
		for _, other := range otherBundles {
			if bundle, err = readBundle(root + other); err != nil {
				return err
			} else if len(bundle) > 0 {
				break
			}
		}
	}
	bundle = unmark(bundle)
	if extra == "" {
		err := os.Remove(root + Extra)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return errors.Join(err, replace(root+Bundle, bundle, 0o644))
	}
	pem := strings.TrimRight(extra, "\n") + "\n"
	if len(bundle) > 0 && bundle[len(bundle)-1] != '\n' {
		bundle = append(bundle, '\n')
	}
	bundle = append(bundle, bundleBegin+pem+bundleEnd...)
	return errors.Join(replace(root+Extra, []byte(pem), 0o644), replace(root+Bundle, bundle, 0o644))
}

// readBundle returns a file's content, and nothing for a missing one. A FIFO
// or a device in its place counts as missing.
func readBundle(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENXIO) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if len(b) > maxBundle {
		return nil, fmt.Errorf("%s is larger than 16 MiB", path)
	}
	return b, err
}

// unmark removes what an earlier [trust] added.
func unmark(bundle []byte) []byte {
	for {
		before, rest, ok := bytes.Cut(bundle, []byte(bundleBegin))
		if !ok {
			return bundle
		}
		_, after, _ := bytes.Cut(rest, []byte(bundleEnd))
		bundle = append(bytes.Clone(before), after...)
	}
}

// replace makes content the file at path, whatever was there: a link is
// replaced and not followed, because images link these files to programs that
// do not run here. Only where something is mounted on the file it is written
// in place.
func replace(path string, content []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp := filepath.Join(dir, ".hutch-tmp-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) // the agent's umask takes nothing from these modes
	if err != nil {
		return overwrite(path, content, err)
	}
	_, err = f.Write(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(overwrite(path, content, err), os.Remove(temp))
	}
	return nil
}

// overwrite writes a file in place; why says why it could not be replaced.
func overwrite(path string, content []byte, why error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return errors.Join(why, err)
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}
