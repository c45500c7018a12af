package tokens

import (
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"orthanc-oauth/backend"
)

// Token is one granted bearer token, ready to be sent. It is one pointer wide,
// immutable, and shows itself as "[redacted]" in fmt, slog and JSON. The zero
// Token is invalid.
type Token struct{ g *grant }

// grant is what a Token points to. Times are on the clock that began at base.
type grant struct {
	header   *string // finished: scheme, space, token; a pointer, as fmt can dump the struct that Token points to
	scheme   string
	stamp    backend.Stamp
	origin   backend.Origin
	cred     *credential
	base     time.Time
	soft     time.Duration // renewed from here on
	hard     time.Duration // not handed out from here on
	assumed  bool
	accepted *atomic.Bool // shared by all grants of one acquisition
}

// Header returns the value of the Authorization header.
func (t Token) Header() string {
	if t.g == nil {
		return ""
	}
	return *t.g.header
}

// Scheme returns the authentication scheme, "Bearer".
func (t Token) Scheme() string {
	if t.g == nil {
		return ""
	}
	return t.g.scheme
}

// Reveal returns the token without its scheme.
func (t Token) Reveal() string {
	if t.g == nil {
		return ""
	}
	return (*t.g.header)[len(t.g.scheme)+1:]
}

// Valid reports whether the token may still be sent.
func (t Token) Valid() bool { return t.g != nil && time.Since(t.g.base) < t.g.hard }

// Expiry returns the instant from which the token is no longer handed out. It
// carries a monotonic reading, so comparing it with time.Now is safe.
func (t Token) Expiry() time.Time {
	if t.g == nil {
		return time.Time{}
	}
	return t.g.base.Add(t.g.hard)
}

// ID names the acquisition that the token came from.
func (t Token) ID() backend.ID {
	if t.g == nil {
		return backend.ID{}
	}
	return t.g.stamp.ID
}

// Origin returns where this process found the token.
func (t Token) Origin() backend.Origin {
	if t.g == nil {
		return ""
	}
	return t.g.origin
}

const redacted = "[redacted]"

// String implements fmt.Stringer.
func (Token) String() string { return redacted }

// Format implements fmt.Formatter for every verb.
func (Token) Format(f fmt.State, _ rune) {
	io.WriteString(f, redacted) //nolint:errcheck // fmt.State reports no errors
}

// LogValue implements slog.LogValuer.
func (Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so JSON.
func (Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }
