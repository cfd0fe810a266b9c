package doctor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// oldRuntime looks for runsc programs that are not ours. Hutch never uses them,
// but their presence says that something else here may.
func oldRuntime(_ context.Context, m machine, _ Options) []Finding {
	const name = "other runsc"
	at, err := m.program("runsc")
	if err != nil {
		return []Finding{ok(name, "none")}
	}
	found := at
	if f, err := m.files.Open("var/lib/dpkg/status"); err == nil {
		if v := debianVersion(bufio.NewScanner(f), "runsc"); v != "" {
			found += ", Debian's package of version " + v
		}
		_ = f.Close()
	}
	return []Finding{warn(name, found+"; Hutch carries its own and does not use it",
		"if nothing else needs it: apt-get purge runsc. Debian 12's is from 2022 and lets images become root on the host (CVE-2026-96812)")}
}

// debianVersion reads dpkg's status file: the version of an installed package, or "".
func debianVersion(lines *bufio.Scanner, pkg string) string {
	lines.Buffer(nil, 1<<20)
	var name, version string
	installed := false
	match := func() bool { return name == pkg && installed }
	for lines.Scan() {
		l := lines.Text()
		switch {
		case l == "":
			if match() {
				return version
			}
			name, version, installed = "", "", false
		case strings.HasPrefix(l, "Package: "):
			name = l[len("Package: "):]
		case strings.HasPrefix(l, "Version: "):
			version = l[len("Version: "):]
		case strings.HasPrefix(l, "Status: "):
			installed = strings.HasSuffix(l, " installed")
		}
	}
	if match() {
		return version
	}
	return ""
}

// disk checks the room for templates and for what sandboxes write.
func disk(_ context.Context, m machine, o Options) Finding {
	const name = "disk space"
	dir := o.Data
	n, err := m.space(dir)
	for err != nil && dir != "/" && dir != "." {
		dir = path.Dir(dir)
		n, err = m.space(dir)
	}
	if err != nil {
		return skip(name, err.Error())
	}
	gib := float64(n) / (1 << 30)
	found := fmt.Sprintf("%.1f GiB free at %s", gib, dir)
	switch {
	case gib < 3:
		return fail(name, found+"; the default templates and their making need about 3", "free some, or give a directory on another disk with --data")
	case gib < 20:
		return warn(name, found+"; sandboxes may each write as much as their disk limit", "free some, or give a directory on another disk with --data")
	}
	return ok(name, found)
}

// bootstrap checks for the program that makes the default templates.
func bootstrap(_ context.Context, m machine, _ Options) Finding {
	const name = "debootstrap"
	at, err := m.program("debootstrap")
	if err != nil {
		return warn(name, "not installed; the default templates cannot be made (templates from OCI images can)", "apt-get install debootstrap, or dnf install debootstrap")
	}
	if _, err := fs.Stat(m.files, "usr/share/keyrings/debian-archive-keyring.gpg"); err != nil {
		return warn(name, at+", but without Debian's keys", "apt-get install debian-archive-keyring")
	}
	return ok(name, at)
}

// authorities checks for the system's certificates, which registries and
// mirrors are checked with.
func authorities(_ context.Context, m machine, _ Options) Finding {
	const name = "certificates"
	for _, file := range []string{ // the places Go looks at
		"etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/ca-bundle.pem",
		"etc/pki/tls/cacert.pem", "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "etc/ssl/cert.pem",
	} {
		b, err := fs.ReadFile(m.files, file)
		if n := bytes.Count(b, []byte("-----BEGIN CERTIFICATE-----")); err == nil && n > 0 {
			return ok(name, fmt.Sprintf("%d in /%s", n, file))
		}
	}
	return warn(name, "the system trusts no authority, so nothing can be fetched by https", "apt-get install ca-certificates")
}
