package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// shell is where a shell is when it is anywhere.
const shell = "/bin/sh"

// launch starts one step of the job. When it cannot, the child is nil, and the
// text and the exit code say why as a shell would: that a program cannot be
// started is its user's news, not the agent's failure.
func (j *Job) launch(argv []string, last bool) (c *child, say string, code int) {
	if last {
		defer j.closeInputs()
	}
	path, argv, say, code := j.resolve(argv, last)
	if path == "" {
		return nil, say, code
	}
	stdin := j.table.null
	if last && j.cmd.Stdin != nil {
		stdin = j.cmd.Stdin
	}
	pid, pidfd, at, err := j.spawn(path, argv, stdin)
	if errors.Is(err, unix.ENOEXEC) { // a script without a first line that names its interpreter
		pid, pidfd, at, err = j.spawn(shell, append([]string{shell, path}, argv[1:]...), stdin)
	}
	if err != nil {
		say, code = explain(argv[0], j.cmd.Dir, at, err)
		return nil, say, code
	}
	var started Stat
	if !j.table.tagging {
		started, _ = stat(pid)
	}
	j.mu.Lock()
	j.pid, j.start, j.exited = pid, started.Started, false
	j.mu.Unlock()
	return newChild(pid, pidfd), "", 0
}

// resolve finds the program. An empty path says that there is none, and why.
func (j *Job) resolve(argv []string, last bool) (path string, args []string, say string, code int) {
	path, err := Lookup(argv[0], j.cmd.Dir, j.cmd.Env)
	switch {
	case err == nil:
		return path, argv, "", 0
	case errors.Is(err, fs.ErrPermission):
		return "", nil, argv[0] + ": permission denied", ExitNotRun
	case last && j.cmd.Shell && len(argv) == 1 && shellLike(argv[0]):
		if path, err = Lookup(shell, j.cmd.Dir, j.cmd.Env); err != nil {
			path, err = Lookup("sh", j.cmd.Dir, j.cmd.Env)
		}
		if err != nil {
			return "", nil, argv[0] + ": this is no program, and the sandbox's template has no shell to run it as a line of shell: " +
				"give the program as command and its arguments as args", ExitNotFound
		}
		return path, []string{shell, "-c", argv[0]}, "", 0
	case j.cmd.Missing != "":
		return "", nil, argv[0] + ": command not found\n" + j.cmd.Missing, ExitNotFound
	}
	return "", nil, argv[0] + ": command not found", ExitNotFound
}

// spawn runs one program with the job's pipes.
func (j *Job) spawn(path string, argv []string, stdin *os.File) (pid, pidfd int, at stage, err error) {
	if j.table.full() {
		return 0, -1, stageFork, unix.EAGAIN
	}
	in, err := stdin.SyscallConn()
	if err != nil {
		return 0, -1, stageFiles, err
	}
	cerr := in.Control(func(fd uintptr) { // keeps the descriptor from being closed meanwhile
		s, free, serr := newSpawn(path, argv, j.cmd.Env, j.cmd.Dir, int(fd), j.outW, j.errW)
		if serr != nil {
			at, err = stageFiles, serr
			return
		}
		defer free()
		s.nproc, s.nofile = j.table.nproc, j.table.nofile
		if j.table.tagging {
			s.tag = &unix.Rlimit{Cur: j.tag, Max: j.table.rss.Max}
		}
		pid, pidfd, at, err = s.run()
	})
	if err == nil {
		err = cerr
	}
	return pid, pidfd, at, err
}

// closeInputs closes what only the processes need from now on.
func (j *Job) closeInputs() {
	_ = unix.Close(j.outW) // the writers have their own
	_ = unix.Close(j.errW)
	if j.cmd.Stdin != nil {
		j.cmd.Stdin.Close()
	}
}

// explain says why a program could not be started, with the code of a shell.
func explain(name, dir string, at stage, err error) (string, int) {
	if at == stageDir {
		return fmt.Sprintf("working directory %s: %v", dir, err), ExitNotRun
	}
	errno, _ := errors.AsType[unix.Errno](err)
	switch errno {
	case unix.ENOENT:
		return name + ": cannot be run: the interpreter or loader it names does not exist in this sandbox", ExitNotFound
	case unix.EACCES, unix.EPERM:
		return name + ": permission denied", ExitNotRun
	case unix.E2BIG:
		return name + ": the arguments and the environment are too long (128 KiB for one, 2 MiB for all)", ExitNotRun
	case unix.EAGAIN:
		return name + ": cannot be started: the sandbox has reached its limit on processes", ExitNotRun
	case unix.ENOMEM:
		return name + ": cannot be started: the sandbox has no memory left", ExitNotRun
	case unix.EMFILE, unix.ENFILE:
		return name + ": cannot be started: the sandbox has reached its limit on open files", ExitNotRun
	case unix.EINVAL:
		return name + ": cannot be started: a NUL byte in a name, an argument or the environment", ExitNotRun
	}
	return fmt.Sprintf("%s: cannot be started: %v", name, err), ExitNotRun
}
