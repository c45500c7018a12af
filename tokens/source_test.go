package tokens

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

func TestToken_ColdCallersShareOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		p.took = 100 * time.Millisecond
		w := newWorld(t, p)
		start := time.Now()
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() { w.wants("tok-1") })
		}
		wg.Wait()
		if took := time.Since(start); p.count() != 1 || took != p.took {
			t.Errorf("%d requests in %v", p.count(), took)
		}
		w.wants("tok-1")
	})
}

func TestToken_IsRenewedBehindItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		w.wants("tok-1")
		p.took = 5 * time.Second
		time.Sleep(55 * time.Minute)
		start := time.Now()
		for range 100 {
			w.wants("tok-1")
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("callers waited %v", took)
		}
		time.Sleep(p.took)
		settle()
		w.wants("tok-2")
		if p.count() != 2 {
			t.Errorf("%d requests", p.count())
		}
	})
}

func TestToken_UnusedOnesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		w.wants("tok-1")
		time.Sleep(24 * time.Hour)
		if p.count() != 1 {
			t.Errorf("%d requests without a caller", p.count())
		}
		w.wants("tok-2")
	})
}

// A failed refresh costs callers nothing until the hard end, and asks no more
// often than the refusal allows.
func TestToken_FailingRefreshIsQuietUntilTheHardEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		w.wants("tok-1")
		p.answer = func(int) (provider.Response, error) {
			return refuses(provider.Error{Code: provider.CodeUnavailable, Status: 429, RetryAfter: time.Minute})
		}
		hard := time.Hour - time.Minute
		for range int(hard/time.Second) - 1 {
			time.Sleep(time.Second)
			w.wants("tok-1")
		}
		gaps := p.gaps()
		if len(gaps) < 4 || len(gaps) > 9 {
			t.Errorf("%d refreshes", len(gaps))
		}
		for _, g := range gaps[1:] {
			if g < time.Minute {
				t.Errorf("asked again after %v", g)
			}
		}
		time.Sleep(2 * time.Second)
		_, err := w.source.Token(t.Context())
		if e := w.fails(err); e.Code != provider.CodeUnavailable || e.RetryAfter <= 0 || e.Server != "pacs" {
			t.Errorf("got %+v", e)
		}
		for _, level := range []string{"WARN", "ERROR"} { // while the token served, and once it did not
			if n := strings.Count(w.log.String(), `"level":"`+level+`"`); n != 1 {
				t.Errorf("%d times %s, want one per change", n, level)
			}
		}
	})
}

// A backend may be a network away: it is not asked on every call either.
func TestToken_FailingRefreshLeavesTheBackendAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		w.wants("tok-1")
		asked := 0
		w.backend.fill = func(context.Context, string, backend.Stamp, backend.FillFunc) (backend.Entry, error) {
			asked++
			return backend.Entry{}, &backend.Refusal{Code: "AUTH-003", RetryAfter: 10 * time.Second}
		}
		time.Sleep(55 * time.Minute)
		for range 1000 {
			w.wants("tok-1")
			settle()
			time.Sleep(100 * time.Millisecond)
		}
		if asked != 10 {
			t.Errorf("asked %d times in 100 s", asked)
		}
	})
}

func TestToken_RecoversAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{answer: func(n int) (provider.Response, error) {
			if n <= 3 {
				return refuses(provider.Error{Code: provider.CodeConnection, Way: true})
			}
			return grants("tok", time.Hour)
		}}
		w := newWorld(t, p)
		for range 300 {
			if _, err := w.source.Token(t.Context()); err == nil {
				break
			}
			time.Sleep(time.Second)
		}
		w.wants("tok")
		if st := w.source.Status(); st.LastError != "" || p.count() != 4 {
			t.Errorf("status %+v after %d requests", st, p.count())
		}
	})
}

// One request per call is what the Python plugin did with a life below its
// refresh buffer.
func TestToken_NoLifeMeansARequestPerCall(t *testing.T) {
	for _, life := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 9 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour} {
		for _, buffer := range []time.Duration{0, time.Second, time.Minute, 48 * time.Hour} {
			t.Run(fmt.Sprint(life, " with buffer ", buffer), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { renewsInTime(t, life, buffer) })
			})
		}
	}
}

