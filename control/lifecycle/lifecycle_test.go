package lifecycle

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control/store"
	"github.com/hutch-sh/hutch/internal/token"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	org   = hutch.DefaultOrg
	other = hutch.OrgID(2)
)

// machine is a host that obeys at once, or does what a test says.
type machine struct {
	mu sync.Mutex
	is map[hutch.SandboxID]hutch.State
	// on answers an order instead, if it returns true.
	on func(ctx context.Context, o hutch.Order) (hutch.Fact, error, bool)
}

func (m *machine) Apply(ctx context.Context, _ hutch.HostID, o hutch.Order) (hutch.Fact, error) {
	if m.on != nil {
		if f, err, done := m.on(ctx, o); done {
			return f, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.is[o.ID] = o.Want
	return fact(o, o.Want), nil
}

func fact(o hutch.Order, is hutch.State) hutch.Fact {
	return hutch.Fact{ID: o.ID, Host: "h", Gen: o.Gen, Is: is, Addr: netip.MustParseAddr("10.0.0.2"), At: time.Now()}
}

func setup(t *testing.T, change ...func(*Config)) (*Manager, *machine) {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hutch.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.PutTemplate(t.Context(), hutch.Template{
		Org: org, Name: "base", Public: true, Status: hutch.TemplateActive, Image: "i", Created: time.Now(), Updated: time.Now(),
		Default: hutch.Resources{VCPU: 1, MemoryMB: 512, DiskMB: 1024},
		Min:     hutch.Resources{VCPU: 1, MemoryMB: 128, DiskMB: 64},
		Max:     hutch.Resources{VCPU: 4, MemoryMB: 2048, DiskMB: 4096},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &machine{is: map[hutch.SandboxID]hutch.State{}}
	cfg := Config{Store: db, Hosts: h, Host: "h", TokenKey: key}
	for _, f := range change {
		f(&cfg)
	}
	m := New(cfg)
	t.Cleanup(func() {
		m.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, h
}

func create(t *testing.T, m *Manager) hutch.Sandbox {
	t.Helper()
	sb, steps, err := m.Create(t.Context(), CreateRequest{Org: org, Template: "base", Internet: true})
	if err != nil || sb.Is != hutch.Running || len(steps) == 0 {
		t.Fatalf("Create = %+v, %v, %v", sb, steps, err)
	}
	return sb
}

func wantKind(t *testing.T, err error, k hutch.Kind) *hutch.Error {
	t.Helper()
	var e *hutch.Error
	if hutch.KindOf(err) != k || err == nil {
		t.Fatalf("error %v, want kind %d", err, k)
	}
	errors.As(err, &e)
	return e
}

func TestCreateRefusals(t *testing.T) {
	m, _ := setup(t, func(c *Config) { c.MaxTimeout = time.Hour })
	for name, c := range map[string]struct {
		req  CreateRequest
		kind hutch.Kind
	}{
		"unknown template": {CreateRequest{Template: "nope", Timeout: time.Minute}, hutch.NotFound},
		"too small":        {CreateRequest{Template: "base", Timeout: time.Minute, Resources: hutch.Resources{MemoryMB: 1}}, hutch.Invalid},
		"too large":        {CreateRequest{Template: "base", Timeout: time.Minute, Resources: hutch.Resources{VCPU: 5}}, hutch.Invalid},
		"negative disk":    {CreateRequest{Template: "base", Timeout: time.Minute, Resources: hutch.Resources{DiskMB: -1}}, hutch.Invalid},
		"too long":         {CreateRequest{Template: "base", Timeout: 2 * time.Hour}, hutch.Invalid},
		"for ever":         {CreateRequest{Template: "base"}, hutch.Invalid},
		"negative timeout": {CreateRequest{Template: "base", Timeout: -1}, hutch.Invalid},
	} {
		c.req.Org = org
		_, _, err := m.Create(t.Context(), c.req)
		if hutch.KindOf(err) != c.kind || err == nil {
			t.Errorf("%s: %v, want kind %d", name, err, c.kind)
		}
	}
	if n, err := m.cfg.Store.CountLive(t.Context(), org); n != 0 || err != nil {
		t.Errorf("%d sandboxes half made, %v", n, err)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	m, h := setup(t)
	h.on = func(_ context.Context, o hutch.Order) (hutch.Fact, error, bool) {
		if o.Want == hutch.Running {
			f := fact(o, hutch.Gone)
			f.Why, f.Err = hutch.ByFailure, "no"
			return f, nil, true
		}
		return hutch.Fact{}, nil, false
	}
	_, _, err := m.Create(t.Context(), CreateRequest{Org: org, Template: "base"})
	wantKind(t, err, hutch.Internal)
	if n, _ := m.cfg.Store.CountLive(t.Context(), org); n != 0 {
		t.Errorf("%d sandboxes live", n)
	}
}

// A client that goes away while its sandbox is made gets it taken back.
func TestImpatientClient(t *testing.T) {
	m, h := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	var id hutch.SandboxID
	h.on = func(ctx context.Context, o hutch.Order) (hutch.Fact, error, bool) {
		if o.Want != hutch.Running {
			return hutch.Fact{}, nil, false
		}
		id = o.ID
		cancel()
		return fact(o, hutch.Running), nil, true
	}
	_, _, err := m.Create(ctx, CreateRequest{Org: org, Template: "base"})
	wantKind(t, err, hutch.Canceled)
	if h.is[id] != hutch.Gone {
		t.Errorf("the sandbox is %q", h.is[id])
	}
}

func TestIdempotentCreate(t *testing.T) {
	m, h := setup(t)
	req := CreateRequest{Org: org, Template: "base", IdempotencyKey: "k", BodyHash: []byte("a")}
	release := make(chan struct{})
	h.on = func(_ context.Context, o hutch.Order) (hutch.Fact, error, bool) {
		<-release
		return hutch.Fact{}, nil, false
	}
	ids := make(chan hutch.SandboxID, 8)
	var wg sync.WaitGroup
	for range 8 { // all at once: one makes it, the others wait for that
		wg.Go(func() {
			sb, _, err := m.Create(t.Context(), req)
			if err != nil {
				t.Error(err)
			}
			ids <- sb.ID
		})
	}
	close(release)
	wg.Wait()
	first := <-ids
	for range 7 {
		if id := <-ids; id != first {
			t.Errorf("%s and %s from one key", first, id)
		}
	}
	again := req
	again.BodyHash = []byte("b")
	_, _, err := m.Create(t.Context(), again)
	wantKind(t, err, hutch.Conflict)
	if err := m.Kill(t.Context(), org, first); err != nil {
		t.Fatal(err)
	}
	_, _, err = m.Create(t.Context(), req)
	wantKind(t, err, hutch.Conflict)
}

func TestFailedIdempotentCreateMayBeRepeated(t *testing.T) {
	m, h := setup(t)
	var once sync.Once
	h.on = func(_ context.Context, o hutch.Order) (f hutch.Fact, err error, done bool) {
		once.Do(func() { f, done = fact(o, hutch.Gone), true })
		return f, err, done
	}
	req := CreateRequest{Org: org, Template: "base", IdempotencyKey: "k", BodyHash: []byte("a")}
	_, _, err := m.Create(t.Context(), req)
	wantKind(t, err, hutch.Internal)
	if _, _, err := m.Create(t.Context(), req); err != nil {
		t.Error(err)
	}
}

// Creates wait for room in the order of coming, and not for ever.
func TestRoom(t *testing.T) {
	m, _ := setup(t, func(c *Config) { c.MaxSandboxes, c.QueueTime = 2, 50*time.Millisecond })
	a := create(t, m)
	create(t, m)
	_, _, err := m.Create(t.Context(), CreateRequest{Org: org, Template: "base"})
	if e := wantKind(t, err, hutch.Unavailable); e.Details["retry_after_seconds"] == nil {
		t.Errorf("no word of when to try again: %+v", e)
	}
	m.cfg.QueueTime = time.Minute
	done := make(chan error, 1)
	go func() {
		_, _, err := m.Create(context.Background(), CreateRequest{Org: org, Template: "base"})
		done <- err
	}()
	if err := m.Kill(t.Context(), org, a.ID); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error("a place that came free was not given: ", err)
	}
}

func TestKillAnswers(t *testing.T) {
	m, _ := setup(t)
	sb := create(t, m)
	wantKind(t, m.Kill(t.Context(), other, sb.ID), hutch.NotFound)
	wantKind(t, m.Kill(t.Context(), org, hutch.NewSandboxID()), hutch.NotFound)
	for range 3 { // repeated within minutes: the client may not have heard
		if err := m.Kill(t.Context(), org, sb.ID); err != nil {
			t.Fatal(err)
		}
	}
	wantKind(t, m.Kill(t.Context(), other, sb.ID), hutch.NotFound)
	_, err := m.Sandbox(t.Context(), org, sb.ID)
	if e := wantKind(t, err, hutch.NotFound); e.Details["reason"] != "request" || e.Details["terminated_at"] == nil {
		t.Errorf("details %v", e.Details)
	}
	_, err = m.Sandbox(t.Context(), other, sb.ID)
	if e := wantKind(t, err, hutch.NotFound); e.Details != nil {
		t.Errorf("a stranger is told %v", e.Details)
	}
	_, _, err = m.Token(t.Context(), org, sb.ID)
	wantKind(t, err, hutch.NotFound)
}

// A kill that the host cannot prove is not a success; the order stands and the
// reconciler carries it.
func TestKillNotProven(t *testing.T) {
	m, h := setup(t)
	for name, answer := range map[string]func(o hutch.Order) (hutch.Fact, error){
		"host away": func(hutch.Order) (hutch.Fact, error) { return hutch.Fact{}, context.DeadlineExceeded },
		"not gone":  func(o hutch.Order) (hutch.Fact, error) { return fact(o, hutch.Failed), nil },
	} {
		t.Run(name, func(t *testing.T) {
			h.on = nil
			sb := create(t, m)
			h.on = func(_ context.Context, o hutch.Order) (hutch.Fact, error, bool) {
				f, err := answer(o)
				return f, err, true
			}
			wantKind(t, m.Kill(t.Context(), org, sb.ID), hutch.Unavailable)
			_, err := m.Sandbox(t.Context(), org, sb.ID)
			wantKind(t, err, hutch.NotFound) // for users it is over
			h.on = nil
			if err := m.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
			if now, err := m.cfg.Store.Find(t.Context(), sb.ID); err != nil || now.Is != hutch.Gone {
				t.Errorf("after the reconciler: %s, %v", now.Is, err)
			}
		})
	}
}

func TestDeadline(t *testing.T) {
	m, h := setup(t)
	for _, on := range []hutch.State{hutch.Gone, hutch.Paused, hutch.Stopped} {
		sb, _, err := m.Create(t.Context(), CreateRequest{Org: org, Template: "base", Timeout: time.Hour, OnTimeout: on})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Tick(t.Context()); err != nil || h.is[sb.ID] != hutch.Running {
			t.Fatalf("too early: %s, %v", h.is[sb.ID], err)
		}
		if _, err := m.SetTimeout(t.Context(), org, sb.ID, time.Nanosecond); err != nil {
			t.Fatal(err)
		}
		if err := m.Tick(t.Context()); err != nil || h.is[sb.ID] != on {
			t.Errorf("at its deadline it is %s, %v; want %s", h.is[sb.ID], err, on)
		}
	}
}

// A deadline whose order does not fit the state is over, not tried for ever.
func TestDeadlineThatDoesNotFit(t *testing.T) {
	m, _ := setup(t)
	sb, _, err := m.Create(t.Context(), CreateRequest{Org: org, Template: "base", Timeout: time.Hour, OnTimeout: hutch.Paused})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Stop(t.Context(), org, sb.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SetTimeout(t.Context(), org, sb.ID, time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	if err := m.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if due, err := m.cfg.Store.Due(t.Context(), time.Now()); err != nil || len(due) != 0 {
		t.Errorf("still due: %v, %v", due, err)
	}
}

func TestChanges(t *testing.T) {
	m, _ := setup(t)
	sb := create(t, m)
	type verb = func(context.Context, hutch.OrgID, hutch.SandboxID) (hutch.Sandbox, error)
	for i, c := range []struct {
		do   verb
		is   hutch.State
		kind hutch.Kind // of the error, if is is empty
	}{
		{m.Resume, hutch.Running, 0}, {m.Start, hutch.Running, 0},
		{m.Pause, hutch.Paused, 0}, {m.Pause, hutch.Paused, 0},
		{m.Start, "", hutch.Conflict},
		{m.Resume, hutch.Running, 0},
		{m.Pause, hutch.Paused, 0},
		{m.Stop, hutch.Stopped, 0}, {m.Stop, hutch.Stopped, 0},
		{m.Pause, "", hutch.Conflict}, {m.Resume, "", hutch.Conflict},
		{m.Start, hutch.Running, 0},
	} {
		got, err := c.do(t.Context(), org, sb.ID)
		if c.is == "" {
			if e := wantKind(t, err, c.kind); e.Details["status"] == nil {
				t.Errorf("%d: the state is not told", i)
			}
		} else if err != nil || got.Is != c.is {
			t.Errorf("%d: %s, %v; want %s", i, got.Is, err, c.is)
		}
		if _, err := c.do(t.Context(), other, sb.ID); hutch.KindOf(err) != hutch.NotFound {
			t.Errorf("%d: a stranger gets %v", i, err)
		}
	}
}

// A change that the host cannot carry out leaves the sandbox what it was, and
// is not tried again behind its owner's back.
func TestFailedChangeIsTakenBack(t *testing.T) {
	m, h := setup(t)
	sb := create(t, m)
	orders := 0
	h.on = func(_ context.Context, o hutch.Order) (hutch.Fact, error, bool) {
		orders++
		f := fact(o, hutch.Running)
		f.Err = "no"
		return f, nil, true
	}
	_, err := m.Pause(t.Context(), org, sb.ID)
	wantKind(t, err, hutch.Internal)
	if err := m.Tick(t.Context()); err != nil || orders != 1 {
		t.Errorf("%d orders, %v", orders, err)
	}
	if now, err := m.Sandbox(t.Context(), org, sb.ID); err != nil || now.Is != hutch.Running || now.Want != hutch.Running {
		t.Errorf("%s/%s, %v", now.Want, now.Is, err)
	}
}

func TestRoute(t *testing.T) {
	m, _ := setup(t)
	sb := create(t, m)
	if a, err := m.Route(t.Context(), sb.ID); err != nil || a != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("Route = %v, %v", a, err)
	}
	for _, c := range []struct {
		do   func(context.Context, hutch.OrgID, hutch.SandboxID) (hutch.Sandbox, error)
		code string
	}{{m.Pause, "SANDBOX_PAUSED"}, {m.Stop, "SANDBOX_STOPPED"}} {
		if _, err := c.do(t.Context(), org, sb.ID); err != nil {
			t.Fatal(err)
		}
		_, err := m.Route(t.Context(), sb.ID)
		if e := wantKind(t, err, hutch.Conflict); e.Code != c.code {
			t.Errorf("code %s, want %s", e.Code, c.code)
		}
	}
	if err := m.Kill(t.Context(), org, sb.ID); err != nil {
		t.Fatal(err)
	}
	_, err := m.Route(t.Context(), sb.ID)
	wantKind(t, err, hutch.NotFound)
}

// The gateway is told before a kill is carried out.
func TestEndIsToldFirst(t *testing.T) {
	var mu sync.Mutex
	var log []string
	say := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, s)
	}
	m, h := setup(t, func(c *Config) { c.OnEnd = func(hutch.SandboxID) { say("cut") } })
	sb := create(t, m)
	h.on = func(_ context.Context, o hutch.Order) (hutch.Fact, error, bool) {
		say(string(o.Want))
		return hutch.Fact{}, nil, false
	}
	if err := m.Kill(t.Context(), org, sb.ID); err != nil {
		t.Fatal(err)
	}
	if len(log) != 2 || log[0] != "cut" || log[1] != "gone" {
		t.Errorf("%v", log)
	}
}

func TestTokens(t *testing.T) {
	m, _ := setup(t)
	sb := create(t, m)
	seen := map[string]bool{}
	var last time.Time
	for range 50 {
		tok, exp, err := m.Token(t.Context(), org, sb.ID)
		if err != nil || seen[tok] || !exp.After(last) || time.Until(exp) < 24*time.Hour {
			t.Fatalf("token new %v, expires %v after %v, %v", !seen[tok], exp, last, err)
		}
		seen[tok], last = true, exp
		if c, err := token.Verify(m.TokenKey(), tok, time.Now()); err != nil || c.Sandbox != string(sb.ID) {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

// What a restart finds: lives that go on, a host that lost one, one nobody
// wants, a create whose client never heard, and a kill that was cut off.
func TestAdopt(t *testing.T) {
	m, h := setup(t)
	goesOn, lost, cutOff := create(t, m), create(t, m), create(t, m)
	if _, _, err := m.cfg.Store.Order(t.Context(), org, cutOff.ID, hutch.Gone, hutch.ByRequest); err != nil {
		t.Fatal(err)
	}
	half, err := m.plan(t.Context(), CreateRequest{Org: org, Template: "base"})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cfg.Store.Insert(t.Context(), half, nil); err != nil {
		t.Fatal(err)
	}
	orphan := hutch.NewSandboxID()
	inventory := []hutch.Fact{
		{ID: goesOn.ID, Host: "h", Is: hutch.Running, Addr: netip.MustParseAddr("10.0.0.9")},
		{ID: cutOff.ID, Host: "h", Is: hutch.Running},
		{ID: half.ID, Host: "h", Is: hutch.Running},
		{ID: orphan, Host: "h", Is: hutch.Running},
	}
	m2 := New(m.cfg)
	if err := m2.Adopt(t.Context(), "h", inventory); err != nil {
		t.Fatal(err)
	}
	m2.Wait()
	if err := m2.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, err := m2.Route(t.Context(), goesOn.ID); err != nil || a.String() != "10.0.0.9" {
		t.Errorf("the living: %v, %v", a, err)
	}
	for id, why := range map[hutch.SandboxID]hutch.Reason{lost.ID: hutch.ByHostLoss, cutOff.ID: hutch.ByRequest, half.ID: hutch.ByFailure} {
		if sb, err := m2.cfg.Store.Find(t.Context(), id); err != nil || sb.Is != hutch.Gone || sb.Why != why {
			t.Errorf("%s: %s because %s, %v; want gone because %s", id, sb.Is, sb.Why, err, why)
		}
	}
	for _, id := range []hutch.SandboxID{orphan, cutOff.ID, half.ID} {
		if h.is[id] != hutch.Gone {
			t.Errorf("%s on the host is %q", id, h.is[id])
		}
	}
}
