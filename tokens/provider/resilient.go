package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Fetcher obtains a token. Failures are *Error values.
type Fetcher interface {
	Fetch(ctx context.Context) (Response, error)
}

// RetryStrategy is how the pause between retries grows.
type RetryStrategy string

// The strategies, by the names of the Python plugin.
const (
	RetryFixed       RetryStrategy = "fixed"
	RetryLinear      RetryStrategy = "linear"
	RetryExponential RetryStrategy = "exponential"
)

const (
	// maxRetries and minRetryDelay bound what one acquisition sends. A
	// configuration can lower the first and raise the second, nothing else:
	// a fleet's quiet is not one node's to break.
	maxRetries    = 2
	minRetryDelay = 250 * time.Millisecond
	// finishTime is what a retry must have left of its context to be worth
	// sending.
	finishTime = 500 * time.Millisecond

	defaultBreakerThreshold = 5
	defaultBreakerTimeout   = time.Minute
)

// ResilienceConfig tunes a Resilient. The zero value is the default.
type ResilienceConfig struct {
	Server string // label of metrics and logs

	BreakerEnabled   bool
	BreakerThreshold int           // failures in a row that open it; 5 when 0
	BreakerTimeout   time.Duration // how long it stays open; 60 s when 0

	RetryMaxAttempts  int           // requests per acquisition, the first included; 3 when 0, never more
	RetryStrategy     RetryStrategy // exponential when empty
	RetryInitialDelay time.Duration // raised to 250 ms
	RetryMultiplier   float64       // exponential; 2 when 0
	RetryIncrement    time.Duration // linear; the initial delay when 0
	RetryMaxDelay     time.Duration // no bound when 0

	Metrics *Metrics // counts nowhere when nil
	Log     *slog.Logger
}

// Resilient stands in front of a Fetcher: it repeats what may succeed at once,
// within the time of the context and a budget of requests, and stops asking
// where a circuit breaker is configured and open. It never repeats a 429, a
// refusal of credentials or a TLS failure.
type Resilient struct {
	next    Fetcher
	cfg     ResilienceConfig
	budget  budget
	breaker *gobreaker.CircuitBreaker[Response] // nil when disabled

	mu       sync.Mutex
	openedAt time.Time
	last     *Error // why the last request failed; nil after a success
}

// NewResilient wraps next.
func NewResilient(next Fetcher, cfg ResilienceConfig) (*Resilient, error) {
	switch cfg.RetryStrategy {
	case "":
		cfg.RetryStrategy = RetryExponential
	case RetryFixed, RetryLinear, RetryExponential:
	default:
		return nil, fmt.Errorf("retry strategy %q: want fixed, linear or exponential", cfg.RetryStrategy)
	}
	if cfg.Metrics == nil {
		cfg.Metrics, _ = NewMetrics(nil) // fails only where it registers
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Resilient{next: next, cfg: cfg, budget: newBudget()}
	cfg.Metrics.breakerState.WithLabelValues(cfg.Server).Set(stateValue(gobreaker.StateClosed))
	if cfg.BreakerEnabled {
		r.breaker = gobreaker.NewCircuitBreaker[Response](r.breakerSettings())
	}
	return r, nil
}

func (r *Resilient) breakerSettings() gobreaker.Settings {
	threshold := r.cfg.BreakerThreshold
	if threshold <= 0 {
		threshold = defaultBreakerThreshold
	}
	r.cfg.BreakerTimeout = cmp.Or(max(0, r.cfg.BreakerTimeout), defaultBreakerTimeout)
	return gobreaker.Settings{
		Name:        r.cfg.Server,
		MaxRequests: 1, // half-open lets one through, not a herd
		Timeout:     r.cfg.BreakerTimeout,
		ReadyToTrip: func(c gobreaker.Counts) bool { return int64(c.ConsecutiveFailures) >= int64(threshold) },
		// Neither our own stop nor our own budget says anything of the provider.
		IsExcluded: func(err error) bool {
			return errors.Is(err, context.Canceled) || errors.Is(err, errBudget)
		},
		OnStateChange: r.breakerChanged,
	}
}

func (r *Resilient) breakerChanged(server string, from, to gobreaker.State) {
	if to == gobreaker.StateOpen {
		r.mu.Lock()
		r.openedAt = time.Now()
		r.mu.Unlock()
	}
	r.cfg.Metrics.breakerState.WithLabelValues(server).Set(stateValue(to))
	r.cfg.Log.Warn("circuit breaker of token endpoint changed", "server", server, "from", from.String(), "to", to.String())
}

// stateValue maps a state to what dashboards of the Python plugin expect.
func stateValue(s gobreaker.State) float64 {
	switch s {
	case gobreaker.StateOpen:
		return 1
	case gobreaker.StateHalfOpen:
		return 2
	}
	return 0
}

// Fetch obtains a token from the wrapped provider.
func (r *Resilient) Fetch(ctx context.Context) (Response, error) {
	if r.breaker == nil {
		return r.attempts(ctx)
	}
	resp, err := r.breaker.Execute(func() (Response, error) { return r.attempts(ctx) })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		r.cfg.Metrics.rejections.WithLabelValues(r.cfg.Server).Inc()
		return Response{}, &Error{Code: CodeUnavailable, RetryAfter: r.breakerLeft(), Err: err}
	}
	return resp, err
}

