package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
	"orthanc-oauth/cluster/memnet"
)

// provider is what the fleet's fills ask: it holds the truth about how often it
// was asked.
type provider struct {
	mu      sync.Mutex
	calls   int
	flying  int
	most    int // calls under way at once
	latency time.Duration
	life    time.Duration
	refuse  func(node int) error
}

func newProvider() *provider { return &provider{latency: 100 * time.Millisecond, life: time.Hour} }

func (p *provider) fill(node int) backend.FillFunc {
	return func(ctx context.Context, gen uint64) (backend.Entry, error) {
		p.mu.Lock()
		p.calls++
		p.flying++
		p.most = max(p.most, p.flying)
		n, latency, life, refuse := p.calls, p.latency, p.life, p.refuse
		p.mu.Unlock()
		defer func() { p.mu.Lock(); p.flying--; p.mu.Unlock() }()
		sleep(ctx, latency)
		if err := ctx.Err(); err != nil {
			return backend.Entry{}, err
		}
		if refuse != nil {
			if err := refuse(node); err != nil {
				return backend.Entry{}, err
			}
		}
		return backend.Entry{
			Stamp: backend.Stamp{Gen: gen, ID: backend.NewID()},
			Value: fmt.Appendf(nil, "token %d", n),
			TTL:   life - latency,
		}, nil
	}
}

func (p *provider) set(f func(p *provider)) { p.mu.Lock(); defer p.mu.Unlock(); f(p) }

func (p *provider) count() int { p.mu.Lock(); defer p.mu.Unlock(); return p.calls }

// node is one member of a test's fleet.
type node struct {
	host    *memnet.Host
	cluster *cluster.Cluster
	gossip  *Gossip
	fill    backend.FillFunc
	handler atomic.Pointer[http.Handler]
	dead    bool
}

// ServeHTTP passes a peer's request to the node, through whatever a test put
// before it.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*n.handler.Load()).ServeHTTP(w, r) }

func (n *node) swap(wrap func(http.Handler) http.Handler) {
	h := wrap(*n.handler.Load())
	n.handler.Store(&h)
}

func (n *node) get(ctx context.Context, stale backend.Stamp) (backend.Entry, error) {
	return n.gossip.Fill(ctx, testKey, stale, n.fill)
}

type fleet struct {
	t     *testing.T
	net   *memnet.Net
	idp   *provider
	nodes []*node
	peers []string
}

const testKey = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

var testSecret = []byte("0123456789abcdef0123456789abcdef")

// inFleet runs a story in a bubble with n nodes that know each other.
func inFleet(t *testing.T, n int, story func(t *testing.T, f *fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, n)
		defer f.stop()
		for range n {
			f.start()
		}
		f.settle(n)
		story(t, f)
	})
}

func newFleet(t *testing.T, n int) *fleet {
	f := &fleet{t: t, net: memnet.New(1), idp: newProvider()}
	for i := range min(n, 3) {
		f.peers = append(f.peers, addrOf(i))
	}
	return f
}

func addrOf(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }

func (f *fleet) start() *node {
	f.t.Helper()
	i := len(f.nodes)
	n := &node{host: f.net.Host(addrOf(i)), fill: f.idp.fill(i)}
	log := slog.New(slog.DiscardHandler)
	g, err := New(Config{
		Resolve: func(string) (backend.FillFunc, bool) { return n.fill, true },
		Clock:   backend.NewClock(nil),
		Log:     log,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	var h http.Handler = g
	n.handler.Store(&h)
	c, err := cluster.New(cluster.Config{
		Name: fmt.Sprintf("node%d", i), BindAddr: addrOf(i), BindPort: 7946,
		Peers: f.peers, ClusterName: "test", Secrets: [][]byte{testSecret},
		Keys: []string{testKey}, Handler: n, Delegate: g, Log: log, Network: n.host,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	n.gossip, n.cluster = g, c
	g.SetKeys([]string{testKey})
	g.Start(c)
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.nodes = append(f.nodes, n)
	return n
}

// settle waits until every living node sees n members.
func (f *fleet) settle(n int) {
	f.t.Helper()
	f.eventually(time.Minute, func() error {
		for i, nd := range f.nodes {
			if got := len(nd.gossip.order(testKey)); !nd.dead && got != n {
				return fmt.Errorf("node %d sees %d of %d", i, got, n)
			}
		}
		return nil
	})
	time.Sleep(settleQuiet)
}

// eventually checks a condition in steps of virtual time.
func (f *fleet) eventually(within time.Duration, check func() error) {
	f.t.Helper()
	var err error
	for spent := time.Duration(0); spent <= within; spent += 50 * time.Millisecond {
		if err = check(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.t.Fatalf("after %v: %v", within, err)
}

// kill ends a node as SIGKILL does: no farewell.
func (f *fleet) kill(n *node) {
	n.dead = true
	n.host.Kill()
}

// stop closes every node. memberlist's goroutines outlive its shutdown; the
// bubble's time must go on for them.
func (f *fleet) stop() {
	for _, n := range f.nodes {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		n.gossip.Close(ctx)
		n.cluster.Close(ctx)
		cancel()
	}
	time.Sleep(15 * time.Second)
}

// ordered returns the fleet's nodes in the key's order.
func (f *fleet) ordered() []*node {
	var out []*node
	for _, m := range f.alive()[0].gossip.order(testKey) {
		for _, n := range f.nodes {
			if n.cluster.Self().ID == m.ID {
				out = append(out, n)
			}
		}
	}
	return out
}

func (f *fleet) alive() (out []*node) {
	for _, n := range f.nodes {
		if !n.dead {
			out = append(out, n)
		}
	}
	return out
}

// all lets every living node ask at once, callers times each, and returns what
// they got.
func (f *fleet) all(callers int, stale backend.Stamp) (entries []backend.Entry, errs []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range f.alive() {
		for range callers {
			wg.Go(func() {
				e, err := n.get(f.t.Context(), stale)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
					return
				}
				entries = append(entries, e)
			})
		}
	}
	wg.Wait()
	return entries, errs
}

// must returns the one acquisition that all nodes get.
func (f *fleet) must(callers int, stale backend.Stamp) backend.Entry {
	f.t.Helper()
	entries, errs := f.all(callers, stale)
	if len(errs) > 0 {
		f.t.Fatalf("%d of %d gets failed, the first with: %v", len(errs), len(errs)+len(entries), errs[0])
	}
	for _, e := range entries {
		if e.Stamp != entries[0].Stamp {
			f.t.Fatalf("two acquisitions are served: %v and %v", e.Stamp, entries[0].Stamp)
		}
	}
	return entries[0]
}

func (f *fleet) wantCalls(want int) {
	f.t.Helper()
	if got := f.idp.count(); got != want {
		f.t.Fatalf("the provider was asked %d times, want %d", got, want)
	}
}
