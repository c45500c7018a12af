//go:build chaos

package sim

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/cluster/memnet"
)

// options describe one simulated fleet.
type options struct {
	seed     uint64
	nodes    int
	keys     int
	replicas int           // 0: the default
	life     time.Duration // of a token
	latency  time.Duration // of the provider
	delay    time.Duration // one way, between any two nodes
	every    time.Duration // mean time between two requests of one node for one key
	skew     bool          // every clock is wrong, by up to ten minutes
	names    int           // how many nodes are in the peer list; 3 when 0
}

func (o options) String() string {
	return fmt.Sprintf("seed %d: %d nodes, %d keys, life %v, provider %v, delay %v, skew %v", o.seed, o.nodes, o.keys, o.life, o.latency, o.delay, o.skew)
}

// world is one simulation: the fleet and all that surrounds it. One mutex guards
// whatever of it changes; no lock is held while virtual time passes.
type world struct {
	o     options
	t     *testing.T // outside of the bubble
	rng   *rand.Rand // of the story, which runs in one goroutine
	began time.Time
	net   *memnet.Net
	hist  *history
	nodes []*node
	over  bool // the bubble, and its time

	mu     sync.Mutex
	links  links
	idp    idp
	judge  judge
	faults []*fault
	tasks  sync.WaitGroup // gets and closings under way
}

// simulate runs a story in a bubble, lets the fleet come to rest, and reports
// what the judge found.
func simulate(t *testing.T, o options, story func(w *world), verdicts ...func(w *world)) *world {
	t.Helper()
	w := &world{o: o, t: t, hist: newHistory()}
	synctest.Test(t, func(*testing.T) {
		w.open()
		story(w)
		w.rest()
		w.close()
	})
	w.over = true
	for _, v := range verdicts {
		v(w)
	}
	w.report()
	return w
}

func (w *world) open() {
	w.began = time.Now()
	w.rng = rand.New(rand.NewPCG(w.o.seed, 1)) //nolint:gosec // replayable
	w.net = memnet.New(w.o.seed + 1)
	w.hist.began = w.began
	w.links = newLinks(w)
	w.idp = idp{latency: w.o.latency, byToken: make(map[string]*grant), noWay: make(map[int]int), wayBack: make(map[int]time.Duration)}
	w.judge = newJudge(w)
	w.hist.add("", "%v", w.o)
	for i := range w.o.nodes {
		w.nodes = append(w.nodes, newNode(w, i))
	}
	w.links.apply()
	for _, n := range w.nodes {
		n.start()
	}
}

// now is the true time since the beginning.
func (w *world) now() time.Duration { return time.Since(w.began) }

func addrOf(i int) string { return fmt.Sprintf("10.0.%d.%d", i/200, i%200+1) }

// peers is the list that every node is configured with.
func (w *world) peers() (list []string) {
	n := w.o.names
	if n == 0 {
		n = 3
	}
	for i := range min(n, w.o.nodes) {
		list = append(list, addrOf(i))
	}
	return list
}

// root is the secret root of a key's credential.
func root(k int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "root %d", k))
	return sum[:]
}

// up returns the running instances.
func (w *world) up() (out []*instance) {
	for _, n := range w.nodes {
		if in := n.running(); in != nil {
			out = append(out, in)
		}
	}
	return out
}

// order returns the running instances in the order in which they lead a key.
func (w *world) order(k int) (out []*instance) {
	up := w.up()
	if len(up) == 0 {
		return nil
	}
	for _, m := range up[0].cluster.Order(up[0].sources[k].Key()) {
		for _, in := range up {
			if in.cluster.Self().ID == m.ID {
				out = append(out, in)
			}
		}
	}
	return out
}

// convergeWithin is what faults.md gives a fleet to become one again.
const convergeWithin = 30 * time.Second

// rest ends every fault and demands that the fleet becomes one.
func (w *world) rest() {
	w.endFaults()
	w.converge()
}

// converge demands that all see one ring and hold one entry of each key.
func (w *world) converge() {
	var err error
	for spent := time.Duration(0); spent <= convergeWithin; spent += 500 * time.Millisecond {
		if err = w.converged(); err == nil {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.violated(converged, "after %v: %v", convergeWithin, err)
}

func (w *world) converged() error {
	up := w.up()
	for _, in := range up {
		if got := len(in.cluster.Members()); got != len(up) {
			return fmt.Errorf("%s sees %d of %d", in, got, len(up))
		}
	}
	for k := range w.o.keys {
		var first string
		for _, in := range up {
			e, err := in.gossip.Get(context.Background(), in.sources[k].Key())
			if err != nil {
				continue
			}
			if id := e.ID.String(); first == "" {
				first = id
			} else if id != first {
				return fmt.Errorf("%s holds another entry of key %d", in, k)
			}
		}
	}
	return nil
}

// close stops the fleet. memberlist's goroutines outlive its shutdown; the
// bubble's time must go on for them.
func (w *world) close() {
	for _, in := range w.up() {
		in.node.stop(leave)
	}
	w.tasks.Wait()
	time.Sleep(15 * time.Second)
}

// report tells the test what was found.
func (w *world) report() {
	w.t.Helper()
	w.judge.settle()
	if w.hist.leaked() {
		w.judge.violated(secret, "a token is in a log")
	}
	if len(w.judge.violations) == 0 {
		return
	}
	w.t.Errorf("%v\n%s", w.o, w.hist.keep(w.o.seed))
	for i, v := range w.judge.violations {
		if i == 10 {
			w.t.Errorf("and %d more", len(w.judge.violations)-i)
			break
		}
		w.t.Errorf("VIOLATION %s", v)
	}
}
