package file

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/hutch-sh/hutch/api"
)

// maxField bounds every field of a write request but its content, in bytes.
const maxField = 64 << 10

// A Message is a request to write a file, its content already on disk. Discard
// is owed.
type Message struct {
	Path      string
	Mode      string
	Encoding  string // "" or "base64"
	Overwrite bool
	Content   *Draft // nil: the request has none
}

// Discard removes the content unless it has become a file.
func (m *Message) Discard() {
	if m.Content != nil {
		m.Content.Discard()
	}
}

// ReadMessage reads the JSON of a write request. The content goes to disk as it
// comes: a quarter of a gigabyte, unescaped in memory, would end a small
// sandbox. draft is told the path if that came first.
//
// Content is a string, or what JavaScript makes of a Buffer:
// {"type":"Buffer","data":[104,105]}.
func ReadMessage(r io.Reader, draft func(path string) (*Draft, error)) (*Message, error) {
	d := &decoder{r: bufio.NewReaderSize(r, 64<<10)}
	m := &Message{Overwrite: true}
	if err := d.object(func(key string) error { return m.field(d, key, draft) }); err != nil {
		m.Discard()
		return nil, asAnswer(err)
	}
	if err := d.end(); err != nil {
		m.Discard()
		return nil, asAnswer(err)
	}
	return m, nil
}

// field reads one member of the request.
func (m *Message) field(d *decoder, key string, draft func(string) (*Draft, error)) error {
	var into any
	switch key {
	case "path":
		into = &m.Path
	case "mode":
		into = &m.Mode
	case "encoding":
		into = &m.Encoding
	case "overwrite":
		into = &m.Overwrite
	case "content":
		if m.Content != nil {
			return &syntaxError{"content is given twice"}
		}
		c, err := d.peek()
		if err != nil {
			return err
		}
		if c == 'n' {
			_, err := d.raw()
			return err
		}
		if m.Content, err = draft(m.Path); err != nil {
			return err
		}
		return d.content(m.Content)
	}
	raw, err := d.raw()
	if err != nil || into == nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// Decode turns a base64 content into the bytes it stands for, as a draft of its
// own beside path, to be discarded by the caller as well.
func (m *Message) Decode(path string) (*Draft, error) {
	r, err := m.Content.Reader()
	if err != nil {
		return nil, err
	}
	out, err := NewDraft(path, "")
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(out, 256<<10)
	_, err = io.Copy(w, base64.NewDecoder(base64.StdEncoding, r))
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		out.Discard()
		if _, ok := errors.AsType[base64.CorruptInputError](err); ok || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, api.AgentError(api.CodeInvalidRequest, "content is not base64, although encoding says so")
		}
		return nil, err
	}
	return out, nil
}

// asAnswer leaves answers alone and makes one of everything that is wrong with
// the JSON. What the body's reader says, the caller must look for itself.
func asAnswer(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	var s *syntaxError
	var u *json.UnmarshalTypeError
	var j *json.SyntaxError
	switch {
	case errors.As(err, &s), errors.As(err, &u), errors.As(err, &j), errors.Is(err, io.ErrUnexpectedEOF):
		return api.AgentError(api.CodeInvalidJSON, "The body is not the JSON of a write request: "+err.Error())
	}
	return err
}

// A syntaxError says what is wrong with the JSON.
type syntaxError struct{ msg string }

func (e *syntaxError) Error() string { return e.msg }

// A decoder reads JSON piece by piece.
type decoder struct{ r *bufio.Reader }

// peek returns the first byte of the next token.
func (d *decoder) peek() (byte, error) {
	for {
		c, err := d.r.ReadByte()
		if err != nil {
			return 0, err
		}
		switch c {
		case ' ', '\t', '\r', '\n':
		default:
			return c, d.r.UnreadByte()
		}
	}
}

// next takes a token of one byte, which must be one of want.
func (d *decoder) next(want ...byte) (byte, error) {
	c, err := d.peek()
	if err != nil {
		return 0, err
	}
	for _, w := range want {
		if c == w {
			_, err := d.r.ReadByte()
			return c, err
		}
	}
	return 0, &syntaxError{fmt.Sprintf("%q where one of %q belongs", c, want)}
}

// end demands that nothing follows.
func (d *decoder) end() error {
	switch c, err := d.peek(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	default:
		return &syntaxError{fmt.Sprintf("%q after the end", c)}
	}
}

// object reads an object; member must read the value of each key.
func (d *decoder) object(member func(key string) error) error {
	if _, err := d.next('{'); err != nil {
		return err
	}
	if c, err := d.peek(); err != nil {
		return err
	} else if c == '}' {
		_, err := d.r.ReadByte()
		return err
	}
	for {
		raw, err := d.raw()
		if err != nil {
			return err
		}
		var key string
		if err := json.Unmarshal(raw, &key); err != nil {
			return &syntaxError{"a key is not a string"}
		}
		if _, err := d.next(':'); err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
		if c, err := d.next(',', '}'); err != nil || c == '}' {
			return err
		}
	}
}

