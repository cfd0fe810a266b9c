package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// How often a running step is shown again: a terminal's line is redrawn, and
// elsewhere a long step gives a sign of life.
const (
	redrawEvery = 100 * time.Millisecond
	signOfLife  = 15 * time.Second
)

// A progress shows [Progress] to a person: one line that changes on a terminal,
// one line per event elsewhere.
type progress struct {
	out  io.Writer
	tty  bool
	done chan struct{}
	work sync.WaitGroup

	mu     sync.Mutex
	now    Progress // the step that runs
	active bool
	began  time.Time
}

// newProgress starts showing; Close ends it.
func newProgress(out io.Writer, tty bool) *progress {
	p := &progress{out: out, tty: tty, done: make(chan struct{})}
	every := signOfLife
	if tty {
		every = redrawEvery
	}
	p.work.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-p.done:
				return
			case <-tick.C:
				p.mu.Lock()
				p.drawLocked()
				p.mu.Unlock()
			}
		}
	})
	return p
}

// Close stops showing and leaves the cursor on a line of its own.
func (p *progress) Close() {
	close(p.done)
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active && p.tty {
		p.drawLocked()
		line(p.out, "")
	}
	p.active = false
}

// Report takes in how far things are. It may be called from any goroutine.
func (p *progress) Report(next Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := p.active && p.now.Template == next.Template && p.now.Step == next.Step && p.now.Name == next.Name
	if !same {
		p.began = time.Now()
	}
	p.now, p.active = next, !next.Done
	switch {
	case next.Done && p.tty:
		printf(p.out, "\r\x1b[K%s\n", p.textLocked())
	case next.Done:
		line(p.out, p.textLocked())
	case !same && p.tty:
		p.drawLocked()
	case !same:
		line(p.out, p.textLocked())
	}
}

func (p *progress) drawLocked() {
	if !p.active {
		return
	}
	if p.tty {
		printf(p.out, "\r\x1b[K%s", p.textLocked())
		return
	}
	line(p.out, p.textLocked())
}

// textLocked is "base 2/5 unpack packages  12.0 MiB of 80.0 MiB  14s".
func (p *progress) textLocked() string {
	n := p.now
	var b strings.Builder
	b.WriteString(n.Template)
	if n.Steps > 0 {
		fmt.Fprintf(&b, " %d/%d", n.Step, n.Steps)
	}
	b.WriteString(" " + n.Name)
	switch {
	case n.Total > 0:
		fmt.Fprintf(&b, "  %s of %s", size(n.Bytes), size(n.Total))
	case n.Bytes > 0:
		fmt.Fprintf(&b, "  %s", size(n.Bytes))
	}
	took := time.Since(p.began)
	switch {
	case n.Skipped:
		b.WriteString("  there already")
	case n.Done:
		fmt.Fprintf(&b, "  done in %s", took.Round(100*time.Millisecond))
	case took >= time.Second:
		fmt.Fprintf(&b, "  %s", took.Round(time.Second))
	}
	return b.String()
}
