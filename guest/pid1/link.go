package pid1

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// What travels between init and the agent, as frames: a kind, a length of four
// bytes, a payload.
const (
	frameState = 'S' // either way: a name, and what to keep under it
	frameStart = 'G' // to the agent: that was all the state
	frameReady = 'R' // to init: the agent listens
)

// Limits on what an agent may have kept.
const (
	maxFrame  = 8 << 20
	maxStates = 8
)

type frame struct {
	kind    byte
	payload []byte
}

func writeFrame(w io.Writer, f frame) error {
	b := make([]byte, 5, 5+len(f.payload))
	b[0] = f.kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(f.payload)))
	_, err := w.Write(append(b, f.payload...))
	return err
}

func readFrame(r io.Reader) (frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return frame{}, fmt.Errorf("a frame of %d bytes", n)
	}
	f := frame{kind: head[0], payload: make([]byte, n)}
	_, err := io.ReadFull(r, f.payload)
	return f, err
}

// packState makes the payload of a state.
func packState(name string, data []byte) []byte {
	return append(append([]byte{byte(len(name))}, name...), data...)
}

// unpackState is the way back.
func unpackState(p []byte) (name string, data []byte, err error) {
	if len(p) == 0 || len(p) < 1+int(p[0]) {
		return "", nil, errors.New("a state without a name")
	}
	n := 1 + int(p[0])
	return string(p[1:n]), p[n:], nil
}

// A Link is the agent's end of the line to init. Its methods may be called from
// any goroutine.
type Link struct {
	f    *os.File
	gone chan struct{}

	mu sync.Mutex // held while writing a frame
}

// OpenLink takes over the descriptor init gave the agent and reads what earlier
// agents had kept.
func OpenLink(fd uintptr) (*Link, map[string][]byte, error) {
	f, err := socketFile(int(fd))
	if err != nil {
		return nil, nil, err
	}
	l := &Link{f: f, gone: make(chan struct{})}
	states := map[string][]byte{}
	for {
		fr, err := readFrame(f)
		if err != nil {
			f.Close()
			return nil, nil, fmt.Errorf("read from init: %w", err)
		}
		switch fr.kind {
		case frameStart:
			go l.watch()
			return l, states, nil
		case frameState:
			name, data, err := unpackState(fr.payload)
			if err != nil {
				f.Close()
				return nil, nil, err
			}
			states[name] = data
		}
	}
}

// watch returns when init is gone or the link is closed. Init says nothing more.
func (l *Link) watch() {
	defer close(l.gone)
	for {
		if _, err := readFrame(l.f); err != nil {
			return
		}
	}
}

// Gone is closed when init has ended.
func (l *Link) Gone() <-chan struct{} { return l.gone }

// Ready tells init that the agent listens.
func (l *Link) Ready() error { return l.send(frame{kind: frameReady}) }

// Keep has init hand data to the next agent under this name.
func (l *Link) Keep(name string, data []byte) error {
	if len(name) == 0 || len(name) > 255 || 1+len(name)+len(data) > maxFrame {
		return errors.New("a state that is too long")
	}
	return l.send(frame{frameState, packState(name, data)})
}

func (l *Link) send(f frame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return writeFrame(l.f, f)
}

// Close ends the link and waits for its goroutine.
func (l *Link) Close() error {
	err := l.f.Close()
	<-l.gone
	return err
}
