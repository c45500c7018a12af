//go:build chaos

package containers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/storm"
	"orthanc-oauth/internal/fleet"
)

// TestContainers_KeepTheirPromisesUnderFaults is the run: storms of overlapping
// faults, and after each a calm in which the fleet must become one again.
func TestContainers_KeepTheirPromisesUnderFaults(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	w, why := newWorld(ctx, *backendFlag)
	if why != nil {
		if requireReal() {
			t.Fatalf("no containers: %v", why)
		}
		t.Skipf("SKIPPED, nothing was run: %v", why)
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("backend %s; replay these faults with -chaos.seed %d", *backendFlag, seed)
	r := &runner{t: t, w: w, seed: seed, began: time.Now(), breaker: &breaker{Storm: storm.New(w.time), w: w}}
	r.rng = rand.New(rand.NewPCG(seed, 0))
	r.deck = newDeck(r.rng, *backendFlag)
	t.Cleanup(func() {
		if err := w.engine.down(ctx); err != nil {
			t.Error(err)
		}
	})
	r.begin(ctx)
	t.Cleanup(r.load.stop)
	r.quiet(ctx)
	for r.goesOn() {
		plans := schedule(r.rng, r.deck, r.next())
		r.breaker.Rage(ctx, r.breaker.steps(plans))
		r.again(plans)
		r.calm(ctx)
	}
	r.load.stop()
	r.judge(ctx)
}

// runner is one run.
type runner struct {
	t       *testing.T
	w       *world
	seed    uint64
	began   time.Time
	breaker *breaker
	load    *load
	rng     *rand.Rand
	deck    *storm.Deck[kind]
	waits   []time.Duration // until the fleet was one again, after each storm
	reasons []string        // why the test fails

	quietFrom, quietTo time.Duration
}

// begin brings everything up and starts the clients.
func (r *runner) begin(ctx context.Context) {
	r.t.Helper()
	tools := fleet.Find()
	if tools.Dicom == "" {
		r.t.Fatal("no DICOM files: install python3-pydicom (scripts/install-deps)")
	}
	studies, err := fleet.Studies(tools.Dicom)
	r.must(err)
	var chosen []fleet.Study
	for _, s := range studies {
		if n := len(s.Instances); n >= 2 && n <= 8 { // transfers that take less than a fault
			chosen = append(chosen, s)
		}
	}
	if len(chosen) < 4 {
		r.t.Fatalf("only %d suitable studies in %s", len(chosen), tools.Dicom)
	}
	sent, kept := chosen[:2], chosen[2:4]
	r.must(r.w.images(ctx))
	r.t.Logf("%v: the images are there", time.Since(r.began).Round(time.Second))
	r.must(r.w.up(ctx))
	r.must(r.w.load(ctx, sent, kept))
	ids := map[string]string{}
	o := fleet.Orthanc{Client: r.w.nodes[0].client("8042")}
	for _, s := range sent {
		ids[s.UID], err = o.Load(ctx, s)
		r.must(err)
	}
	r.load = newLoad(ctx, r.w, sent, kept, ids)
	r.t.Logf("%v: the fleet is up", time.Since(r.began).Round(time.Second))
}

// broken notes why the test fails. It is said after all figures, where whoever
// sees only the end of the output finds it.
func (r *runner) broken(format string, args ...any) {
	r.reasons = append(r.reasons, fmt.Sprintf(format, args...))
}

func (r *runner) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// quiet waits until the fleet is one, and then does nothing, to see what it costs.
func (r *runner) quiet(ctx context.Context) {
	r.t.Helper()
	r.must(fleet.Eventually(ctx, startPatience, r.w.converged))
	syscall.Sync() // what the images and the start have written would hold up the archive half a minute later
	r.quietFrom = r.w.time.Now()
	storm.Pause(ctx, *quietFlag)
	r.quietTo = r.w.time.Now()
	r.must(fleet.Eventually(ctx, bookPatience, r.w.counted))
}

// bookPatience is for a request that is under way just then.
const bookPatience = 10 * time.Second

// goesOn reports whether there shall be another storm.
func (r *runner) goesOn() bool {
	switch {
	case r.breaker.Err() != nil:
		return false
	case *faultsFlag > 0:
		return len(r.breaker.Faults()) < *faultsFlag
	}
	return r.w.time.Now()-r.quietTo < *durationFlag
}

// next is how many faults the next storm tries.
func (r *runner) next() int {
	if *faultsFlag == 0 {
		return stormFaults
	}
	return min(stormFaults, *faultsFlag-len(r.breaker.Faults())+2)
}

// again puts back the kinds that found their targets taken and have not happened
// yet, so that each kind does.
func (r *runner) again(plans []plan) {
	done := map[string]bool{}
	for _, f := range r.breaker.Faults() {
		done[f.Kind] = true
	}
	for _, p := range plans {
		if !done[p.kind.name] {
			done[p.kind.name] = true
			r.deck.Again(p.kind)
		}
	}
}

// settle is how long nothing is done after the faults' tails, to see that nothing
// happens.
const settle = 5 * time.Second

// calm waits until the fleet is one, and then until the faults are forgotten.
func (r *runner) calm(ctx context.Context) {
	r.t.Helper()
	began := r.breaker.Last()
	err := fleet.Eventually(ctx, 2*history.ConvergeBound, r.w.converged)
	took := r.w.time.Now() - began
	if err != nil || took > history.ConvergeBound {
		r.broken("%v after the last fault of a storm (at %v) the fleet is not one: %v", took.Round(time.Millisecond), began.Round(time.Millisecond), err)
	}
	r.waits = append(r.waits, took)
	r.t.Logf("%v: %d faults so far, one fleet again after %v", r.w.time.Now().Round(time.Second), len(r.breaker.Faults()), took.Round(time.Millisecond))
	storm.Pause(ctx, max(history.FaultTail-took, 0)+settle)
}
