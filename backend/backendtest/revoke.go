package backendtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

var revokeCases = []testCase{
	{name: "Revoke_MakesOneAcquisitionUnservable", run: revokeMakesUnservable},
	{name: "Revoke_IsIdempotent", run: revokeIsIdempotent},
	{name: "Revoke_HoldsWhenTheNextFillFails", run: revokeHolds},
	{name: "Revoke_CannotTouchALaterAcquisition", run: revokeCannotTouchLater},
	{name: "Revoke_RepeatedTokenIsNotServed", run: repeatedTokenIsNotServed},
	{name: "Revoke_PacedUntilConfirmed", run: revokePacedUntilConfirmed},
	{name: "Revoke_WhatWasUnderWayBeforeIsNotPaced", run: revokeOfWhatWasUnderWay},
	{name: "Revoke_PauseEndsAndDoubles", long: true, run: revokePauseDoubles},
	{name: "Revoke_ReachesEveryMember", shared: true, run: revokeReachesEveryMember},
	{name: "Revoke_FleetRefusedAtOnceOneAcquisition", shared: true, run: fleetRefusedAtOnce},
}

func (f fleet) revoke(t testing.TB, member int, id backend.ID) {
	t.Helper()
	if err := f.members[member].Revoke(t.Context(), key, id); err != nil {
		t.Fatalf("revoke on member %d: %v", member, err)
	}
}

func revokeMakesUnservable(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	first := f.fill(t, 0, backend.Stamp{})
	f.revoke(t, 0, first.ID)
	missing(t, f.members[0], key)
	// What is revoked is not named as stale, and still must not come back.
	second := f.fill(t, 0, backend.Stamp{})
	if second.ID == first.ID || !second.Newer(first.Stamp) {
		t.Fatalf("%v follows revoked %v", second.Stamp, first.Stamp)
	}
	f.calls(t, 2)
}

func revokeIsIdempotent(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	first := f.fill(t, 0, backend.Stamp{})
	for range 3 {
		f.revoke(t, 0, first.ID)
		missing(t, f.members[0], key)
	}
	second := f.fill(t, 0, first.Stamp)
	f.revoke(t, 0, first.ID)
	if e := held(t, f.members[0], key); e.Stamp != second.Stamp {
		t.Fatalf("holds %v, want %v", e.Stamp, second.Stamp)
	}
}

func revokeHolds(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	first := f.fill(t, 0, backend.Stamp{})
	f.revoke(t, 0, first.ID)
	f.idp.script(refuse(backend.Refusal{Code: "AUTH-003", RetryAfter: time.Minute}))
	f.stillRefused(t, first.Stamp)
	missing(t, f.members[0], key)
	f.stillRefused(t, backend.Stamp{})
	missing(t, f.members[0], key)
}

func revokeCannotTouchLater(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	first := f.fill(t, 0, backend.Stamp{})
	second := f.fill(t, 0, first.Stamp)
	for i := range f.members {
		f.revoke(t, i, first.ID)
		f.revoke(t, i, backend.NewID())
	}
	if e := f.fill(t, len(f.members)-1, first.Stamp); e.Stamp != second.Stamp {
		t.Fatalf("got %v, want %v", e.Stamp, second.Stamp)
	}
	f.calls(t, 2)
}

// The provider answers with the bytes that have just been revoked, and the fill
// keeps their id.
func repeatedTokenIsNotServed(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	first := f.fill(t, 0, backend.Stamp{})
	f.revoke(t, 0, first.ID)
	f.idp.script(func(_ context.Context, _ int, e backend.Entry) (backend.Entry, error) {
		e.ID = first.ID
		return e, nil
	})
	if e, err := b.Fill(t.Context(), key, first.Stamp, f.idp.fillOf(key)); err == nil {
		t.Fatalf("serves %v although it is revoked", e.Stamp)
	}
	missing(t, b, key)
}

func revokePacedUntilConfirmed(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	first := f.fill(t, 0, backend.Stamp{})
	f.revoke(t, 0, first.ID)
	second := f.fill(t, 0, first.Stamp)
	if err := b.Revoke(t.Context(), key, second.ID); !errors.Is(err, backend.ErrPaced) {
		t.Fatalf("second revocation at once: %v, want ErrPaced", err)
	}
	if e := held(t, b, key); e.Stamp != second.Stamp {
		t.Fatalf("a paced revocation left %v, want %v", e.Stamp, second.Stamp)
	}
	if err := b.Confirm(t.Context(), key, second.ID); err != nil {
		t.Fatalf("confirm: %v", err)
	}
	f.revoke(t, 0, second.ID)
	missing(t, b, key)
}

// A refresh is under way when the token that it replaces is revoked. What it
// brings may be refused as well, if the provider has ended all at once, and was
// not acquired because of the revocation.
func revokeOfWhatWasUnderWay(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	first := f.fill(t, 0, backend.Stamp{})
	entered, release := make(chan struct{}), make(chan struct{})
	f.idp.script(func(_ context.Context, _ int, e backend.Entry) (backend.Entry, error) {
		close(entered)
		<-release
		return e, nil
	})
	refreshed := make(chan backend.Entry, 1)
	go func() {
		e, err := b.Fill(t.Context(), key, first.Stamp, f.idp.fillOf(key))
		if err != nil {
			t.Errorf("refresh: %v", err)
		}
		refreshed <- e
	}()
	<-entered
	pause(2 * backend.PaceMargin)
	f.revoke(t, 0, first.ID)
	close(release)
	second := <-refreshed
	f.idp.script(grant)
	f.revoke(t, 0, second.ID)
	third := f.fill(t, 0, second.Stamp)
	if err := b.Revoke(t.Context(), key, third.ID); !errors.Is(err, backend.ErrPaced) {
		t.Fatalf("what was acquired since: %v, want ErrPaced", err)
	}
	f.calls(t, 3)
}

func revokePauseDoubles(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	e := f.fill(t, 0, backend.Stamp{})
	f.revoke(t, 0, e.ID)
	for _, waited := range []time.Duration{backend.MinPace, 2 * backend.MinPace, 4 * backend.MinPace} {
		e = f.fill(t, 0, e.Stamp)
		pause(waited - time.Second)
		if err := b.Revoke(t.Context(), key, e.ID); !errors.Is(err, backend.ErrPaced) {
			t.Fatalf("before the pause of %v is over: %v, want ErrPaced", waited, err)
		}
		pause(2 * time.Second)
		f.revoke(t, 0, e.ID)
	}
}

func revokeReachesEveryMember(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	first := f.rushAgreed(t, 2, backend.Stamp{})
	f.revoke(t, 0, first.ID)
	for i := range f.members {
		eventually(t, func() error { return doesNotServe(t, f.members[i], first.ID) })
	}
	second := f.rushAgreed(t, 2, first.Stamp)
	if !second.Newer(first.Stamp) || second.ID == first.ID {
		t.Fatalf("%v follows revoked %v", second.Stamp, first.Stamp)
	}
	f.calls(t, 2)
}

func fleetRefusedAtOnce(t *testing.T, h Harness) {
	f := h.fleet(t, 5)
	first := f.rushAgreed(t, 1, backend.Stamp{})
	done := make(chan error, len(f.members))
	for i, b := range f.members {
		go func() {
			if err := b.Revoke(t.Context(), key, first.ID); err != nil {
				done <- err
				return
			}
			e, err := f.members[i].Fill(t.Context(), key, first.Stamp, f.idp.fillOf(key))
			if err == nil && e.ID == first.ID {
				err = errors.New("the refused acquisition came back")
			}
			done <- err
		}()
	}
	for range f.members {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	f.calls(t, 2)
}
