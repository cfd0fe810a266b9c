package pid1

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// line makes both ends of a line.
func line(t *testing.T) (ours *os.File, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if ours, err = socketFile(fds[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return ours, fds[1]
}

// TestLink has an agent keep things, die, and another one find them.
func TestLink(t *testing.T) {
	s := &supervisor{states: map[string][]byte{}, ready: make(chan struct{}, 1)}
	big := bytes.Repeat([]byte("identity"), 512<<10)
	for round := range 3 {
		ours, theirs := line(t)
		a := &agent{link: ours, read: make(chan struct{})}
		go s.listen(a)
		l, states, err := OpenLink(uintptr(theirs))
		if err != nil {
			t.Fatal(err)
		}
		if round > 0 && (len(states) != 2 || !bytes.Equal(states["identity"], big) || string(states["env"]) != "{}") {
			t.Errorf("round %d: %d states", round, len(states))
		}
		if err := l.Ready(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.ready:
		case <-time.After(10 * time.Second):
			t.Fatal("init did not hear that the agent is ready")
		}
		for name, data := range map[string][]byte{"identity": big, "env": []byte("{}")} {
			if err := l.Keep(name, data); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-l.Gone():
			t.Error("init is gone?")
		default:
		}
		// An agent that dies right after it has said something was heard.
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		a.close()
	}
}

func TestLinkRefuses(t *testing.T) {
	ours, theirs := line(t)
	if err := writeFrame(ours, frame{kind: frameStart}); err != nil {
		t.Fatal(err)
	}
	l, _, err := OpenLink(uintptr(theirs))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", strings.Repeat("x", 256)} {
		if err := l.Keep(name, nil); err == nil {
			t.Errorf("kept %q", name)
		}
	}
	if err := l.Keep("x", make([]byte, maxFrame)); err == nil {
		t.Error("kept too much")
	}
	ours.Close() // init dies
	select {
	case <-l.Gone():
	case <-time.After(10 * time.Second):
		t.Error("the agent does not notice")
	}
	if err := l.Keep("x", []byte("y")); err == nil {
		t.Error("kept by nobody")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}

	ours, theirs = line(t)
	ours.Close()
	if _, _, err := OpenLink(uintptr(theirs)); err == nil {
		t.Error("a line to nobody")
	}
}

// TestStatesAreBounded keeps an agent from filling init.
func TestStatesAreBounded(t *testing.T) {
	s := &supervisor{states: map[string][]byte{}, ready: make(chan struct{}, 1)}
	ours, theirs := line(t)
	a := &agent{link: ours, read: make(chan struct{})}
	go s.listen(a)
	l, _, err := OpenLink(uintptr(theirs))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxStates {
		if err := l.Keep(string(rune('a'+i)), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	a.close()
	if len(s.states) != maxStates {
		t.Errorf("%d states", len(s.states))
	}
}

func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	if err := writeFrame(&b, frame{frameState, packState("identity", []byte("{}"))}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{frameReady, 0, 0, 0, 0})
	f.Add([]byte{frameState, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{frameState, 0, 0, 0, 1, 200})
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, err := readFrame(bytes.NewReader(in))
		if err != nil {
			if len(in) == 0 && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return
		}
		if name, data, err := unpackState(fr.payload); err == nil && !bytes.Equal(packState(name, data), fr.payload) {
			t.Errorf("%q: %q %q", in, name, data)
		}
	})
}
