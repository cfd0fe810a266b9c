package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/internal/handshake"
)

// maxJSON bounds the body of a request in JSON, in bytes; writes of files have
// a limit of their own.
const maxJSON = 10 << 20

// table lists every route.
func (a *Agent) table() []route {
	return []route{
		{http.MethodPost, handshake.IdentityPath, forHost, a.introduce},
		{http.MethodPost, handshake.ShutdownPath, forHost, a.shutdown},

		{http.MethodGet, "/", forAnyone, a.info},
		{http.MethodGet, "/health", forAnyone, a.health},
		{http.MethodGet, "/ping", forAnyone, a.ping},
		{http.MethodGet, "/info", forAnyone, a.info},
		{http.MethodGet, "/system", forAnyone, a.system},

		{http.MethodPost, "/execute", forUser, a.execute},
		{http.MethodPost, "/execute/background", forUser, a.executeBackground},
		{http.MethodGet, "/execute/processes", forUser, a.listJobs},
		{http.MethodGet, "/execute/processes/{id}", forUser, a.showJob},
		{http.MethodDelete, "/execute/kill", forUser, a.kill},
		{http.MethodPost, "/execute/kill/{id}", forUser, a.kill},
		{http.MethodPost, "/commands/run", forUser, a.runCommand},
		{http.MethodPost, "/commands/background", forUser, a.startCommand},
		{http.MethodGet, "/processes", forUser, a.listProcesses},
		{http.MethodPost, "/processes/{id}/kill", forUser, a.kill},
		{http.MethodGet, "/jupyter/sessions", forUser, a.sessions},

		{http.MethodGet, "/files/read", forUser, a.readFile},
		{http.MethodGet, "/files/download", forUser, a.downloadFile},
		{http.MethodPost, "/files/write", forUser, a.writeFile},
		{http.MethodPost, "/files/upload", forUser, a.uploadFile},
		{http.MethodGet, "/files/list", forUser, a.listFiles},
		{http.MethodGet, "/files/exists", forUser, a.fileExists},
		{http.MethodPost, "/files/mkdir", forUser, a.makeDirectory},
		{http.MethodDelete, "/files/remove", forUser, a.removeFile},

		{http.MethodGet, "/env", forUser, a.showEnv},
		{http.MethodPut, "/env", forUser, a.replaceEnv},
		{http.MethodPatch, "/env", forUser, a.mergeEnv},
		{http.MethodDelete, "/env", forUser, a.clearEnv},

		{http.MethodGet, "/metrics", forUser, a.showMetrics},
		{http.MethodGet, "/metrics/snapshot", forUser, a.showMetrics},
		{http.MethodGet, "/cache/stats", forUser, a.cacheStats},
		{http.MethodPost, "/cache/clear", forUser, a.clearCache},

		{"", "/desktop/*", forUser, a.desktop},
		{"", "/update/*", forUser, a.update},
	}
}

// serve answers every request there is.
func (a *Agent) serve(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w}
	found, values, allowed := a.routes.find(r.Method, r.URL.Path)
	defer func() {
		if p := recover(); p != nil {
			a.recovered(rec, r, p)
		}
		a.metrics.add(found, rec.status, time.Since(start))
	}()
	if err := a.dispatch(rec, r, found, values, allowed); err != nil {
		if rec.status != 0 {
			a.log.Warn("an answer was cut off", "method", r.Method, "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler) //nolint:forbidigo // the only way to tell the client that its answer is not whole
		}
		api.WriteAgent(rec, r, err)
	}
}

