package main

import (
	"crypto/rand"
	"crypto/subtle"
	"log/slog"
	"net/http"
)

// credentials protect the loopback listener from other users of the machine. They
// live as long as the plugin is loaded.
type credentials struct{ user, password string }

func newCredentials() credentials {
	return credentials{user: userPrefix + rand.Text()[:8], password: rand.Text()}
}

// String keeps the password out of logs.
func (c credentials) String() string { return c.user + ":(redacted)" }

// GoString keeps the password out of %#v.
func (c credentials) GoString() string { return c.String() }

// LogValue keeps the password out of structured logs.
func (c credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// authorize reports whether a request for the data path carries the credentials.
func (c credentials) authorize(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	same := subtle.ConstantTimeCompare([]byte(user), []byte(c.user)) &
		subtle.ConstantTimeCompare([]byte(password), []byte(c.password))
	return ok && same == 1
}
