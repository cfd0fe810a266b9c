package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// serverFile is where in the data directory a running server says how commands
// on the same machine reach it.
const serverFile = "server.json"

// A ServerFile is what a running server leaves in its data directory for
// commands on the same machine. Only the server's user can read it.
type ServerFile struct {
	URL      string    `json:"url"`              // of the API, such as "http://127.0.0.1:8080"
	Socket   string    `json:"socket,omitempty"` // Unix socket that serves the same API, used instead of URL's host if set
	AdminKey string    `json:"admin_key"`        // opens the API for every organization; made anew at each start
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
}

// WriteServerFile announces a server, atomically. The server calls it when it
// answers requests and [RemoveServerFile] when it stops.
func WriteServerFile(data string, s ServerFile) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", serverFile, err)
	}
	tmp, err := os.CreateTemp(data, "."+serverFile+"-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", serverFile, err)
	}
	_, err = tmp.Write(append(b, '\n'))
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(data, serverFile))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", serverFile, err), os.Remove(tmp.Name()))
	}
	return nil
}

// ReadServerFile returns what the last server of a data directory announced. An
// error that is [fs.ErrNotExist] means that none runs, or that it ended cleanly;
// after a crash the file is still there.
func ReadServerFile(data string) (ServerFile, error) {
	var s ServerFile
	b, err := os.ReadFile(filepath.Join(data, serverFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", serverFile, err)
	}
	return s, nil
}

// RemoveServerFile takes the announcement back. It is no error if there is none.
func RemoveServerFile(data string) error {
	err := os.Remove(filepath.Join(data, serverFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
