// Package lifecycle decides what every sandbox should be, and is the only
// writer of that decision. Requests, deadlines, failures and restarts all come
// down to the same walk: keep an order, carry it to the host, record the fact
// that comes back.
//
// An order is kept before it is carried, so a crash loses a reply and never a
// kill; what was kept and not carried is carried by the reconciler. The package
// knows no SQL and no machine: hosts are reached through [Hosts].
package lifecycle

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"sync"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control/store"
)

// Hosts carries orders to machines. One host, or a cluster of many, is it.
type Hosts interface {
	// Apply hands o to the host and returns the fact that answers it. The order
	// outlives ctx: a host that has accepted it obeys it.
	Apply(ctx context.Context, host hutch.HostID, o hutch.Order) (hutch.Fact, error)
}

// Config is what a Manager works with. Zero numbers take the defaults named.
type Config struct {
	Store    *store.DB
	Hosts    Hosts
	Host     hutch.HostID       // where sandboxes are placed: the one host there is
	TokenKey ed25519.PrivateKey // signs the tokens that open sandboxes

	MaxSandboxes int           // alive at once on the host; 0: 200
	MaxStarting  int           // being made at once; 0: 4
	MaxTimeout   time.Duration // the longest timeout that may be asked for; 0: no limit
	Grace        time.Duration // what delete and stop give user processes; 0: 2 s
	QueueTime    time.Duration // how long a create may wait for room; 0: 30 s

	// OnEnd is told the id of a sandbox when its end, its stop or its pause has
	// been ordered and before that is carried out, or when its end was learned
	// of: the gateway cuts it off.
	OnEnd func(hutch.SandboxID)
	Log   *slog.Logger
}

// A Manager runs the lives of sandboxes. Its methods may be called from any
// goroutine.
type Manager struct {
	cfg   Config
	room  *room
	work  sync.WaitGroup // orders being carried in the background
	wake  chan struct{}  // has one when the reconciler should look now
	turns chan struct{}  // limits what is carried in the background at once

	mu       sync.Mutex
	carrying map[hutch.SandboxID]int        // orders under way, which the reconciler leaves alone
	untold   map[hutch.SandboxID]hutch.Fact // news that could not be recorded yet
	expiries map[hutch.SandboxID]time.Time  // of the newest token: every next one is later
}

const (
	killTime  = 5 * time.Second  // a kill not proven by then is answered 503 and goes on
	orderTime = 60 * time.Second // any other order
	// repeatTime is how long after a death a repeated kill is still answered
	// 200: clients repeat requests whose reply was lost.
	repeatTime = 5 * time.Minute
	// rememberTime is how long the reason of a death is told.
	rememberTime = 24 * time.Hour
)

// New returns a manager. Call Adopt with what each host holds, then Run.
func New(cfg Config) *Manager {
	or := func(n *int, def int) {
		if *n == 0 {
			*n = def
		}
	}
	orTime := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	or(&cfg.MaxSandboxes, 200)
	or(&cfg.MaxStarting, 4)
	orTime(&cfg.Grace, 2*time.Second)
	orTime(&cfg.QueueTime, 30*time.Second)
	if cfg.OnEnd == nil {
		cfg.OnEnd = func(hutch.SandboxID) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{
		cfg:      cfg,
		room:     newRoom(cfg.MaxSandboxes, cfg.MaxStarting),
		wake:     make(chan struct{}, 1),
		turns:    make(chan struct{}, killsAtOnce),
		carrying: map[hutch.SandboxID]int{},
		untold:   map[hutch.SandboxID]hutch.Fact{},
		expiries: map[hutch.SandboxID]time.Time{},
	}
}

// carry walks one order down and its fact up. Everything comes through here:
// requests, the reaper, the reconciler. The order of a request whose client
// went away is carried all the same.
func (m *Manager) carry(ctx context.Context, sb hutch.Sandbox, o hutch.Order) (hutch.Sandbox, hutch.Fact, error) {
	m.begin(sb.ID)
	defer m.finish(sb.ID)
	f, err := m.cfg.Hosts.Apply(ctx, sb.Host, o)
	if err != nil {
		m.kick()
		return sb, f, err
	}
	// Recording must not fail because the client went away meanwhile.
	rec, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	now, err := m.record(rec, f)
	if err != nil {
		m.kick()
		return sb, f, err
	}
	return now, f, nil
}

// record writes a fact down and lets go of what a dead sandbox held here.
func (m *Manager) record(ctx context.Context, f hutch.Fact) (hutch.Sandbox, error) {
	sb, err := m.cfg.Store.Record(ctx, f)
	if err == nil && sb.Is == hutch.Gone {
		m.room.leave(sb.ID)
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.expiries, sb.ID)
	}
	return sb, err
}

// order is the order that makes sb what is wanted of it.
func (m *Manager) order(sb hutch.Sandbox) hutch.Order {
	o := hutch.Order{ID: sb.ID, Gen: sb.Gen, Want: sb.Want, Why: sb.Why}
	if sb.Want == hutch.Running {
		o.Spec = &sb.Spec
		o.TokenKey = m.cfg.TokenKey.Public().(ed25519.PublicKey)
	}
	return o
}

// News takes a fact that no order asked for: a sandbox that ended by itself.
func (m *Manager) News(ctx context.Context, f hutch.Fact) {
	if _, err := m.record(ctx, f); err != nil {
		m.cfg.Log.Error("news not recorded yet", "sandbox", f.ID, "is", f.Is, "err", err)
		m.mu.Lock()
		m.untold[f.ID] = f
		m.mu.Unlock()
	}
	if f.Is == hutch.Gone || f.Is == hutch.Failed {
		m.cfg.OnEnd(f.ID) // after the row: nobody finds the way back in
	}
}

func (m *Manager) begin(id hutch.SandboxID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.carrying[id]++
}

func (m *Manager) finish(id hutch.SandboxID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.carrying[id]--; m.carrying[id] == 0 {
		delete(m.carrying, id)
	}
}

// alone reports whether whoever asks is the only one who carries an order of id.
func (m *Manager) alone(id hutch.SandboxID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.carrying[id] == 1
}

func (m *Manager) busy(id hutch.SandboxID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.carrying[id] > 0
}

// kick makes the reconciler look now.
func (m *Manager) kick() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
