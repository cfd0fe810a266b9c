package control

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control/lifecycle"
	"github.com/hutch-sh/hutch/control/store"
	"github.com/hutch-sh/hutch/internal/token"
)

var _ Sandboxes = (*lifecycle.Manager)(nil)

// A fake is a lifecycle whose sandboxes are rows of a map: it obeys the state
// table, tells organizations apart, and lets tests make any call fail.
type fake struct {
	db   *store.DB
	sign ed25519.PrivateKey
	now  func() time.Time

	mu    sync.Mutex
	boxes map[hutch.SandboxID]hutch.Sandbox
	keys  map[string]lifecycle.CreateRequest
	ids   map[string]hutch.SandboxID
	last  time.Time // newest token's expiry

	asked   lifecycle.CreateRequest // by the newest create
	grace   time.Duration           // of the newest delete
	creates int                     // that made something
	calls   int                     // of any kind
	fail    map[string]error        // by method
	inside  func(method string)     // runs within every call
}

func newFake(db *store.DB, now func() time.Time) *fake {
	_, sign, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	return &fake{
		db: db, sign: sign, now: now, boxes: map[hutch.SandboxID]hutch.Sandbox{}, fail: map[string]error{},
		keys: map[string]lifecycle.CreateRequest{}, ids: map[string]hutch.SandboxID{},
	}
}

