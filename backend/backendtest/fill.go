package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

// callers is how many requests of one node wait for the same token.
const callers = 200

// latency is what the provider takes where a case is about waiting.
const latency = 100 * time.Millisecond

var fillCases = []testCase{
	{name: "Fill_ManyCallersOneAcquisition", run: manyCallersOneAcquisition},
	{name: "Fill_LiveEntryCostsNoCall", run: liveEntryCostsNoCall},
	{name: "Fill_KeepsTheFillsEntry", run: keepsTheFillsEntry},
	{name: "Fill_LateComplainerAdoptsNewToken", run: lateComplainerAdopts},
	{name: "Fill_JoinedFlightOfAnOlderStaleIsNotEnough", run: joinedFlightIsNotEnough},
	{name: "Fill_GenerationsGrow", run: generationsGrow},
	{name: "Fill_RepeatedTokenKeepsItsID", run: repeatedTokenKeepsID},
	{name: "Fill_CallerWhoGivesUpLeavesTheFlight", run: callerWhoGivesUp},
	{name: "Fill_CancelledCallerStartsNothing", run: cancelledCallerStartsNothing},
	{name: "Fill_PanicIsAnErrorForEveryWaiter", run: panicIsAnError},
	{name: "Fill_KeysDoNotWaitForEachOther", run: keysAreIndependent},
	{name: "Fill_ExpiredIsAcquiredAgain", run: expiredIsAcquiredAgain},
	{name: "Fill_ColdFleetOneAcquisition", shared: true, run: coldFleetOneAcquisition},
	{name: "Fill_SameStaleOnEveryMemberOneAcquisition", shared: true, run: sameStaleOneAcquisition},
	{name: "Fill_OtherMembersTokenCostsNoCall", shared: true, run: othersTokenCostsNoCall},
}

// rush calls Fill n times at once on every member and returns what each got.
func (f fleet) rush(t *testing.T, n int, stale backend.Stamp) ([]backend.Entry, []error) {
	t.Helper()
	entries, errs := make([]backend.Entry, n*len(f.members)), make([]error, n*len(f.members))
	var wg sync.WaitGroup
	for i := range entries {
		wg.Go(func() {
			entries[i], errs[i] = f.members[i%len(f.members)].Fill(t.Context(), key, stale, f.idp.fillOf(key))
		})
	}
	wg.Wait()
	return entries, errs
}

// rushAgreed is rush where everybody must get the same acquisition.
func (f fleet) rushAgreed(t *testing.T, n int, stale backend.Stamp) backend.Entry {
	t.Helper()
	entries, errs := f.rush(t, n, stale)
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("some of %d callers failed: %v", len(entries), err)
	}
	for i, e := range entries {
		if e.Stamp != entries[0].Stamp || !bytes.Equal(e.Value, entries[0].Value) {
			t.Fatalf("caller %d got %v, caller 0 %v", i, e.Stamp, entries[0].Stamp)
		}
	}
	return entries[0]
}

func manyCallersOneAcquisition(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	f.idp.script(after(latency))
	f.rushAgreed(t, callers, backend.Stamp{})
	f.calls(t, 1)
}

func liveEntryCostsNoCall(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	first := f.fill(t, 0, backend.Stamp{})
	for range 5 {
		if e := f.fill(t, 0, backend.Stamp{}); e.Stamp != first.Stamp {
			t.Fatalf("got %v, want %v", e.Stamp, first.Stamp)
		}
	}
	f.calls(t, 1)
}

func keepsTheFillsEntry(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	var made backend.Entry
	f.idp.script(func(_ context.Context, _ int, e backend.Entry) (backend.Entry, error) {
		made = e
		return e, nil
	})
	e := f.fill(t, 0, backend.Stamp{})
	got := held(t, f.members[0], key)
	if e.Stamp != made.Stamp || got.Stamp != made.Stamp {
		t.Fatalf("fill made %v, Fill returned %v, Get %v", made.Stamp, e.Stamp, got.Stamp)
	}
	if !bytes.Equal(e.Value, made.Value) || !bytes.Equal(got.Value, made.Value) {
		t.Fatal("the sealed value was altered")
	}
	if e.TTL > made.TTL || got.TTL > made.TTL {
		t.Fatalf("an entry of %v has %v and %v left", made.TTL, e.TTL, got.TTL)
	}
}

func lateComplainerAdopts(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	last := len(f.members) - 1
	first := f.fill(t, 0, backend.Stamp{})
	second := f.fill(t, 0, first.Stamp)
	f.calls(t, 2)
	if e := f.fill(t, last, first.Stamp); e.Stamp != second.Stamp {
		t.Fatalf("who holds the first got %v, want %v", e.Stamp, second.Stamp)
	}
	f.calls(t, 2)
}