// breakerLeft is when the breaker lets the next request through, at least a
// second, as one that is half-open waits for the request under way.
func (r *Resilient) breakerLeft() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(time.Second, r.cfg.BreakerTimeout-time.Since(r.openedAt))
}

// attempts sends a request and at most maxRetries more.
func (r *Resilient) attempts(ctx context.Context) (Response, error) {
	if spent := r.budget.take(); spent != nil {
		return Response{}, r.explain(spent)
	}
	for n := 1; ; n++ {
		resp, err := r.next.Fetch(ctx)
		if err == nil {
			r.note(nil)
			r.budget.settle(resp.Requests, resp.Lifetime)
			return resp, nil
		}
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return Response{}, err
		}
		r.note(e)
		r.budget.settle(e.Requests, 0)
		if !e.Retryable || n >= r.maxAttempts() || !r.pause(ctx, n) || r.budget.take() != nil {
			return Response{}, err
		}
		r.cfg.Metrics.retries.WithLabelValues(r.cfg.Server).Inc()
	}
}

// note remembers how the last request went.
func (r *Resilient) note(e *Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = e
}

// explain gives a spent budget the cause that spent it: an operator is to read
// that the connection is refused, not that it was tried too often.
func (r *Resilient) explain(spent *Error) *Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		return spent
	}
	e := *r.last
	e.RetryAfter, e.Retryable, e.Err = spent.RetryAfter, false, fmt.Errorf("%w; the last request: %w", spent.Err, r.last)
	return &e
}

func (r *Resilient) maxAttempts() int {
	if n := r.cfg.RetryMaxAttempts; n > 0 {
		return min(n, 1+maxRetries)
	}
	return 1 + maxRetries
}

// pause waits before retry n and reports whether ctx has time left for it.
func (r *Resilient) pause(ctx context.Context, n int) bool {
	d := r.delay(n)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d+finishTime {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// delay is the pause before retry n, with a fifth of jitter so that a fleet's
// retries spread.
func (r *Resilient) delay(n int) time.Duration {
	d := max(r.cfg.RetryInitialDelay, minRetryDelay)
	switch r.cfg.RetryStrategy {
	case RetryLinear:
		step := r.cfg.RetryIncrement
		if step <= 0 {
			step = d
		}
		d += time.Duration(n-1) * step
	case RetryExponential:
		factor := r.cfg.RetryMultiplier
		if factor < 1 {
			factor = 2
		}
		for range n - 1 {
			// A product beyond any context's time must not overflow.
			d = time.Duration(min(float64(d)*factor, float64(time.Hour)))
		}
	}
	if most := r.cfg.RetryMaxDelay; most > 0 {
		d = max(min(d, most), minRetryDelay)
	}
	return d + rand.N(d/5+1)
}
