package backendtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

var refusalCases = []testCase{
	{name: "Refusal_ReachesEveryWaiterWithItsCode", run: refusalReachesEveryWaiter},
	{name: "Refusal_IsHonouredUntilRetryAfter", run: refusalIsHonoured},
	{name: "Refusal_WithoutRetryAfterStartsABackoff", run: refusalStartsBackoff},
	{name: "Refusal_InternalFailureIsOneToo", run: internalFailureIsARefusal},
	{name: "Refusal_UnexpiredTokenIsStillServed", run: unexpiredIsServedInBackoff},
	{name: "Refusal_SuccessEndsTheBackoff", long: true, run: successEndsBackoff},
	{name: "Refusal_RetryAfterIsBounded", long: true, run: retryAfterIsBounded},
	{name: "Refusal_QuietsTheFleet", shared: true, run: refusalQuietsTheFleet},
}

// stillRefused fails the test unless a Fill is refused.
func (f fleet) stillRefused(t *testing.T, stale backend.Stamp) {
	t.Helper()
	_ = f.refused(t, 0, stale)
}

// refused fails the test unless a Fill is refused, and returns the refusal.
func (f fleet) refused(t *testing.T, member int, stale backend.Stamp) *backend.Refusal {
	t.Helper()
	e, err := f.members[member].Fill(t.Context(), key, stale, f.idp.fillOf(key))
	r, ok := errors.AsType[*backend.Refusal](err)
	if !ok {
		t.Fatalf("fill on member %d returned %v and %v, want a Refusal", member, e.Stamp, err)
	}
	return r
}

func refusalReachesEveryWaiter(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	f.idp.script(func(context.Context, int, backend.Entry) (backend.Entry, error) {
		pause(latency)
		return backend.Entry{}, &backend.Refusal{Code: "AUTH-001", RetryAfter: time.Minute}
	})
	_, errs := f.rush(t, callers, backend.Stamp{})
	for i, err := range errs {
		r, ok := errors.AsType[*backend.Refusal](err)
		if !ok || r.Code != "AUTH-001" || r.RetryAfter <= 0 || r.RetryAfter > time.Minute {
			t.Fatalf("caller %d got %v", i, err)
		}
	}
	f.calls(t, 1)
}

func refusalIsHonoured(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	f.idp.script(refuse(backend.Refusal{Code: "AUTH-003", RetryAfter: 1500 * time.Millisecond}))
	f.stillRefused(t, backend.Stamp{})
	f.idp.script(grant)
	left := f.refused(t, 0, backend.Stamp{}).RetryAfter
	if left <= 0 || left > 1500*time.Millisecond {
		t.Fatalf("%v left of 1.5 s", left)
	}
	f.calls(t, 1)
	eventually(t, func() error {
		_, err := f.members[0].Fill(t.Context(), key, backend.Stamp{}, f.idp.fillOf(key))
		return err
	})
	f.calls(t, 2)
}

func refusalStartsBackoff(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	f.idp.script(refuse(backend.Refusal{Code: "NET-001"}))
	if r := f.refused(t, 0, backend.Stamp{}); r.RetryAfter <= 0 || r.RetryAfter > backend.MaxBackoff {
		t.Fatalf("a backoff of %v", r.RetryAfter)
	}
	if r := f.refused(t, 0, backend.Stamp{}); r.Code != "NET-001" {
		t.Fatalf("in backoff for %q", r.Code)
	}
	f.calls(t, 1)
}

func internalFailureIsARefusal(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	f.idp.script(func(context.Context, int, backend.Entry) (backend.Entry, error) {
		return backend.Entry{}, errors.New("no entropy")
	})
	if r := f.refused(t, 0, backend.Stamp{}); r.RetryAfter <= 0 {
		t.Fatal("an internal failure is asked for again at once")
	}
	f.stillRefused(t, backend.Stamp{})
	f.calls(t, 1)
}

func unexpiredIsServedInBackoff(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	first := f.fill(t, 0, backend.Stamp{})
	f.idp.script(refuse(backend.Refusal{Code: "AUTH-003", RetryAfter: time.Minute}))
	f.stillRefused(t, first.Stamp)
	if e := held(t, f.members[0], key); e.Stamp != first.Stamp {
		t.Fatalf("holds %v, want %v", e.Stamp, first.Stamp)
	}
	if e := f.fill(t, 0, backend.Stamp{}); e.Stamp != first.Stamp {
		t.Fatalf("serves %v, want %v", e.Stamp, first.Stamp)
	}
}

func successEndsBackoff(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	f.idp.script(refuse(backend.Refusal{Code: "AUTH-003"}))
	var last backend.Stamp
	for range 5 {
		pause(f.refused(t, 0, last).RetryAfter + time.Second)
	}
	f.idp.script(grant)
	last = f.fill(t, 0, last).Stamp
	f.idp.script(refuse(backend.Refusal{Code: "AUTH-003"}))
	if r := f.refused(t, 0, last); r.RetryAfter > 3*backend.MinBackoff {
		t.Fatalf("the first backoff after a success is %v", r.RetryAfter)
	}
}

func retryAfterIsBounded(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	f.idp.script(refuse(backend.Refusal{Code: "AUTH-003", RetryAfter: 100 * time.Hour}))
	if r := f.refused(t, 0, backend.Stamp{}); r.RetryAfter > backend.MaxRetryAfter {
		t.Fatalf("silent for %v, longer than %v", r.RetryAfter, backend.MaxRetryAfter)
	}
	f.idp.script(grant)
	pause(backend.MaxRetryAfter + time.Second)
	f.fill(t, 0, backend.Stamp{})
}

func refusalQuietsTheFleet(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	f.idp.script(refuse(backend.Refusal{Code: "AUTH-003", RetryAfter: time.Minute}))
	f.stillRefused(t, backend.Stamp{})
	for i := range f.members {
		if r := f.refused(t, i, backend.Stamp{}); r.Code != "AUTH-003" || r.RetryAfter <= 0 {
			t.Fatal(fmt.Errorf("member %d: %w", i, r))
		}
	}
	f.calls(t, 1)
}
