package main

import (
	"strings"

	"github.com/hutch-sh/hutch/cli"
)

func deps() cli.Deps {
	return cli.Deps{
		Version:       version,
		Commit:        commit,
		Runtime:       gvisorVersion,
		Serve:         serve,
		KillOffline:   killOffline,
		OpenKeys:      openKeys,
		OpenTemplates: openTemplates,
		Links:         "hx",
	}
}

// runscCommit is the commit in a pseudo-version such as v0.0.0-DATE-COMMIT.
func runscCommit() string {
	return gvisorVersion[strings.LastIndexByte(gvisorVersion, '-')+1:]
}
