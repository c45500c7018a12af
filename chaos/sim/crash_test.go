//go:build chaos

package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var stepFlag = flag.Duration("sim.step", 4*time.Millisecond, "how far apart the moments of a lead are in which the leader is ended")

// leadTime is longer than a lead takes in these fleets: from the question to the
// last copy.
const leadTime = 48 * time.Millisecond

// TestCrash_OfALeaderAtEveryMoment ends the leader at every moment of a lead and
// demands what faults.md, 3, does: the next takes over, and at most one
// acquisition is lost.
func TestCrash_OfALeaderAtEveryMoment(t *testing.T) {
	for _, how := range []ending{kill, crash, leave} {
		for at := time.Duration(0); at < leadTime; at += *stepFlag * slowdown {
			t.Run(fmt.Sprintf("%v/%v", how, at), func(t *testing.T) {
				t.Parallel()
				endLeaderAt(t, how, at)
			})
		}
	}
}

func endLeaderAt(t *testing.T, how ending, at time.Duration) {
	o := small(5).with(func(o *options) { o.latency = 20 * time.Millisecond })
	var err error
	var took time.Duration
	w := simulate(t, o, func(w *world) {
		w.hush(true)
		time.Sleep(3 * time.Second)
		order := w.order(0)
		first, last := order[0].node, order[4]
		w.tasks.Go(func() {
			time.Sleep(at)
			w.once(how.String(), false, func() { first.stop(how) })
		})
		began := w.now()
		err = last.get(0)
		took = w.now() - began
		time.Sleep(5 * time.Second)
		first.start()
		time.Sleep(time.Second)
	})
	switch n := len(w.idp.grants); {
	case err != nil:
		t.Errorf("get: %v", err)
	case took > 2*time.Second+w.o.latency+100*time.Millisecond:
		t.Errorf("get took %v", took)
	case n > 2, how == leave && n > 1:
		t.Errorf("%d acquisitions", n)
	}
}
