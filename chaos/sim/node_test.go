//go:build chaos

package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/gossip"
	"orthanc-oauth/cluster"
	"orthanc-oauth/cluster/memnet"
	"orthanc-oauth/tokens"
	"orthanc-oauth/tokens/provider"
)

// node is one machine's place in the fleet; instances come and go in it.
type node struct {
	w    *world
	i    int
	skew atomic.Int64 // of its wall clock

	// Guarded by the world's mutex.
	in     *instance // nil while nothing runs
	starts int
	pauses int
	silent bool // no requests of its own: a story asks
}

func newNode(w *world, i int) *node {
	n := &node{w: w, i: i}
	if w.o.skew {
		n.skew.Store(int64(time.Duration(w.rng.IntN(1200)-600) * time.Second))
	}
	return n
}

func (n *node) String() string { return fmt.Sprintf("n%d", n.i) }

// wall is the machine's idea of the time of day.
func (n *node) wall() time.Time { return time.Now().Round(0).Add(time.Duration(n.skew.Load())) }

func (n *node) running() *instance {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.in
}

// reachable is for holders of the world's mutex.
func (n *node) reachable() bool { return n.in != nil && n.pauses == 0 }

// instance is one process: the real code of a node, wired as internal/node does.
type instance struct {
	node    *node
	n       int // which start this is
	host    *memnet.Host
	gossip  *gossip.Gossip
	cluster *cluster.Cluster
	manager *tokens.Manager
	sources []*tokens.Source
	ways    []http.RoundTripper // to the remote of each key
	life    context.Context
	end     context.CancelFunc
	flying  atomic.Int32 // gets under way

	// Guarded by the world's mutex.
	dead    bool // killed: nothing of it is seen any more
	began   time.Duration
	paused  time.Duration // last moment in which it was paused
	learned map[backend.ID]time.Duration
	served  map[int]*sight
}

// sight is the newest acquisition that an instance was seen to serve.
type sight struct {
	at time.Duration
	g  *grant
}

func (in *instance) String() string { return fmt.Sprintf("n%d.%d", in.node.i, in.n) }

// start runs a new instance, if none runs.
func (n *node) start() *instance {
	w := n.w
	if n.running() != nil {
		return nil
	}
	w.mu.Lock()
	n.starts++
	in := &instance{
		node: n, n: n.starts, began: w.now(), paused: -1,
		learned: make(map[backend.ID]time.Duration), served: make(map[int]*sight),
	}
	w.mu.Unlock()
	in.host = w.net.Host(addrOf(n.i))
	in.life, in.end = context.WithCancel(context.Background())
	if err := in.assemble(); err != nil {
		panic(err) // a fault of the simulation's own
	}
	w.mu.Lock()
	n.in = in
	if n.pauses > 0 {
		in.host.Pause()
	}
	w.judge.moved()
	w.mu.Unlock()
	w.hist.add(in.String(), "starts as %s", in.cluster.Self().ID)
	for k := range w.o.keys {
		w.tasks.Go(func() { in.load(k) })
	}
	return in
}

func (in *instance) assemble() (err error) {
	w, clock, log := in.node.w, backend.NewClock(in.node.wall), in.node.w.hist.logger(in.String())
	in.gossip, err = gossip.New(gossip.Config{
		Resolve: in.resolve, Vet: in.vet, Revoked: in.revoked,
		Clock: clock, Replicas: w.o.replicas, Log: log,
	})
	if err != nil {
		return err
	}
	in.manager, err = tokens.New(tokens.Config{Backend: spy{in.gossip, in}, BackendName: "gossip", Clock: clock, Log: log})
	if err != nil {
		return err
	}
	for k := range w.o.keys {
		if err := in.addSource(k); err != nil {
			return err
		}
	}
	in.cluster, err = cluster.New(cluster.Config{
		Name: in.node.String(), BindAddr: addrOf(in.node.i), BindPort: 7946, Peers: w.peers(),
		ClusterName: "sim", Secrets: [][]byte{[]byte("0123456789abcdef0123456789abcdef")},
		Keys: in.manager.Keys(), Replicas: w.o.replicas, Handler: in.gossip, Delegate: in.gossip,
		Log: log, Network: in.host, Wall: in.node.wall,
	})
	if err != nil {
		return err
	}
	in.gossip.SetKeys(in.manager.Keys())
	in.gossip.Start(in.cluster)
	w.tasks.Go(func() { clock.Watch(in.life, in.manager.Age) })
	return in.cluster.Start()
}

