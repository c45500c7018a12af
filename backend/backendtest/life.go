package backendtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

var lifeCases = []testCase{
	{name: "Close_IsIdempotentAndEndsService", run: closeEndsService},
	{name: "Close_EndsFlightsInTime", run: closeEndsFlights},
	{name: "Close_LeavesOthersServing", shared: true, run: closeLeavesOthers},
}

func closeNow(t testing.TB, b backend.Backend) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func closeEndsService(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	e := f.fill(t, 0, backend.Stamp{})
	closeNow(t, b)
	closeNow(t, b)
	ctx := t.Context()
	_, get := b.Get(ctx, key)
	_, del := b.Delete(ctx, key)
	_, exists := b.Exists(ctx, key)
	_, fill := b.Fill(ctx, key, backend.Stamp{}, f.idp.fillOf(key))
	for name, err := range map[string]error{
		"Get": get, "Delete": del, "Exists": exists, "Fill": fill,
		"Set":     b.Set(ctx, key, sealed(1), lifetime),
		"Clear":   b.Clear(ctx),
		"Revoke":  b.Revoke(ctx, key, e.ID),
		"Confirm": b.Confirm(ctx, key, e.ID),
	} {
		if !errors.Is(err, backend.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
}

func closeEndsFlights(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	entered := make(chan struct{})
	f.idp.script(func(ctx context.Context, _ int, _ backend.Entry) (backend.Entry, error) {
		close(entered)
		<-ctx.Done()
		return backend.Entry{}, ctx.Err()
	})
	waiter := make(chan error, 1)
	go func() {
		_, err := f.members[0].Fill(t.Context(), key, backend.Stamp{}, f.idp.fillOf(key))
		waiter <- err
	}()
	<-entered
	closeNow(t, f.members[0])
	if err := <-waiter; err == nil {
		t.Fatal("a cancelled flight returned an entry")
	}
}

func closeLeavesOthers(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	first := f.rushAgreed(t, 1, backend.Stamp{})
	closeNow(t, f.members[0])
	for i := range f.members[1:] {
		if e := f.fill(t, i+1, backend.Stamp{}); e.Stamp != first.Stamp {
			t.Fatalf("member %d got %v, want %v", i+1, e.Stamp, first.Stamp)
		}
	}
	f.calls(t, 1)
}
