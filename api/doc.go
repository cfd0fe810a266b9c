// Package api is the wire: the JSON messages of the control plane and of the
// agent, both error envelopes with the one table between kinds of error and
// HTTP statuses, request ids, and the OpenAPI description of all of it. Servers
// and clients share it. It knows neither routes nor rules nor storage, and it
// imports only the vocabulary.
package api
