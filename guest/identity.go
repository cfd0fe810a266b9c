package guest

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/guest/environment"
	"github.com/hutch-sh/hutch/guest/machine"
	"github.com/hutch-sh/hutch/internal/handshake"
)

// Names of what is kept for the next agent.
const (
	keptIdentity = "identity" // the body of the handshake
	keptEnv      = "env"      // what was set through /env
)

// maxGrace bounds the grace of a shutdown.
const maxGrace = 10 * time.Minute

// syncWait bounds what a shutdown waits for a disk. A slow one must not keep a
// sandbox from being deleted.
const syncWait = time.Second

// An identity is what a handshake made of the agent.
type identity struct {
	handshake.Identity
	skew time.Duration // the host's clock minus the guest's
}

var idRule = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// signed reads the body of a handshake and checks that the host sent it.
func (a *Agent) signed(w http.ResponseWriter, r *http.Request, path string) ([]byte, error) {
	body, err := io.ReadAll(a.body(w, r, handshake.MaxBody))
	if err != nil {
		return nil, bodyError(err)
	}
	if err := handshake.Verify(a.cfg.HostKey, path, body, r.Header.Get("Authorization")); err != nil {
		return nil, api.AgentError(api.CodeInvalidToken, "This is for the sandbox's host only")
	}
	return body, nil
}

// introduce takes the identity a host sends. A second one, as a restore brings
// it, replaces the first; sent again, it changes nothing.
func (a *Agent) introduce(w http.ResponseWriter, r *http.Request) error {
	start := time.Now()
	body, err := a.signed(w, r, handshake.IdentityPath)
	if err != nil {
		return err
	}
	id, err := parseIdentity(body)
	if err != nil {
		return api.AgentError(api.CodeInvalidRequest, "The identity is not valid: "+err.Error())
	}
	a.introducing.Lock()
	defer a.introducing.Unlock()
	warnings := a.become(id)
	if err := a.cfg.Keep(keptIdentity, body); err != nil {
		a.log.Error("init does not keep the identity", "error", err)
		warnings = append(warnings, "a restarted agent would not know the sandbox: "+err.Error())
	}
	answer(w, r, api.IdentityResponse{
		SandboxID: id.SandboxID, Status: "ready", Warnings: append([]string{}, warnings...),
		TookMS: float64(time.Since(start).Microseconds()) / 1000,
	})
	return nil
}

// parseIdentity reads an identity and refuses one that makes no sense. The host
// signed it, but tenants chose parts of it.
func parseIdentity(body []byte) (handshake.Identity, error) {
	var id handshake.Identity
	if err := json.Unmarshal(body, &id); err != nil {
		return id, err
	}
	switch {
	case !idRule.MatchString(id.SandboxID):
		return id, fmt.Errorf("sandbox id %.70q", id.SandboxID)
	case len(id.TokenKey) != ed25519.PublicKeySize:
		return id, errors.New("the token key has not 32 bytes")
	case id.Workdir != "" && !filepath.IsAbs(id.Workdir):
		return id, fmt.Errorf("working directory %.100q is not absolute", id.Workdir)
	}
	if id.Workdir != "" {
		id.Workdir = filepath.Clean(id.Workdir)
	}
	for _, layer := range []map[string]string{id.Env, id.Base} {
		for k, v := range layer {
			if err := environment.Check(k, v); err != nil {
				return id, err
			}
		}
	}
	return id, settings(id).Check()
}

func settings(id handshake.Identity) machine.Settings {
	s := machine.Settings{Hostname: id.Hostname, DNS: id.DNS, ExtraCA: id.ExtraCA, Seed: id.Seed}
	if id.Workdir != "" {
		s.Dirs = []string{id.Workdir}
	}
	return s
}

// become sets everything up for id and only then serves users.
func (a *Agent) become(id handshake.Identity) (warnings []string) {
	s := settings(id)
	if a.cfg.Root == "" {
		s.Dirs = append(s.Dirs, a.cfg.Workspace, baseEnv()["HOME"])
		if err := os.Mkdir(a.cfg.TempDir, 0o777); err == nil { // images made of one program have none
			if err := os.Chmod(a.cfg.TempDir, 0o777|os.ModeSticky); err != nil {
				warnings = append(warnings, err.Error())
			}
		}
	}
	for _, err := range machine.Apply(a.cfg.Root, s) {
		warnings = append(warnings, err.Error())
	}
	base := baseEnv()
	base["HOSTNAME"] = id.Hostname
	base["HUTCH_SANDBOX_ID"] = id.SandboxID
	if id.ExtraCA != "" {
		maps.Copy(base, machine.TrustEnv())
	}
	a.env.Reset(base, id.Base, id.Env)
	if id.MemoryMB > 0 {
		memory := int64(id.MemoryMB) << 20
		a.jobs.SetBudget(max(memory/4, 32<<20))
		debug.SetMemoryLimit(max(memory/4, 64<<20))
	}
	next := &identity{Identity: id}
	if id.UnixNano != 0 {
		if skew := time.Unix(0, id.UnixNano).Sub(a.cfg.Now()); skew.Abs() > time.Second {
			next.skew = skew
		}
	}
	a.verified.Store(nil)
	a.identity.Store(next)
	a.langs.forget()
	return warnings
}

// resume takes what an earlier agent of the same sandbox had kept.
func (a *Agent) resume(states map[string][]byte) error {
	if body, ok := states[keptIdentity]; ok {
		id, err := parseIdentity(body)
		if err != nil {
			return fmt.Errorf("kept identity: %w", err)
		}
		// The host's clock at the time of the handshake says nothing now.
		id.UnixNano = 0
		for _, w := range a.become(id) {
			a.log.Warn("identity", "warning", w)
		}
	}
	if b, ok := states[keptEnv]; ok {
		var s environment.Saved
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("kept environment: %w", err)
		}
		if err := a.env.Restore(s); err != nil {
			return fmt.Errorf("kept environment: %w", err)
		}
	}
	return nil
}

// shutdown ends the user's processes for the host and puts files on disk.
func (a *Agent) shutdown(w http.ResponseWriter, r *http.Request) error {
	body, err := a.signed(w, r, handshake.ShutdownPath)
	if err != nil {
		return err
	}
	var s handshake.Shutdown
	if err := json.Unmarshal(body, &s); err != nil {
		return api.AgentError(api.CodeInvalidJSON, "The shutdown is not valid JSON")
	}
	if id := a.identity.Load(); id == nil || id.SandboxID != s.SandboxID {
		return api.AgentError(api.CodeInvalidRequest, "The shutdown is for another sandbox")
	}
	if s.GraceMS < 0 {
		return api.AgentError(api.CodeInvalidRequest, "The grace is negative: "+strconv.Itoa(s.GraceMS))
	}
	n, err := a.jobs.Shutdown(r.Context(), min(time.Duration(s.GraceMS)*time.Millisecond, maxGrace))
	if err != nil {
		return api.AgentInternal("guest.shutdown", err)
	}
	a.sync()
	answer(w, r, api.ShutdownResponse{Ended: n})
	return nil
}

// sync puts files on disk, as far as that goes in [syncWait].
func (a *Agent) sync() {
	done := make(chan struct{})
	a.syncing.Go(func() {
		unix.Sync()
		close(done)
	})
	limit := time.NewTimer(syncWait)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}
