package gossip

import (
	"context"
	"errors"
	"sync"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

const (
	// maxAsked is how many leaders a flight tries before it leads itself.
	maxAsked = 3
	// rankStep is how much later than the node before it in the order a node
	// refreshes, so that the first refreshes and the others find the result.
	rankStep = 2 * time.Second
	// maxRankSteps bounds the wait: the nodes behind the replicas would wait
	// longer than a flight lasts, and asking the leader costs them one request.
	maxRankSteps = 3
	// alonePause is how often a node tries its own way to the provider after
	// three leaders found theirs broken.
	alonePause = 30 * time.Second
	// aroundPause is how often a node that may not go to the provider looks
	// whether others hold what it lacks.
	aroundPause = time.Second
)

// Fill implements backend.Backend.
func (g *Gossip) Fill(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc) (backend.Entry, error) {
	if !stale.IsZero() { // a refresh may wait; a caller with nothing may not
		g.awaitTurn(ctx, key, stale)
	}
	for {
		if err := g.usable(ctx); err != nil {
			return backend.Entry{}, err
		}
		if e, ok := g.local(key, stale); ok {
			return e, nil
		}
		e, err := g.asks.Do(ctx, key, func(ctx context.Context) (backend.Entry, error) {
			if r := g.shared(key); r != nil {
				return g.lookAround(ctx, key, stale, r)
			}
			return g.ask(ctx, key, stale, fill)
		})
		// A flight joined late may have started for an older stale.
		if err != nil || e.Newer(stale) {
			return e, err
		}
	}
}

// awaitTurn holds back the refresh of an entry that still lives, by this node's
// rank in the order, until somebody else's result arrives.
func (g *Gossip) awaitTurn(ctx context.Context, key string, stale backend.Stamp) {
	e, ok := g.store.Get(key)
	if !ok || e.Stamp != stale {
		return
	}
	wait := min(rankStep*time.Duration(min(g.rank(key), maxRankSteps)), (e.TTL-time.Second)/4)
	if wait <= 0 {
		return
	}
	arrived := g.watch.of(key)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-arrived:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (g *Gossip) rank(key string) int {
	for i, m := range g.order(key) {
		if m.Self {
			return i
		}
	}
	return maxRankSteps
}

// shared returns the backoff that holds for the whole fleet. That this node's
// own way to the provider is broken is no reason not to ask the others.
func (g *Gossip) shared(key string) *backend.Refusal {
	if r := g.store.Backoff(key); r != nil && !r.Way {
		return r
	}
	return nil
}

// lookAround is what a node may do during a shared backoff: the provider is left
// alone, but what others hold is as good as ever, and this node may have missed
// its copy by a restart or a partition.
func (g *Gossip) lookAround(ctx context.Context, key string, stale backend.Stamp, r *backend.Refusal) (backend.Entry, error) {
	if g.lastLook.allowed(key, g.cfg.Clock.Now(), aroundPause) {
		g.look(ctx, key, stale, lookOnly)
	}
	if e, ok := g.local(key, stale); ok {
		return e, nil
	}
	return backend.Entry{}, r
}

// ask is the flight of a node that wants an entry: it asks the first nodes of
// the order to lead, leads when its own turn comes, and leads as the last
// resort, because a second token is a nuisance and no token an outage.
func (g *Gossip) ask(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc) (backend.Entry, error) {
	var asked, brokenWays int
	var suspects []string
	for _, m := range g.order(key) {
		if asked == maxAsked {
			break
		}
		if g.suspect.has(m.ID) {
			suspects = append(suspects, m.ID)
			continue
		}
		e, err := g.askOne(ctx, m, key, stale, suspects, fill)
		var refusal *backend.Refusal
		switch {
		case err == nil:
			return e, nil
		case ctx.Err() != nil:
			return backend.Entry{}, ctx.Err()
		case errors.As(err, &refusal) && !refusal.Way:
			return backend.Entry{}, err
		case refusal != nil:
			asked, brokenWays = asked+1, brokenWays+1
		case errors.Is(err, errNextNode):
		default:
			asked, suspects = asked+1, append(suspects, m.ID)
		}
		if m.Self {
			// Leading failed here by our own way out: only others can help.
			fill = nil
		}
	}
	return g.lastResort(ctx, key, stale, suspects, fill, brokenWays)
}

// askOne asks one node of the order, or leads where that node is this one.
func (g *Gossip) askOne(ctx context.Context, m cluster.Member, key string, stale backend.Stamp, suspects []string, fill backend.FillFunc) (backend.Entry, error) {
	if m.Self {
		return g.lead(ctx, key, stale, suspects, fill)
	}
	e, err := g.askLead(ctx, m, key, stale, suspects)
	if errors.Is(err, errSilent) && ctx.Err() == nil {
		g.suspected(m)
	}
	return e, err
}

// lastResort leads here although others come first. Where three leaders found
// their way to the provider broken, this node's own is tried once per
// alonePause; fill is nil when it has been tried already.
func (g *Gossip) lastResort(ctx context.Context, key string, stale backend.Stamp, suspects []string, fill backend.FillFunc, brokenWays int) (backend.Entry, error) {
	if r := g.store.Backoff(key); r != nil {
		return backend.Entry{}, r
	}
	if fill == nil || brokenWays > 0 && !g.lastTry.allowed(key, g.cfg.Clock.Now(), alonePause) {
		return backend.Entry{}, &backend.Refusal{Code: codeNoWay, Way: true, RetryAfter: backend.MinBackoff}
	}
	g.metrics.lastResort.Inc()
	return g.lead(ctx, key, stale, suspects, fill)
}

// codeNoWay is NET-002 of compatibility.md: no connection.
const codeNoWay = "NET-002"

// lastTries remembers when this node last did for a key what it must not do
// often.
type lastTries struct {
	mu sync.Mutex
	at map[string]time.Duration
}

// allowed reports whether the pause since the last time is over, and notes now.
func (l *lastTries) allowed(key string, now, pause time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, tried := l.at[key]; tried && now-at < pause {
		return false
	}
	if l.at == nil {
		l.at = make(map[string]time.Duration)
	}
	l.at[key] = now
	return true
}
