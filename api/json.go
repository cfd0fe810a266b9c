package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
)

// WriteJSON answers with v as JSON. It is encoded before the first byte leaves,
// so that a value that cannot be encoded becomes a 500 and not half an answer.
// Answers carry tokens and states: they are never cached and never sniffed.
func WriteJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		Log(r.Context()).Error("answer cannot be encoded", "method", r.Method, "path", r.URL.Path, "error", err)
		status = http.StatusInternalServerError
		b.Reset()
		b.WriteString(`{"error":"An internal error occurred","message":"An internal error occurred","code":"` +
			CodeInternalError + `","request_id":"` + RequestID(r) + `","details":{}}` + "\n")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(b.Bytes()) // the caller may be gone; there is nobody to tell
}
