package lifecycle

import (
	"context"
	"crypto/ed25519"
	"net/netip"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control/store"
	"github.com/hutch-sh/hutch/internal/token"
)

// Sandbox returns a living sandbox of org. A dead one is NotFound from the
// moment its end is ordered; for a day its owner is told why it ended.
func (m *Manager) Sandbox(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	sb, err := m.cfg.Store.Sandbox(ctx, org, id)
	if err != nil {
		return hutch.Sandbox{}, notFound(err)
	}
	if !sb.Alive() {
		return hutch.Sandbox{}, dead(sb)
	}
	return sb, nil
}

// List returns a page of an organization's sandboxes.
func (m *Manager) List(ctx context.Context, f store.Filter) (store.Page, error) {
	return m.cfg.Store.List(ctx, f)
}

// Route returns where the agent of a running sandbox listens.
func (m *Manager) Route(ctx context.Context, id hutch.SandboxID) (netip.Addr, error) {
	sb, err := m.cfg.Store.Find(ctx, id)
	if err != nil {
		return netip.Addr{}, notFound(err)
	}
	conflict := func(code, msg string) error {
		return &hutch.Error{Kind: hutch.Conflict, Code: code, Op: "lifecycle.Route", Msg: msg, Details: map[string]any{"status": sb.Status()}}
	}
	switch {
	case !sb.Alive():
		return netip.Addr{}, dead(sb)
	case sb.Want == hutch.Paused || sb.Is == hutch.Paused:
		return netip.Addr{}, conflict("SANDBOX_PAUSED", "Sandbox "+string(id)+" is paused: resume it first")
	case sb.Want == hutch.Stopped || sb.Is == hutch.Stopped:
		return netip.Addr{}, conflict("SANDBOX_STOPPED", "Sandbox "+string(id)+" is stopped: start it first")
	case sb.Is == hutch.Creating:
		return netip.Addr{}, conflict("SANDBOX_CREATING", "Sandbox "+string(id)+" is being created")
	case sb.Is != hutch.Running || !sb.Addr.IsValid():
		return netip.Addr{}, conflict("SANDBOX_FAILED", "Sandbox "+string(id)+" has failed: kill it")
	}
	return sb.Addr, nil
}

// Private reports whether the previews of a sandbox demand its token. Of one
// that is not known they do.
func (m *Manager) Private(ctx context.Context, id hutch.SandboxID) bool {
	sb, err := m.cfg.Store.Find(ctx, id)
	return err != nil || sb.Spec.Private
}

const (
	tokenLife    = 24 * time.Hour      // at least: clients renew when an hour is left
	tokenLongest = 30 * 24 * time.Hour // at most
)

// Token returns a new token that opens the sandbox, and when it expires: later
// than every token before it. Earlier tokens stay good; all of them die with
// the sandbox.
func (m *Manager) Token(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (string, time.Time, error) {
	sb, err := m.Sandbox(ctx, org, id)
	if err != nil {
		return "", time.Time{}, err
	}
	now := time.Now().Truncate(time.Millisecond)
	life := tokenLongest
	if !sb.Deadline.IsZero() {
		life = min(max(tokenLife, sb.Deadline.Sub(now)), tokenLongest)
	}
	expires := m.nextExpiry(sb.ID, now.Add(life))
	tok, err := token.Mint(m.cfg.TokenKey, string(sb.ID), int64(sb.Org), now, expires)
	if err != nil {
		return "", time.Time{}, &hutch.Error{Op: "lifecycle.Token", Msg: "no token", Err: err}
	}
	return tok, expires, nil
}

// nextExpiry moves t past the newest expiry of the sandbox's tokens, by as
// little as clients can see.
func (m *Manager) nextExpiry(id hutch.SandboxID, t time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last := m.expiries[id]; !t.After(last) && last.Sub(t) < time.Second {
		t = last.Add(time.Millisecond)
	}
	m.expiries[id] = t
	return t
}

// TokenKey returns the key that checks tokens.
func (m *Manager) TokenKey() ed25519.PublicKey { return m.cfg.TokenKey.Public().(ed25519.PublicKey) }

// notFound gives the store's word for a missing sandbox the contract's form.
func notFound(err error) error {
	if err != nil && hutch.KindOf(err) == hutch.NotFound {
		return &hutch.Error{Kind: hutch.NotFound, Code: "RESOURCE_NOT_FOUND", Op: "lifecycle", Msg: "Sandbox not found", Err: err}
	}
	return err
}

// dead is what the owner of an ended sandbox is told.
func dead(sb hutch.Sandbox) error {
	e := &hutch.Error{Kind: hutch.NotFound, Code: "RESOURCE_NOT_FOUND", Op: "lifecycle", Msg: "Sandbox not found"}
	ended := sb.Ended
	if ended.IsZero() { // ordered, and on its way
		ended = time.Now()
	}
	if time.Since(ended) <= rememberTime {
		e.Details = map[string]any{
			"reason":        string(sb.Why),
			"terminated_at": ended.UTC().Format("2006-01-02T15:04:05.000Z"),
		}
	}
	return e
}
