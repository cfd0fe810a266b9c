package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestAgentErrors(t *testing.T) {
	for code, status := range map[string]int{
		CodeAuthenticationRequired: 401, CodeInvalidToken: 401, CodeTokenExpired: 401,
		CodeFileNotFound: 404, CodeProcessNotFound: 404, CodeResourceNotFound: 404,
		CodeFileAlreadyExists: 409, CodeConflict: 409, CodePathNotAllowed: 403, CodePermissionDenied: 403, CodeForbidden: 403,
		CodeFileOperationFailed: 400, CodeInvalidPath: 400, CodeMissingParameter: 400, CodeInvalidRequest: 400, CodeInvalidJSON: 400,
		CodeRequestTooLarge: 413, CodeRequestTimeout: 408, CodeMethodNotAllowed: 405, CodeServiceUnavailable: 503, CodeDesktopNotAvailable: 400,
	} {
		for _, err := range []error{AgentError(code, "message"), AgentFileError(code, "message \xff", "/p\xff", errors.New("cause"))} {
			w := httptest.NewRecorder()
			WriteAgent(w, httptest.NewRequest(http.MethodGet, "/", nil), err)
			var body AgentErrorBody
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			if w.Code != status || body.Code != code || body.Details == nil || body.Path != "" && body.Path != "/p\uFFFD" {
				t.Errorf("%s: %d %s", code, w.Code, w.Body)
			}
		}
	}
	w := httptest.NewRecorder()
	WriteAgent(w, httptest.NewRequest(http.MethodGet, "/", nil), DesktopNotAvailable("xvfb"))
	if w.Code != 400 || w.Body.Len() == 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if s := StatusOf(AgentInternal("x", errors.New("secret"))); s != 500 {
		t.Errorf("%d", s)
	}
}

func TestSeconds(t *testing.T) {
	for in, want := range map[string]time.Duration{
		`null`: time.Minute, `0`: time.Minute, `0.25`: 250 * time.Millisecond, `30`: 30 * time.Second, `30000`: 30000 * time.Second, `1e300`: maxSeconds * time.Second,
	} {
		var s struct{ T *Seconds }
		if err := json.Unmarshal([]byte(`{"T":`+in+`}`), &s); err != nil {
			t.Fatal(err)
		}
		if d, err := s.T.Duration(time.Minute); err != nil || d != want {
			t.Errorf("%s: %v, %v", in, d, err)
		}
	}
	neg := Seconds(-1)
	if _, err := neg.Duration(0); err == nil {
		t.Error("a negative span")
	}
}

func TestEnvVars(t *testing.T) {
	var e EnvVars
	if err := json.Unmarshal([]byte(` {"S":"x\n","N":3.50,"B":true,"Z":null} `), &e); err != nil {
		t.Fatal(err)
	}
	if *e["S"] != "x\n" || *e["N"] != "3.50" || *e["B"] != "true" || e["Z"] != nil || len(e) != 4 {
		t.Errorf("%v", e)
	}
	for _, bad := range []string{`[]`, `"x"`, `{"A":{}}`, `{"A":[1]}`, `1`} {
		if err := json.Unmarshal([]byte(bad), &e); err == nil {
			t.Errorf("%s", bad)
		}
	}
	if err := json.Unmarshal([]byte(`null`), &e); err != nil || e != nil {
		t.Errorf("%v %v", e, err)
	}
}
