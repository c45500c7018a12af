package storm

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/chaos/history"
)

func TestDeck_DealsEachKindOnceAndIsReplayedByItsSeed(t *testing.T) {
	kinds := map[string]int{"rare": 1, "usual": 9}
	deal := func(seed uint64) (out []string) {
		d := NewDeck(rand.New(rand.NewPCG(seed, 0)), slices.Sorted(maps.Keys(kinds)), func(k string) int { return kinds[k] })
		for range 1000 {
			out = append(out, d.Deal())
		}
		return out
	}
	for seed := range uint64(20) {
		dealt := deal(seed)
		if !slices.Equal(dealt, deal(seed)) {
			t.Fatalf("seed %d deals two hands", seed)
		}
		if dealt[0] == dealt[1] {
			t.Errorf("seed %d deals %s twice before the other", seed, dealt[0])
		}
		usual := len(slices.DeleteFunc(dealt, func(k string) bool { return k == "rare" }))
		if usual < 800 || usual > 980 {
			t.Errorf("seed %d: %d of 1000 are usual, want nine of ten", seed, usual)
		}
	}
}

func TestStorm_CountsWhatHappenedAndSaysWhatCouldNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := history.NewTimeline(2, nil)
		s := New(tl)
		broken := errors.New("broken")
		s.Rage(t.Context(), []Step{
			{Kind: "kill", What: "kill (node 1)", After: time.Second, Inject: func(ctx context.Context) error { Pause(ctx, time.Minute); return nil }},
			{Kind: "kill", What: "kill (node 2)", Inject: func(context.Context) error { return ErrBusy }},
			{Kind: "pause", What: "pause (node 2)", Inject: func(context.Context) error { return broken }},
		})
		if f := s.Faults(); len(f) != 1 || f[0].Kind != "kill" || f[0].Begun != time.Second || f[0].End != 61*time.Second || s.Last() != f[0].End {
			t.Errorf("faults %+v, last %v; want the one kill", f, s.Last())
		}
		if err := s.Err(); !errors.Is(err, broken) || errors.Is(err, ErrBusy) {
			t.Errorf("got %v, want what was broken", err)
		}
	})
}

func TestStorm_OneFaultAtATimeHoldsANodeAndTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := history.NewTimeline(2, nil)
		s := New(tl)
		a, freeA, okA := s.Take(1, 2)
		b, freeB, okB := s.Take(1, 2)
		if _, _, ok := s.Take(0, 2); a != 1 || b != 0 || !okA || !okB || ok {
			t.Errorf("took %d, %d and a third: %v; want 1, 0 and none", a, b, ok)
		}
		freeA()
		freeB()
		if !tl.Current().Running[1] && !tl.Current().Running[0] {
			nothing := func() error { return nil }
			go func() { _ = s.Provider(t.Context(), time.Minute, nothing, nothing) }()
			time.Sleep(time.Second)
			if err := s.Provider(t.Context(), time.Minute, nothing, nothing); !errors.Is(err, ErrBusy) || tl.Current().IdP != 1 {
				t.Errorf("a second fault of the provider: %v, %d", err, tl.Current().IdP)
			}
			time.Sleep(time.Minute)
		} else {
			t.Error("a node is held still")
		}
	})
}

func TestLinks_TheTruthEndsAfterTheFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := history.NewTimeline(3, nil)
		pair, other := [2]int{0, 1}, [2]int{0, 2}
		var present atomic.Pointer[Wanted]
		present.Store(&Wanted{})
		l := NewLinks(tl, func(_ context.Context, w Wanted) error {
			if last := present.Load(); w.Blocked[pair] != last.Blocked[pair] && tl.Current().Blocked[pair] == 0 {
				t.Error("the filter changed while the truth called the link whole")
			}
			present.Store(&w)
			return nil
		})
		go func() { _ = l.Drop(t.Context(), 20*time.Second, other) }()
		go func() { _ = l.Drop(t.Context(), 5*time.Second, pair, other) }()
		go func() { _ = l.Loss(t.Context(), 5*time.Second, 2, 30) }()
		time.Sleep(time.Second)
		last := present.Load()
		if !last.Blocked[pair] || !last.Blocked[other] || last.Lost[2] != 30 || tl.Current().Lossy[2] != 1 {
			t.Errorf("during the faults: %+v", last)
		}
		time.Sleep(10 * time.Second)
		last = present.Load()
		if last.Blocked[pair] || !last.Blocked[other] || last.Lost[2] != 0 {
			t.Errorf("one fault holds a link that another has let go: %+v", last)
		}
		time.Sleep(10 * time.Second)
		last = present.Load()
		if len(last.Blocked) != 0 || !maps.Equal(tl.Current().Blocked, map[[2]int]int{}) {
			t.Errorf("after all faults: %+v, %v", last, tl.Current().Blocked)
		}
	})
}
