package tokens

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/backend"
)

// Config says what a Manager works with.
type Config struct {
	Backend     backend.Backend // closed by whoever made it
	BackendName string          // label of metrics
	Clock       *backend.Clock  // a new one when nil; its Watch should call Manager.Age
	Log         *slog.Logger
	Registerer  prometheus.Registerer // no metrics are shown when nil
}

// SourceConfig describes one server's token.
type SourceConfig struct {
	Name          string
	Credential    Credential
	Provider      Provider
	RefreshBuffer time.Duration // DefaultRefreshBuffer when 0
	// URL is the server's base URL. Transport sends the token nowhere else; when
	// empty, it sends it wherever its user's first request goes.
	URL string
}

// Manager holds the sources of one process. It is safe for concurrent use.
type Manager struct {
	backend backend.Backend
	clock   *backend.Clock
	log     *slog.Logger
	metrics *metrics
	base    time.Time        // zero of the near caches' clock
	alone   *backend.Flights // acquisitions that the backend could not deliver
	life    context.Context
	end     context.CancelFunc

	mu      sync.RWMutex
	closed  bool
	sources map[string]*Source
	keys    map[string]*credential
	running sync.WaitGroup // refreshes
}

// New returns a Manager without sources.
func New(cfg Config) (*Manager, error) {
	if cfg.Backend == nil {
		return nil, errors.New("no backend")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = backend.NewClock(nil)
	}
	m, err := newMetrics(cfg.Registerer, cmp.Or(cfg.BackendName, "memory"))
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	return &Manager{
		backend: cfg.Backend, clock: cfg.Clock, log: cfg.Log, metrics: m,
		base: time.Now(), alone: backend.NewFlights(), life: life, end: end,
		sources: make(map[string]*Source), keys: make(map[string]*credential),
	}, nil
}

// now is the time on the near caches' clock. It stands still in a suspend,
// which Age makes up for.
func (m *Manager) now() time.Duration { return time.Since(m.base) }

// Set adds a source, or replaces what the source of that name works with:
// handles already given out go on with the new credential. After a mere change
// of the secret the held token serves on until the new one is there.
func (m *Manager) Set(cfg SourceConfig) (*Source, error) {
	c, err := m.newCredential(cfg)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", cfg.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("server %q: %w", cfg.Name, backend.ErrClosed)
	}
	if same, ok := m.keys[c.key]; ok {
		c.history = same.history // one key, one past
	}
	s, ok := m.sources[cfg.Name]
	if ok {
		s.replace(c)
	} else {
		s = newSource(m, c)
		m.sources[cfg.Name] = s
	}
	clear(m.keys)
	for _, s := range m.sources {
		c := s.cred.Load()
		m.keys[c.key] = c
	}
	return s, nil
}

func (m *Manager) newCredential(cfg SourceConfig) (*credential, error) {
	if cfg.Name == "" {
		return nil, errors.New("no name")
	}
	if cfg.Provider == nil {
		return nil, errNoProvider
	}
	seal, err := newSealer(cfg.Credential)
	if err != nil {
		return nil, err
	}
	c := &credential{
		manager: m, server: cfg.Name, identity: sha256.Sum256(cfg.Credential.identity()),
		provider: cfg.Provider, buffer: cfg.RefreshBuffer, history: &history{}, sealer: seal,
	}
	if c.buffer <= 0 {
		c.buffer = DefaultRefreshBuffer
	}
	if cfg.URL != "" {
		if c.origin, err = url.Parse(cfg.URL); err != nil || c.origin.Host == "" {
			return nil, errors.New("url is none")
		}
	}
	return c, nil
}

// Source returns the handle of a server. Resolve it once, not per request.
func (m *Manager) Source(name string) (*Source, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, ok := m.sources[name]
	return s, ok
}

// Sources returns all sources by name.
func (m *Manager) Sources() []*Source {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]*Source, 0, len(m.sources))
	for _, s := range m.sources {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *Source) int { return cmp.Compare(a.name, b.name) })
	return out
}

// Keys returns the keys this process is configured for, in order.
func (m *Manager) Keys() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]string, 0, len(m.keys))
	for key := range m.keys {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

// Resolve is a backend.Resolver.
func (m *Manager) Resolve(key string) (backend.FillFunc, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c, ok := m.keys[key]
	if !ok {
		return nil, false
	}
	return c.fill, true
}

// Age makes every held token older by the length of a suspend, which the
// monotonic clock did not count. It is what Clock.Watch calls.
func (m *Manager) Age(leap time.Duration) {
	for _, s := range m.Sources() {
		s.age(leap)
	}
}

// Revoked drops the held token of an acquisition that another node has revoked.
// Backends call it when they learn of a revocation; it does not block.
func (m *Manager) Revoked(key string, id backend.ID) {
	for _, s := range m.Sources() {
		if s.cred.Load().key == key {
			s.revoked(s.cred.Load(), id)
		}
	}
}

// Clear revokes every token of the backend and drops those held here.
func (m *Manager) Clear(ctx context.Context) error {
	err := m.backend.Clear(ctx)
	for _, s := range m.Sources() {
		if g := s.near.Load(); g != nil {
			s.revoked(g.cred, g.stamp.ID)
		}
	}
	if err != nil {
		return fmt.Errorf("clear tokens: %w", err)
	}
	return nil
}

// start runs f in a goroutine that Close waits for, and reports false once
// closed. A panic in f is logged: it would take the host process down.
func (m *Manager) start(f func()) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return false
	}
	m.running.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				m.log.Error("panic in token refresh", "panic", fmt.Sprintf("%T", v))
			}
		}()
		f()
	})
	return true
}

// Close ends the refreshes under way and waits for them, no longer than ctx
// allows. Held tokens stay readable; nothing is acquired any more. The backend
// is not closed.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.end()
	done := make(chan struct{})
	go func() { defer close(done); m.running.Wait() }()
	err := m.alone.Close(ctx)
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for token refreshes: %w", ctx.Err())
	}
}

// fingerprint shortens a key for logs and status.
func fingerprint(key string) string { return key[:8] }
