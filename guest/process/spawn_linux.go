package process

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime's hooks around a fork. Their names and signatures are promised
// to users outside the standard library.
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

//go:noescape
func vfork(flags uintptr, pidfd *int32) (pid, errno uintptr)

// maxFiles bounds how many descriptors a child is given.
const maxFiles = 8

// A stage is how far a child came before it failed.
type stage uintptr

const (
	stageFork stage = iota
	stageSession
	stageDir
	stageFiles
	stageExec
)

// A spawn is everything one fork and exec needs, made before the fork: the
// child shares this memory and may not allocate.
//
// The standard library cannot do this job: it has no way to set limits between
// fork and exec, and setting them later leaves a moment in which a fork bomb
// has already escaped them.
type spawn struct {
	path  *byte
	argv  []*byte // ends with nil
	envv  []*byte // ends with nil
	dir   *byte
	files [maxFiles]int // descriptor i of the child; each is >= maxFiles
	nfile int

	tag, nproc, nofile *unix.Rlimit // nil: as the agent's

	pidfd int32 // set by the kernel, in the parent
	errno uintptr
	stage stage // of errno
}

// run forks and execs. On success it returns the child's pid and a pidfd, which
// are the caller's to wait for and to close. On failure nothing is left.
func (s *spawn) run() (pid, pidfd int, at stage, err error) {
	s.pidfd = -1
	s.stage = stageFork

	// Others may be creating descriptors that are not yet close-on-exec.
	syscall.ForkLock.Lock()
	upid, errno := s.fork()
	afterFork()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(s)

	if errno != 0 {
		return 0, -1, stageFork, syscall.Errno(errno)
	}
	if s.errno != 0 {
		_ = unix.Close(int(s.pidfd)) // nothing was written to it
		var ws unix.WaitStatus
		for {
			if _, err := unix.Wait4(int(upid), &ws, 0, nil); err != unix.EINTR {
				break
			}
		}
		return 0, -1, s.stage, syscall.Errno(s.errno)
	}
	return int(upid), int(s.pidfd), 0, nil
}

// fork is the part that must not share a stack frame with what the parent does
// next: the child goes on in this frame and never leaves it, while the parent
// leaves it at once. Between beforeFork and exec nothing may allocate, grow the
// stack, or be instrumented.
//
//go:noinline
//go:norace
//go:nocheckptr
func (s *spawn) fork() (pid, errno uintptr) {
	var (
		e   syscall.Errno
		i   int
		lim *unix.Rlimit
	)
	beforeFork()
	pid, errno = vfork(unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_PIDFD|uintptr(unix.SIGCHLD), &s.pidfd)
	if errno != 0 || pid != 0 {
		return
	}

	s.stage = stageSession
	if _, _, e = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); e != 0 {
		goto failed
	}
	afterForkInChild() // default signal handlers, and the mask as it was

	s.stage = stageDir
	if _, _, e = syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(s.dir)), 0, 0); e != 0 {
		goto failed
	}

	s.stage = stageFiles
	for i = 0; i < s.nfile; i++ {
		if _, _, e = syscall.RawSyscall(unix.SYS_DUP3, uintptr(s.files[i]), uintptr(i), 0); e != 0 {
			goto failed
		}
	}

	// A limit that cannot be set is no reason not to run: the hard ones are the
	// host's and hold anyway.
	if lim = s.tag; lim != nil {
		syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_RSS, uintptr(unsafe.Pointer(lim)), 0, 0, 0)
	}
	if lim = s.nproc; lim != nil {
		syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NPROC, uintptr(unsafe.Pointer(lim)), 0, 0, 0)
	}
	if lim = s.nofile; lim != nil {
		syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(lim)), 0, 0, 0)
	}

	s.stage = stageExec
	_, _, e = syscall.RawSyscall(unix.SYS_EXECVE,
		uintptr(unsafe.Pointer(s.path)),
		uintptr(unsafe.Pointer(&s.argv[0])),
		uintptr(unsafe.Pointer(&s.envv[0])))

failed:
	s.errno = uintptr(e)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}

// newSpawn prepares a spawn. Files are given in the order of the child's
// descriptors. It fails with EINVAL when a string holds a NUL byte.
func newSpawn(path string, argv, env []string, dir string, files ...int) (*spawn, func(), error) {
	s := &spawn{nfile: len(files)}
	var err error
	if s.path, err = unix.BytePtrFromString(path); err != nil {
		return nil, nil, err
	}
	if s.dir, err = unix.BytePtrFromString(dir); err != nil {
		return nil, nil, err
	}
	if s.argv, err = syscall.SlicePtrFromStrings(argv); err != nil {
		return nil, nil, err
	}
	if s.envv, err = syscall.SlicePtrFromStrings(env); err != nil {
		return nil, nil, err
	}
	// The child moves descriptors down one by one, so none may lie where
	// another is to go.
	var made []int
	free := func() {
		for _, fd := range made {
			_ = unix.Close(fd) // a duplicate: nothing is lost with it
		}
	}
	for i, fd := range files {
		if fd < maxFiles {
			if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, maxFiles); err != nil {
				free()
				return nil, nil, err
			}
			made = append(made, fd)
		}
		s.files[i] = fd
	}
	return s, free, nil
}
