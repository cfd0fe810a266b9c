package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control"
	"github.com/hutch-sh/hutch/control/store"
	"github.com/hutch-sh/hutch/internal/payload"
	"golang.org/x/sys/unix"
)

// A dataDir is where an installation keeps everything:
//
//	lock              held by the one server, or by a command that stands in for it
//	tag               four characters that mark this installation's kernel objects
//	hutch.db          rows: sandboxes, templates, keys
//	api.key           the key made at the first start
//	keys/             signing keys of tokens and of the handshake with agents
//	bin/              the runtime and, a directory each, the agents
//	images/           root images of templates
//	host/             the host's journal and what sandboxes write
//	network/          the network's choice of addresses
//	server.json       where the running server is
//	server.sock       the same API, for commands on this machine
type dataDir string

func (d dataDir) path(name ...string) string {
	return filepath.Join(append([]string{string(d)}, name...)...)
}

// openData makes the directory if there is none. Only its owner may look.
func openData(dir string) (dataDir, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return "", err
	}
	return dataDir(abs), nil
}

// lock makes this process the only one that runs sandboxes here. It fails at
// once if another does. Closing the file gives the lock back.
func (d dataDir) lock() (*os.File, error) {
	f, err := os.OpenFile(d.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another hutch server is using %s: stop it, or give another --data", d)
		}
		return nil, err
	}
	return f, nil
}

// once returns the contents of a small file, made by fresh if there is none.
func (d dataDir) once(name string, fresh func() string) (string, error) {
	path := d.path(name)
	data, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	value := fresh()
	if err := os.WriteFile(path+".tmp", []byte(value+"\n"), 0o600); err != nil {
		return "", err
	}
	return value, os.Rename(path+".tmp", path)
}

// tag returns what marks this installation's kernel objects.
func (d dataDir) tag() (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	tag, err := d.once("tag", func() string {
		var b [4]byte
		rand.Read(b[:])
		for i := range b {
			b[i] = letters[b[i]%32]
		}
		return string(b[:])
	})
	if err == nil && (len(tag) != 4 || strings.Trim(tag, letters) != "") {
		err = fmt.Errorf("%s is damaged: it holds %q", d.path("tag"), tag)
	}
	return tag, err
}

// signingKey returns the Ed25519 key of that name, made at its first use.
func (d dataDir) signingKey(name string) (ed25519.PrivateKey, error) {
	file := filepath.Join("keys", name+".ed25519")
	text, err := d.once(file, func() string {
		var seed [ed25519.SeedSize]byte
		rand.Read(seed[:])
		return hex.EncodeToString(seed[:])
	})
	if err != nil {
		return nil, err
	}
	seed, err := hex.DecodeString(text)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is damaged: restore it from a backup", d.path(file))
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// apiKey returns the key of the default organization that commands on this
// machine use and the first start prints; chosen, if not empty, takes its place.
func (d dataDir) apiKey(ctx context.Context, db *store.DB, chosen string) (string, error) {
	now := time.Now()
	if chosen != "" {
		_, err := control.InstallKey(ctx, db, hutch.DefaultOrg, chosen, "HUTCH_API_KEY", now)
		return chosen, err
	}
	var minted error
	key, err := d.once("api.key", func() (full string) {
		full, _, minted = control.MintKey(ctx, db, hutch.DefaultOrg, "first start", now, time.Time{})
		return full
	})
	if err = errors.Join(err, minted); err != nil {
		return "", err
	}
	_, err = control.InstallKey(ctx, db, hutch.DefaultOrg, key, "first start", now)
	return key, err
}

// programs unpacks what this binary carries and returns the path of the runtime
// and of the directory that sandboxes find their agent in.
func (d dataDir) programs() (runsc, agent string, err error) {
	p, err := payload.Carried(payload.Runsc)
	if err != nil {
		return "", "", err
	}
	if runsc, err = p.Unpack(d.path("bin")); err != nil {
		return "", "", err
	}
	if p, err = payload.Carried(payload.Agent); err != nil {
		return "", "", err
	}
	file, err := p.Unpack(d.path("bin"))
	if err != nil {
		return "", "", err
	}
	// Sandboxes see a directory that holds nothing but the one program.
	agent = d.path("bin", "agent-"+p.Sum)
	if err := os.MkdirAll(agent, 0o755); err != nil {
		return "", "", err
	}
	link := filepath.Join(agent, payload.Agent)
	if err := os.Link(file, link); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", "", err
	}
	return runsc, agent, nil
}

// socket listens where commands on this machine reach the server without the
// network. A path too long for a Unix socket gives none: they use the address.
func (d dataDir) socket() (net.Listener, error) {
	const longest = 107
	path := d.path("server.sock")
	if len(path) > longest {
		return nil, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path) // the directory is its owner's alone
}

func (d dataDir) openStore(ctx context.Context) (*store.DB, error) {
	return store.Open(ctx, d.path("hutch.db"))
}
