package redis_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

const (
	prefix = "t:"
	key    = "00000000000000000000000000000000000000000000000000000000000000aa"
	life   = time.Hour
)

func valueKey() string { return prefix + "{" + key + "}" }

// patience is how long Redis has where a test is not about Redis that does not
// answer: on a busy machine the 250 ms of the product pass with nobody at fault,
// and a node that then goes alone does what it promises.
const patience = 5 * time.Second

// on returns the configuration of a patient member of a server, over TCP.
func on(s *redistest.Server) redis.Config { return patient(asShipped(s)) }

func patient(cfg redis.Config) redis.Config {
	cfg.Options.DialTimeout, cfg.Options.ReadTimeout = patience, patience
	return cfg
}

// asShipped is on with the product's own timeouts, for a Redis that does not
// answer.
func asShipped(s *redistest.Server) redis.Config {
	return redis.Config{Options: redis.Options{URL: redis.Secret("redis://" + s.Addr)}, Prefix: prefix}
}

// idp counts how often it is asked, by whomever.
type idp struct {
	calls atomic.Int32
	delay time.Duration
	ttl   time.Duration
}

func (p *idp) fill(ctx context.Context, gen uint64) (backend.Entry, error) {
	p.calls.Add(1)
	select {
	case <-time.After(p.delay):
	case <-ctx.Done():
		return backend.Entry{}, ctx.Err()
	}
	ttl := p.ttl
	if ttl == 0 {
		ttl = life
	}
	return backend.Entry{Stamp: backend.Stamp{Gen: gen, ID: backend.NewID()}, Value: []byte("sealed\x00\r\n\xff"), TTL: ttl}, nil
}

func (p *idp) asked(t *testing.T, want int) {
	t.Helper()
	if got := int(p.calls.Load()); got != want {
		t.Fatalf("%d calls to the provider, want %d", got, want)
	}
}

// must fills on a member and fails the test on an error.
func must(t testing.TB, b backend.Backend, stale backend.Stamp, fill backend.FillFunc) backend.Entry {
	t.Helper()
	e, err := b.Fill(t.Context(), key, stale, fill)
	if err != nil {
		t.Fatalf("fill: %v", err)
	}
	return e
}

func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still after 10 s: %v", err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// want turns a condition into what eventually takes.
func want(ok bool, what string) error {
	if ok {
		return nil
	}
	return errors.New(what)
}

// sink is a log that tests read.
type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *sink) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// errorsOf returns the cache errors counted for a reason.
func errorsOf(t *testing.T, reg *prometheus.Registry, reason string) float64 {
	t.Helper()
	n, err := countErrors(reg, reason)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// countErrors returns the cache errors counted for a reason, or for all.
func countErrors(reg *prometheus.Registry, reason string) (n float64, err error) {
	families, err := reg.Gather()
	for _, f := range families {
		if f.GetName() != "orthanc_oauth_cache_errors_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "reason" && (reason == "" || l.GetValue() == reason) {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n, err
}

// link is the network of one member, which can be cut.
type link struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (l *link) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("link is cut")}
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		l.conns = append(l.conns, conn)
	}
	return conn, err
}

// down drops every connection and refuses new ones.
func (l *link) down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// up lets new connections through again.
func (l *link) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}
