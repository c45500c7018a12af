//go:build chaos

package sim

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// figure is one row of the table that docs/protocol.md shows: what is measured,
// what it may be at most, and a run from a seed that measures it.
type figure struct {
	name    string
	atMost  float64
	typical float64 // the median may be at most this; 0: as atMost
	unit    string
	runs    int
	run     func(t *testing.T, seed uint64) float64
}

// seeded is a healthy fleet from another seed.
func seeded(seed uint64, n int) options {
	return small(n).with(func(o *options) { o.seed = seed })
}

// together lets every node's users ask for key 0 at the same instant, callers of
// each.
func (w *world) together(callers int) {
	var all sync.WaitGroup
	for _, in := range w.up() {
		for range callers {
			all.Go(func() { in.get(0) })
		}
	}
	all.Wait()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// coldFleet returns the acquisitions of 50 nodes that start together and have 20
// callers each at once.
func coldFleet(t *testing.T, seed uint64) float64 {
	w := simulate(t, seeded(seed, 50).with(func(o *options) { o.every = 0 }), func(w *world) { w.together(20) })
	return float64(len(w.idp.grants))
}

// refusedFleet returns the acquisitions after a remote refuses the token of 50
// nodes at once.
func refusedFleet(t *testing.T, seed uint64) float64 {
	w := simulate(t, seeded(seed, 50).with(func(o *options) { o.every = 0 }), func(w *world) {
		time.Sleep(5 * time.Second)
		w.together(1)
		w.once("void", true, func() { w.voids(0) })
		w.together(1)
	})
	return float64(len(w.idp.grants) - 1)
}

// afterKill returns how long a node that holds no token waits for one whose
// leader has just been killed.
func afterKill(t *testing.T, seed uint64) float64 {
	var took time.Duration
	w := simulate(t, seeded(seed, 6).with(func(o *options) { o.every = 0 }), func(w *world) {
		time.Sleep(3 * time.Second)
		order := w.order(0)
		order[1].get(0)
		time.Sleep(time.Second)
		w.during("kill", false, time.Second, func() func() {
			order[0].node.stop(kill)
			began := w.now()
			order[5].get(0)
			took = w.now() - began
			return func() { order[0].node.start() }
		})
	})
	if len(w.idp.grants) != 1 {
		t.Errorf("%d acquisitions", len(w.idp.grants))
	}
	return milliseconds(took)
}

// afterStop returns how long a get takes beyond the provider's latency when the
// leader has just been stopped and nobody holds a token.
func afterStop(t *testing.T, seed uint64) float64 {
	var took time.Duration
	w := simulate(t, seeded(seed, 6).with(func(o *options) { o.every = 0 }), func(w *world) {
		time.Sleep(3 * time.Second)
		order := w.order(0)
		w.during("pause", false, 10*time.Second, func() func() {
			order[0].node.pause(1)
			began := w.now()
			order[1+int(seed)%5].get(0)
			took = w.now() - began
			return func() { order[0].node.pause(-1) }
		})
	})
	return milliseconds(took - w.o.latency)
}

// healing returns how long two halves take to be one ring after two minutes
// apart, in seconds; that costs no acquisition.
func healing(t *testing.T, seed uint64) float64 {
	var took time.Duration
	w := simulate(t, seeded(seed, 8).with(func(o *options) { o.names = 8 }), func(w *world) {
		time.Sleep(5 * time.Second)
		w.during("halves", false, 2*time.Minute, func() func() { return w.trouble(cutting(odd)) })
		began := w.now()
		for took = 0; took < convergeWithin && w.converged() != nil; took = w.now() - began {
			time.Sleep(50 * time.Millisecond)
		}
	})
	if len(w.idp.grants) != 1 {
		t.Errorf("%d acquisitions, one is needed", len(w.idp.grants))
	}
	return took.Seconds()
}

// wrongClocks returns how many acquisitions more a fleet makes whose clocks are
// wrong by up to ten minutes than the same one with right clocks.
func wrongClocks(t *testing.T, seed uint64) float64 {
	run := func(skew bool) int {
		o := seeded(seed, 8).living(time.Minute).with(func(o *options) { o.skew = skew })
		return len(simulate(t, o, func(*world) { time.Sleep(150 * time.Second) }).idp.grants)
	}
	return float64(run(true) - run(false))
}

// farNode returns the acquisitions that a node makes for itself which needs a
// token and has a round trip of 600 ms to everybody.
func farNode(t *testing.T, seed uint64) float64 {
	w := simulate(t, seeded(seed, 6).with(func(o *options) { o.every, o.latency = 0, 3*time.Second }), func(w *world) {
		time.Sleep(2 * time.Second)
		far := w.order(0)[5].node
		w.during("slow-link", false, 20*time.Second, func() func() {
			undo := w.trouble(&trouble{delay: 300 * time.Millisecond, hits: func(i, j int) bool { return i == far.i || j == far.i }})
			time.Sleep(5 * time.Second)
			w.tasks.Go(func() { w.order(0)[1].get(0) })
			time.Sleep(100 * time.Millisecond)
			far.running().get(0)
			return undo
		})
	})
	return float64(len(w.idp.grants) - 1)
}

var figureRows = []figure{
	{name: "50 nodes x 20 callers, cold: acquisitions", atMost: 3, typical: 1, runs: 12, run: coldFleet},
	{name: "50 nodes refused at once: acquisitions", atMost: 1, runs: 12, run: refusedFleet},
	{name: "leader killed, copy alive: wait of the next get", atMost: 100, unit: "ms", runs: 100, run: afterKill},
	{name: "leader stopped: wait beyond the provider's", atMost: 2000, unit: "ms", runs: 30, run: afterStop},
	{name: "halves after two minutes: one ring again after", atMost: 30, unit: "s", runs: 10, run: healing},
	{name: "clocks wrong by up to 10 min: more acquisitions", atMost: 0, runs: 10, run: wrongClocks},
	{name: "fetch over a round trip of 600 ms: direct acquisitions", atMost: 0, runs: 20, run: farNode},
}

// TestFigures measures what docs/protocol.md promises in numbers.
func TestFigures_AreWithinWhatIsPromised(t *testing.T) {
	table := make([]string, len(figureRows))
	t.Run("rows", func(t *testing.T) {
		for i, f := range figureRows {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				table[i] = f.measure(t)
			})
		}
	})
	t.Logf("\n%s", strings.Join(table, "\n"))
}

func (f figure) measure(t *testing.T) string {
	runs := max(1, f.runs/slowdown)
	values := make([]float64, runs)
	for i := range values {
		values[i] = f.run(t, uint64(i+1))
	}
	slices.Sort(values)
	median, worst := values[runs/2], values[runs-1]
	if worst > f.atMost || f.typical > 0 && median > f.typical {
		t.Errorf("median %v, worst %v; allowed is %v", median, worst, f.atMost)
	}
	return fmt.Sprintf("%-56s median %v %s, worst of %d %v %s, allowed %v", f.name, median, f.unit, runs, worst, f.unit, f.atMost)
}
