package provider

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// script answers one step per call, the last one for ever.
type script struct {
	steps []step
	calls []time.Time
}

type step struct {
	err  *Error
	life time.Duration
	took time.Duration
}

func (s *script) Fetch(context.Context) (Response, error) {
	st := s.steps[min(len(s.calls), len(s.steps)-1)]
	s.calls = append(s.calls, time.Now())
	time.Sleep(st.took) // only inside bubbles
	if st.err != nil {
		e := *st.err
		return Response{}, &e
	}
	life := st.life
	if life == 0 {
		life = time.Hour
	}
	return Response{AccessToken: NewSecret("tok"), Scheme: "Bearer", Lifetime: life}, nil
}

func resilient(t *testing.T, s *script, cfg ResilienceConfig) *Resilient {
	t.Helper()
	m, err := NewMetrics(prometheus.NewPedanticRegistry())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Server, cfg.Metrics = "pacs", m
	r, err := NewResilient(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// flight is the context a backend gives to a fill.
func flight(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var unavailable = step{err: &Error{Code: CodeUnavailable, Status: 503, Retryable: true}}

func TestResilient_RepeatsWhatMaySucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{unavailable, unavailable, {}}}
		r := resilient(t, s, ResilienceConfig{})
		if _, err := r.Fetch(flight(t)); err != nil {
			t.Fatal(err)
		}
		if len(s.calls) != 3 {
			t.Fatalf("%d calls", len(s.calls))
		}
		first, second := s.calls[1].Sub(s.calls[0]), s.calls[2].Sub(s.calls[1])
		if first < minRetryDelay || second < 2*minRetryDelay {
			t.Errorf("pauses %v and %v", first, second)
		}
		if got := testutil.ToFloat64(r.cfg.Metrics.retries.WithLabelValues("pacs")); got != 2 {
			t.Errorf("%v retries counted", got)
		}
	})
}

func TestResilient_NeverRepeats(t *testing.T) {
	for _, e := range []*Error{
		{Code: CodeUnavailable, Status: 429},
		{Code: CodeUnavailable, Status: 503, RetryAfter: time.Second},
		{Code: CodeCredentials, Status: 401, RetryAfter: pauseCredentials},
		{Code: CodeTLS, Way: true},
		{Code: CodeResponse, Status: 200, RetryAfter: pauseResponse},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{steps: []step{{err: e}}}
			r := resilient(t, s, ResilienceConfig{})
			if _, err := r.Fetch(flight(t)); err == nil || len(s.calls) != 1 {
				t.Errorf("%v: %d calls, %v", e, len(s.calls), err)
			}
		})
	}
}

func TestResilient_ConfigurationOnlyTightens(t *testing.T) {
	for _, c := range []struct {
		name     string
		cfg      ResilienceConfig
		calls    int
		shortest time.Duration
	}{
		{"default", ResilienceConfig{}, 3, minRetryDelay},
		{"more attempts are not taken", ResilienceConfig{RetryMaxAttempts: 50}, 3, minRetryDelay},
		{"fewer are", ResilienceConfig{RetryMaxAttempts: 2}, 2, minRetryDelay},
		{"none", ResilienceConfig{RetryMaxAttempts: 1}, 1, 0},
		{"shorter pauses are not taken", ResilienceConfig{RetryInitialDelay: time.Millisecond, RetryStrategy: RetryFixed}, 3, minRetryDelay},
		{"longer ones are", ResilienceConfig{RetryInitialDelay: 2 * time.Second, RetryStrategy: RetryFixed}, 3, 2 * time.Second},
		{"linear", ResilienceConfig{RetryInitialDelay: time.Second, RetryIncrement: 2 * time.Second, RetryStrategy: RetryLinear}, 3, time.Second},
		{"pauses beyond the flight end it", ResilienceConfig{RetryInitialDelay: time.Minute}, 1, 0},
		{"a greatest pause bounds them", ResilienceConfig{RetryInitialDelay: time.Minute, RetryMaxDelay: time.Second}, 3, time.Second},
		{"a wild multiplier ends it", ResilienceConfig{RetryMultiplier: 1e300}, 2, minRetryDelay},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: []step{unavailable}}
				r := resilient(t, s, c.cfg)
				if _, err := r.Fetch(flight(t)); err == nil {
					t.Fatal("no error")
				}
				if len(s.calls) != c.calls {
					t.Fatalf("%d calls, want %d", len(s.calls), c.calls)
				}
				if c.calls > 1 && s.calls[1].Sub(s.calls[0]) < c.shortest {
					t.Errorf("pause %v, want at least %v", s.calls[1].Sub(s.calls[0]), c.shortest)
				}
			})
		})
	}
	if _, err := NewResilient(&script{}, ResilienceConfig{RetryStrategy: "fibonacci"}); err == nil {
		t.Error("unknown strategy: accepted")
	}
}

func TestResilient_BudgetHoldsWhateverIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{unavailable}}
		r := resilient(t, s, ResilienceConfig{})
		for range 600 { // ten minutes of a caller that does not listen
			if _, err := r.Fetch(flight(t)); err == nil {
				t.Fatal("no error")
			}
			time.Sleep(time.Second)
		}
		took := s.calls[len(s.calls)-1].Sub(s.calls[0])
		if most := budgetBurst + int(took/budgetInterval); len(s.calls) > most {
			t.Errorf("%d requests in %v, want at most %d", len(s.calls), took, most)
		}
	})
}

func TestResilient_SpentBudgetSaysWhenToAskAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{}}}
		r := resilient(t, s, ResilienceConfig{})
		for range budgetBurst {
			if _, err := r.Fetch(flight(t)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := r.Fetch(flight(t))
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != CodeUnavailable || e.RetryAfter <= 0 || e.RetryAfter > budgetInterval || e.Way {
			t.Fatalf("got %+v", err)
		}
		time.Sleep(e.RetryAfter)
		if _, err := r.Fetch(flight(t)); err != nil {
			t.Errorf("after the pause: %v", err)
		}
	})
}

func TestResilient_SpentBudgetNamesWhatSpentIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{err: &Error{Code: CodeConnection, Way: true, Retryable: true, Err: errors.New("connection refused")}}}}
		r := resilient(t, s, ResilienceConfig{})
		if _, err := r.Fetch(flight(t)); err == nil {
			t.Fatal("no error")
		}
		_, err := r.Fetch(flight(t))
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != CodeConnection || !e.Way || e.RetryAfter <= 0 || !errors.Is(err, errBudget) {
			t.Errorf("got %+v, want the refused connection and when to ask again", err)
		}
	})
}

func TestResilient_BudgetCountsEveryRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{err: &Error{Code: CodeCredentials, Requests: 2}}}}
		r := resilient(t, s, ResilienceConfig{})
		for range 2 {
			_, _ = r.Fetch(flight(t))
		}
		_, err := r.Fetch(flight(t)) // 4 of 3 are spent
		if e, ok := errors.AsType[*Error](err); !ok || e.RetryAfter < budgetInterval {
			t.Errorf("got %v", err)
		}
	})
}

func TestResilient_ShortTokensGetOneRequestPerHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{life: 2 * time.Second}}}
		r := resilient(t, s, ResilienceConfig{})
		for i := range 20 {
			if _, err := r.Fetch(flight(t)); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestResilient_BreakerOpensAndLetsOneThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := step{err: &Error{Code: CodeUnavailable}, took: 5 * time.Second}
		s := &script{steps: []step{{err: &Error{Code: CodeUnavailable}}, {err: &Error{Code: CodeUnavailable}}, slow, {}}}
		r := resilient(t, s, ResilienceConfig{BreakerEnabled: true, BreakerThreshold: 2, BreakerTimeout: time.Minute})
		state := r.cfg.Metrics.breakerState.WithLabelValues("pacs")
		for range 2 {
			_, _ = r.Fetch(flight(t))
			time.Sleep(10 * time.Second)
		}
		_, err := r.Fetch(flight(t))
		if e, ok := errors.AsType[*Error](err); !ok || e.RetryAfter != 50*time.Second || len(s.calls) != 2 || testutil.ToFloat64(state) != 1 {
			t.Fatalf("open: %v after %d calls, state %v", err, len(s.calls), testutil.ToFloat64(state))
		}
		time.Sleep(51 * time.Second)
		for range 5 { // half-open: one asks, the others are turned away
			go func() { _, _ = r.Fetch(flight(t)) }()
		}
		synctest.Wait()
		if len(s.calls) != 3 || testutil.ToFloat64(state) != 2 {
			t.Fatalf("half-open: %d calls, state %v", len(s.calls), testutil.ToFloat64(state))
		}
		time.Sleep(70 * time.Second) // the probe failed; the next succeeds
		if _, err := r.Fetch(flight(t)); err != nil || testutil.ToFloat64(state) != 0 {
			t.Errorf("closed again: %v, state %v", err, testutil.ToFloat64(state))
		}
		if got := testutil.ToFloat64(r.cfg.Metrics.rejections.WithLabelValues("pacs")); got != 5 {
			t.Errorf("%v rejections", got)
		}
	})
}

func TestResilient_OurOwnStopDoesNotOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{err: &Error{Code: CodeConnection, Err: context.Canceled}}}}
		r := resilient(t, s, ResilienceConfig{BreakerEnabled: true, BreakerThreshold: 1})
		for range 3 {
			_, _ = r.Fetch(flight(t))
		}
		if len(s.calls) != 3 {
			t.Errorf("%d calls", len(s.calls))
		}
	})
}

func TestNewMetrics_TellsOfADuplicate(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := NewMetrics(reg); err != nil {
		t.Fatal(err)
	}
	if _, err := NewMetrics(reg); err == nil {
		t.Error("registered twice")
	}
}
