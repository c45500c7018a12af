package idptest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Ready is what Command prints, as one line of JSON, once everything listens.
type Ready struct {
	Token   string `json:"token"`   // the token endpoint
	Control string `json:"control"` // base of the control route
	Gate    string `json:"gate"`    // base of the gate
}

// settings are the flags of Command.
type settings struct {
	idp, gate, control string
	upstream           string
	clients            []Client
	lifetime           time.Duration
	jwt, tls, expired  bool
	caFile             string
	discard            bool
}

// Command runs a provider, a bearer gate and, unless -upstream names a DICOMweb
// server, a Target as one process until ctx ends. It prints Ready to stdout.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parseSettings(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	world, err := s.world()
	if err != nil {
		return err
	}
	tlsConfig, err := s.tlsConfig()
	if err != nil {
		return err
	}
	ready, stop, err := world.listen(s, tlsConfig)
	if err != nil {
		return err
	}
	defer stop()
	if err := json.NewEncoder(stdout).Encode(ready); err != nil {
		return fmt.Errorf("print addresses: %w", err)
	}
	<-ctx.Done()
	return nil
}

func parseSettings(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("idp", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.idp, "listen", "127.0.0.1:0", "address of the token endpoint")
	f.StringVar(&s.gate, "gate", "127.0.0.1:0", "address of the bearer gate")
	f.StringVar(&s.control, "control", "127.0.0.1:0", "address of the control route; keep it on loopback")
	f.StringVar(&s.upstream, "upstream", "", "DICOMweb server behind the gate, user information included; empty: a small one of its own")
	f.DurationVar(&s.lifetime, "lifetime", time.Hour, "how long a token lives")
	f.BoolVar(&s.jwt, "jwt", false, "issue tokens that look like JWTs")
	f.BoolVar(&s.tls, "tls", false, "serve the token endpoint over TLS with a certificate of its own authority")
	f.BoolVar(&s.expired, "expired", false, "with -tls: a certificate that has expired")
	f.StringVar(&s.caFile, "ca-file", "", "with -tls: where to write the authority's certificate")
	f.BoolVar(&s.discard, "discard", false, "keep no instance (see TargetConfig.Discard)")
	f.Func("client", "id:secret of a client; may be given several times (default demo:demo-secret)", func(v string) error {
		id, secret, ok := strings.Cut(v, ":")
		if !ok || id == "" || secret == "" {
			return errors.New("want id:secret")
		}
		s.clients = append(s.clients, Client{ID: id, Secrets: []string{secret}})
		return nil
	})
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if len(s.clients) == 0 {
		s.clients = []Client{{ID: "demo", Secrets: []string{"demo-secret"}}}
	}
	return s, nil
}

func (s settings) world() (World, error) {
	w := World{IdP: New(Options{Clients: s.clients, Lifetime: s.lifetime, JWT: s.jwt})}
	gate := GateConfig{State: w.IdP.State}
	if s.upstream == "" {
		w.Target = NewTarget(TargetConfig{Discard: s.discard})
		gate.Handler = w.Target
	} else {
		u, err := url.Parse(s.upstream)
		if err != nil || u.Host == "" {
			return w, errors.New("-upstream is no URL") // without its text: it may hold a password
		}
		gate.Upstream = u
	}
	w.Gate = NewGate(gate)
	return w, nil
}

func (s settings) tlsConfig() (*tls.Config, error) {
	if !s.tls {
		return nil, nil
	}
	ca, err := NewCA()
	if err != nil {
		return nil, err
	}
	if s.caFile != "" {
		if err := os.WriteFile(s.caFile, ca.PEM(), 0o644); err != nil { //nolint:gosec // a public certificate
			return nil, fmt.Errorf("write certificate: %w", err)
		}
	}
	if s.expired {
		return ca.ExpiredServer()
	}
	return ca.Server()
}

// listen opens the three ports; stop closes those that are open.
func (w World) listen(s settings, tlsConfig *tls.Config) (ready Ready, stop func(), err error) {
	var open []*Server
	stop = func() {
		for _, server := range open {
			server.Close()
		}
		w.Gate.Close()
	}
	add := func(h http.Handler, addr string, t *tls.Config) string {
		if err != nil {
			return ""
		}
		var server *Server
		if server, err = Listen(h, ServerOptions{Addr: addr, TLS: t}); err != nil {
			return ""
		}
		open = append(open, server)
		return server.URL
	}
	ready.Token = add(w.IdP, s.idp, tlsConfig) + "/token"
	ready.Gate = add(w.Gate, s.gate, nil)
	ready.Control = add(w.Control(), s.control, nil)
	if err != nil {
		stop()
		return Ready{}, nil, err
	}
	return ready, stop, nil
}
