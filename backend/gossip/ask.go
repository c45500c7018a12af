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
	// askFor is how long it tries them, but for one that says that it is at it:
	// three silences on a fast link, and half of a flight on a slow one.
	askFor = backend.FlightBudget / 2
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
	enough := g.cfg.Clock.Now() + backend.FlightBudget/2
	for {
		if err := g.usable(ctx); err != nil {
			return backend.Entry{}, err
		}
		if e, ok := g.local(key, stale); ok {
			return e, nil
		}
		e, err := g.asks.Do(ctx, key, func(ctx context.Context) (backend.Entry, error) {
			return g.fly(ctx, key, stale, fill)
		})
		if err != nil {
			// What came by another way meanwhile is as good, and has ended the flight.
			if e, ok := g.local(key, stale); ok {
				return e, nil
			}
			// A flight that ends for want of time has given little of it to
			// those who joined it late, and one that what came meanwhile has
			// ended nothing, if that has been revoked since. A refusal that was
			// caused by either is a refusal.
			ended := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
			if ended && !errors.As(err, new(*backend.Refusal)) && ctx.Err() == nil && g.cfg.Clock.Now() < enough {
				continue
			}
			return backend.Entry{}, err
		}
		if g.store.Usable(key, e, stale) {
			return e, nil
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

// fly is the flight of a node that wants an entry. Before a refusal is told to
// those who wait, by a backoff or by the provider itself, this node looks around.
// That takes as long as silent peers take to be found silent, and the backoff may
// be over by then: those who have joined the flight since are owed a new question.
func (g *Gossip) fly(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc) (e backend.Entry, err error) {
	ctx, cancel := g.untilArrival(ctx, key, stale)
	defer cancel()
	for range 2 {
		refusal := g.shared(key)
		if refusal == nil {
			e, err = g.ask(ctx, key, stale, fill)
			if !errors.As(err, &refusal) {
				return e, err
			}
		}
		e, err = g.lookAround(ctx, key, stale, refusal)
		if err == nil || refusal.Way || g.shared(key) != nil {
			break
		}
	}
	return e, err
}

// untilArrival returns a context that ends as well when something newer than stale
// comes by another way than the flight's own, as after a digest: who is asking
// peers that do not answer need not go on.
func (g *Gossip) untilArrival(ctx context.Context, key string, stale backend.Stamp) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	g.spawn("arrival", func(life context.Context) {
		for {
			arrived := g.watch.of(key)
			if _, ok := g.store.Newer(key, stale); ok {
				cancel()
				return
			}
			select {
			case <-arrived:
			case <-ctx.Done():
				return
			case <-life.Done():
				return
			}
		}
	})
	return ctx, cancel
}

// lookAround asks what others hold although the provider is to be left alone, or
// has refused: it is as good as ever, and this node may have missed its copy by a
// restart or a partition that ended while the provider was asked.
func (g *Gossip) lookAround(ctx context.Context, key string, stale backend.Stamp, r *backend.Refusal) (backend.Entry, error) {
	if g.lastLook.allowed(key, g.cfg.Clock.Now(), aroundPause) {
		g.joinMissing(key)
		g.look(ctx, key, stale, lookPatiently)
	}
	if e, ok := g.local(key, stale); ok {
		return e, nil
	}
	return backend.Entry{}, r
}

// joinMissing tries the peers that are no members at once if this node has nothing
// to lend: one of them may, and the next round of joins may be ten seconds away.
// What it brings is there for the next request.
func (g *Gossip) joinMissing(key string) {
	p := g.peers.Load()
	if _, ok := g.local(key, backend.Stamp{}); !ok && p != nil && (*p).HasPeers() {
		(*p).JoinNow()
	}
}

// ask asks the first nodes of the order to lead, leads when its own turn comes,
// and leads as the last resort, because a second token is a nuisance and no token
// an outage. A node whose own way is broken goes on asking for as long as the
// flight lasts, or until maxAsked ways have been found broken, and tries its own
// again when the pause after that is over.
func (g *Gossip) ask(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc) (backend.Entry, error) {
	q := question{Gossip: g, key: key, stale: stale, fill: fill}
	enough := g.cfg.Clock.Now() + askFor
	for _, m := range g.order(key) {
		if q.hasWay() && (q.asked >= maxAsked || g.cfg.Clock.Now() >= enough) {
			if e, err := q.lastResort(ctx); !isWay(err) {
				return e, err
			}
			q.lost = true
		}
		if q.brokenWays >= maxAsked {
			break
		}
		if e, err := q.put(ctx, m); !errors.Is(err, errNextNode) {
			return e, err
		}
	}
	if !q.hasWay() {
		return backend.Entry{}, noWay()
	}
	return q.lastResort(ctx)
}

// question is what a flight has found out while it asks one node after another.
type question struct {
	*Gossip
	key   string
	stale backend.Stamp
	fill  backend.FillFunc

	asked      int
	brokenWays int  // of others to the provider
	lost       bool // this node's own way was broken
	suspects   []string
}

// hasWay reports whether this node's own way to the provider is worth trying.
func (q *question) hasWay() bool { return !q.lost || q.store.Backoff(q.key) == nil }

// put asks one node of the order, or leads where that node is this one.
// errNextNode: go on with the next.
func (q *question) put(ctx context.Context, m cluster.Member) (backend.Entry, error) {
	if q.suspect.has(m.ID) {
		q.suspects = append(q.suspects, m.ID)
		return backend.Entry{}, errNextNode
	}
	if m.Self && !q.hasWay() {
		return backend.Entry{}, errNextNode
	}
	e, err := q.askOne(ctx, m, q.key, q.stale, q.suspects, q.fill)
	var refusal *backend.Refusal
	switch {
	case err == nil:
		return e, nil
	case ctx.Err() != nil:
		return backend.Entry{}, ctx.Err()
	case errors.As(err, &refusal) && !refusal.Way:
		return backend.Entry{}, err
	case refusal != nil && m.Self:
		q.asked++
		q.lost = true
	case refusal != nil:
		q.asked++
		q.brokenWays++
	case !errors.Is(err, errNextNode):
		q.asked++
		q.suspects = append(q.suspects, m.ID)
	}
	return backend.Entry{}, errNextNode
}

// isWay reports whether an error is that of a node whose way to the provider is
// broken.
func isWay(err error) bool {
	var refusal *backend.Refusal
	return errors.As(err, &refusal) && refusal.Way
}

func noWay() error {
	return &backend.Refusal{Code: codeNoWay, Way: true, RetryAfter: backend.MinBackoff}
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

// lastResort leads here although others come first. Where leaders found their
// way to the provider broken, this node's own is tried once per alonePause.
func (q *question) lastResort(ctx context.Context) (backend.Entry, error) {
	if r := q.store.Backoff(q.key); r != nil {
		return backend.Entry{}, r
	}
	if q.brokenWays > 0 && !q.lastTry.allowed(q.key, q.cfg.Clock.Now(), alonePause) {
		return backend.Entry{}, noWay()
	}
	q.metrics.lastResort.Inc()
	return q.lead(ctx, q.key, q.stale, q.suspects, q.fill)
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
