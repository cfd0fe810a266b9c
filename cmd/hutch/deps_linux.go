package main

import (
	"context"
	"runtime/debug"
	"strings"

	"github.com/hutch-sh/hutch/cli"
)

func deps() cli.Deps {
	return cli.Deps{
		Version:       version,
		Commit:        commit,
		Runtime:       runtimeVersion(),
		Serve:         serve,
		KillOffline:   killOffline,
		OpenKeys:      openKeys,
		OpenTemplates: openTemplates,
		Links:         "hx",
	}
}

// runtimeVersion is the version of the gVisor module this program was built
// beside, which is the version of the runsc it carries.
func runtimeVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == "gvisor.dev/gvisor" {
			return m.Version
		}
	}
	return "unknown"
}

// runscCommit is the commit in a pseudo-version such as v0.0.0-DATE-COMMIT.
func runscCommit() string {
	v := runtimeVersion()
	return v[strings.LastIndexByte(v, '-')+1:]
}

var _ func(context.Context, cli.Serve) error = serve