func renewsInTime(t *testing.T, life, buffer time.Duration) {
	p := fresh(life)
	w := newWorld(t, p)
	w.source = w.set(SourceConfig{Name: "pacs", Credential: credentialOf("s"), Provider: p, RefreshBuffer: buffer})
	w.token()
	const calls, rounds = 200, 10
	for range calls * rounds {
		time.Sleep(life / calls)
		start := time.Now()
		w.token()
		if waited := time.Since(start); waited != 0 {
			t.Fatalf("waited %v", waited)
		}
		settle()
	}
	// A refresh comes after at least 60% of the life.
	if most := rounds*10/6 + 1; p.count() > most {
		t.Errorf("%d requests in %d lives", p.count(), rounds)
	}
}

func TestToken_ThatArrivesDeadIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(2 * time.Second)
		p.took = 3 * time.Second
		w := newWorld(t, p)
		_, err := w.source.Token(t.Context())
		if e := w.fails(err); e.Code != provider.CodeExpired {
			t.Errorf("got %+v", e)
		}
	})
}

func TestToken_CallerWaitsOnlyUnderItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		p.took = 5 * time.Second
		w := newWorld(t, p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := w.source.Token(ctx)
		if e := w.fails(err); e.Code != provider.CodeTimeout || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		w.wants("tok-1") // the flight went on without the caller
		if p.count() != 1 {
			t.Errorf("%d requests", p.count())
		}
	})
}

func TestToken_PanicInAProviderIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		good := p.answer
		p.answer = func(int) (provider.Response, error) { panic("canary") }
		if _, err := w.source.Token(t.Context()); err == nil {
			t.Fatal("no error")
		}
		p.answer = good
		time.Sleep(time.Minute)
		w.token()
	})
}

func TestRefresh_PanicInABackendIsCaught(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		w.wants("tok-1")
		w.backend.fill = func(context.Context, string, backend.Stamp, backend.FillFunc) (backend.Entry, error) { panic("canary") }
		time.Sleep(55 * time.Minute)
		w.wants("tok-1")
		settle()
		w.backend.fill = nil
		w.wants("tok-1")
		settle()
		w.wants("tok-2")
		if !strings.Contains(w.log.String(), "panic in token refresh") {
			t.Error("not logged")
		}
	})
}

// A suspend stops the monotonic clock; the token's life goes on.
func TestAge_SuspendedTokenIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var skew atomic.Int64
		clock := backend.NewClock(func() time.Time { return time.Now().Add(time.Duration(skew.Load())) })
		b := backend.NewMemory(clock)
		t.Cleanup(func() { _ = b.Close(context.Background()) })
		p := fresh(time.Hour)
		w := join(t, p, b, clock)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go clock.Watch(ctx, w.manager.Age)
		w.wants("tok-1")
		time.Sleep(1500 * time.Millisecond)
		skew.Store(int64(58 * time.Minute)) // within the refresh window now
		time.Sleep(time.Second)
		w.wants("tok-1")
		settle()
		w.wants("tok-2")
		skew.Add(int64(2 * time.Hour))
		time.Sleep(time.Second)
		w.wants("tok-3")
		skew.Add(-int64(5 * time.Hour)) // a step back changes nothing
		time.Sleep(time.Second)
		w.wants("tok-3")
	})
}

func TestSource_TwoProcessesShareOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := backend.NewClock(nil)
		b := backend.NewMemory(clock)
		t.Cleanup(func() { _ = b.Close(context.Background()) })
		p, q := fresh(time.Hour), fresh(time.Hour)
		v, w := join(t, p, b, clock), join(t, q, b, clock)
		v.wants("tok-1")
		time.Sleep(10 * time.Minute)
		tok := w.wants("tok-1")
		if q.count() != 0 {
			t.Errorf("the second process asked")
		}
		if left := time.Until(tok.Expiry()); left != 49*time.Minute {
			t.Errorf("the copy has %v left", left)
		}
		// Another secret shares nothing.
		w.source = w.set(SourceConfig{Name: "other", Credential: credentialOf("x"), Provider: q})
		w.wants("tok-1")
		if q.count() != 1 {
			t.Errorf("%d requests", q.count())
		}
	})
}

