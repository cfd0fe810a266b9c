// Package hutch is the vocabulary of the sandbox cloud: the nouns every other
// package speaks, the state table they obey, the two messages that control and
// host exchange, and the one error type that crosses package borders. It
// imports only the standard library.
//
// Where code runs decides where it lives:
//
//	control  the control plane: portable, unprivileged, decides
//	host     one per machine: Linux, root, owns the sandboxes, obeys
//	guest    the agent inside a sandbox: static, serves the user
//	gateway  the road for users' bytes: user -> gateway -> guest
//
// Control and host meet only in an [Order], which goes down, and a [Fact],
// which comes up. Create, kill, pause, resume, stop, start, timeout, orphan
// and drain are all orders with another Want or Why; there is no second way in.
package hutch
