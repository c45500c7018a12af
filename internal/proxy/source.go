package proxy

import (
	"context"
	"sync/atomic"
)

// Token is an access token that can be sent.
type Token interface {
	// Header returns the finished value of an Authorization header.
	Header() string
}

// TokenSource is where one server's tokens come from. Its errors are Failures
// where their cause is known.
type TokenSource interface {
	// Use returns a token for a request that is about to be sent.
	Use(ctx context.Context) (Token, error)
	// Refused revokes a token that the remote refused and returns another one, or
	// the same one where revoking would not help (it was tried too recently).
	Refused(ctx context.Context, bad Token) (Token, error)
	// Confirm reports that a request refused before was accepted with this token.
	Confirm(ctx context.Context, accepted Token)
}

// trust remembers the token that a server accepted last. A 403 to that one is
// about permissions, and revoking it would not help; a 403 to any other may come
// from a server that says 403 for a bad token.
type trust struct{ last atomic.Pointer[string] }

func (t *trust) has(token Token) bool {
	last := t.last.Load()
	return last != nil && *last == token.Header()
}

func (t *trust) add(token Token) {
	if t.has(token) {
		return // the usual case writes nothing that other cores read
	}
	h := token.Header()
	t.last.Store(&h)
}
