package api

import (
	"strings"

	"github.com/hutch-sh/hutch"
)

// Codes only the agent uses. HopX's clients choose their exceptions by them.
const (
	CodeTokenExpired         = "TOKEN_EXPIRED"
	CodeMissingParameter     = "MISSING_PARAMETER"
	CodeFileNotFound         = "FILE_NOT_FOUND"
	CodeFileAlreadyExists    = "FILE_ALREADY_EXISTS"
	CodeFileOperationFailed  = "FILE_OPERATION_FAILED"
	CodeInvalidPath          = "INVALID_PATH"
	CodePathNotAllowed       = "PATH_NOT_ALLOWED"
	CodePermissionDenied     = "PERMISSION_DENIED"
	CodeProcessNotFound      = "PROCESS_NOT_FOUND"
	CodeDesktopNotAvailable  = "DESKTOP_NOT_AVAILABLE"
	missingDependenciesField = "missing_dependencies"
)

// agentKinds says which kind an agent's code is of, and with that its status. A
// code that is not here counts as Invalid: the clients repeat what looks like
// the server's fault, and none of these is.
var agentKinds = map[string]hutch.Kind{
	CodeAuthenticationRequired: hutch.Unauthenticated,
	CodeInvalidToken:           hutch.Unauthenticated,
	CodeTokenExpired:           hutch.Unauthenticated,
	CodeFileNotFound:           hutch.NotFound,
	CodeProcessNotFound:        hutch.NotFound,
	CodeResourceNotFound:       hutch.NotFound,
	CodeFileAlreadyExists:      hutch.Conflict,
	CodeConflict:               hutch.Conflict,
	CodePathNotAllowed:         hutch.Forbidden,
	CodePermissionDenied:       hutch.Forbidden,
	CodeForbidden:              hutch.Forbidden,
	CodeRequestTooLarge:        hutch.TooLarge,
	CodeServiceUnavailable:     hutch.Unavailable,
}

// AgentError returns an error for [WriteAgent] that carries one of the agent's
// codes and a message its user may read. Its kind follows from the code.
func AgentError(code, msg string) error {
	k, ok := agentKinds[code]
	if !ok {
		k = hutch.Invalid
	}
	return &hutch.Error{Kind: k, Code: code, Msg: msg}
}

// AgentFileError is [AgentError] for one file. The path stands in the answer's
// details and beside them, because each client looks elsewhere. Bytes of the
// path that are not UTF-8 are replaced. Cause is for the log only.
func AgentFileError(code, msg, path string, cause error) error {
	k, ok := agentKinds[code]
	if !ok {
		k = hutch.Invalid
	}
	return &hutch.Error{
		Kind: k, Code: code, Msg: strings.ToValidUTF8(msg, "\uFFFD"), Err: cause,
		Details: map[string]any{"path": strings.ToValidUTF8(path, "\uFFFD")},
	}
}

// AgentInternal returns an error of the agent's own: its user sees a request
// id, its log the cause.
func AgentInternal(op string, cause error) error {
	return &hutch.Error{Kind: hutch.Internal, Op: op, Msg: "internal error", Err: cause}
}

// DesktopNotAvailable answers every call to a desktop that the template lacks.
// It is a 400: the clients repeat a 501 or 503 for seconds.
func DesktopNotAvailable(missing ...string) error {
	return &hutch.Error{
		Kind: hutch.Invalid, Code: CodeDesktopNotAvailable,
		Msg:     "This sandbox's template has no desktop: create the sandbox from a template that has one",
		Details: map[string]any{missingDependenciesField: append([]string{}, missing...)},
	}
}
