package hutch

import (
	"net/netip"
	"time"
)

// An Order is what the control plane wants of one sandbox. Orders are
// idempotent and ordered by Gen: a host obeys the newest and refuses older.
type Order struct {
	ID   SandboxID
	Gen  uint64
	Want State // Running, Paused, Stopped or Gone
	Why  Reason

	Spec  *Spec         // set when Want is Running
	Grace time.Duration // with Gone or Stopped: how long user processes may take to end after SIGTERM

	// TokenKey is the Ed25519 public key whose tokens the guest accepts;
	// set when Want is Running.
	TokenKey []byte
}

// A Fact is what a host saw of one sandbox: an answer to an order, or news.
type Fact struct {
	ID   SandboxID
	Host HostID
	Gen  uint64 // the newest order the host had accepted
	Is   State
	Why  Reason     // for Gone and Failed: what ended it, if the host knows better than the order
	Addr netip.Addr // set when Is is Running or Paused
	At   time.Time
	Err  string // set when Is is Failed
	Took []Step // how long each step took, in the order they ran
}

// A Step is one timed part of carrying out an order.
type Step struct {
	Name string
	Took time.Duration
}

// A Reason says who asked or what happened. It is a closed set: it labels
// metrics and is shown to owners of ended sandboxes.
type Reason string

// Reasons.
const (
	ByRequest  Reason = "request"    // the owner asked
	ByTimeout  Reason = "timeout"    // the deadline passed
	ByOrphan   Reason = "orphan"     // found on a host, wanted by nobody
	ByDrain    Reason = "drain"      // the operator empties the host
	ByFailure  Reason = "failure"    // a create that did not succeed
	ByCrash    Reason = "crashed"    // the sandbox ended by itself
	ByOOM      Reason = "oom"        // it used more memory than it may
	ByAgent    Reason = "agent_lost" // its agent could not be kept alive
	ByHostLoss Reason = "host_lost"  // its machine went away or was restarted
)
