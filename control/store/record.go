package store

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

// Record writes down what a host saw of a sandbox and returns the row as it is
// then, changed or not.
//
// Gone is believed at any time and of any generation, and is the end: it also
// makes Gone wanted, with the host's Why if nobody had ordered it. Every other fact counts only in the newest generation of a sandbox that is not
// ordered gone and has not failed, so a late one never brings anything back.
//
// NotFound if there is no such row. A fact from another host than the row's is
// an error and is not believed: least of all that the sandbox is gone.
func (db *DB) Record(ctx context.Context, f hutch.Fact) (sb hutch.Sandbox, err error) {
	write := db.write
	if f.Is == hutch.Gone {
		write = db.writeLast
	}
	err = write(ctx, func(t *tx) error {
		was, err := t.sandbox(f.ID)
		if err != nil {
			return err
		}
		var changed bool
		sb, changed, err = apply(was, f, time.Now())
		if err != nil || !changed {
			return err
		}
		return t.update(was, sb)
	})
	return sb, fail("store.Record", err)
}

// apply applies a fact to a row. It is the only place that knows which facts
// are believed. now stands in for a fact that does not say when.
func apply(sb hutch.Sandbox, f hutch.Fact, now time.Time) (hutch.Sandbox, bool, error) {
	if f.Host != "" && sb.Host != "" && f.Host != sb.Host {
		return sb, false, &hutch.Error{Kind: hutch.Internal,
			Msg: fmt.Sprintf("host %s says %s of sandbox %s, which belongs to host %s", f.Host, f.Is, sb.ID, sb.Host)}
	}
	if f.At.IsZero() {
		f.At = now
	}
	switch f.Is {
	case hutch.Gone:
		if sb.Is == hutch.Gone {
			return sb, false, nil
		}
		if sb.Want != hutch.Gone { // nobody asked: the host knows why
			sb.Why = f.Why
			if f.Why == "" {
				sb.Why = hutch.ByCrash
			}
		}
		if f.Err != "" {
			sb.Fault = f.Err
		}
		sb.Want, sb.Is, sb.Addr, sb.Ended = hutch.Gone, hutch.Gone, netip.Addr{}, f.At
		return sb, true, nil
	case hutch.Running, hutch.Paused, hutch.Stopped, hutch.Failed:
	default:
		// Creating is where a row begins; no fact leads back there.
		return sb, false, nil
	}
	if sb.Want == hutch.Gone || sb.Is == hutch.Failed || f.Gen != sb.Gen {
		return sb, false, nil
	}
	sb.Is, sb.Fault = f.Is, f.Err
	switch f.Is {
	case hutch.Running, hutch.Paused:
		if f.Addr.IsValid() {
			sb.Addr = f.Addr
		}
	default:
		sb.Addr = netip.Addr{}
	}
	if f.Is == hutch.Running && sb.Started.IsZero() {
		sb.Started = f.At
	}
	if f.Is == hutch.Failed && f.Why != "" {
		sb.Why = f.Why
	}
	return sb, true, nil
}