// raw returns the next value as it is written, up to a length. It checks no
// more than where the value ends.
func (d *decoder) raw() ([]byte, error) {
	if _, err := d.peek(); err != nil {
		return nil, err
	}
	var out []byte
	depth, inString, escaped := 0, false, false
	for {
		c, err := d.r.ReadByte()
		if err != nil {
			return nil, err
		}
		if !inString && depth == 0 && len(out) > 0 && out[0] != '"' && out[0] != '{' && out[0] != '[' {
			switch c { // the end of a number or a word
			case ',', '}', ']', ':', ' ', '\t', '\r', '\n':
				return out, d.r.UnreadByte()
			}
		}
		if len(out) >= maxField {
			return nil, &syntaxError{"a field beside content is longer than 64 KiB"}
		}
		out = append(out, c)
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			if inString = !inString; !inString && depth == 0 {
				return out, nil
			}
		case inString:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth < 0 {
				return nil, &syntaxError{fmt.Sprintf("%q where a value belongs", c)}
			} else if depth == 0 {
				return out, nil
			}
		case depth == 0 && len(out) == 1 && (c == ',' || c == ':'):
			return nil, &syntaxError{fmt.Sprintf("%q where a value belongs", c)}
		}
	}
}

// content copies a string or a Buffer to w.
func (d *decoder) content(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 256<<10)
	c, err := d.peek()
	if err != nil {
		return err
	}
	switch c {
	case '"':
		err = d.text(bw)
	case '{':
		err = d.buffer(bw)
	default:
		err = &syntaxError{"content must be a string or a Buffer"}
	}
	if err != nil {
		return err
	}
	return bw.Flush()
}

// text copies the string that comes next. Bytes are taken as they are, UTF-8
// or not.
func (d *decoder) text(w *bufio.Writer) error {
	if _, err := d.next('"'); err != nil {
		return err
	}
	for {
		// As much as is there and needs no work.
		if _, err := d.r.Peek(1); err != nil {
			return err
		}
		b, err := d.r.Peek(d.r.Buffered())
		if err != nil {
			return err
		}
		n := 0
		for n < len(b) && b[n] >= ' ' && b[n] != '"' && b[n] != '\\' {
			n++
		}
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		if n == len(b) {
			if _, err := d.r.Discard(n); err != nil {
				return err
			}
			continue
		}
		c := b[n]
		if _, err := d.r.Discard(n + 1); err != nil {
			return err
		}
		switch c {
		case '"':
			return nil
		case '\\':
			if err := d.escape(w); err != nil {
				return err
			}
		default:
			return &syntaxError{"a control character in a string"}
		}
	}
}

// escape copies what stands for the character after a backslash.
func (d *decoder) escape(w *bufio.Writer) error {
	c, err := d.r.ReadByte()
	if err != nil {
		return err
	}
	switch c {
	case '"', '\\', '/':
		return w.WriteByte(c)
	case 'b':
		return w.WriteByte('\b')
	case 'f':
		return w.WriteByte('\f')
	case 'n':
		return w.WriteByte('\n')
	case 'r':
		return w.WriteByte('\r')
	case 't':
		return w.WriteByte('\t')
	case 'u':
	default:
		return &syntaxError{fmt.Sprintf("%q after a backslash", c)}
	}
	r, err := d.hex4()
	if err != nil {
		return err
	}
	for utf16.IsSurrogate(r) {
		b, err := d.r.Peek(2)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(b) < 2 || b[0] != '\\' || b[1] != 'u' {
			r = utf8.RuneError
			break
		}
		if _, err := d.r.Discard(2); err != nil {
			return err
		}
		second, err := d.hex4()
		if err != nil {
			return err
		}
		if both := utf16.DecodeRune(r, second); both != utf8.RuneError {
			r = both
			break
		}
		if _, err := w.WriteRune(utf8.RuneError); err != nil { // for the first one
			return err
		}
		r = second
	}
	_, err = w.WriteRune(r)
	return err
}

func (d *decoder) hex4() (rune, error) {
	var r rune
	for range 4 {
		c, err := d.r.ReadByte()
		if err != nil {
			return 0, err
		}
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, &syntaxError{fmt.Sprintf("%q in a \\u escape", c)}
		}
		r = r<<4 | rune(c)
	}
	return r, nil
}

// buffer copies the bytes of a JavaScript Buffer.
func (d *decoder) buffer(w *bufio.Writer) error {
	kind, data := false, false
	err := d.object(func(key string) error {
		switch key {
		case "data":
			if data {
				return &syntaxError{"a Buffer with two data"}
			}
			data = true
			return d.bytes(w)
		case "type":
			raw, err := d.raw()
			if err != nil {
				return err
			}
			kind = string(raw) == `"Buffer"`
			return nil
		}
		_, err := d.raw()
		return err
	})
	if err != nil {
		return err
	}
	if !kind || !data {
		return &syntaxError{"content is an object but no Buffer"}
	}
	return nil
}

// bytes copies an array of numbers from 0 to 255.
func (d *decoder) bytes(w *bufio.Writer) error {
	if _, err := d.next('['); err != nil {
		return err
	}
	if c, err := d.peek(); err != nil {
		return err
	} else if c == ']' {
		_, err := d.r.ReadByte()
		return err
	}
	for {
		if _, err := d.peek(); err != nil {
			return err
		}
		n, digits := 0, 0
		for ; ; digits++ {
			c, err := d.r.ReadByte()
			if err != nil {
				return err
			}
			if c < '0' || c > '9' {
				if err := d.r.UnreadByte(); err != nil {
					return err
				}
				break
			}
			if n = n*10 + int(c-'0'); n > 255 || digits > 0 && n < 10 {
				return &syntaxError{"a Buffer holds what is no byte"}
			}
		}
		if digits == 0 {
			return &syntaxError{"a Buffer holds what is no byte"}
		}
		if err := w.WriteByte(byte(n)); err != nil {
			return err
		}
		if c, err := d.next(',', ']'); err != nil || c == ']' {
			return err
		}
	}
}
