package tokens

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

// refused demands a replacement.
func (w *world) refused(bad Token) Token {
	w.t.Helper()
	tok, err := w.source.Refused(w.t.Context(), bad)
	if err != nil {
		w.t.Fatal(err)
	}
	return tok
}

func TestRefused_FiftyComplaintsCostOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		bad := w.wants("tok-1")
		p.took = time.Second
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got := w.refused(bad).Reveal(); got != "tok-2" {
					t.Errorf("got %s", got)
				}
			})
		}
		wg.Wait()
		if p.count() != 2 {
			t.Errorf("%d requests", p.count())
		}
	})
}

func TestRefused_LateComplaintAdoptsTheNewToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		bad := w.wants("tok-1")
		w.refused(bad)
		time.Sleep(10 * time.Minute)
		w.backend.fill = func(context.Context, string, backend.Stamp, backend.FillFunc) (backend.Entry, error) {
			t.Error("asked the backend for what is at hand")
			return backend.Entry{}, backend.ErrMiss
		}
		if got := w.refused(bad).Reveal(); got != "tok-2" || p.count() != 2 {
			t.Errorf("got %s after %d requests", got, p.count())
		}
	})
}

func TestRefused_HoldsEvenIfNothingReplacesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		bad := w.wants("tok-1")
		p.answer = func(int) (provider.Response, error) { return refuses(provider.Error{Code: provider.CodeUnavailable}) }
		if _, err := w.source.Refused(t.Context(), bad); err == nil {
			t.Fatal("no error")
		}
		for range 100 {
			time.Sleep(time.Second)
			if tok, err := w.source.Token(t.Context()); err == nil {
				t.Fatalf("served %s", tok.Reveal())
			}
		}
	})
}

func TestRefused_HoldsWhereTheFleetCannotBeTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		bad := w.wants("tok-1")
		w.backend.revoke = errors.New("backend unreachable")
		if got := w.refused(bad).Reveal(); got != "tok-2" {
			t.Errorf("got %s", got)
		}
		w.wants("tok-2")
	})
}

// A 401 that means "not allowed" must not become a loop, and the token that
// other requests use stays.
func TestRefused_IsPacedUntilAReplayIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		second := w.refused(w.wants("tok-1"))
		_, err := w.source.Refused(t.Context(), second)
		if e := w.fails(err); !errors.Is(err, ErrPaced) || e.Code != provider.CodeValidation {
			t.Fatalf("got %v", err)
		}
		w.wants("tok-2")
		for range 3600 {
			time.Sleep(time.Second)
			_, _ = w.source.Refused(t.Context(), w.token())
		}
		// Revocations at 0, 0.5, 1.5, 3.5, 7.5 and 15.5 min, then every 10 min.
		if n := p.count(); n != 1+6+4 {
			t.Errorf("%d requests in an hour of refusals", n)
		}
	})
}

// A refresh is under way when the provider ends all tokens. What it brings is
// refused too, and was not acquired because of the revocation.
func TestRefused_WhatWasUnderWayMeanwhileIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		w.wants("tok-1")
		time.Sleep(56 * time.Minute)
		p.took = 5 * time.Second
		first := w.wants("tok-1") // and starts the refresh
		time.Sleep(2 * time.Second)
		second := w.refused(first)
		third := w.refused(second)
		if second.Reveal() != "tok-2" || third.Reveal() != "tok-3" || p.count() != 3 {
			t.Errorf("got %s, then %s after %d requests", second.Reveal(), third.Reveal(), p.count())
		}
		if _, err := w.source.Refused(t.Context(), third); !errors.Is(err, ErrPaced) {
			t.Errorf("what was acquired since: %v, want ErrPaced", err)
		}
	})
}

func TestConfirm_EndsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		for i := range 5 {
			next := w.refused(w.wants(fmt.Sprintf("tok-%d", i+1)))
			w.source.Confirm(t.Context(), next)
		}
	})
}

func TestForbidden_RevokesOnlyWhatWasNeverAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		tok := w.wants("tok-1")
		next, err := w.source.Forbidden(t.Context(), tok)
		if err != nil || next.Reveal() != "tok-2" {
			t.Fatalf("never accepted: %v", err)
		}
		w.source.Accepted(next)
		w.source.Accepted(next)
		if _, err := w.source.Forbidden(t.Context(), next); !errors.Is(err, ErrAccepted) {
			t.Errorf("accepted before: %v", err)
		}
		w.wants("tok-2")
		w.manager.Age(time.Minute) // the mark outlives a copy
		if _, err := w.source.Forbidden(t.Context(), w.wants("tok-2")); !errors.Is(err, ErrAccepted) {
			t.Errorf("after a suspend: %v", err)
		}
	})
}

func TestRevoked_ByAnotherNodeIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		tok := w.wants("tok-1")
		w.manager.Revoked(w.source.Key(), backend.NewID())
		w.wants("tok-1")
		w.manager.Revoked(w.source.Key(), tok.ID())
		w.wants("tok-2") // even if the backend has not heard of it
	})
}

