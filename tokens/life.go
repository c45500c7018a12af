package tokens

import (
	"math/rand/v2"
	"time"
)

// DefaultRefreshBuffer is how long before its end a token is renewed, where the
// configuration says nothing and the life allows it.
const DefaultRefreshBuffer = 5 * time.Minute

// repeatedPause is the least time between two questions to a provider that
// sends the same bytes again and again.
const repeatedPause = 30 * time.Second

// margin is how long before its end a token of this life is no longer handed
// out: a request takes time to arrive, and clocks at the remote differ.
func margin(life time.Duration) time.Duration {
	return min(max(life/50, time.Second), time.Minute, life/4)
}

// lead is how long before its end a token of this life is renewed, without
// jitter. A buffer larger than the life never means a request per call, and one
// that lies within the margin never means that callers wait for the provider.
func lead(life, buffer time.Duration) time.Duration {
	share := life / 5
	if life < time.Minute {
		share = life / 3
	}
	return min(max(buffer, 2*margin(life)), share)
}

// newJitter spreads the renewals of tokens that were acquired together: up to
// 5% of the life.
func newJitter(life time.Duration) time.Duration { return rand.N(life/20 + 1) }

// span is when a token is renewed and when it is no longer handed out, on the
// clock that its end is given in.
type span struct{ soft, hard time.Duration }

// spanOf returns the span of a token that ends at end.
func spanOf(v sealed, end, buffer time.Duration) span {
	hard := end - margin(v.life)
	soft := end - lead(v.life, buffer) - max(0, min(v.jitter, v.life/20))
	if v.repeated {
		// Its life is what was left when the provider repeated it.
		soft = end - v.life + max(v.life/2, repeatedPause)
	}
	return span{soft: min(soft, hard), hard: hard}
}
