// Package control is the HTTP surface of the control plane: which routes there
// are, who may call them and how often, what their requests mean and what their
// answers look like. It decides nothing about sandboxes, which is
// control/lifecycle's, and remembers nothing, which is control/store's. It does
// not know hosts, guests or the gateway, although one listener may serve it and
// the gateway.
//
// Every route is a line of the table in routes.go. A handler returns an answer
// or an error; serve.go is the one place that writes and logs either.
package control
