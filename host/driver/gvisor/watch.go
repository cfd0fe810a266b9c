package gvisor

import (
	"sync"

	"golang.org/x/sys/unix"
)

// A watcher waits for the deaths of all cells of a driver with one goroutine.
// It calls a function when the first of a set of pidfds becomes readable, which
// is when its process ends.
type watcher struct {
	epoll int
	stop  int // an eventfd
	done  sync.WaitGroup

	mu   sync.Mutex
	sets map[int32]*set // by descriptor
	gen  int32          // of the newest set
}

// A set's generation is in its events: a descriptor's number is used again, and
// an event may be older than that.
type set struct {
	gen   int32
	fds   []int
	ended func()
}

func newWatcher() (*watcher, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, err
	}
	w := &watcher{epoll: epoll, stop: stop, sets: map[int32]*set{}}
	if err := w.listen(stop, 0); err != nil {
		closeAll([]int{stop, epoll})
		return nil, err
	}
	w.done.Go(w.run)
	return w, nil
}

func (w *watcher) listen(fd int, gen int32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd), Pad: gen}
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev)
}

// add takes ownership of fds. ended is called once, from the watcher's
// goroutine: it must not block. On error it is not called.
func (w *watcher) add(fds []int, ended func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gen++
	s := &set{w.gen, fds, ended}
	for _, fd := range fds {
		if err := w.listen(fd, s.gen); err != nil {
			w.forgetLocked(fds)
			return err
		}
		w.sets[int32(fd)] = s
	}
	return nil
}

// forgetLocked stops listening to fds and closes them. Closing alone would not
// do: a child between fork and exec may hold them open a moment longer.
func (w *watcher) forgetLocked(fds []int) {
	for _, fd := range fds {
		_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil) // fails for one that was never added
		delete(w.sets, int32(fd))
	}
	closeAll(fds)
}

func (w *watcher) run() {
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return // the descriptor is closed: nothing else can fail here
		}
		for i := range max(n, 0) {
			if int(events[i].Fd) == w.stop {
				return
			}
			if s := w.take(events[i].Fd, events[i].Pad); s != nil {
				s.ended()
			}
		}
	}
}

// take forgets the set that fd belongs to.
func (w *watcher) take(fd, gen int32) *set {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sets[fd]
	if s == nil || s.gen != gen {
		return nil
	}
	w.forgetLocked(s.fds)
	return s
}

// close stops watching. Cells that live on are not told of.
func (w *watcher) close() error {
	if _, err := unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return err
	}
	w.done.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sets {
		w.forgetLocked(s.fds)
	}
	closeAll([]int{w.stop, w.epoll})
	return nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