func (in *instance) addSource(k int) error {
	endpoint := fmt.Sprintf("https://idp.example/%d", k)
	client, err := provider.NewClientCredentials(provider.Config{
		TokenEndpoint: endpoint, ClientID: "sim", ClientSecret: provider.NewSecret("secret"),
		AuthStyle: provider.AuthPost, Transport: line{in, k},
	})
	if err != nil {
		return err
	}
	resilient, err := provider.NewResilient(client, provider.ResilienceConfig{Server: endpoint})
	if err != nil {
		return err
	}
	source, err := in.manager.Set(tokens.SourceConfig{
		Name: fmt.Sprintf("pacs%d", k), Provider: resilient,
		Credential: tokens.Credential{TokenEndpoint: endpoint, ClientID: "sim", Grant: "client_credentials", Root: root(k)},
	})
	if err != nil {
		return err
	}
	in.sources = append(in.sources, source)
	in.ways = append(in.ways, source.Transport(remote{in, k}))
	return nil
}

// ending is how an instance ends.
type ending int

const (
	kill  ending = iota // kill -9: its streams are reset
	crash               // of the machine: silence
	leave               // as its host asks it to
)

func (e ending) String() string { return [...]string{"killed", "crashed", "leaves"}[e] }

// closeWithin is what stopping may take (faults.md, 7).
const closeWithin = 3 * time.Second

// stop ends the running instance. A leave takes virtual time, the others none.
func (n *node) stop(how ending) {
	in := n.running()
	if in == nil {
		return
	}
	n.w.hist.add(in.String(), "%v", how)
	in.end()
	if how != leave {
		n.gone(in, how)
		if how == kill {
			in.host.Kill()
		} else {
			in.host.Crash()
		}
		n.w.tasks.Go(func() { in.close(closeWithin) }) // only to free its goroutines
		return
	}
	began := n.w.now()
	in.close(closeWithin)
	n.w.mu.Lock()
	if took := n.w.now() - began; took > closeWithin+100*time.Millisecond && n.pauses == 0 {
		n.w.judge.violated(leakless, "%v took %v to stop", in, took)
	}
	n.w.mu.Unlock()
	n.gone(in, how)
	in.host.Kill()
}

// gone takes the instance out of the world.
func (n *node) gone(in *instance, how ending) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	in.dead, n.in = true, nil
	n.w.judge.died(in, how)
	n.w.judge.moved()
}

func (in *instance) close(within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_ = in.manager.Close(ctx)
	_ = in.gossip.Close(ctx)
	_ = in.cluster.Close(ctx)
}

// pause stops a machine for others: nothing comes from it and it takes nothing.
// Pauses overlap.
func (n *node) pause(by int) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.pauses += by
	in := n.in
	n.w.judge.moved()
	if in == nil {
		return
	}
	if in.paused = n.w.now(); n.pauses > 0 {
		in.host.Pause()
	} else {
		in.host.Resume()
	}
}

// awake waits while the machine is paused.
func (in *instance) awake(ctx context.Context) error {
	for {
		in.node.w.mu.Lock()
		paused, dead := in.node.pauses > 0, in.dead
		in.node.w.mu.Unlock()
		switch {
		case dead:
			return errDown
		case !paused:
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// maxFlying bounds the requests of one instance under way.
const maxFlying = 16

// load is the instance's own users of one key.
func (in *instance) load(k int) {
	w := in.node.w
	if w.o.every <= 0 {
		return
	}
	rng := rand.New(rand.NewPCG(w.o.seed, uint64(in.node.i*1000+in.n*100+k))) //nolint:gosec // replayable
	for {
		if sleep(in.life, time.Duration(rng.ExpFloat64()*float64(w.o.every))) != nil {
			return
		}
		w.mu.Lock()
		idle := in.node.silent || in.node.pauses > 0
		w.mu.Unlock()
		if idle || in.flying.Load() >= maxFlying {
			continue
		}
		w.tasks.Go(func() { in.get(k) })
	}
}

// patience of a caller: longer than a get may take, so that a slow one is seen.
const patience = 25 * time.Second

// get is one request of a user to the remote of a key.
func (in *instance) get(k int) error {
	in.flying.Add(1)
	defer in.flying.Add(-1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://pacs.example/%d", k), nil)
	if err != nil {
		return err
	}
	g := &get{in: in, key: k, began: in.node.w.now()}
	resp, err := in.ways[k].RoundTrip(req)
	status := 0
	if err == nil {
		status = resp.StatusCode
		resp.Body.Close()
	}
	return in.node.w.got(g, status, err)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
