package backend

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/singleflight"
)

// Flights runs at most one flight per key. A flight lives on the Flights' own
// context, so a caller who gives up takes nobody else down with it.
type Flights struct {
	group singleflight.Group
	life  context.Context
	end   context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// NewFlights returns an empty set of flights; Close ends it.
func NewFlights() *Flights {
	life, end := context.WithCancel(context.Background())
	return &Flights{life: life, end: end}
}

// Do joins the flight of key or starts it with run, and waits for its result
// under ctx. Run gets a context that ends after FlightBudget or with Close. A
// panic in it becomes an error for every waiter. A flight is forgotten before
// its result is published, so whoever saw the result starts a new one.
func (f *Flights) Do(ctx context.Context, key string, run func(context.Context) (Entry, error)) (Entry, error) {
	done := f.group.DoChan(key, func() (any, error) { return f.fly(run) })
	select {
	case <-ctx.Done():
		return Entry{}, ctx.Err()
	case r := <-done:
		e, _ := r.Val.(Entry) // the zero Entry beside an error
		return e, r.Err
	}
}

func (f *Flights) fly(run func(context.Context) (Entry, error)) (_ any, err error) {
	if !f.enter() {
		return Entry{}, ErrClosed
	}
	defer f.running.Done()
	// singleflight would re-panic in a goroutine of its own, beyond any recover.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic in flight: %v", v)
		}
	}()
	ctx, cancel := context.WithTimeout(f.life, FlightBudget)
	defer cancel()
	return run(ctx)
}

func (f *Flights) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.running.Add(1)
	return true
}

// Close cancels all flights and waits for them, no longer than ctx allows. Do
// fails with ErrClosed from then on.
func (f *Flights) Close(ctx context.Context) error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.end()
	return waitFor(ctx, f.running.Wait)
}

// waitFor runs a blocking wait under ctx. When ctx ends first the wait goes on
// in its goroutine, which ends with what it waits for.
func waitFor(ctx context.Context, wait func()) error {
	done := make(chan struct{})
	go func() { defer close(done); wait() }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for flights to end: %w", ctx.Err())
	}
}

// Closed reports whether Close has been called.
func (f *Flights) Closed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}
