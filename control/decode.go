package control

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
)

// maxDepth is how deeply objects and arrays of a request may be nested. Ours
// nest two deep; the rest is room for fields we do not know.
const maxDepth = 32

// An object is the body of a request: a JSON object whose fields are looked at
// one by one. Fields that nobody looks at are ignored, null stands for absent,
// names count in their exact case, and of two fields of one name the last
// counts.
type object map[string]json.RawMessage

// parseObject reads b, which must be one JSON object in valid UTF-8 and nothing
// else.
func parseObject(b []byte) (object, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, invalidJSON("The request needs a JSON object as its body")
	}
	if err := checkText(b); err != nil {
		return nil, err
	}
	if !json.Valid(b) { // also refuses anything after the first value
		var v any
		return nil, invalidJSON("The request's body is not valid JSON: " + syntax(json.Unmarshal(b, &v)))
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil || o == nil {
		return nil, invalidJSON("The request's body must be a JSON object")
	}
	return o, nil
}

// syntax tells where JSON is wrong without repeating any of it.
func syntax(err error) string {
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return "wrong at byte " + strconv.FormatInt(se.Offset, 10)
	}
	return "wrong"
}

// checkText refuses what encoding/json would let pass or quietly change: bytes
// that are not UTF-8, escapes of half a character, and nesting without end.
func checkText(b []byte) error {
	if !utf8.Valid(b) {
		return invalidJSON("The request's body is not valid UTF-8")
	}
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++ // whatever is escaped
			if i >= len(b) || b[i] != 'u' {
				continue
			}
			r, ok := escaped(b[i-1:])
			if !ok {
				continue // not JSON; the parser says so
			}
			if utf16.IsSurrogate(r) {
				low, ok := escaped(b[min(i+5, len(b)):])
				if !ok || utf16.DecodeRune(r, low) == unicode.ReplacementChar {
					return invalidJSON("The request's body has half of a surrogate pair")
				}
				i += 6
			}
			i += 4
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return invalidJSON(fmt.Sprintf("The request's body is nested deeper than %d levels", maxDepth))
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// escaped reads an escape of the form \uXXXX from the beginning of b.
func escaped(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(n), err == nil
}

// hash names what a body says, however it is spelled: the SHA-256 of the body
// with sorted keys and without spaces.
func (o object) hash() ([]byte, error) {
	b, err := json.Marshal(map[string]json.RawMessage(o))
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if b, err = json.Marshal(v); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// has reports whether field is there and not null.
func (o object) has(field string) bool {
	raw, ok := o[field]
	return ok && string(raw) != "null"
}

// text returns a field that must be a string of no more than most bytes without
// control characters; "" if it is absent.
func (o object) text(field string, most int) (string, error) {
	if !o.has(field) {
		return "", nil
	}
	var s string
	if json.Unmarshal(o[field], &s) != nil {
		return "", invalid(field, "%s must be a string", field)
	}
	if len(s) > most {
		return "", invalid(field, "%s is longer than %d bytes", field, most)
	}
	if !printable(s) {
		return "", invalid(field, "%s has characters that cannot be printed", field)
	}
	return s, nil
}

// word returns a field that must be one of words, or def if it is absent.
func (o object) word(field, def string, words ...string) (string, error) {
	if !o.has(field) {
		return def, nil
	}
	var s string
	if json.Unmarshal(o[field], &s) != nil || !slices.Contains(words, s) {
		return "", invalid(field, "%s must be one of %s", field, strings.Join(words, ", "))
	}
	return s, nil
}

// flag returns a field that must be a boolean, or def if it is absent.
func (o object) flag(field string, def bool) (bool, error) {
	if !o.has(field) {
		return def, nil
	}
	var b bool
	if json.Unmarshal(o[field], &b) != nil {
		return false, invalid(field, "%s must be true or false", field)
	}
	return b, nil
}

// integer returns a field that must be a whole number, written as one, between
// least and most; 0 if it is absent.
func (o object) integer(field string, least, most int64) (int64, error) {
	if !o.has(field) {
		return 0, nil
	}
	n, whole := wholeNumber(string(o[field]))
	if !whole {
		return 0, invalid(field, "%s must be a whole number", field)
	}
	if n < least || n > most {
		return 0, invalid(field, "%s must be from %d to %d", field, least, most)
	}
	return n, nil
}

// wholeNumber reads an optional sign and digits. Numbers too large for an int64
// become the largest or smallest, which every range of ours excludes.
func wholeNumber(s string) (n int64, ok bool) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, _ = strconv.ParseInt(s, 10, 64) // out of range: the nearest
	return n, true
}

// strings returns a field that must be an object of strings; empty and never
// nil if it is absent. Checking names and values is the caller's.
func (o object) strings(field string) (map[string]string, error) {
	out := map[string]string{}
	if !o.has(field) {
		return out, nil
	}
	var raw map[string]json.RawMessage
	if json.Unmarshal(o[field], &raw) != nil {
		return nil, invalid(field, "%s must be an object of strings", field)
	}
	for name, v := range raw {
		var s *string
		if json.Unmarshal(v, &s) != nil || s == nil {
			return nil, invalid(field, "%s: the value of %s must be a string", field, clip(name))
		}
		out[name] = *s
	}
	return out, nil
}

// printable reports whether s is UTF-8 without control characters and whatever
// else has no look of its own.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// clip makes a name that came from a client fit for a message.
func clip(name string) string {
	const most = 64
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "…"
	}
	return strconv.Quote(name)
}

func invalid(field, format string, args ...any) error {
	return &hutch.Error{
		Kind: hutch.Invalid, Op: "control.decode", Msg: fmt.Sprintf(format, args...), Details: map[string]any{"field": field},
	}
}

func invalidJSON(msg string) error {
	return &hutch.Error{Kind: hutch.Invalid, Code: api.CodeInvalidJSON, Op: "control.decode", Msg: msg}
}
