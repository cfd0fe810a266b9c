// Package cli is the hutch command line: its verbs, flags, help, messages and
// exit codes. It builds on every system.
//
// It owns how things are said to a person and what a script may rely on. It
// must not know how anything is done: what needs a host, a database or a
// server's inside is an ability that cmd/hutch injects through [Deps].
package cli
