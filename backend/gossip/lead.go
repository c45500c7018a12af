package gossip

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

const (
	// joinWait is how long the first acquisition of a key waits for the join,
	// so that a node that starts finds its peers' token (protocol.md, Herd).
	joinWait = time.Second
	// settleQuiet is how long a view must have stood still: joins are seen by
	// all within 0.2 s at 3 nodes and 0.4 s at 10 (protocol.md, Membership).
	settleQuiet = 300 * time.Millisecond
	// waitPoll is the pause before a rival that itself waits is asked again.
	waitPoll = 50 * time.Millisecond
	// minReplicated is the shortest remaining life worth a copy: that of a token
	// of 10 s, less the margin kept before its expiry (protocol.md, Time).
	minReplicated = 9 * time.Second
)

// lead obtains an entry newer than stale as the key's leader. It never forwards:
// a node that is asked to lead leads, even if its own view names another, so
// differing views cannot make nodes wait for each other.
func (g *Gossip) lead(ctx context.Context, key string, stale backend.Stamp, suspects []string, fill backend.FillFunc) (backend.Entry, error) {
	for {
		if e, ok := g.local(key, stale); ok {
			return e, nil
		}
		e, err := g.leads.Do(ctx, key, func(ctx context.Context) (backend.Entry, error) {
			return g.flyLead(ctx, key, stale, suspects, fill)
		})
		if err != nil || g.store.Usable(key, e, stale) {
			return e, err
		}
	}
}

// flyLead is the flight of a leader. Two leaders of one key can only exist where
// views differ; each notes its intent with the first R others of the order
// before it decides, so at least one of them sees the other:
//
//  1. A notes its intent, then B does: B sees A. If A is earlier in the order B
//     waits; otherwise B waits only while A is still deciding or acquiring.
//  2. Both note before either reads: the later in the order waits, the earlier
//     asks it once, is told "waiting", and acquires.
//
// A node that acquires waits for nobody, so waits cannot form a circle.
func (g *Gossip) flyLead(ctx context.Context, key string, stale backend.Stamp, suspects []string, fill backend.FillFunc) (backend.Entry, error) {
	phase := g.phases.begin(key)
	defer phase.end()
	g.awaitJoin(ctx, key)
	dismissed := slices.Clone(suspects)
	for ctx.Err() == nil {
		phase.set(answerPeeking)
		told := g.replicas(key)
		rivals := g.look(ctx, key, stale, lookIntending(dismissed))
		if e, ok := g.local(key, stale); ok {
			return e, nil
		}
		if r := g.store.Backoff(key); r != nil {
			return backend.Entry{}, r
		}
		rival, found := g.rival(ctx, key, stale, rivals, &dismissed)
		if !found {
			phase.set(answerAcquiring)
			return g.acquire(ctx, key, stale, fill, told)
		}
		phase.set(answerWaiting)
		if g.waitOn(ctx, rival, key, stale) {
			g.silent(ctx, rival, key, rivals)
		}
		dismissed = append(dismissed, rival.ID)
	}
	return backend.Entry{}, ctx.Err()
}

// awaitJoin holds the very first acquisition of a key back until this node has
// met another, if it expects any, and its view has stood still: fleets start
// all at once, and leaders whose views are of different moments may ask nodes
// that have none in common.
func (g *Gossip) awaitJoin(ctx context.Context, key string) {
	p := g.peers.Load()
	if p == nil || !(*p).HasPeers() || g.store.Highest(key) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	select {
	case <-(*p).Joined():
	default:
		(*p).JoinNow() // the way to them may have come back since the last try
	}
	select {
	case <-(*p).Joined():
	case <-ctx.Done():
		return
	}
	for ctx.Err() == nil {
		left := g.settled.left(g.cfg.Clock.Now())
		if left <= 0 {
			return
		}
		sleep(ctx, left)
	}
}

// rival returns the node to wait for: the first of the order that intends, if it
// is earlier than this one, else a later one that is already at it. Those that
// turn out to be no rivals are added to dismissed.
func (g *Gossip) rival(ctx context.Context, key string, stale backend.Stamp, intending map[string]bool, dismissed *[]string) (cluster.Member, bool) {
	earlier := true
	for _, m := range g.order(key) {
		switch {
		case m.Self:
			earlier = false
		case !intending[m.ID] || slices.Contains(*dismissed, m.ID) || g.suspect.has(m.ID):
		case earlier:
			return m, true
		default:
			busy, silent := g.isBusy(ctx, m, key, stale)
			if busy {
				return m, true
			}
			if silent {
				g.silent(ctx, m, key, intending)
			}
			*dismissed = append(*dismissed, m.ID)
		}
	}
	return cluster.Member{}, false
}

