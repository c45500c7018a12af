package tokens

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

const (
	// refreshBudget bounds a refresh behind: a flight, and what a backend lets
	// pass before it to give others the precedence.
	refreshBudget = 3 * backend.FlightBudget
	// refreshPause follows a failed refresh that names no pause of its own.
	refreshPause = time.Second
	// maxReads is how many entries that cannot be used are asked to be replaced
	// before this process acquires for itself.
	maxReads = 2
)

// outage is what a failure means to the users of a server.
type outage int

const (
	noOutage    outage = iota
	refreshOnly        // the held token serves on
	noToken            // requests to the server fail
)

// Source is a handle on the token of one server. It is safe for concurrent use
// and stays good when the credential is replaced.
type Source struct {
	near atomic.Pointer[grant] // first: the hot path touches it and base
	base time.Time

	manager *Manager
	name    string
	cred    atomic.Pointer[credential]
	metrics serverMetrics

	refreshing atomic.Bool
	quiet      atomic.Int64 // no refresh before, on the manager's clock

	mu      sync.Mutex // serialises writes of near, cred and last
	last    *Error     // why the last Fill failed; nil since one succeeded
	outage  outage
	renewed uint64 // grants published
}

func newSource(m *Manager, c *credential) *Source {
	s := &Source{base: m.base, manager: m, name: c.server, metrics: m.metrics.of(c.server)}
	s.cred.Store(c)
	return s
}

// Name returns the server's name.
func (s *Source) Name() string { return s.name }

// Token returns a token that may be sent now. A fresh one costs one atomic load
// and one clock read. Failures are *Error values.
func (s *Source) Token(ctx context.Context) (Token, error) {
	if g := s.near.Load(); g != nil && time.Since(s.base) < g.soft {
		return Token{g}, nil
	}
	t, _, err := s.slow(ctx)
	return t, err
}

// Use is Token for who is about to send it: it counts the hit.
func (s *Source) Use(ctx context.Context) (Token, error) {
	if g := s.near.Load(); g != nil && time.Since(s.base) < g.soft {
		s.metrics.hit()
		return Token{g}, nil
	}
	t, held, err := s.slow(ctx)
	if held {
		s.metrics.hit()
	}
	return t, err
}

// slow is for what the hot path has no fresh token for. Held reports that the
// token was at hand.
func (s *Source) slow(ctx context.Context) (t Token, held bool, err error) {
	now := s.manager.now()
	if g := s.near.Load(); g != nil && now < g.hard {
		if now >= g.soft {
			s.refreshBehind(g, now)
		}
		return Token{g}, true, nil
	}
	s.metrics.miss()
	g, err := s.obtain(ctx, s.cred.Load(), backend.Stamp{})
	if err != nil {
		return Token{}, false, s.failed(err, noToken)
	}
	return Token{g}, false, nil
}

// obtain fills until an entry comes that can be used. One that cannot is named
// as stale, so that it is replaced; after maxReads of them the process acquires
// for itself: whoever fills this key out there seals it in a way that is of no
// use here.
func (s *Source) obtain(ctx context.Context, c *credential, stale backend.Stamp) (*grant, error) {
	if left := c.history.barred(s.manager.clock.Now()); left > 0 {
		return nil, repeatedRefusal(left)
	}
	for n := range maxReads {
		e, err := s.manager.backend.Fill(ctx, c.key, stale, c.fill)
		if err != nil {
			return nil, s.unfilled(ctx, err)
		}
		g, err := s.adopt(c, e, n > 0)
		if err == nil {
			return g, nil
		}
		s.unusable(e, err)
		if errors.Is(err, errRepeated) {
			return nil, err
		}
		stale = e.Stamp
	}
	e, err := s.manager.alone.Do(ctx, c.key, func(ctx context.Context) (backend.Entry, error) {
		return c.fill(ctx, stale.Gen+1)
	})
	if err != nil {
		return nil, err
	}
	return s.adopt(c, e, true)
}

// unfilled counts an error that is neither the provider's nor the caller's.
func (s *Source) unfilled(ctx context.Context, err error) error {
	if _, refused := errors.AsType[*backend.Refusal](err); !refused && ctx.Err() == nil {
		s.manager.metrics.cacheError("backend")
	}
	return err
}

// unusable counts and logs an entry that this process cannot serve.
func (s *Source) unusable(e backend.Entry, err error) {
	result := "foreign"
	switch {
	case errors.Is(err, errReplayed):
		result = "replayed"
	case errors.Is(err, errRepeated), errors.Is(err, errRevoked):
		result = "revoked"
	case errors.Is(err, errDead):
		result = "expired"
	}
	s.manager.metrics.cacheError(result)
	s.manager.log.Warn("cached token not usable", "server", s.name, "source", string(e.From), "cause", err)
}