// enter counts a call and returns the error it was told to fail with.
func (f *fake) enter(method string) error {
	if f.inside != nil {
		f.inside(method)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	return f.fail[method]
}

func (f *fake) Create(ctx context.Context, req lifecycle.CreateRequest) (hutch.Sandbox, []hutch.Step, error) {
	if err := f.enter("Create"); err != nil {
		return hutch.Sandbox{}, nil, err
	}
	t, err := f.db.Template(ctx, req.Org, req.Template)
	if err != nil {
		return hutch.Sandbox{}, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = req
	if old, ok := f.keys[req.IdempotencyKey]; ok && req.IdempotencyKey != "" {
		if !bytes.Equal(old.BodyHash, req.BodyHash) {
			return hutch.Sandbox{}, nil, &hutch.Error{Kind: hutch.Conflict, Msg: "This Idempotency-Key was used with another body"}
		}
		return f.boxes[f.ids[req.IdempotencyKey]], nil, nil
	}
	now := f.now()
	sb := hutch.Sandbox{
		ID: hutch.NewSandboxID(), Org: req.Org, Host: "host-1",
		Spec: hutch.Spec{
			Template: t.ID, TemplateName: t.Name, Internet: req.Internet, Private: req.Private, Env: req.Env,
			Resources: hutch.Resources{
				VCPU:     cmp.Or(req.Resources.VCPU, t.Default.VCPU),
				MemoryMB: cmp.Or(req.Resources.MemoryMB, t.Default.MemoryMB),
				DiskMB:   cmp.Or(req.Resources.DiskMB, t.Default.DiskMB),
			},
		},
		Want: hutch.Running, Is: hutch.Running, Gen: 1, Why: hutch.ByRequest,
		Region: req.Region, Metadata: req.Metadata, OnTimeout: req.OnTimeout, Timeout: req.Timeout,
		Created: now, Started: now,
	}
	if req.Timeout > 0 {
		sb.Deadline = now.Add(req.Timeout)
	}
	f.boxes[sb.ID] = sb
	f.creates++
	if req.IdempotencyKey != "" {
		f.keys[req.IdempotencyKey], f.ids[req.IdempotencyKey] = req, sb.ID
	}
	return sb, []hutch.Step{{Name: "rootfs", Took: 1500 * time.Microsecond}, {Name: "agent", Took: 7 * time.Millisecond}}, nil
}

// find returns a living sandbox of org.
func (f *fake) find(org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	sb, ok := f.boxes[id]
	if !ok || sb.Org != org {
		return hutch.Sandbox{}, &hutch.Error{Kind: hutch.NotFound, Op: "fake", Msg: "no row"}
	}
	if !sb.Alive() {
		return hutch.Sandbox{}, &hutch.Error{
			Kind: hutch.NotFound, Op: "fake", Details: map[string]any{"reason": string(sb.Why), "terminated_at": sb.Ended},
		}
	}
	return sb, nil
}

func (f *fake) Sandbox(_ context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	if err := f.enter("Sandbox"); err != nil {
		return hutch.Sandbox{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(org, id)
}

func (f *fake) List(_ context.Context, q store.Filter) (store.Page, error) {
	if err := f.enter("List"); err != nil {
		return store.Page{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var p store.Page
	for _, id := range slices.Sorted(maps.Keys(f.boxes)) {
		sb := f.boxes[id]
		if sb.Org != q.Org || (q.Status == "" && !sb.Alive()) || (q.Status != "" && sb.Status() != q.Status) || string(id) <= q.Cursor {
			continue
		}
		if len(p.Sandboxes) == q.Limit {
			p.Next = string(p.Sandboxes[q.Limit-1].ID)
			break
		}
		p.Sandboxes = append(p.Sandboxes, sb)
	}
	return p, nil
}

func (f *fake) Kill(_ context.Context, org hutch.OrgID, id hutch.SandboxID) error {
	if err := f.enter("Kill"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sb, err := f.find(org, id)
	if err != nil {
		return err
	}
	sb.Want, sb.Is, sb.Why, sb.Ended = hutch.Gone, hutch.Gone, hutch.ByRequest, f.now()
	f.boxes[id] = sb
	return nil
}

func (f *fake) Delete(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, grace time.Duration) error {
	if err := f.enter("Delete"); err != nil {
		return err
	}
	f.mu.Lock()
	f.grace = grace
	f.mu.Unlock()
	return f.Kill(ctx, org, id)
}

func (f *fake) move(method string, org hutch.OrgID, id hutch.SandboxID, to hutch.State) (hutch.Sandbox, error) {
	if err := f.enter(method); err != nil {
		return hutch.Sandbox{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sb, err := f.find(org, id)
	if err != nil {
		return hutch.Sandbox{}, err
	}
	if sb.Is != to && !sb.Is.May(to) {
		return hutch.Sandbox{}, &hutch.Error{Kind: hutch.Conflict, Msg: "The sandbox is " + sb.Status()}
	}
	sb.Want, sb.Is = to, to
	f.boxes[id] = sb
	return sb, nil
}

func (f *fake) Pause(_ context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	return f.move("Pause", org, id, hutch.Paused)
}

func (f *fake) Resume(_ context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	return f.move("Resume", org, id, hutch.Running)
}

func (f *fake) Stop(_ context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	return f.move("Stop", org, id, hutch.Stopped)
}

func (f *fake) Start(_ context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	return f.move("Start", org, id, hutch.Running)
}

func (f *fake) SetTimeout(_ context.Context, org hutch.OrgID, id hutch.SandboxID, d time.Duration) (hutch.Sandbox, error) {
	if err := f.enter("SetTimeout"); err != nil {
		return hutch.Sandbox{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sb, err := f.find(org, id)
	if err != nil {
		return hutch.Sandbox{}, err
	}
	sb.Timeout, sb.Deadline = d, time.Time{}
	if d > 0 {
		sb.Deadline = f.now().Add(d)
	}
	f.boxes[id] = sb
	return sb, nil
}

func (f *fake) Token(_ context.Context, org hutch.OrgID, id hutch.SandboxID) (string, time.Time, error) {
	if err := f.enter("Token"); err != nil {
		return "", time.Time{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sb, err := f.find(org, id)
	if err != nil {
		return "", time.Time{}, err
	}
	f.last = f.now().Add(24 * time.Hour)
	tok, err := token.Mint(f.sign, string(sb.ID), int64(sb.Org), f.now(), f.last)
	return tok, f.last, err
}

// alive counts what lives.
func (f *fake) alive() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, sb := range f.boxes {
		if sb.Alive() {
			n++
		}
	}
	return n
}
