package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hutch-sh/hutch"
)

// AgentName is the name of the agent in its image.
const AgentName = "hutch-agent"

// BuildAgentImage returns the path of an EROFS image below destDir that holds
// the agent as /hutch-agent, mode 0555, and nothing else. It is named after the
// agent's digest, so sandboxes of an older agent keep theirs. An image that is
// there and whole is used as it is, and one that is not is replaced at once.
// destDir must exist and be writable by nobody but us.
func BuildAgentImage(agentBinary []byte, destDir string) (path string, err error) {
	const op = "image.BuildAgentImage"
	if len(agentBinary) == 0 {
		return "", &hutch.Error{Op: op, Msg: "this program was built without its agent"}
	}
	t := newTree()
	t.root.mode = 0o555
	n := &inode{kind: kindFile, mode: 0o555, size: int64(len(agentBinary)), data: hostBytes(agentBinary)}
	if err := t.put(t.root, AgentName, n, nil); err != nil {
		return "", err
	}
	var want bytes.Buffer
	want.Grow(len(agentBinary) + 4*blockSize)
	if _, err := writeEROFS(&want, t); err != nil {
		return "", &hutch.Error{Op: op, Msg: "the agent's image cannot be made", Err: err}
	}
	sum := sha256.Sum256(agentBinary)
	path = filepath.Join(destDir, "agent-"+hex.EncodeToString(sum[:])+imageSuffix)
	st, err := os.Lstat(path)
	if err == nil && st.Mode().IsRegular() && st.Size() == int64(want.Len()) {
		have, err := os.ReadFile(path)
		if err == nil && bytes.Equal(have, want.Bytes()) {
			return path, nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", &hutch.Error{Op: op, Msg: "the agent's image cannot be read", Err: err}
	}
	if err := writeFile(path, want.Bytes(), 0o444); err != nil {
		return "", &hutch.Error{Op: op, Msg: "the agent's image cannot be written", Err: err}
	}
	return path, nil
}
