//go:build chaos

package processes

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/storm"
	"orthanc-oauth/internal/fleet"
)

// TestFleet_KeepsItsPromisesUnderFaults is the run: storms of overlapping
// faults, and after each a calm in which the fleet must become one again.
func TestFleet_KeepsItsPromisesUnderFaults(t *testing.T) {
	network, why := newNetwork(*nodesFlag)
	if why != nil {
		if requireReal() {
			t.Fatalf("no namespaces: %v", why)
		}
		t.Logf("no namespaces, so no fault of the network is injected: %v", why)
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("replay these faults with -chaos.seed %d -chaos.nodes %d", seed, *nodesFlag)
	w, err := newWorld(context.WithoutCancel(t.Context()), network, *keepFlag)
	t.Cleanup(func() {
		if w != nil {
			w.close()
		}
		network.close()
		if remains := left(); len(remains) > 0 {
			t.Errorf("namespaces left behind: %v", remains)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, w: w, breaker: newBreaker(w), rng: rand.New(rand.NewPCG(seed, 0))}
	r.deck = newDeck(r.rng, network.real)
	r.load = newLoad(t.Context(), w.time, w.nodes, w.out.keys)
	t.Cleanup(r.load.stop)
	r.calm("start")
	before := r.usages()
	for r.goesOn() {
		plans := schedule(r.rng, r.deck, stormFaults, len(w.nodes), w.out.keys)
		r.breaker.Rage(t.Context(), r.breaker.steps(plans))
		r.calm("storm")
	}
	r.leakless(before, r.usages())
	r.load.stop()
	r.ended()
	r.report()
}

// runner is one run.
type runner struct {
	t       *testing.T
	w       *world
	breaker *breaker
	load    *load
	rng     *rand.Rand
	deck    *storm.Deck[kind]
	waits   []time.Duration // until the fleet was one again, after each storm
}

// goesOn reports whether there shall be another storm.
func (r *runner) goesOn() bool {
	switch {
	case r.t.Context().Err() != nil || r.breaker.Err() != nil:
		return false
	case *faultsFlag > 0:
		return len(r.breaker.Faults()) < *faultsFlag
	}
	return r.w.time.Now() < *durationFlag
}

// calm waits until the fleet is one, and then until the faults are forgotten.
func (r *runner) calm(after string) {
	r.t.Helper()
	began := r.breaker.Last()
	var last error
	err := fleet.Eventually(r.t.Context(), 2*history.ConvergeBound, func(ctx context.Context) error {
		last = r.w.converged(ctx)
		return last
	})
	took := r.w.time.Now() - began
	if err != nil || took > history.ConvergeBound {
		r.t.Errorf("%v after the last fault of a %s (at %v) the fleet is not one: %v", took.Round(time.Millisecond), after, began.Round(time.Millisecond), err)
	}
	if after == "storm" {
		r.waits = append(r.waits, took)
		r.t.Logf("%v: %d faults so far, one ring and one entry again after %v", r.w.time.Now().Round(time.Second), len(r.breaker.Faults()), took.Round(time.Millisecond))
	}
	storm.Pause(r.t.Context(), max(history.FaultTail-took, 0)+quiet)
}

// quiet is how long nothing is done after the faults' tails, to see that nothing
// happens.
const quiet = 6 * time.Second

// usages returns what the processes hold.
func (r *runner) usages() []usage {
	r.t.Helper()
	all := make([]usage, len(r.w.nodes))
	err := each(r.w.nodes, func(n *node) (err error) {
		all[n.number], err = n.usage(r.t.Context())
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
	return all
}

// leakless compares the largest of before and after: processes have been
// replaced meanwhile.
func (r *runner) leakless(before, after []usage) {
	r.t.Helper()
	for _, what := range []struct {
		name  string
		of    func(u usage) float64
		slack float64
	}{
		{"goroutines", func(u usage) float64 { return u.goroutines }, 40},
		{"descriptors", func(u usage) float64 { return u.descriptors }, 20},
		{"bytes of memory", func(u usage) float64 { return u.memory }, 32 << 20},
	} {
		most := func(all []usage) float64 {
			least := func(a, b usage) int { return int(what.of(a) - what.of(b)) }
			return what.of(slices.MaxFunc(all, least))
		}
		r.t.Logf("most %s of a node: %.0f before, %.0f after", what.name, most(before), most(after))
		if most(after) > most(before)+what.slack {
			r.t.Errorf("%s grew from %.0f to %.0f", what.name, most(before), most(after))
		}
	}
}

// ended ends the fleet and asserts that every process is gone.
func (r *runner) ended() {
	r.t.Helper()
	if err := each(r.w.nodes, func(n *node) error { return n.leave() }); err != nil {
		r.t.Error(err)
	}
	for _, p := range r.w.fleet.Processes() {
		if p.Running() {
			r.t.Errorf("%s still runs", p.Name)
		}
	}
}
