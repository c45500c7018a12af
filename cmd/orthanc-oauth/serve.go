package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"orthanc-oauth/internal/config"
	"orthanc-oauth/internal/node"
	"orthanc-oauth/internal/proxy"
)

func newServeCommand() *cobra.Command {
	var logFormat string
	cmd := &cobra.Command{
		Use:   "serve FILE",
		Short: "Run as a sidecar: the same node as the plugin, beside an Orthanc that loads none",
		Long: `Serve runs a node of the fleet without Orthanc: it lends tokens through a local
DICOMweb proxy at http://LISTEN/{server}/ and answers the admin routes on an
address of their own. Both ask for credentials, which come from files and have
no default: UsersFile for the data path (see "orthanc-oauth hash-password"),
AdminTokenFile for the admin routes.

Client secrets, SecretKey, CA files, UsersFile and AdminTokenFile are read again
when they change. Relative file names start at the folder where serve is started.
SIGINT and SIGTERM end it within 3 seconds. Logs go to standard error.`,
		Example: `  orthanc-oauth check --sidecar sidecar.json
  orthanc-oauth serve sidecar.json
  curl -u orthanc:PASSWORD 'http://127.0.0.1:8043/azure/studies?limit=1'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signalled(cmd.Context())
			defer stop()
			return serve(ctx, args[0], logFormat, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&logFormat, "log-format", "text", "text or json")
	return cmd
}

// leaveTimeout bounds the whole stop.
const leaveTimeout = 3 * time.Second

// serve runs a sidecar until ctx ends.
func serve(ctx context.Context, file, logFormat string, logs io.Writer) (err error) {
	raw, err := config.Read(file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	conf, err := config.Parse(raw, config.Options{Sidecar: true, Expand: true})
	if err != nil {
		return err
	}
	if !conf.Enabled {
		return errors.New("the configuration says Enabled: false")
	}
	log, err := newLogger(logs, logFormat, conf.LogLevel)
	if err != nil {
		return err
	}
	s, err := newSidecar(conf, log)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

func newLogger(w io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("--log-format %q: allowed are text and json", format)
}

// sidecar is a node with its two listeners.
type sidecar struct {
	log     *slog.Logger
	node    *node.Node
	servers []*http.Server
	sockets []net.Listener
}

func newSidecar(conf *config.Config, log *slog.Logger) (_ *sidecar, err error) {
	users, admin, err := readCredentials(conf.Sidecar)
	if err != nil {
		return nil, err
	}
	n, err := node.New(node.Config{
		Config: conf, Log: log, Realm: "orthanc-oauth",
		Authorize:      users.Authorize,
		AuthorizeAdmin: func(r *http.Request) bool { return (*admin.Load())(r) },
	})
	if err != nil {
		return nil, err
	}
	s := &sidecar{log: log, node: n}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	n.Watch("users file", func() error { return reloadUsers(users, conf.Sidecar.Users) }, conf.Sidecar.Users.Path())
	n.Watch("admin token", func() error { return reloadAdmin(admin, conf.Sidecar.AdminToken) }, conf.Sidecar.AdminToken.Path())
	if err := s.listen(conf.Sidecar, conf.Sidecar.Listen, n.Data()); err != nil {
		return nil, err
	}
	return s, s.listen(conf.Sidecar, conf.Sidecar.AdminListen, n.Admin())
}

func readCredentials(conf config.Sidecar) (*proxy.Users, *atomic.Pointer[func(*http.Request) bool], error) {
	file, err := conf.Users.Load()
	if err != nil {
		return nil, nil, err
	}
	users, err := proxy.NewUsers([]byte(file.Reveal()))
	if err != nil {
		return nil, nil, err
	}
	admin := new(atomic.Pointer[func(*http.Request) bool])
	return users, admin, reloadAdmin(admin, conf.AdminToken)
}

func reloadUsers(users *proxy.Users, ref config.SecretRef) error {
	file, err := ref.Load()
	if err != nil {
		return err
	}
	return users.Load([]byte(file.Reveal()))
}

func reloadAdmin(admin *atomic.Pointer[func(*http.Request) bool], ref config.SecretRef) error {
	token, err := ref.Load()
	if err != nil {
		return err
	}
	check, err := proxy.Bearer([]byte(token.Reveal()))
	if err != nil {
		return err
	}
	admin.Store(&check)
	return nil
}

// listen binds one address. Nothing is served before run.
func (s *sidecar) listen(conf config.Sidecar, addr string, handler http.Handler) error {
	socket, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	if conf.ListenTLS.IsSet() {
		pair, err := tls.LoadX509KeyPair(conf.ListenTLS.CertFile, conf.ListenTLS.KeyFile)
		if err != nil {
			socket.Close()
			return fmt.Errorf("ListenTLS: %w", err)
		}
		socket = tls.NewListener(socket, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
	}
	host, _, _ := net.SplitHostPort(addr)
	s.sockets = append(s.sockets, socket)
	s.servers = append(s.servers, &http.Server{
		Handler:           proxy.CheckHost([]string{host}, handler),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	})
	return nil
}

// run serves until ctx ends or a listener fails.
func (s *sidecar) run(ctx context.Context) error {
	defer s.close()
	if err := s.node.Start(); err != nil {
		return err
	}
	failed := make(chan error, len(s.servers))
	for i, server := range s.servers {
		go func() { failed <- server.Serve(s.sockets[i]) }()
		s.log.Info("listening", "address", s.sockets[i].Addr().String())
	}
	select {
	case <-ctx.Done():
		s.log.Info("stopping")
		return nil
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	}
}

func (s *sidecar) close() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	for _, socket := range s.sockets {
		socket.Close()
	}
	if err := s.node.Close(ctx); err != nil {
		s.log.Warn("not everything could be closed in time", "error", err)
	}
	for _, server := range s.servers {
		server.Close()
	}
}
