package redis_test

import (
	"context"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/tokens"
	"orthanc-oauth/tokens/provider"
)

// hung is a Redis that takes connections and commands and never answers.
type hung struct {
	mu    sync.Mutex
	ended bool
	conns []net.Conn
}

func (h *hung) dial(context.Context, string, string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	client, server := net.Pipe()
	h.conns = append(h.conns, server)
	go func() { _, _ = io.Copy(io.Discard, server) }()
	return client, nil
}

func (h *hung) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	for _, c := range h.conns {
		_ = c.Close()
	}
}

// inBubble runs f with a member of a hung Redis, on a clock of its own.
func inBubble(t *testing.T, f func(t *testing.T, m *redis.Redis)) {
	synctest.Test(t, func(t *testing.T) {
		var h hung
		m, err := redis.New(redis.Config{Prefix: prefix, Options: redis.Options{Dial: h.dial}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			// The driver's subscription reads under its mutex. Close would wait for
			// that, and no time passes in a bubble while anybody waits for a mutex.
			h.end()
			synctest.Wait()
			_ = m.Close(t.Context())
		}()
		f(t, m)
	})
}

func TestHung_NoTokenCostsHalfASecondAndTheProvider(t *testing.T) {
	inBubble(t, func(t *testing.T, m *redis.Redis) {
		p := &idp{delay: 100 * time.Millisecond}
		began := time.Now()
		must(t, m, backend.Stamp{}, p.fill)
		if took := time.Since(began); took != 600*time.Millisecond {
			t.Errorf("took %v, want 0.5 s and the provider's 0.1 s", took)
		}
		p.asked(t, 1)
	})
}

// The breaker is open by then, so the fleet's requests of that second are not
// held up one after the other.
func TestHung_KnownToBeAwayCostsTheProviderOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, m *redis.Redis) {
		p := &idp{}
		first := must(t, m, backend.Stamp{}, p.fill)
		second := must(t, m, first.Stamp, p.fill) // the third failure
		began := time.Now()
		must(t, m, second.Stamp, p.fill)
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
		p.asked(t, 3)
	})
}

// granting is a provider of tokens that live an hour.
type granting struct{}

func (granting) Fetch(context.Context) (provider.Response, error) {
	return provider.Response{AccessToken: provider.NewSecret("canary-token"), Scheme: "Bearer", Lifetime: time.Hour}, nil
}

func TestHung_LiveTokenIsServedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, m *redis.Redis) {
		manager, err := tokens.New(tokens.Config{Backend: m, BackendName: "redis", Clock: backend.NewClock(nil)})
		if err != nil {
			t.Fatal(err)
		}
		defer manager.Close(t.Context())
		source, err := manager.Set(tokens.SourceConfig{Name: "pacs", Provider: granting{}, Credential: tokens.Credential{
			TokenEndpoint: "https://idp/token", ClientID: "orthanc", Root: []byte("0123456789abcdef0123456789abcdef"),
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := source.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for range 1000 {
			if _, err := source.Token(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("1,000 gets took %v", took)
		}
	})
}
