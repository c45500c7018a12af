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
	Token   string `json:"token"`          // the token endpoint
	Control string `json:"control"`        // base of the control route
	Gate    string `json:"gate"`           // base of the gate
	Open    string `json:"open,omitempty"` // base of the way past the gate
}

// settings are the flags of Command.
type settings struct {
	idp, gate, control string
	open               string
	upstream           string
	clients            []Client
	lifetime           time.Duration
	jwt, tls, expired  bool
	caFile, caKeyFile  string
	hosts              string
	probe              string
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
	if s.probe != "" {
		return probe(ctx, s.probe)
	}
	world, err := s.world()
	if err != nil {
		return err
	}
	ready, stop, err := world.listen(s)
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
	f.StringVar(&s.open, "open", "", "address of a way past the gate, for comparison: what is behind it without a check of tokens; empty: none")
	f.StringVar(&s.control, "control", "127.0.0.1:0", "address of the control route; keep it on loopback")
	f.StringVar(&s.upstream, "upstream", "", "DICOMweb server behind the gate, user information included; empty: a small one of its own")
	f.DurationVar(&s.lifetime, "lifetime", time.Hour, "how long a token lives")
	f.BoolVar(&s.jwt, "jwt", false, "issue tokens that look like JWTs")
	f.BoolVar(&s.tls, "tls", false, "serve the token endpoint over TLS with a certificate of its own authority")
	f.BoolVar(&s.expired, "expired", false, "with -tls: a certificate that has expired")
	f.StringVar(&s.caFile, "ca-file", "", "with -tls: where to write the authority's certificate")
	f.StringVar(&s.caKeyFile, "ca-key-file", "", "with -ca-file: keep the authority's key here, and go on with the authority that both files hold")
	f.StringVar(&s.hosts, "hosts", "", "with -tls: names of the certificate, with commas between them; empty: loopback")
	f.StringVar(&s.probe, "probe", "", "only get this URL, and fail unless that succeeds: a health check for images without a shell")
	f.BoolVar(&s.discard, "discard", false, "keep no instance (see TargetConfig.Discard)")
	f.Func("client", "id:secret of a client; may be given several times (default demo:demo-secret)", func(v string) error {
		id, secret, ok := strings.Cut(v, ":")
		if !ok || id == "" || secret == "" {
			return errors.New("want id:secret")
		}
		s.clients = append(s.clients, Client{ID: id, Secrets: []string{secret}})
		return nil
	})
	f.Func("client-file", "id:file of a client whose secret stands in a file", func(v string) error {
		id, file, ok := strings.Cut(v, ":")
		if !ok || id == "" {
			return errors.New("want id:file")
		}
		raw, err := os.ReadFile(file)
		s.clients = append(s.clients, Client{ID: id, Secrets: []string{strings.TrimSpace(string(raw))}})
		return err
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
	w := World{Marks: &Marks{}, IdP: New(Options{Clients: s.clients, Lifetime: s.lifetime, JWT: s.jwt})}
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

// certificates returns a valid and an expired configuration, or none without TLS.
func (s settings) certificates() (valid, expired *tls.Config, err error) {
	if !s.tls {
		return nil, nil, nil
	}
	ca, err := s.authority()
	if err != nil {
		return nil, nil, err
	}
	var hosts []string
	if s.hosts != "" {
		hosts = strings.Split(s.hosts, ",")
	}
	if valid, err = ca.Server(hosts...); err != nil {
		return nil, nil, err
	}
	expired, err = ca.ExpiredServer(hosts...)
	return valid, expired, err
}

// authority returns the one that the files hold, or a new one, which is written
// to them.
func (s settings) authority() (*CA, error) {
	if s.caKeyFile != "" {
		if ca, err := LoadCA(s.caFile, s.caKeyFile); err == nil || !errors.Is(err, os.ErrNotExist) {
			return ca, err
		}
	}
	ca, err := NewCA()
	if err == nil && s.caKeyFile != "" {
		err = os.WriteFile(s.caKeyFile, ca.keyPEM(), 0o600)
	}
	if err == nil && s.caFile != "" {
		err = os.WriteFile(s.caFile, ca.PEM(), 0o644) //nolint:gosec // a public certificate
	}
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return ca, nil
}

// probe gets a URL.
func probe(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var answer json.RawMessage
	return call(ctx, http.DefaultClient, url, "", "", &answer)
}

// listen opens the ports; stop closes those that are open.
func (w World) listen(s settings) (ready Ready, stop func(), err error) {
	valid, expired, err := s.certificates()
	if err != nil {
		return Ready{}, nil, err
	}
	if w.Endpoint, err = ListenEndpoint(w.IdP, s.idp, valid, expired); err != nil {
		return Ready{}, nil, err
	}
	open := []*Server{w.Endpoint.Server}
	stop = func() {
		for _, server := range open {
			server.Close()
		}
		w.Gate.Close()
	}
	add := func(h http.Handler, addr string) string {
		if err != nil {
			return ""
		}
		var server *Server
		if server, err = Listen(h, ServerOptions{Addr: addr}); err != nil {
			return ""
		}
		open = append(open, server)
		return server.URL
	}
	if s.expired {
		err = w.Endpoint.Expire(true)
	}
	ready.Token = w.Endpoint.URL + "/token"
	ready.Gate = add(w.Marks.Watch(w.Gate), s.gate)
	if s.open != "" {
		ready.Open = add(w.Marks.Watch(w.Gate.next), s.open)
	}
	ready.Control = add(w.Control(), s.control)
	if err != nil {
		stop()
		return Ready{}, nil, err
	}
	return ready, stop, nil
}
