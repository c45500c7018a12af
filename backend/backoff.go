package backend

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Bounds of a backoff: decorrelated jitter between MinBackoff and MaxBackoff
// (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/),
// and MaxRetryAfter for what the provider itself asks for.
const (
	MinBackoff    = time.Second
	MaxBackoff    = time.Minute
	MaxRetryAfter = 10 * time.Minute
)

// Backoff is how long nobody asks the provider for one key. The zero value is
// ready. It is not safe for concurrent use; times are readings of one Clock.
type Backoff struct {
	last    time.Duration // length of the last pause
	refused time.Duration // when this node was last refused
	until   time.Duration
	why     Refusal
}

// Refused notes a refusal at now and returns it with the pause that follows.
func (b *Backoff) Refused(now time.Duration, r *Refusal) *Refusal {
	pause := min(r.RetryAfter, MaxRetryAfter)
	if pause <= 0 {
		ceiling := min(3*max(b.last, MinBackoff), MaxBackoff)
		pause = MinBackoff + rand.N(ceiling-MinBackoff+1)
	}
	b.last, b.refused = min(pause, MaxBackoff), now
	b.Adopt(now, &Refusal{Code: r.Code, Way: r.Way, RetryAfter: pause, Err: r.Err})
	return b.Left(now)
}

// Adopt takes over a refusal whose pause another node has chosen. The longer
// pause wins, so the order of messages does not matter.
func (b *Backoff) Adopt(now time.Duration, r *Refusal) {
	if until := now + min(r.RetryAfter, MaxRetryAfter); until > b.until {
		b.until, b.why = until, *r
	}
}

// Left returns what is left of the pause, or nil when there is none.
func (b *Backoff) Left(now time.Duration) *Refusal {
	if now >= b.until {
		return nil
	}
	r := b.why
	r.RetryAfter = b.until - now
	return &r
}

// Granted notes that another node has been granted what it asked for at asked. If
// that is after this node was last refused, its pauses start small again; the one
// that runs goes on.
func (b *Backoff) Granted(asked time.Duration) {
	if asked > b.refused {
		b.last = 0
	}
}

// Succeeded ends the backoff.
func (b *Backoff) Succeeded() { *b = Backoff{} }

// AsRefusal returns the Refusal that err is or holds; an internal failure
// becomes one of code INT-001.
func AsRefusal(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	return &Refusal{Code: "INT-001", Err: err}
}

// isShutdown tells a flight that was cancelled because this node stops from one
// that the provider refused: the first says nothing about the provider.
func isShutdown(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed)
}

// Bounds of the pause between two revocations of one key (protocol.md, 401).
const (
	MinPace = 30 * time.Second
	MaxPace = 10 * time.Minute
	// PaceMargin is how much older than a revocation an acquisition must be to
	// count as older: ages are rounded, and no two clocks run at quite the same
	// rate.
	PaceMargin = time.Second
)

// Pace is the pause between revocations of one key, so that a 401 that means
// "not allowed" never becomes a loop: it doubles with every revocation that no
// accepted replay confirmed. The zero value allows a revocation. It is not safe
// for concurrent use; times are readings of one Clock.
//
// What was asked for before the revocation that the pause follows need not wait
// for its end: that revocation did not cost it. Such a revocation does not begin
// a pause either, and so leaves the moment that counts where it was. There are
// only so many acquisitions from before it, and what replaces them is from after
// it: no loop can come of them.
type Pace struct {
	pause time.Duration
	until time.Duration
}

// Revoking reports whether a revocation is allowed at now, and starts the next
// pause when it is.
func (p *Pace) Revoking(now time.Duration) bool {
	if now < p.until {
		return false
	}
	p.pause = min(max(2*p.pause, MinPace), MaxPace)
	p.until = now + p.pause
	return true
}

// Predates reports whether what was asked for at asked is older than the
// revocation that the pause follows.
func (p *Pace) Predates(asked time.Duration) bool {
	return p.pause > 0 && asked+PaceMargin < p.until-p.pause
}

// Confirmed ends the pause: a replay with the new acquisition was accepted.
func (p *Pace) Confirmed() { *p = Pace{} }

// Left returns what is left of the pause at now, 0 when there is none.
func (p *Pace) Left(now time.Duration) time.Duration { return max(0, p.until-now) }
