package file

import (
	"bytes"
	"encoding/json"
	"io"
	"unicode/utf8"
)

// contentChunk is how much of a file is turned into JSON at once, in bytes.
const contentChunk = 64 << 10

// WriteString copies r to w as the inside of a JSON string, without holding it:
// what is not UTF-8 is replaced. It returns how many bytes it read. The error
// is that of w or r.
func WriteString(w io.Writer, r io.Reader) (int64, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	buf := make([]byte, contentChunk)
	var size int64
	kept := 0 // bytes of a character that the last chunk cut
	for {
		n, err := r.Read(buf[kept:])
		size += int64(n)
		n += kept
		whole := n
		if err == nil {
			whole = cut(buf[:n])
		}
		if whole > 0 {
			out.Reset()
			if eerr := enc.Encode(string(buf[:whole])); eerr != nil {
				return size, eerr
			}
			b := out.Bytes()
			if _, werr := w.Write(b[1 : len(b)-2]); werr != nil { // without quotes and newline
				return size, werr
			}
		}
		kept = copy(buf, buf[whole:n])
		if err == io.EOF {
			return size, nil
		} else if err != nil {
			return size, err
		}
	}
}

// cut returns how much of b can be converted without splitting a character
// whose rest may follow.
func cut(b []byte) int {
	for i := 1; i <= min(len(b), utf8.UTFMax-1); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}
