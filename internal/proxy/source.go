package proxy

import (
	"context"
	"errors"

	"orthanc-oauth/tokens"
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
	// Accepted notes that the server took the token. It is called for every answer.
	Accepted(t Token)
	// Refused revokes a token that the server answered with 401 and returns another
	// one, or the same one where it was not revoked: the last time is too recent.
	Refused(ctx context.Context, bad Token) (Token, error)
	// Forbidden is Refused for a 403. It does not revoke what this server has
	// accepted before: that 403 is about permissions.
	Forbidden(ctx context.Context, bad Token) (Token, error)
	// Confirm reports that a request refused before was accepted with this token.
	Confirm(ctx context.Context, accepted Token)
}

// FromTokens makes a TokenSource of a tokens.Source.
func FromTokens(s *tokens.Source) TokenSource { return source{s} }

type source struct{ s *tokens.Source }

// Use implements TokenSource.
func (a source) Use(ctx context.Context) (Token, error) {
	t, err := a.s.Use(ctx)
	return t, asFailure(err)
}

// Accepted implements TokenSource.
func (a source) Accepted(t Token) { a.s.Accepted(t.(tokens.Token)) }

// Refused implements TokenSource.
func (a source) Refused(ctx context.Context, bad Token) (Token, error) {
	t, err := a.s.Refused(ctx, bad.(tokens.Token))
	return unlessKept(bad, t, err)
}

// Forbidden implements TokenSource.
func (a source) Forbidden(ctx context.Context, bad Token) (Token, error) {
	t, err := a.s.Forbidden(ctx, bad.(tokens.Token))
	return unlessKept(bad, t, err)
}

// Confirm implements TokenSource.
func (a source) Confirm(ctx context.Context, t Token) { a.s.Confirm(ctx, t.(tokens.Token)) }

func unlessKept(bad Token, t tokens.Token, err error) (Token, error) {
	if errors.Is(err, tokens.ErrPaced) || errors.Is(err, tokens.ErrAccepted) {
		return bad, nil
	}
	return t, asFailure(err)
}

// asFailure puts an error of package tokens into the proxy's terms. The admin
// routes do so as well, so AdminConfig's functions may return them as they are.
func asFailure(err error) error {
	var e *tokens.Error
	if !errors.As(err, &e) {
		return err
	}
	return &Failure{Code: string(e.Code), RetryAfter: e.RetryAfter, Err: e.Err}
}