func TestSource_WrongWallClocksShareAllTheSame(t *testing.T) {
	for _, skew := range []time.Duration{10 * time.Minute, -10 * time.Minute, 100 * 24 * time.Hour, -100 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			clock := backend.NewClock(nil)
			b := backend.NewMemory(clock)
			t.Cleanup(func() { _ = b.Close(context.Background()) })
			p, q := fresh(time.Hour), fresh(time.Hour)
			v := join(t, p, b, backend.NewClock(func() time.Time { return time.Now().Add(skew) }))
			w := join(t, q, b, clock)
			for range 10 {
				v.token()
				w.token()
				settle()
				time.Sleep(50 * time.Minute)
			}
			// One more each time a token of absurd age is replaced before it is
			// believed; never a failure.
			if n := p.count() + q.count(); n > 20 {
				t.Errorf("skew %v: %d requests for 10 lives", skew, n)
			}
		})
	}
}

func TestFill_ForeignEntryIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		if err := w.backend.Set(t.Context(), w.source.Key(), []byte("something else"), time.Hour); err != nil {
			t.Fatal(err)
		}
		w.wants("tok-1")
		if p.count() != 1 || w.metric("orthanc_oauth_cache_errors_total", "foreign") != 1 {
			t.Errorf("%d requests, %v errors", p.count(), w.metric("orthanc_oauth_cache_errors_total", "foreign"))
		}
	})
}

// Whoever fills the key seals it in a way that this process cannot open.
func TestFill_AcquiresForItselfWhereNothingOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		w.backend.fill = func(_ context.Context, _ string, stale backend.Stamp, _ backend.FillFunc) (backend.Entry, error) {
			return backend.Entry{Stamp: backend.Stamp{Gen: stale.Gen + 1, ID: backend.NewID()}, Value: make([]byte, 100), TTL: time.Hour}, nil
		}
		w.wants("tok-1")
		w.wants("tok-1")
		if p.count() != 1 {
			t.Errorf("%d requests", p.count())
		}
	})
}

func TestRead_BackendCannotLengthenALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Minute))
		fill := w.backend.Backend.Fill
		w.backend.fill = func(ctx context.Context, key string, stale backend.Stamp, f backend.FillFunc) (backend.Entry, error) {
			e, err := fill(ctx, key, stale, f)
			e.TTL = 24 * time.Hour
			return e, err
		}
		if left := time.Until(w.token().Expiry()); left > time.Minute {
			t.Errorf("%v left of a minute", left)
		}
	})
}

func TestSet_RotatedSecretServesTheHeldTokenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := fresh(time.Hour), &idp{answer: func(int) (provider.Response, error) { return grants("new", time.Hour) }}
		w := newWorld(t, p)
		w.wants("tok-1")
		oldKey := w.source.Key()
		same := w.set(SourceConfig{Name: "pacs", Credential: credentialOf("rotated"), Provider: q})
		if same != w.source || w.source.Key() == oldKey {
			t.Fatal("another handle or the same key")
		}
		if _, ok := w.manager.Resolve(oldKey); ok {
			t.Error("leads for a secret it no longer has")
		}
		w.wants("tok-1")
		settle()
		w.wants("new")
		if p.count() != 1 || q.count() != 1 {
			t.Errorf("%d and %d requests", p.count(), q.count())
		}
	})
}

func TestSet_WrongNewSecretLeavesTheHeldTokenInService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		w.wants("tok-1")
		q := &idp{answer: func(int) (provider.Response, error) {
			return refuses(provider.Error{Code: provider.CodeCredentials, RetryAfter: 30 * time.Second})
		}}
		w.set(SourceConfig{Name: "pacs", Credential: credentialOf("rotated"), Provider: q})
		for range 30 * 60 {
			time.Sleep(time.Second)
			w.wants("tok-1")
		}
		if st := w.source.Status(); st.LastError != provider.CodeCredentials || q.count() > 61 {
			t.Errorf("status %+v after %d requests", st, q.count())
		}
	})
}

func TestSet_AnotherClientNeverGetsTheHeldToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		w.wants("tok-1")
		c := credentialOf("s")
		c.Scope = "other"
		w.set(SourceConfig{Name: "pacs", Credential: c, Provider: &idp{answer: func(int) (provider.Response, error) { return grants("other", time.Hour) }}})
		w.wants("other")
	})
}