// isBusy reports whether a later node is deciding or acquiring, and whether it
// does not answer.
func (g *Gossip) isBusy(ctx context.Context, m cluster.Member, key string, stale backend.Stamp) (busy, silent bool) {
	a, err := g.askWait(ctx, m, key, stale)
	if err != nil {
		return false, errors.Is(err, errSilent) && ctx.Err() == nil
	}
	return a == answerPeeking || a == answerAcquiring || a == answerToken, false
}

// waitOn waits until a rival has an entry newer than stale, which then is merged
// here, or stops trying to get one, or falls silent, which it reports. A later
// node that has begun to wait itself may be waiting for this one.
func (g *Gossip) waitOn(ctx context.Context, m cluster.Member, key string, stale backend.Stamp) (silent bool) {
	g.metrics.waits.Inc()
	for ctx.Err() == nil {
		a, err := g.askWait(ctx, m, key, stale)
		switch {
		case errors.Is(err, errSilent) && ctx.Err() == nil:
			return true
		case err != nil:
			return false
		case a == answerPeeking, a == answerAcquiring: // the peer has held the request for a slice
		case a == answerWaiting && g.precedes(key, m):
			sleep(ctx, waitPoll)
		default:
			return false
		}
	}
	return false
}

// silent suspects a rival that did not answer, and all others at once that do not
// either. Whoever has been cut off while many tried to acquire would otherwise
// wait for one of them after the other, until its flight is over.
func (g *Gossip) silent(ctx context.Context, rival cluster.Member, key string, intending map[string]bool) {
	g.suspected(rival)
	var pings sync.WaitGroup
	for _, m := range g.others(key) {
		if intending[m.ID] {
			pings.Go(func() {
				defer g.recovered("ping rivals")
				_, err := g.call(ctx, m, opPing, http.Header{}, g.sliceTimeout)
				if errors.Is(err, errSilent) && ctx.Err() == nil {
					g.suspected(m)
				}
			})
		}
	}
	pings.Wait()
}

// precedes reports whether m comes before this node in the key's order.
func (g *Gossip) precedes(key string, m cluster.Member) bool {
	for _, o := range g.order(key) {
		if o.Self || o.ID == m.ID {
			return !o.Self
		}
	}
	return false
}

// acquire goes to the provider, after told have been told so. Whoever waits is
// answered before the copies are made.
func (g *Gossip) acquire(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc, told []cluster.Member) (backend.Entry, error) {
	acquiring, done := context.WithCancel(ctx)
	g.tellNewcomers(acquiring, key, told)
	e, err := g.store.Acquire(ctx, key, stale, fill)
	done()
	var refusal *backend.Refusal
	switch {
	case err == nil:
		g.metrics.acquired.WithLabelValues("ok").Inc()
		g.watch.notify(key)
	case errors.As(err, &refusal):
		g.metrics.acquired.WithLabelValues("refused").Inc()
	default:
		return backend.Entry{}, err
	}
	g.spawn("replicate", func(ctx context.Context) { g.replicate(ctx, key, refusal) })
	return e, err
}

// tellNewcomers notes this node's intent with those who become one of the first R
// others before ctx ends, or become reachable: nodes that join, or come back,
// while the provider takes its time. Otherwise a leader who looks at none but
// newcomers would not see it. Told are those that have heard of it already.
func (g *Gossip) tellNewcomers(ctx context.Context, key string, told []cluster.Member) {
	p := g.peers.Load()
	if p == nil {
		return
	}
	g.spawn("tell newcomers", func(life context.Context) {
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for {
			changed := (*p).Changed()
			told = append(told, g.intendAt(life, key, newcomers(g.replicas(key), told))...)
			select {
			case <-changed:
			case <-tick.C:
			case <-ctx.Done():
				return
			case <-life.Done():
				return
			}
		}
	})
}

// tellEvery is how often a node that acquires looks for replicas that it could
// not tell of it, or that were suspected until then.
const tellEvery = time.Second

func newcomers(replicas, told []cluster.Member) []cluster.Member {
	return slices.DeleteFunc(replicas, func(m cluster.Member) bool {
		return slices.ContainsFunc(told, func(t cluster.Member) bool { return t.ID == m.ID })
	})
}

// intendAt notes this node's intent with all at once and returns those that have
// answered.
func (g *Gossip) intendAt(ctx context.Context, key string, all []cluster.Member) (answered []cluster.Member) {
	var mu sync.Mutex
	var peeks sync.WaitGroup
	for _, m := range all {
		peeks.Go(func() {
			defer g.recovered("intend")
			if _, err := g.peek(ctx, m, key, lookIntending(nil)); err == nil {
				mu.Lock()
				defer mu.Unlock()
				answered = append(answered, m)
			}
		})
	}
	peeks.Wait()
	return answered
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
