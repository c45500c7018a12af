package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

// DefaultReplicas is how many other nodes hold a copy of each entry.
const DefaultReplicas = 3

// Peers is what this package needs of a cluster; *cluster.Cluster is one.
type Peers interface {
	Self() cluster.Member
	Order(key string) []cluster.Member
	Members() []cluster.Member
	Do(req *http.Request, to cluster.Member) (*http.Response, error)
	RTT(id string) time.Duration
	Broadcast(name string, msg []byte)
	Joined() <-chan struct{}
	JoinNow()
	Changed() <-chan struct{}
	HasPeers() bool
}

// Config is what a Gossip needs to work.
type Config struct {
	Resolve  backend.Resolver // how this node fills a key that a peer asked for
	Clock    *backend.Clock
	Replicas int // copies beside the leader's; DefaultReplicas when 0

	// Vet judges a value that a peer sent before it is held: a peer without the
	// credential must not displace a good entry. Nil accepts all.
	Vet func(key string, e backend.Entry) error

	// Revoked is told of every revocation that this node learns of from others,
	// so that nothing in front of this backend goes on serving the id. May be
	// nil. It must not block.
	Revoked func(key string, id backend.ID)

	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Gossip is one node's part of the shared backend. It serves the requests of its
// peers as an http.Handler and takes their digests as a cluster.Delegate. Until
// Start it is alone and acquires for itself.
type Gossip struct {
	cfg     Config
	store   *backend.Store
	asks    *backend.Flights // what this node wants: one per key
	leads   *backend.Flights // what this node leads: one per key
	phases  *phases
	intents *intents
	suspect *suspects
	known   *keyring
	watch   *watch
	heard   *announcements
	metrics *metrics

	peers    atomic.Pointer[Peers]
	leaving  atomic.Bool
	lastTry  lastTries // of going alone
	lastLook lastTries // of looking around during a backoff
	settled  settling

	life  context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup
}

var (
	_ backend.Backend  = (*Gossip)(nil)
	_ http.Handler     = (*Gossip)(nil)
	_ cluster.Delegate = (*Gossip)(nil)
)

// New returns a node that is not connected yet.
func New(cfg Config) (*Gossip, error) {
	if cfg.Resolve == nil || cfg.Clock == nil || cfg.Log == nil {
		return nil, fmt.Errorf("gossip backend: Resolve, Clock and Log are required")
	}
	if cfg.Replicas <= 0 {
		cfg.Replicas = DefaultReplicas
	}
	life, end := context.WithCancel(context.Background())
	return &Gossip{
		cfg:     cfg,
		store:   backend.NewStore(cfg.Clock),
		asks:    backend.NewFlights(),
		leads:   backend.NewFlights(),
		phases:  newPhases(),
		intents: newIntents(cfg.Clock),
		suspect: newSuspects(cfg.Clock),
		known:   &keyring{},
		watch:   newWatch(),
		heard:   newAnnouncements(cfg.Clock),
		metrics: newMetrics(cfg.Registerer),
		life:    life,
		end:     end,
	}, nil
}

// SetKeys names the keys this node is configured for. Digests of other keys are
// passed over.
func (g *Gossip) SetKeys(keys []string) { g.known.set(keys) }

// Start connects the node to its cluster.
func (g *Gossip) Start(p Peers) {
	g.peers.Store(&p)
	g.settled.changed(g.cfg.Clock.Now())
	g.spawn("settle", func(ctx context.Context) {
		for {
			changed := p.Changed()
			select {
			case <-changed:
				g.settled.changed(g.cfg.Clock.Now())
			case <-ctx.Done():
				return
			}
		}
	})
}

// order returns the key's order of leaders, only this node when it is alone.
func (g *Gossip) order(key string) []cluster.Member {
	if p := g.peers.Load(); p != nil {
		return (*p).Order(key)
	}
	return []cluster.Member{{Self: true}}
}

// others returns the key's order without this node and without suspects: when
// the first of an order die together, those who are left must still meet.
func (g *Gossip) others(key string) (out []cluster.Member) {
	for _, m := range g.order(key) {
		if !m.Self && !g.suspect.has(m.ID) {
			out = append(out, m)
		}
	}
	return out
}

// replicas returns the first R others: the first, not the next after this node,
// so that two leaders with different views ask nodes in common (protocol.md,
// Lead, 3).
func (g *Gossip) replicas(key string) []cluster.Member {
	out := g.others(key)
	return out[:min(len(out), g.cfg.Replicas)]
}

// Get implements backend.Backend. It looks here first, then at the nodes that
// should hold a copy.
func (g *Gossip) Get(ctx context.Context, key string) (backend.Entry, error) {
	if err := g.usable(ctx); err != nil {
		return backend.Entry{}, err
	}
	if e, ok := g.local(key, backend.Stamp{}); ok {
		return e, nil
	}
	g.look(ctx, key, backend.Stamp{}, lookOnly)
	if e, ok := g.local(key, backend.Stamp{}); ok {
		return e, nil
	}
	return backend.Entry{}, backend.ErrMiss
}

// local returns the live entry held here if it is newer than stale. What this
// node once acquired itself counts as found locally from then on.
func (g *Gossip) local(key string, stale backend.Stamp) (backend.Entry, bool) {
	e, ok := g.store.Newer(key, stale)
	if e.From == backend.FromIdP {
		e.From = backend.FromLocal
	}
	return e, ok
}

// Set implements backend.Backend.
func (g *Gossip) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := g.usable(ctx); err != nil {
		return err
	}
	g.look(ctx, key, backend.Stamp{}, lookOnly) // to replace the newest, not only our own
	if err := g.store.Set(key, value, ttl); err != nil {
		return err
	}
	g.watch.notify(key)
	g.replicate(ctx, key, nil)
	return nil
}

