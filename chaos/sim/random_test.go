//go:build chaos

package sim

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

var (
	seedFlag   = flag.Uint64("sim.seed", 0, "run this seed only")
	firstFlag  = flag.Uint64("sim.first", 100, "first seed")
	faultsFlag = flag.Int("sim.faults", 100_000, "stop after so many faults")
	timeFlag   = flag.Duration("sim.time", 15*time.Second, "start no further run after so long")
	nodesFlag  = flag.Int("sim.nodes", 0, "nodes of every run (default: 3 to 50, mostly 3 to 12)")
	keysFlag   = flag.Int("sim.keys", 0, "keys of every run (default: 1 to 20, mostly 1 to 3)")
)

// chosen returns the fleet that a seed makes.
func chosen(seed uint64) options {
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // replayable
	o := options{
		seed: seed, nodes: 3 + r.IntN(10), keys: 1 + r.IntN(3),
		life:    []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute}[r.IntN(4)],
		latency: time.Duration(20+r.IntN(600)) * time.Millisecond,
		delay:   []time.Duration{0, 0, time.Millisecond, 5 * time.Millisecond}[r.IntN(4)],
		every:   time.Duration(300+r.IntN(500)) * time.Millisecond,
		skew:    r.IntN(2) == 0,
	}
	switch {
	case seed%50 == 49:
		o.nodes, o.keys, o.every = 20+r.IntN(31), 1, 2*time.Second
	case seed%25 == 24:
		o.keys, o.every = 20, 2*time.Second
	}
	o.nodes, o.keys = cmp.Or(*nodesFlag, o.nodes), cmp.Or(*keysFlag, o.keys)
	return o
}

// incidents is how many bursts of faults a run has.
const incidents = 8

// chance is the random story: bursts of overlapping faults with quiet between
// them, long enough for an extra acquisition there to be inexcusable.
func chance(w *world) {
	time.Sleep(5 * time.Second)
	for range incidents {
		w.burst()
		time.Sleep(covers + time.Duration(w.rng.IntN(8000))*time.Millisecond)
	}
}

// burst begins up to seven faults within a few seconds, each at its own time, and
// waits until the last has ended.
func (w *world) burst() {
	type step struct {
		at time.Duration
		do func()
	}
	var steps []step
	for range 2 + w.rng.IntN(6) {
		k := w.pick()
		r := rand.New(rand.NewPCG(w.rng.Uint64(), 2)) //nolint:gosec // replayable
		at := time.Duration(w.rng.IntN(8000)) * time.Millisecond
		f := &fault{kind: k.name, onIdP: k.onIdP}
		steps = append(steps,
			step{at, func() { w.begin(f, func() (string, func()) { return k.act(w, r) }) }},
			step{at + k.lasts(r), func() { w.end(f) }})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	began := time.Now()
	for _, s := range steps {
		time.Sleep(time.Until(began.Add(s.at)))
		s.do()
	}
}

func (w *world) pick() kind {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := w.rng.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k
		}
	}
	return kinds[0]
}

// figures are those that docs/protocol.md shows.
type figures struct {
	mu                                          sync.Mutex
	runs, failedRuns, faults, incidents, gets   int
	failed, refused, grants, extras, quiet, max int
	violations                                  map[invariant]int
	slowest                                     time.Duration
	byKind                                      map[string][2]int // faults, extras
}

func newFigures() *figures {
	return &figures{violations: make(map[invariant]int), byKind: make(map[string][2]int)}
}

func (f *figures) add(w *world, bursts int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := &w.judge
	f.runs++
	f.faults += len(w.faults)
	f.incidents += bursts
	f.gets += j.gets
	f.failed += j.failed
	f.refused += j.refused
	f.grants += len(w.idp.grants)
	f.extras += len(j.extras)
	f.quiet += j.quiet
	f.max = max(f.max, j.perFault)
	f.slowest = max(f.slowest, j.slowest)
	for _, v := range j.violations {
		f.violations[v.what]++
	}
	if len(j.violations) > 0 {
		f.failedRuns++
	}
	for _, x := range w.faults {
		n := f.byKind[x.kind]
		f.byKind[x.kind] = [2]int{n[0] + 1, n[1] + x.extras}
	}
}

func (f *figures) String() string {
	mean := func(n int) float64 { return float64(f.extras) / max(1, float64(n)) }
	s := fmt.Sprintf(`
runs %d (%d with violations), faults %d in %d bursts
gets %d; without a token %d (excused unless listed below), refused by the remote %d
acquisitions %d; extra %d: %.3f per fault, %.3f per burst, at most %d per fault and component; in quiet %d
slowest get while the provider was well %v
violations %v
`, f.runs, f.failedRuns, f.faults, f.incidents, f.gets, f.failed, f.refused, f.grants, f.extras, mean(f.faults), mean(f.incidents), f.max, f.quiet, f.slowest, f.violations)
	for _, k := range kinds {
		if n := f.byKind[k.name]; n[0] > 0 {
			s += fmt.Sprintf("%-12s %6d faults %4d extra\n", k.name, n[0], n[1])
		}
	}
	return s
}

func TestRandom_InvariantsHoldUnderFaultsFromASeed(t *testing.T) {
	figs := newFigures()
	if *seedFlag != 0 {
		figs.add(simulate(t, chosen(*seedFlag), chance), incidents)
		t.Log(figs)
		return
	}
	began := time.Now()
	next := make(chan uint64)
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("worker", func(t *testing.T) {
				t.Parallel()
				for seed := range next {
					t.Run(fmt.Sprint(seed), func(t *testing.T) { figs.add(simulate(t, chosen(seed), chance), incidents) })
				}
			})
		}
		go func() {
			defer close(next)
			for seed := *firstFlag; time.Since(began) < *timeFlag && figs.count() < *faultsFlag; seed++ {
				next <- seed
			}
		}()
	})
	t.Log(figs)
}

func (f *figures) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.faults
}
