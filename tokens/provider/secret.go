package provider

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what a Secret shows of itself, whatever it holds.
const redacted = "[redacted]"

// Secret holds text that must reach no log. It shows itself as "[redacted]" in
// fmt, slog and JSON. The text sits behind a pointer, because fmt prints the
// unexported fields of a struct without asking their methods: it then prints an
// address.
type Secret struct{ p *string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{p: &text} }

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.p == nil {
		return ""
	}
	return *s.p
}

// IsEmpty reports whether there is no text.
func (s Secret) IsEmpty() bool { return s.p == nil || *s.p == "" }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// Format implements fmt.Formatter for every verb.
func (Secret) Format(f fmt.State, _ rune) {
	io.WriteString(f, redacted) //nolint:errcheck // fmt.State reports no errors
}

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