// 1. A caller that holds nothing starts a flight.
// 2. It ends with an acquisition that a second caller already holds as stale.
// 3. The second caller, who had joined, needs another acquisition.
func joinedFlightIsNotEnough(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	release, entered := make(chan struct{}), make(chan backend.Stamp, 1)
	f.idp.script(func(ctx context.Context, call int, e backend.Entry) (backend.Entry, error) {
		if call > 1 {
			return e, nil
		}
		entered <- e.Stamp
		select {
		case <-release:
		case <-ctx.Done():
		}
		return e, ctx.Err()
	})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = b.Fill(t.Context(), key, backend.Stamp{}, f.idp.fillOf(key)) })
	stale := <-entered
	var got backend.Entry
	var err error
	wg.Go(func() { got, err = b.Fill(t.Context(), key, stale, f.idp.fillOf(key)) })
	pause(step)
	close(release)
	wg.Wait()
	if err != nil || !got.Newer(stale) {
		t.Fatalf("got %v and %v, want newer than %v", got.Stamp, err, stale)
	}
	f.calls(t, 2)
}

func generationsGrow(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	var last backend.Entry
	for i := range 6 {
		e := f.fill(t, i%len(f.members), last.Stamp)
		if e.Gen <= last.Gen {
			t.Fatalf("generation %d after %d", e.Gen, last.Gen)
		}
		last = e
	}
	f.calls(t, 6)
}

func repeatedTokenKeepsID(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	first := f.fill(t, 0, backend.Stamp{})
	f.idp.script(func(_ context.Context, _ int, e backend.Entry) (backend.Entry, error) {
		e.ID = first.ID
		return e, nil
	})
	second := f.fill(t, 0, first.Stamp)
	if got := held(t, f.members[0], key); second.ID != first.ID || got.Stamp != second.Stamp {
		t.Fatalf("repeat of %v: Fill returned %v, Get %v", first.Stamp, second.Stamp, got.Stamp)
	}
}

func callerWhoGivesUp(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	entered, release := make(chan struct{}), make(chan struct{})
	f.idp.script(func(ctx context.Context, _ int, e backend.Entry) (backend.Entry, error) {
		close(entered)
		select {
		case <-release:
			return e, nil
		case <-ctx.Done():
			return backend.Entry{}, ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := b.Fill(ctx, key, backend.Stamp{}, f.idp.fillOf(key))
		gone <- err
	}()
	<-entered
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatalf("who gave up got %v", err)
	}
	close(release)
	f.fill(t, 0, backend.Stamp{})
	f.calls(t, 1)
}

func cancelledCallerStartsNothing(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.members[0].Fill(ctx, key, backend.Stamp{}, f.idp.fillOf(key)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}
	f.calls(t, 0)
}

func panicIsAnError(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	entered := make(chan struct{}, callers)
	f.idp.script(func(context.Context, int, backend.Entry) (backend.Entry, error) {
		entered <- struct{}{}
		pause(latency)
		panic("a bug in the fill")
	})
	_, errs := f.rush(t, callers, backend.Stamp{})
	for i, err := range errs {
		if err == nil {
			t.Fatalf("caller %d got an entry from a fill that panicked", i)
		}
	}
	f.idp.script(grant)
	eventually(t, func() error {
		_, err := f.members[0].Fill(t.Context(), key, backend.Stamp{}, f.idp.fillOf(key))
		return err
	})
}

func keysAreIndependent(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	entered, release := make(chan struct{}), make(chan struct{})
	f.idp.script(func(ctx context.Context, call int, e backend.Entry) (backend.Entry, error) {
		if call > 1 {
			return e, nil
		}
		close(entered)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return e, ctx.Err()
	})
	slow := make(chan error, 1)
	go func() {
		_, err := b.Fill(t.Context(), key, backend.Stamp{}, f.idp.fillOf(key))
		slow <- err
	}()
	<-entered
	if _, err := b.Fill(t.Context(), keyOf(1), backend.Stamp{}, f.idp.fillOf(keyOf(1))); err != nil {
		t.Fatalf("fill of another key: %v", err)
	}
	select {
	case err := <-slow:
		t.Fatalf("the slow fill ended first, with %v", err)
	default:
	}
	close(release)
	if err := <-slow; err != nil {
		t.Fatalf("slow fill: %v", err)
	}
}

func expiredIsAcquiredAgain(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	f.idp.script(func(_ context.Context, _ int, e backend.Entry) (backend.Entry, error) {
		e.TTL = 300 * time.Millisecond
		return e, nil
	})
	first := f.fill(t, 0, backend.Stamp{})
	eventually(t, func() error {
		if e := f.fill(t, 0, backend.Stamp{}); e.ID == first.ID {
			return fmt.Errorf("%v left of the first", e.TTL)
		}
		return nil
	})
}

func coldFleetOneAcquisition(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	f.idp.script(after(latency))
	f.rushAgreed(t, callers, backend.Stamp{})
	f.calls(t, 1)
}

func sameStaleOneAcquisition(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	first := f.rushAgreed(t, 5, backend.Stamp{})
	f.idp.script(after(latency))
	if e := f.rushAgreed(t, 20, first.Stamp); !e.Newer(first.Stamp) {
		t.Fatalf("%v is not newer than %v", e.Stamp, first.Stamp)
	}
	f.calls(t, 2)
}

func othersTokenCostsNoCall(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	first := f.fill(t, 0, backend.Stamp{})
	for i := range f.members {
		if e := f.fill(t, i, backend.Stamp{}); e.Stamp != first.Stamp {
			t.Fatalf("member %d got %v, want %v", i, e.Stamp, first.Stamp)
		}
	}
	f.calls(t, 1)
}
