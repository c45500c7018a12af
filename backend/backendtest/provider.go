package backendtest

import (
	"context"
	"sync"
	"time"

	"orthanc-oauth/backend"
)

// lifetime is what an acquisition lives unless a script says otherwise.
const lifetime = time.Hour

// provider is a scripted identity provider. It counts what it is asked, over
// all keys and members.
type provider struct {
	mu      sync.Mutex
	calls   int
	running map[string]int
	most    int // calls of one key at the same time
	answer  func(ctx context.Context, call int, e backend.Entry) (backend.Entry, error)
}

func newProvider() *provider {
	return &provider{running: make(map[string]int), answer: grant}
}

// grant answers at once.
func grant(_ context.Context, _ int, e backend.Entry) (backend.Entry, error) { return e, nil }

// after answers after d, or fails with the flight's context.
func after(d time.Duration) func(context.Context, int, backend.Entry) (backend.Entry, error) {
	return func(ctx context.Context, _ int, e backend.Entry) (backend.Entry, error) {
		select {
		case <-time.After(d):
			return e, nil
		case <-ctx.Done():
			return backend.Entry{}, ctx.Err()
		}
	}
}

// refuse answers no.
func refuse(why backend.Refusal) func(context.Context, int, backend.Entry) (backend.Entry, error) {
	return func(context.Context, int, backend.Entry) (backend.Entry, error) {
		return backend.Entry{}, &why
	}
}

// script replaces the provider's behaviour.
func (p *provider) script(answer func(ctx context.Context, call int, e backend.Entry) (backend.Entry, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

// fillOf returns the FillFunc of a key.
func (p *provider) fillOf(key string) backend.FillFunc {
	return func(ctx context.Context, gen uint64) (backend.Entry, error) {
		call, answer := p.enter(key)
		defer p.leave(key)
		return answer(ctx, call, backend.Entry{
			Stamp: backend.Stamp{Gen: gen, ID: backend.NewID()},
			Value: sealed(call),
			TTL:   lifetime,
		})
	}
}

func (p *provider) enter(key string) (int, func(context.Context, int, backend.Entry) (backend.Entry, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	p.running[key]++
	p.most = max(p.most, p.running[key])
	return p.calls, p.answer
}

func (p *provider) leave(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[key]--
}

func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

func (p *provider) atOnce() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most
}
