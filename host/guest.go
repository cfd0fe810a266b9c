package host

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/internal/handshake"
)

// Guest talks to the agent in a sandbox: [Agent] is it, and tests with a fake
// driver have one that agrees to everything.
type Guest interface {
	// Greet tells the agent at addr who it is; it answers users from then on.
	Greet(ctx context.Context, addr netip.Addr, id handshake.Identity) error
	// Shutdown ends the user's processes, within the grace it names.
	Shutdown(ctx context.Context, addr netip.Addr, s handshake.Shutdown) error
}

// An Agent is the real guest, reached over the sandbox's link.
type Agent struct {
	key    ed25519.PrivateKey
	client *http.Client
}

// NewAgent returns the way to agents that trust key.
func NewAgent(key ed25519.PrivateKey) *Agent {
	// A guest may answer anything: the host never goes where it points.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Agent{key: key, client: &http.Client{CheckRedirect: stay, Transport: &http.Transport{
		DialContext:       (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		DisableKeepAlives: true, // two requests in a life, and addresses are used again
	}}}
}

// Greet implements [Guest].
func (a *Agent) Greet(ctx context.Context, addr netip.Addr, id handshake.Identity) error {
	return a.post(ctx, addr, handshake.IdentityPath, id)
}

// Shutdown implements [Guest].
func (a *Agent) Shutdown(ctx context.Context, addr netip.Addr, s handshake.Shutdown) error {
	return a.post(ctx, addr, handshake.ShutdownPath, s)
}

func (a *Agent) post(ctx context.Context, addr netip.Addr, path string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	url := "http://" + netip.AddrPortFrom(addr, hutch.AgentPort).String() + path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", handshake.Sign(a.key, path, data))
	res, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	// The guest may be anybody by now: read no more than an error needs.
	said, err := io.ReadAll(io.LimitReader(res.Body, 1000))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("agent answered %s: %s", res.Status, said)
	}
	return err
}