func TestSet_SameCredentialKeepsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		w.wants("tok-1")
		q := fresh(time.Hour)
		w.set(SourceConfig{Name: "pacs", Credential: credentialOf("s"), Provider: q, RefreshBuffer: time.Minute})
		w.wants("tok-1")
		if q.count() != 0 {
			t.Error("asked again")
		}
	})
}

func TestSet_RefusesWhatCannotWork(t *testing.T) {
	w := newWorld(t, fresh(time.Hour))
	good := SourceConfig{Name: "x", Credential: credentialOf("s"), Provider: fresh(time.Hour)}
	for name, change := range map[string]func(*SourceConfig){
		"no name":     func(c *SourceConfig) { c.Name = "" },
		"no provider": func(c *SourceConfig) { c.Provider = nil },
		"no root":     func(c *SourceConfig) { c.Credential.Root = nil },
		"no url":      func(c *SourceConfig) { c.URL = "pacs.example" },
	} {
		cfg := good
		change(&cfg)
		if _, err := w.manager.Set(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no backend: accepted")
	}
}

func TestManager_NamesItsSourcesAndKeys(t *testing.T) {
	w := newWorld(t, fresh(time.Hour))
	w.set(SourceConfig{Name: "archive", Credential: credentialOf("a"), Provider: fresh(time.Hour)})
	w.set(SourceConfig{Name: "twin", Credential: credentialOf("a"), Provider: fresh(time.Hour)})
	var names []string
	for _, s := range w.manager.Sources() {
		names = append(names, s.Name())
	}
	if got := strings.Join(names, " "); got != "archive pacs twin" || len(w.manager.Keys()) != 2 {
		t.Errorf("%s, %d keys", got, len(w.manager.Keys()))
	}
	if _, ok := w.manager.Source("nobody"); ok {
		t.Error("found nobody")
	}
	fill, ok := w.manager.Resolve(w.source.Key())
	if !ok {
		t.Fatal("own key unknown")
	}
	if e, err := fill(t.Context(), 7); err != nil || e.Gen != 7 || len(e.Value) == 0 {
		t.Errorf("filled %+v, %v", e, err)
	}
}

func TestVet_RefusesOnlyWhatThisProcessCouldOpen(t *testing.T) {
	w := newWorld(t, fresh(time.Hour))
	w.token()
	key := w.source.Key()
	e, err := w.backend.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.manager.Vet(key, e); err != nil {
		t.Errorf("own entry: %v", err)
	}
	e.Gen++
	if w.manager.Vet(key, e) == nil {
		t.Error("forged entry: accepted")
	}
}

func TestStatus_TellsWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fresh(time.Hour))
		if st := w.source.Status(); st.HasToken || st.Valid || len(st.Key) != 8 || st.Name != "pacs" {
			t.Errorf("cold: %+v", st)
		}
		w.token()
		time.Sleep(9 * time.Minute)
		st := w.source.Status()
		if !st.Valid || st.ExpiresIn != 50*time.Minute || st.Origin != backend.FromIdP || st.Fills != 1 || st.RefreshIn <= 0 {
			t.Errorf("fresh: %+v", st)
		}
		time.Sleep(51 * time.Minute)
		if st := w.source.Status(); !st.HasToken || st.Valid || st.ExpiresIn != 0 || st.RefreshIn != 0 {
			t.Errorf("expired: %+v", st)
		}
	})
}

func TestClose_EndsWhatRunsAndStaysClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fresh(time.Hour)
		w := newWorld(t, p)
		w.wants("tok-1")
		p.took = time.Hour
		time.Sleep(55 * time.Minute)
		w.wants("tok-1") // a refresh hangs now
		settle()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_ = w.backend.Close(ctx)
		for range 2 {
			if err := w.manager.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
		w.wants("tok-1") // held tokens stay readable
		time.Sleep(time.Hour)
		if _, err := w.source.Token(t.Context()); err == nil {
			t.Error("acquired after Close")
		}
		if _, err := w.manager.Set(SourceConfig{Name: "y", Credential: credentialOf("s"), Provider: p}); err == nil {
			t.Error("set after Close")
		}
	})
}