// Delete implements backend.Backend.
func (g *Gossip) Delete(ctx context.Context, key string) (bool, error) {
	e, err := g.Get(ctx, key)
	if errors.Is(err, backend.ErrMiss) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	g.store.Revoke(key, e.ID, e.TTL)
	g.spreadRevocation(ctx, key, e.ID, e.TTL)
	return true, nil
}

// Exists implements backend.Backend.
func (g *Gossip) Exists(ctx context.Context, key string) (bool, error) {
	_, err := g.Get(ctx, key)
	if errors.Is(err, backend.ErrMiss) {
		return false, nil
	}
	return err == nil, err
}

// Clear implements backend.Backend: for every key held here or configured.
func (g *Gossip) Clear(ctx context.Context) error {
	for _, key := range g.known.union(g.store.Keys()) {
		if _, err := g.Delete(ctx, key); err != nil {
			return fmt.Errorf("clear: %w", err)
		}
	}
	return nil
}

// Close implements backend.Backend: it answers "leaving" from now on, lets
// running acquisitions finish, hands its entries to those who lead next, and
// stops. The cluster must still be up.
func (g *Gossip) Close(ctx context.Context) error {
	if g.leaving.Swap(true) {
		return nil
	}
	g.handOver(ctx)
	g.end()
	errAsks, errLeads := g.asks.Close(ctx), g.leads.Close(ctx)
	g.tasks.Wait() // each is bounded by life, which has ended
	if errAsks != nil {
		return errAsks
	}
	return errLeads
}

// handOver waits for the flights this node leads and pushes what it holds to
// the nodes that lead without it.
func (g *Gossip) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveBudget)
	defer cancel()
	g.phases.drain(ctx)
	var pushes sync.WaitGroup
	for _, key := range g.store.Keys() {
		pushes.Go(func() {
			defer g.recovered("hand over")
			g.replicate(ctx, key, nil)
		})
	}
	pushes.Wait()
}

// leaveBudget is what finishing and handing over may take of the 3 s that a
// whole leave may (protocol.md, Membership).
const leaveBudget = 1500 * time.Millisecond

func (g *Gossip) usable(ctx context.Context) error {
	if g.asks.Closed() {
		return backend.ErrClosed
	}
	return ctx.Err()
}

// spawn runs a task of this node's own, bounded by its life. A panic in it would
// kill the host.
func (g *Gossip) spawn(name string, task func(ctx context.Context)) {
	if g.life.Err() != nil {
		return
	}
	g.tasks.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				g.cfg.Log.Error("gossip task panicked", "task", name, "panic", fmt.Sprint(v))
			}
		}()
		task(g.life)
	})
}
