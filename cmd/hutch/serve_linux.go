package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/cli"
	"github.com/hutch-sh/hutch/control"
	"github.com/hutch-sh/hutch/gateway"
)

// drainTime is how long requests under way get when the server ends.
const drainTime = 4 * time.Second

// serve runs the server until ctx ends. Sandboxes live on, unless cfg says
// otherwise.
func serve(ctx context.Context, cfg cli.Serve) error {
	signal.Ignore(syscall.SIGPIPE) // whoever reads our output may go first
	log, err := newLog(cfg.LogFormat, cfg.LogLevel)
	if err != nil {
		return err
	}
	data, err := openData(cfg.Data)
	if err != nil {
		return err
	}
	lock, err := data.lock()
	if err != nil {
		return err
	}
	defer lock.Close()

	stopDebug, err := serveDebug(cfg.DebugListen)
	if err != nil {
		return err
	}
	defer stopDebug()
	m, err := openMachine(ctx, data, cfg, log)
	if err != nil {
		return err
	}
	defer m.close()
	key, err := data.apiKey(ctx, m.db, cfg.APIKey)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w: is another server there? Choose with --listen", cfg.Listen, err)
	}
	defer ln.Close()
	address, err := publicAddress(cfg, ln.Addr())
	if err != nil {
		return err
	}
	front, gw, err := newFront(m, cfg, address, log)
	if err != nil {
		return err
	}
	m.cut.Store(gw)
	defer gw.Close()
	if err := m.adopt(ctx); err != nil {
		return err
	}
	stopRun := m.run()
	defer stopRun()

	srv := control.NewHTTPServer(front, log)
	failed := make(chan error, 2)
	go func() { failed <- listenAndServe(srv, ln, cfg) }()
	announce := cli.ServerFile{URL: localURL(cfg, ln.Addr()), AdminKey: key, PID: os.Getpid(), Version: version, Started: time.Now()}
	if socket, err := data.socket(); err != nil {
		return err
	} else if socket != nil {
		announce.Socket = socket.Addr().String()
		go func() { failed <- ignoreClosed(srv.Serve(socket)) }()
	}
	if err := cli.WriteServerFile(string(data), announce); err != nil {
		return err
	}
	defer func() {
		if err := cli.RemoveServerFile(string(data)); err != nil {
			log.Error("announcement not taken back", "err", err)
		}
	}()
	banner(os.Stdout, address.URL, key, m.templates)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	return m.leave(srv, gw, cfg.KillOnExit, log)
}

// newFront joins control plane and gateway behind one listener.
func newFront(m *machine, cfg cli.Serve, address control.Address, log *slog.Logger) (http.Handler, *gateway.Gateway, error) {
	api, err := control.New(control.Config{
		Address:           address,
		PrivatePreviews:   cfg.PrivatePreviews,
		MaxTimeout:        cfg.MaxTimeout,
		CreatesPerMinute:  cfg.CreatesPerMinute,
		RequestsPerMinute: cfg.RequestsPerMinute,
		AllowedHosts:      cfg.AllowHosts,
		Version:           version,
		Commit:            commit,
		Runsc:             runscCommit(),
		Log:               log,
	}, m.manager, m.db)
	if err != nil {
		return nil, nil, err
	}
	gw, err := gateway.New(gateway.Config{
		Routes:   m.manager,
		TokenKey: m.manager.TokenKey(),
		Domain:   cfg.Domain,
		Region:   address.Region,
		Hosts:    cfg.AllowHosts,
		Private:  m.manager.Private,
		Log:      log,
	})
	if err != nil {
		return nil, nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gw.Match(r) {
			gw.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	}), gw, nil
}

func listenAndServe(srv *http.Server, ln net.Listener, cfg cli.Serve) error {
	var err error
	if cfg.TLSCert != "" {
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		err = srv.ServeTLS(ln, cfg.TLSCert, cfg.TLSKey)
	} else {
		err = srv.Serve(ln)
	}
	return ignoreClosed(err)
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// publicAddress is where clients are told to go.
func publicAddress(cfg cli.Serve, listen net.Addr) (control.Address, error) {
	a := control.Address{URL: cfg.PublicURL, Domain: cfg.Domain, Region: cfg.Region}
	if a.URL == "" {
		a.URL = localURL(cfg, listen)
	}
	u, err := url.Parse(a.URL)
	if err != nil {
		return a, fmt.Errorf("--public-url: %w", err)
	}
	if cfg.Domain != "" {
		a.Scheme, a.HopXSuffix = u.Scheme, true
		if p := u.Port(); p != "" {
			if a.Port, err = strconv.Atoi(p); err != nil {
				return a, fmt.Errorf("--public-url: %w", err)
			}
		}
	}
	return a, nil
}

// localURL is where a client on this machine reaches the server.
func localURL(cfg cli.Serve, listen net.Addr) string {
	scheme := "http"
	if cfg.TLSCert != "" {
		scheme = "https"
	}
	tcp, ok := listen.(*net.TCPAddr)
	if !ok {
		return scheme + "://" + listen.String()
	}
	host := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// leave ends the server: new requests are refused, those under way get a
// moment, and sandboxes live on unless kill says otherwise.
func (m *machine) leave(srv *http.Server, gw *gateway.Gateway, kill bool, log *slog.Logger) error {
	fmt.Fprintln(os.Stdout, "\nstopping")
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		// Streams and terminals last as long as their clients: cut them.
		gw.Close()
		_ = srv.Close()
	}
	if kill { // nobody can make another now
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		m.killAll(ctx, log)
	}
	n, err := m.living()
	if err != nil {
		return err
	}
	switch {
	case n == 0:
		fmt.Fprintln(os.Stdout, "stopped; no sandboxes are left")
	default:
		fmt.Fprintf(os.Stdout, "stopped; %d sandboxes live on and the next start takes them over.\nTo end them:  hutch kill --all --data %s\n", n, m.data)
	}
	return nil
}

func (m *machine) killAll(ctx context.Context, log *slog.Logger) {
	err := m.manager.KillAll(ctx, hutch.ByDrain, func(id hutch.SandboxID, err error) {
		if err != nil {
			log.Error("sandbox not ended", "sandbox", id, "err", err)
		}
	})
	if err != nil {
		log.Error("sandboxes not ended", "err", err)
	}
}
