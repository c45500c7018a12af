package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// sendPause is the pause between two sends of an instance during the roll-over:
// the traffic of a modality, not a benchmark.
const sendPause = 200 * time.Millisecond

// afterwards is how long sends go on once the token has rolled over, so that a
// late second request would be seen.
const afterwards = time.Second

// slowest remembers the longest of many durations.
type slowest struct {
	mu  sync.Mutex
	max time.Duration
}

func (s *slowest) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max = max(s.max, d)
}

func (s *slowest) get() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.max
}

// sendUntil sends from every live instance until done says so, and a little
// longer. It tells whenever the identity provider is asked.
func (s *story) sendUntil(ctx context.Context, slow *slowest, done func() bool) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	over := make(chan struct{}) // closed when sends should end
	for _, m := range s.alive() {
		g.Go(func() error { return m.sendOn(gctx, over, slow) })
	}
	g.Go(func() error {
		defer close(over)
		return s.watch(gctx, done)
	})
	return g.Wait()
}

// sendOn sends until over is closed.
func (m *member) sendOn(ctx context.Context, over <-chan struct{}, slow *slowest) error {
	pause := time.NewTicker(sendPause)
	defer pause.Stop()
	for {
		begin := time.Now()
		if err := m.transmit(ctx); err != nil {
			return err
		}
		slow.add(time.Since(begin))
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-pause.C:
		}
	}
}

// watch returns some time after done has become true.
func (s *story) watch(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	told := s.idp.Counts().Total
	heartbeat := time.Now()
	var since time.Time
	for {
		if n := s.idp.Counts().Total; n > told {
			told = n
			s.say("idp", "token request %d", n)
		}
		if time.Since(heartbeat) > 5*time.Second {
			heartbeat = time.Now()
			s.say("", "%d sends so far", s.sends())
		}
		if since.IsZero() && done() {
			since = time.Now()
			s.say("", "rolled over")
		}
		if !since.IsZero() && time.Since(since) > afterwards {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the roll-over: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// sends is how many sends have succeeded, of all members.
func (s *story) sends() (n int64) {
	for _, m := range s.members {
		n += m.sends.Load()
	}
	return n
}