func TestRefused_OtherServersOfTheCredentialLetGoToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		twin := w.set(SourceConfig{Name: "twin", Credential: credentialOf("s"), Provider: p})
		if _, err := twin.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.refused(w.wants("tok-1"))
		if tok, err := twin.Token(t.Context()); err != nil || tok.Reveal() != "tok-2" || p.count() != 2 {
			t.Errorf("twin: %v after %d requests", err, p.count())
		}
	})
}

func TestInvalidate_IsNotPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		w.wants("tok-1")
		for i := range 3 {
			tok, err := w.source.Invalidate(t.Context())
			if want := fmt.Sprintf("tok-%d", i+2); err != nil || tok.Reveal() != want {
				t.Fatalf("got %v, want %s", err, want)
			}
		}
		w.wants("tok-4")
	})
}

func TestClear_LetsEverythingGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		w.wants("tok-1")
		if err := w.manager.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wants("tok-2")
	})
}

// A metadata server repeats its token until minutes before its end.
func TestRepeatedBytes_AtARefreshKeepTheAcquisition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		p := &idp{}
		p.answer = func(int) (provider.Response, error) {
			if left := time.Hour - time.Since(born); left > 5*time.Minute {
				return grants("first", left.Truncate(time.Second))
			}
			return grants("second", time.Hour)
		}
		w := newWorld(t, p)
		id := w.wants("first").ID()
		for time.Since(born) < 70*time.Minute {
			start := time.Now()
			if tok := w.token(); tok.Reveal() == "first" && tok.ID() != id {
				t.Fatal("another acquisition of the same bytes")
			}
			if time.Since(start) != 0 {
				t.Fatal("a caller waited at the roll-over")
			}
			settle()
			time.Sleep(time.Second)
		}
		w.wants("second")
		gaps := p.gaps()
		for _, g := range gaps {
			if g < repeatedPause {
				t.Errorf("asked again after %v", g)
			}
		}
		if len(gaps) > 4 {
			t.Errorf("%d requests: %v", p.count(), gaps)
		}
	})
}

func TestRepeatedBytes_TakeTheLongerRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{answer: func(n int) (provider.Response, error) {
			return grants("same", []time.Duration{time.Hour, time.Minute}[min(n, 2)-1])
		}}
		w := newWorld(t, p)
		first := w.wants("same")
		expiry := first.Expiry()
		w.source.Accepted(first)
		time.Sleep(55 * time.Minute)
		w.token()
		settle()
		if got := w.token().Expiry(); got.Before(expiry) || p.count() != 2 {
			t.Errorf("ends %v earlier after %d requests", expiry.Sub(got), p.count())
		}
		if !w.source.Status().Accepted {
			t.Error("forgot that the server accepts it")
		}
	})
}

func TestRepeatedBytes_AfterARevocationAreNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{answer: func(n int) (provider.Response, error) {
			if n < 7 {
				return grants("same", time.Hour)
			}
			return grants("other", time.Hour)
		}}
		w := newWorld(t, p)
		bad := w.wants("same")
		_, err := w.source.Refused(t.Context(), bad)
		if e := w.fails(err); e.RetryAfter != 30*time.Second || e.Code != provider.CodeValidation {
			t.Fatalf("got %+v", e)
		}
		var tok Token
		for range 3600 {
			time.Sleep(time.Second)
			if tok, err = w.source.Token(t.Context()); err == nil {
				break
			}
		}
		if tok.Reveal() != "other" {
			t.Fatalf("served %q", tok.Reveal())
		}
		// The first gap is from the grant to the revocation.
		want := []time.Duration{0, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 4 * time.Minute}
		for i, g := range p.gaps() {
			if g < want[i] || g > want[i]+2*time.Second {
				t.Errorf("gap %d: %v, want %v", i, g, want[i])
			}
		}
		if len(p.gaps()) != len(want) {
			t.Errorf("%d requests", p.count())
		}
	})
}

// Another node leads and does not know what this one's server refused.
func TestRepeatedBytes_FromAPeerAreNotServedEither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{answer: func(int) (provider.Response, error) { return grants("same", time.Hour) }}
		w := newWorld(t, p)
		peer := newWorld(t, p)
		asked := 0
		bad := w.wants("same")
		w.backend.fill = func(ctx context.Context, key string, stale backend.Stamp, _ backend.FillFunc) (backend.Entry, error) {
			asked++
			fill, _ := peer.manager.Resolve(key)
			return fill(ctx, stale.Gen+1)
		}
		_, err := w.source.Refused(t.Context(), bad)
		if e := w.fails(err); e.RetryAfter != 30*time.Second {
			t.Fatalf("got %+v", e)
		}
		for range 29 {
			time.Sleep(time.Second)
			if _, err := w.source.Token(t.Context()); err == nil {
				t.Fatal("served")
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times within the pause", asked)
		}
	})
}
