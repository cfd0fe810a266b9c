// Package cluster is the corridor between the control plane and the machines
// that run sandboxes: orders go down it and facts come up. Today there is one
// machine, the control plane's own; the fabric between many will live here.
package cluster

import (
	"context"

	"github.com/hutch-sh/hutch"
)

// Local is the host at the end of the corridor.
type Local interface {
	Apply(ctx context.Context, o hutch.Order) (hutch.Fact, error)
}

// Solo is a cluster of one: the machine the control plane runs on. Local is set
// once, before the first order.
type Solo struct {
	ID    hutch.HostID
	Local Local
}

// Apply hands o to the one host. An order for another is Unavailable: its rows
// belong to a cluster that this process is not part of.
func (s *Solo) Apply(ctx context.Context, host hutch.HostID, o hutch.Order) (hutch.Fact, error) {
	if host != s.ID {
		return hutch.Fact{}, &hutch.Error{Kind: hutch.Unavailable, Op: "cluster.Apply",
			Msg: "host " + string(host) + " is not part of this server"}
	}
	return s.Local.Apply(ctx, o)
}
