package control

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/hutch-sh/hutch"
)

// hopxSuffix satisfies the preview helpers of HopX's SDKs, which want a host
// below .vms.hopx.dev but never look for a slash. The gateway strips it.
const hopxSuffix = "/p.vms.hopx.dev"

// An Address says under which URLs clients reach sandboxes.
type Address struct {
	URL string // this server, as clients see it: scheme and host; used while Domain is ""

	Domain     string // wildcard domain whose names lead here
	Scheme     string // of names below Domain; "": https
	Port       int    // of names below Domain; 0: the scheme's own
	Region     string // one DNS label, the middle of every name; "": local
	HopXSuffix bool   // append "/p.vms.hopx.dev", so that the SDKs' preview helpers accept the domain
}

// normal returns a with its defaults filled in, or an error that says what is
// wrong with it.
func (a Address) normal() (Address, error) {
	if a.Region == "" {
		a.Region = "local"
	}
	if a.Scheme == "" {
		a.Scheme = "https"
	}
	if !dnsLabel(a.Region) {
		return a, fmt.Errorf("region %q is not one DNS label", a.Region)
	}
	if a.Scheme != "https" && a.Scheme != "http" {
		return a, fmt.Errorf("scheme %q is neither http nor https", a.Scheme)
	}
	if a.Port < 0 || a.Port > 65535 {
		return a, fmt.Errorf("port %d is out of range", a.Port)
	}
	if a.Domain != "" {
		a.Domain = strings.ToLower(strings.Trim(a.Domain, "."))
		for l := range strings.SplitSeq(a.Domain, ".") {
			if !dnsLabel(l) {
				return a, fmt.Errorf("domain %q is not a DNS name", a.Domain)
			}
		}
	}
	if a.URL == "" {
		if a.Domain == "" {
			return a, errors.New("neither a public URL nor a domain is set")
		}
		return a, nil
	}
	u, err := url.Parse(a.URL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		strings.Trim(u.Path, "/") != "" || (u.Scheme != "http" && u.Scheme != "https") {
		return a, fmt.Errorf("public URL %q must be http:// or https://, a host, and nothing else", a.URL)
	}
	a.URL = u.Scheme + "://" + u.Host
	return a, nil
}

// host returns the public_host of a sandbox: where its agent answers.
func (a Address) host(id hutch.SandboxID) string {
	if a.Domain == "" {
		return a.URL
	}
	return a.name(strconv.Itoa(hutch.AgentPort), id)
}

// preview returns the URL of any port of a sandbox, with "{port}" for the port.
func (a Address) preview(id hutch.SandboxID) string {
	if a.Domain == "" {
		return a.URL + "/sandboxes/" + string(id) + "/ports/{port}/"
	}
	return a.name("{port}", id) + "/"
}

func (a Address) name(port string, id hutch.SandboxID) string {
	s := a.Scheme + "://" + port + "-" + string(id) + "." + a.Region + "." + a.Domain
	if own := map[string]int{"http": 80, "https": 443}[a.Scheme]; a.Port != 0 && a.Port != own {
		s += ":" + strconv.Itoa(a.Port)
	}
	if a.HopXSuffix {
		s += hopxSuffix
	}
	return s
}

// dnsLabel reports whether s is one lower-case DNS label.
func dnsLabel(s string) bool {
	return len(s) > 0 && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
