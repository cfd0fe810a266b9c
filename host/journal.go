package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hutch-sh/hutch"
)

// A journal is a directory with one directory per sandbox: its record, its
// scratch space and, while it is stopped, its saved disk.
//
// Records outlive the server, not the machine: after a reboot no sandbox runs
// and a lost record costs nothing, so writing one does not wait for the disk.
// A stopped sandbox is the exception, and its record does.
type journal struct{ dir string }

// A record is what the host knows of one sandbox across its own restarts.
type record struct {
	ID   hutch.SandboxID `json:"id"`
	Gen  uint64          `json:"gen"`
	Want hutch.State     `json:"want"`
	Is   hutch.State     `json:"is"`
	Why  hutch.Reason    `json:"why,omitempty"`
	Spec hutch.Spec      `json:"spec"`
	Slot int             `json:"slot"` // -1: none
	Boot string          `json:"boot"` // the machine's boot id while it ran

	TokenKey []byte `json:"token_key,omitempty"`
}

func openJournal(dir string) (journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return journal{}, err
	}
	return journal{dir}, nil
}

// path returns the sandbox's directory. The id must be valid.
func (j journal) path(id hutch.SandboxID) string { return filepath.Join(j.dir, string(id)) }

func (j journal) scratch(id hutch.SandboxID) string { return filepath.Join(j.path(id), "scratch") }

// upper is where a stopped sandbox's disk is kept.
func (j journal) upper(id hutch.SandboxID) string { return filepath.Join(j.path(id), "upper.tar") }

// write replaces the record, creating the sandbox's directories if they are not
// there. With durable it is on disk when write returns.
func (j journal) write(r record, durable bool) error {
	if err := os.MkdirAll(j.scratch(r.ID), 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(j.path(r.ID), "record.json")
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if durable && err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil || !durable {
		return err
	}
	return syncDir(j.path(r.ID))
}

// remove forgets the sandbox and everything it wrote.
func (j journal) remove(id hutch.SandboxID) error { return os.RemoveAll(j.path(id)) }

// read returns all records. Directories without a whole one are in broken: they
// belong to a making that died at its first step, or to a removal that died at
// its last. What is not named like a sandbox is strange.
func (j journal) read() (records []record, broken []hutch.SandboxID, strange []string, err error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, e := range entries {
		id, path := hutch.SandboxID(e.Name()), filepath.Join(j.dir, e.Name())
		if !id.Valid() {
			strange = append(strange, path)
			continue
		}
		r, err := readRecord(filepath.Join(path, "record.json"))
		switch {
		case err == nil && r.ID == id:
			records = append(records, r)
		case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, errDamaged):
			broken = append(broken, id)
		default: // it may be whole, and cannot be read now
			return nil, nil, nil, err
		}
	}
	return records, broken, strange, nil
}

var errDamaged = errors.New("damaged")

func readRecord(path string) (record, error) {
	var r record
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w: %w", path, errDamaged, err)
	}
	return r, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// bootID tells one run of the machine from the next.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}
