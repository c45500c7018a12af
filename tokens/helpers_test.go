package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

// idp is a provider whose answers a test chooses. Call n is the number of the
// request, from 1.
type idp struct {
	answer func(n int) (provider.Response, error)
	took   time.Duration

	mu    sync.Mutex
	calls []time.Time
}

func (p *idp) Fetch(ctx context.Context) (provider.Response, error) {
	p.mu.Lock()
	p.calls = append(p.calls, time.Now())
	n := len(p.calls)
	p.mu.Unlock()
	select {
	case <-time.After(p.took): // only inside bubbles is this ever more than 0
	case <-ctx.Done():
		return provider.Response{}, &provider.Error{Code: provider.CodeTimeout, Err: ctx.Err()}
	}
	return p.answer(n)
}

func (p *idp) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.calls)
}

// gaps returns the times between the calls.
func (p *idp) gaps() (out []time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 1; i < len(p.calls); i++ {
		out = append(out, p.calls[i].Sub(p.calls[i-1]))
	}
	return out
}

func grants(token string, life time.Duration) (provider.Response, error) {
	return provider.Response{AccessToken: provider.NewSecret(token), Scheme: "Bearer", Lifetime: life}, nil
}

// fresh grants tok-1, tok-2, ... of one life.
func fresh(life time.Duration) *idp {
	return &idp{answer: func(n int) (provider.Response, error) { return grants(fmt.Sprintf("tok-%d", n), life) }}
}

func refuses(e provider.Error) (provider.Response, error) { return provider.Response{}, &e }

// world is one process with one source.
type world struct {
	t       *testing.T
	manager *Manager
	source  *Source
	backend *faulty
	reg     *prometheus.Registry
	log     *journal
}

// faulty is a backend whose answers a test can change.
type faulty struct {
	backend.Backend
	fill   func(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc) (backend.Entry, error)
	revoke error
}

func (f *faulty) Fill(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc) (backend.Entry, error) {
	if f.fill != nil {
		return f.fill(ctx, key, stale, fill)
	}
	return f.Backend.Fill(ctx, key, stale, fill)
}

func (f *faulty) Revoke(ctx context.Context, key string, id backend.ID) error {
	if f.revoke != nil {
		return f.revoke
	}
	return f.Backend.Revoke(ctx, key, id)
}

func credentialOf(secret string) Credential {
	return Credential{
		TokenEndpoint: "https://idp.example/token", ClientID: "orthanc", Scope: "dicom",
		Grant: "client_credentials", AuthStyle: "auto", Root: bytes.Repeat([]byte(secret[:1]), 32),
	}
}

// newWorld starts a process over a memory backend of its own.
func newWorld(t *testing.T, p Provider) *world {
	t.Helper()
	clock := backend.NewClock(nil)
	b := backend.NewMemory(clock)
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return join(t, p, b, clock)
}

// join starts a process over a backend that others may share.
func join(t *testing.T, p Provider, b backend.Backend, clock *backend.Clock) *world {
	t.Helper()
	w := &world{t: t, backend: &faulty{Backend: b}, reg: prometheus.NewPedanticRegistry(), log: new(journal)}
	log := slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	m, err := New(Config{Backend: w.backend, BackendName: "memory", Clock: clock, Log: log, Registerer: w.reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w.manager = m
	w.source = w.set(SourceConfig{Name: "pacs", Credential: credentialOf("s"), Provider: p})
	return w
}

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (w *world) set(cfg SourceConfig) *Source {
	w.t.Helper()
	s, err := w.manager.Set(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// token demands one.
func (w *world) token() Token {
	w.t.Helper()
	tok, err := w.source.Token(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if !tok.Valid() {
		w.t.Fatal("token past its hard end")
	}
	return tok
}

// wants demands a certain one.
func (w *world) wants(token string) Token {
	w.t.Helper()
	tok := w.token()
	if got := tok.Reveal(); got != token {
		w.t.Fatalf("token %s, want %s", got, token)
	}
	return tok
}

// fails demands an *Error.
func (w *world) fails(err error) *Error {
	w.t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		w.t.Fatalf("got %v, want an *Error", err)
	}
	return e
}

// settle lets what runs behind come to rest.
func settle() { synctest.Wait() }

// metric sums the samples of a counter whose labels have a certain value.
func (w *world) metric(name, label string) (sum float64) {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetValue() == label {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}
