package config

import "time"

// fileResilience holds delays in seconds, as the Python plugin does.
type fileResilience struct {
	CircuitBreakerEnabled          bool
	CircuitBreakerFailureThreshold int
	CircuitBreakerTimeout          float64
	RetryMaxAttempts               int
	RetryStrategy                  string
	RetryInitialDelay              float64
	RetryMultiplier                float64
	RetryMaxDelay                  float64
	RetryIncrement                 float64
}

// The limits that a configuration may tighten and not loosen: a token request
// has two retries at most within a flight's budget, and hammering the provider
// is what the fleet's shared backoff prevents.
const (
	maxAttempts = 3
	minDelay    = 200 * time.Millisecond
)

func (b *builder) resilience(at place, f fileResilience) Resilience {
	r := Resilience{
		CircuitBreakerEnabled:          f.CircuitBreakerEnabled,
		CircuitBreakerFailureThreshold: f.CircuitBreakerFailureThreshold,
		CircuitBreakerTimeout:          seconds(f.CircuitBreakerTimeout),
		RetryMaxAttempts:               f.RetryMaxAttempts,
		RetryStrategy:                  f.RetryStrategy,
		RetryInitialDelay:              seconds(f.RetryInitialDelay),
		RetryMultiplier:                f.RetryMultiplier,
		RetryMaxDelay:                  seconds(f.RetryMaxDelay),
		RetryIncrement:                 seconds(f.RetryIncrement),
	}
	if r.RetryMaxAttempts > maxAttempts {
		b.report.warn(at.at("RetryMaxAttempts"), "found %d, used as %d: these settings tighten the built-in limits only", r.RetryMaxAttempts, maxAttempts)
		r.RetryMaxAttempts = maxAttempts
	}
	b.atLeast(at.at("RetryInitialDelay"), &r.RetryInitialDelay)
	b.atLeast(at.at("RetryMaxDelay"), &r.RetryMaxDelay)
	return r
}

func (b *builder) atLeast(at place, delay *time.Duration) {
	if *delay < minDelay {
		b.report.warn(at, "found %v, used as %v: these settings tighten the built-in limits only", *delay, minDelay)
		*delay = minDelay
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
