// Package storm lets faults happen to a fleet: which, when, to whom, and how
// long, of processes as of containers. What a fault does is its caller's.
package storm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"orthanc-oauth/chaos/history"
)

// ErrBusy is for a fault whose target another fault holds; it is not counted.
var ErrBusy = errors.New("nothing left to do this to")

// Step is one fault of a schedule.
type Step struct {
	Kind, What string
	After      time.Duration // since the storm began
	Inject     func(ctx context.Context) error
}

// Storm injects faults and remembers them. Its methods are safe for concurrent
// use.
type Storm struct {
	time     *history.Timeline
	provider sync.Mutex // held by a fault of the provider

	mu     sync.Mutex
	faults []*history.Fault
	errs   []error
}

// New returns a storm over the nodes of a run.
func New(t *history.Timeline) *Storm { return &Storm{time: t} }

// Rage lets each step happen at its time, and returns when the last has ended.
func (s *Storm) Rage(ctx context.Context, steps []Step) {
	var all sync.WaitGroup
	for _, p := range steps {
		all.Go(func() {
			Pause(ctx, p.After)
			if ctx.Err() == nil {
				s.inject(ctx, p)
			}
		})
	}
	all.Wait()
}

func (s *Storm) inject(ctx context.Context, p Step) {
	f := &history.Fault{Kind: p.Kind, What: p.What, Begun: s.time.Now(), Extras: map[int]int{}}
	err := p.Inject(ctx)
	f.End = s.time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, ErrBusy):
	case err != nil:
		s.errs = append(s.errs, fmt.Errorf("%s: %w", p.What, err))
	default:
		s.faults = append(s.faults, f)
	}
}

// Faults returns those that happened.
func (s *Storm) Faults() []*history.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// Err returns why faults could not be injected.
func (s *Storm) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs...)
}

// Last is when the last fault ended.
func (s *Storm) Last() (end time.Duration) {
	for _, f := range s.Faults() {
		end = max(end, f.End)
	}
	return end
}

// Take holds a node's process for one fault at a time: the wanted one of so many,
// or the next that is free.
func (s *Storm) Take(want, nodes int) (node int, free func(), ok bool) {
	s.time.Change(func(m *history.Moment) {
		for i := range nodes {
			if n := (want + i) % nodes; !ok && !m.Running[n] {
				m.Running[n], node, ok = true, n, true
			}
		}
	})
	return node, func() { s.time.Change(func(m *history.Moment) { delete(m.Running, node) }) }, ok
}

// Hold does something to a node's process that nothing else is being done to.
func (s *Storm) Hold(want, nodes int, f func(node int) error) error {
	node, free, ok := s.Take(want, nodes)
	if !ok {
		return ErrBusy
	}
	defer free()
	return f(node)
}

// Provider holds the provider for one fault at a time.
func (s *Storm) Provider(ctx context.Context, d time.Duration, begin, end func() error) error {
	if !s.provider.TryLock() {
		return ErrBusy
	}
	defer s.provider.Unlock()
	s.time.Change(func(m *history.Moment) { m.IdP++ })
	defer s.time.Change(func(m *history.Moment) { m.IdP-- })
	if err := begin(); err != nil {
		return err
	}
	Pause(ctx, d)
	return end()
}

// Whole does something that needs the provider: no fault of it begins meanwhile.
func (s *Storm) Whole(f func() error) error {
	if !s.provider.TryLock() {
		return ErrBusy
	}
	defer s.provider.Unlock()
	return f()
}

// Pause waits for d, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
