package provider

import (
	"errors"
	"time"

	"golang.org/x/time/rate"
)

// The budget of requests for one key on one node (protocol.md, Herd, backoff,
// budget): whatever goes wrong above, a provider sees no more than this.
const (
	budgetInterval = 5 * time.Second
	budgetBurst    = 3
	// shortLifetime is below what one request per budgetInterval can renew;
	// such tokens get one request per half lifetime.
	shortLifetime = 10 * time.Second
)

var errBudget = errors.New("budget of requests used up")

type budget struct{ limiter *rate.Limiter }

func newBudget() budget {
	return budget{rate.NewLimiter(rate.Every(budgetInterval), budgetBurst)}
}

// take uses up one request, or says when the next is allowed.
func (b budget) take() *Error {
	r := b.limiter.Reserve()
	wait := r.Delay()
	if wait <= 0 {
		return nil
	}
	r.Cancel()
	return &Error{Code: CodeUnavailable, RetryAfter: wait, Err: errBudget}
}

// settle debits the requests that one call sent beyond the one taken, and fits
// the pace to the token's life.
func (b budget) settle(requests int, life time.Duration) {
	if extra := requests - 1; extra > 0 {
		b.limiter.ReserveN(time.Now(), min(extra, budgetBurst))
	}
	if life <= 0 {
		return
	}
	interval := budgetInterval
	if life < shortLifetime {
		interval = life / 2
	}
	if every := rate.Every(interval); every != b.limiter.Limit() {
		b.limiter.SetLimit(every)
	}
}
