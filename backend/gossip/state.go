package gossip

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"orthanc-oauth/backend"
)

// phases tells how the flights that this node leads are doing.
type phases struct {
	mu  sync.Mutex
	now map[string]*phase
}

// phase is one flight's progress; changed is closed whenever it moves on.
type phase struct {
	all     *phases
	key     string
	state   answer
	changed chan struct{}
}

func newPhases() *phases { return &phases{now: make(map[string]*phase)} }

func (p *phases) begin(key string) *phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	ph := &phase{all: p, key: key, state: answerPeeking, changed: make(chan struct{})}
	p.now[key] = ph
	return ph
}

func (ph *phase) set(a answer) {
	ph.all.mu.Lock()
	defer ph.all.mu.Unlock()
	ph.state = a
	close(ph.changed)
	ph.changed = make(chan struct{})
}

func (ph *phase) end() {
	ph.all.mu.Lock()
	defer ph.all.mu.Unlock()
	delete(ph.all.now, ph.key)
	close(ph.changed)
}

// of returns the phase of the key's flight, "" when there is none.
func (p *phases) of(key string) answer {
	a, _ := p.peek(key)
	return a
}

func (p *phases) peek(key string) (answer, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ph := p.now[key]; ph != nil {
		return ph.state, ph.changed
	}
	return "", nil
}

// settled returns the phase once it is neither deciding nor acquiring, or as it
// is when ctx ends.
func (p *phases) settled(ctx context.Context, key string) answer {
	for {
		a, changed := p.peek(key)
		if a != answerPeeking && a != answerAcquiring {
			return a
		}
		select {
		case <-changed:
			if a == answerPeeking {
				return p.of(key) // the decision is what was asked for
			}
		case <-ctx.Done():
			return a
		}
	}
}

// drain waits until no flight is running.
func (p *phases) drain(ctx context.Context) {
	for {
		p.mu.Lock()
		var changed <-chan struct{}
		for _, ph := range p.now {
			changed = ph.changed
		}
		p.mu.Unlock()
		if changed == nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// intentLease is how long a noted intent counts: a flight's budget and a bit.
const intentLease = backend.FlightBudget + 2*time.Second

// intents is who told this node that it means to acquire.
type intents struct {
	clock *backend.Clock
	mu    sync.Mutex
	until map[string]map[string]time.Duration // key -> node id -> end of lease
}

func newIntents(clock *backend.Clock) *intents {
	return &intents{clock: clock, until: make(map[string]map[string]time.Duration)}
}

func (in *intents) note(key, id string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.until[key] == nil {
		in.until[key] = make(map[string]time.Duration)
	}
	if len(in.until[key]) < maxIDs {
		in.until[key][id] = in.clock.Now() + intentLease
	}
}

func (in *intents) clear(key, id string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.until[key], id)
	if len(in.until[key]) == 0 {
		delete(in.until, key)
	}
}

// live returns a fresh set of those whose lease has not ended.
func (in *intents) live(key string) map[string]bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	now, out := in.clock.Now(), make(map[string]bool)
	for id, until := range in.until[key] {
		if now >= until {
			delete(in.until[key], id)
			continue
		}
		out[id] = true
	}
	return out
}

// suspects is who is not asked for now.
type suspects struct {
	clock *backend.Clock
	mu    sync.Mutex
	until map[string]time.Duration
}

func newSuspects(clock *backend.Clock) *suspects {
	return &suspects{clock: clock, until: make(map[string]time.Duration)}
}

// add suspects a node and reports whether it was not suspected before.
func (s *suspects) add(id string, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	for other, until := range s.until {
		if now >= until {
			delete(s.until, other)
		}
	}
	_, already := s.until[id]
	s.until[id] = max(s.until[id], now+d)
	return !already
}

func (s *suspects) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock.Now() < s.until[id]
}

func (s *suspects) clear(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.until, id)
}

// watch wakes those who wait for an entry to arrive.
type watch struct {
	mu      sync.Mutex
	arrived map[string]chan struct{}
}

func newWatch() *watch { return &watch{arrived: make(map[string]chan struct{})} }

func (w *watch) of(key string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.arrived[key]
	if ch == nil {
		ch = make(chan struct{})
		w.arrived[key] = ch
	}
	return ch
}

func (w *watch) notify(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.arrived[key]; ch != nil {
		close(ch)
		delete(w.arrived, key)
	}
}

// keyring is the keys this node is configured for, found by their prefix.
type keyring struct {
	mu   sync.RWMutex
	keys map[prefix]string
}

func (k *keyring) set(keys []string) {
	byPrefix := make(map[prefix]string, len(keys))
	for _, key := range keys {
		if p, ok := prefixOf(key); ok {
			byPrefix[p] = key
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = byPrefix
}

func (k *keyring) byPrefix(p prefix) (string, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	key, ok := k.keys[p]
	return key, ok
}

// union returns the configured keys and others, sorted, each once.
func (k *keyring) union(others []string) []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, key := range k.keys {
		others = append(others, key)
	}
	slices.Sort(others)
	return slices.Compact(others)
}

// settling is when the membership changed last.
type settling struct{ at atomic.Int64 }

func (s *settling) changed(now time.Duration) { s.at.Store(int64(now)) }

// left returns how much longer the view must stand still.
func (s *settling) left(now time.Duration) time.Duration {
	return time.Duration(s.at.Load()) + settleQuiet - now
}