// dispatch checks who calls and calls the handler.
func (a *Agent) dispatch(w http.ResponseWriter, r *http.Request, found route, values map[string]string, allowed []string) error {
	var err error
	switch {
	case found.handler == nil, found.access == forUser: // strangers do not learn which routes there are
		err = a.authenticate(r)
	case found.access == forAnyone:
		_, err = a.ready()
	}
	if err != nil {
		return err
	}
	if found.handler == nil {
		if len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			return api.AgentError(api.CodeMethodNotAllowed, fmt.Sprintf("%s is not allowed here, only %s", r.Method, strings.Join(allowed, ", ")))
		}
		return api.AgentError(api.CodeResourceNotFound, fmt.Sprintf("No such endpoint: %s %.200s", r.Method, r.URL.Path))
	}
	for k, v := range values {
		r.SetPathValue(k, v)
	}
	return found.handler(w, r)
}

// recovered answers for a handler that panicked. A connection closed without an
// answer would make JavaScript clients send the request again.
func (a *Agent) recovered(w *recorder, r *http.Request, p any) {
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) //nolint:forbidigo // it is on its way to net/http
	}
	a.log.Error("a handler panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) //nolint:forbidigo // the answer has begun and cannot be finished
	}
	api.WriteAgent(w, r, api.AgentInternal("guest.serve", fmt.Errorf("panic: %v", p)))
}

// A recorder remembers the status that was sent.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write notes that a status was sent.
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom keeps the kernel's short way from a file to the network.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if rf, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, r)
}

// Unwrap is for [http.ResponseController].
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// answer sends v with status 200. A client that does not take it loses its
// connection.
func answer(w http.ResponseWriter, r *http.Request, v any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout)) // not there in tests
	api.WriteJSON(w, r, http.StatusOK, v)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
}

// A patientBody fails when its client sends nothing for [bodyTimeout]. Its
// deadline is gone when the body has ended, for it would end the request too.
type patientBody struct {
	io.Reader
	rc   *http.ResponseController
	next time.Time
}

// Read reads and moves the deadline.
func (b *patientBody) Read(p []byte) (int, error) {
	if now := time.Now(); now.After(b.next) {
		b.next = now.Add(time.Second)
		_ = b.rc.SetReadDeadline(now.Add(bodyTimeout)) // not there in tests
	}
	n, err := b.Reader.Read(p)
	if err != nil {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// body returns the request's body with a limit in bytes and in time; limit 0 is
// none.
func (a *Agent) body(w http.ResponseWriter, r *http.Request, limit int64) io.Reader {
	var body io.Reader = r.Body
	if limit > 0 {
		body = http.MaxBytesReader(w, r.Body, limit)
	}
	return &patientBody{Reader: body, rc: http.NewResponseController(w)}
}

// bodyError turns what went wrong while a body was read into an answer.
func bodyError(err error) error {
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return api.AgentError(api.CodeRequestTooLarge, fmt.Sprintf("The body is larger than %d bytes", big.Limit))
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return api.AgentError(api.CodeRequestTimeout, "The body came too slowly")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return api.AgentError(api.CodeInvalidRequest, "The body ended early")
	}
	return api.AgentError(api.CodeInvalidRequest, "The body could not be read")
}

// decode reads a JSON body into v. Clients disagree about the content type of
// JSON, so it is not looked at.
func (a *Agent) decode(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := io.ReadAll(a.body(w, r, maxJSON))
	if err != nil {
		return bodyError(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		msg := err.Error()
		if len(b) == 0 {
			msg = "it is empty"
		}
		return api.AgentError(api.CodeInvalidJSON, "The body is not the JSON of this request: "+msg)
	}
	return nil
}

// query returns a parameter of the query. The asynchronous Python client sends
// paths as they are, so what is no escape stands for itself.
func query(r *http.Request, name string) string {
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		k, v, _ := strings.Cut(pair, "=")
		if unescape(k) == name {
			return unescape(v)
		}
	}
	return ""
}

// unescape decodes what is encoded and leaves the rest.
func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			out = append(out, ' ')
		case c == '%' && i+2 < len(s) && hex(s[i+1]) < 16 && hex(s[i+2]) < 16:
			out = append(out, hex(s[i+1])<<4|hex(s[i+2]))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

// hex returns the value of a digit, and 16 for what is none.
func hex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}