// adopt opens an entry and makes it the held one. An entry that is not newer
// than the held one gives way to it.
func (s *Source) adopt(c *credential, e backend.Entry, again bool) (*grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.near.Load()
	sameKey := held != nil && held.cred.key == c.key
	if sameKey && s.manager.now() < held.hard && !e.Newer(held.stamp) {
		return held, nil
	}
	g, err := c.read(e, again)
	if err != nil {
		return nil, err
	}
	if s.manager.now() >= g.hard {
		return nil, errDead
	}
	g.accepted = new(atomic.Bool)
	if sameKey && held.stamp.ID == g.stamp.ID {
		g.accepted = held.accepted
	}
	if s.cred.Load() != c {
		return g, nil // replaced meanwhile: good for this caller, not for the next
	}
	s.near.Store(g)
	s.renewed++
	s.manager.metrics.adopted(s.name, e.From)
	s.recovered()
	return g, nil
}

// recovered notes under mu that there is a new token.
func (s *Source) recovered() {
	s.quiet.Store(0)
	if s.outage != noOutage {
		s.outage, s.last = noOutage, nil
		s.manager.log.Info("token available again", "server", s.name)
	}
}

// failed notes a failure and returns it as an *Error. It is logged when it
// makes things worse.
func (s *Source) failed(err error, meaning outage) *Error {
	e := failure(s.name, err)
	if errors.Is(err, context.Canceled) {
		return e // the caller left, or this process stops
	}
	s.mu.Lock()
	worse := meaning > s.outage
	s.outage, s.last = max(s.outage, meaning), e
	s.mu.Unlock()
	if !worse {
		return e
	}
	if meaning == refreshOnly {
		s.manager.log.Warn("token not renewed, the held one serves on", e.attrs()...)
	} else {
		s.manager.log.Error("no token", e.attrs()...)
	}
	return e
}

// refreshBehind starts one refresh of a token in its refresh window.
func (s *Source) refreshBehind(g *grant, now time.Duration) {
	if int64(now) < s.quiet.Load() || s.refreshing.Load() || !s.refreshing.CompareAndSwap(false, true) {
		return
	}
	started := s.manager.start(func() {
		defer s.refreshing.Store(false)
		s.refresh(g)
	})
	if !started {
		s.refreshing.Store(false)
	}
}

// refresh replaces g. A failure is quiet: g serves until its hard end.
func (s *Source) refresh(g *grant) {
	ctx, cancel := context.WithTimeout(s.manager.life, refreshBudget)
	defer cancel()
	s.manager.log.Debug("token refresh due", "server", s.name, "code", string(provider.CodeRefreshDue))
	c := s.cred.Load()
	if _, err := s.obtain(ctx, c, g.staleFor(c)); err != nil && s.manager.life.Err() == nil {
		s.refreshFailed(g, s.failed(err, refreshOnly))
	}
}

func (s *Source) refreshFailed(g *grant, e *Error) {
	s.quiet.Store(int64(s.manager.now() + max(e.RetryAfter, refreshPause)))
	s.manager.metrics.failed(s.name, provider.CodeRefresh)
	s.manager.log.Debug("token refresh failed", "server", s.name, "code", string(provider.CodeRefresh),
		"serves_for", g.hard-s.manager.now())
}

// replace makes the source work with another credential.
func (s *Source) replace(c *credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, held := s.cred.Load(), s.near.Load()
	s.cred.Store(c)
	s.quiet.Store(0)
	s.outage, s.last = noOutage, nil
	switch {
	case held == nil, old.key == c.key:
	case old.identity == c.identity:
		// The same client, proved by another secret: its token is still good.
		s.near.Store(held.with(math.MinInt64, held.hard))
	default:
		s.near.Store(nil)
	}
}

// age makes the held token older.
func (s *Source) age(leap time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.near.Load(); g != nil {
		s.near.Store(g.with(max(g.soft, 0)-leap, g.hard-leap))
	}
	s.quiet.Store(0)
}

// staleFor returns what g is to c when something newer is asked for: nothing,
// if it was acquired with another credential.
func (g *grant) staleFor(c *credential) backend.Stamp {
	if g.cred.key != c.key {
		return backend.Stamp{}
	}
	return g.stamp
}

// with returns a copy of g with another span.
func (g *grant) with(soft, hard time.Duration) *grant {
	c := *g
	c.soft, c.hard = soft, hard
	return &c
}

// drop forgets the held token if it is of the acquisition id.
func (s *Source) drop(id backend.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.near.Load(); g != nil && g.stamp.ID == id {
		s.near.Store(nil)
	}
}

// revoked remembers a revocation and drops what it names.
func (s *Source) revoked(c *credential, id backend.ID) {
	c.history.revoke(id)
	s.drop(id)
}
