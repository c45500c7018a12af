package provider

import (
	"fmt"
	"strings"
	"time"
)

// Error says why no token was obtained. It never holds a byte of the
// provider's answer beyond a checked OAuth error code.
type Error struct {
	Code       Code
	Status     int           // HTTP status; 0 when there was no answer
	OAuthError string        // the "error" field (RFC 6749, 5.2), if it is plain
	RetryAfter time.Duration // the provider is not asked before; 0: it named no time
	Way        bool          // the way to the provider failed: DNS, connect or TLS
	Retryable  bool          // the same request may succeed within the same flight
	Requests   int           // how many requests were sent; 0 counts as 1
	Err        error
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("token endpoint")
	if e.Status != 0 {
		fmt.Fprintf(&b, ": status %d", e.Status)
	}
	if e.OAuthError != "" {
		fmt.Fprintf(&b, ": %s", e.OAuthError)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	fmt.Fprintf(&b, " (%s)", e.Code)
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Pauses after refusals that carry none of their own.
const (
	// pauseCredentials follows a refusal that only a changed configuration
	// can cure.
	pauseCredentials = 30 * time.Second
	// pauseResponse is the negative cache of an answer that makes no sense:
	// usually a proxy's page, gone in seconds.
	pauseResponse = 5 * time.Second
	// MaxRetryAfter bounds what a provider can ask for.
	MaxRetryAfter = 10 * time.Minute
)
