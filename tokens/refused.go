package tokens

import (
	"context"
	"errors"

	"orthanc-oauth/backend"
)

// MaxReplays is how often a refused request is worth sending again. The first
// replay may be with a token that somebody acquired before the refusal, and which
// is refused with it: after an outage of a shared backend two live tokens of one
// credential are about. The second has one that was acquired since. A 401 that
// means "not allowed" gets none after one that was acquired since: ErrPaced.
const MaxReplays = 2

// Refused is for a token that the server answered with 401. It revokes the
// acquisition the token came from and returns a newer one, for a replay. A late
// complaint about a token that has been replaced gets the one that replaced it.
// An error means that there is nothing to replay with, and the refusal is
// passed on; errors.Is ErrPaced when the token stays in service.
func (s *Source) Refused(ctx context.Context, bad Token) (Token, error) {
	if bad.g == nil {
		return s.Token(ctx)
	}
	if g := s.successor(bad.g); g != nil {
		return Token{g}, nil
	}
	if err := s.revoke(ctx, bad.g); err != nil {
		return Token{}, err
	}
	// Newer than the refused one: an older token that others may still hold is
	// more likely to have been revoked with it than to be any better.
	c := s.cred.Load()
	g, err := s.obtain(ctx, c, bad.g.staleFor(c))
	if err != nil {
		return Token{}, s.failed(err, noToken)
	}
	return Token{g}, nil
}

// successor returns the held token if it replaced bad.
func (s *Source) successor(bad *grant) *grant {
	g := s.near.Load()
	if g == nil || s.manager.now() >= g.hard || g.stamp.ID == bad.stamp.ID {
		return nil
	}
	if g.cred.key == bad.cred.key && !g.stamp.Newer(bad.stamp) {
		return nil
	}
	return g
}

// revoke revokes throughout the fleet, and in this process even where the fleet
// cannot be told.
func (s *Source) revoke(ctx context.Context, bad *grant) error {
	err := s.manager.backend.Revoke(ctx, bad.cred.key, bad.stamp.ID)
	switch {
	case errors.Is(err, backend.ErrPaced), ctx.Err() != nil && err != nil:
		e := failure(s.name, err)
		s.manager.metrics.failed(s.name, e.Code)
		return e
	case err != nil:
		s.manager.metrics.cacheError("backend")
		s.manager.log.Warn("revocation not shared", "server", s.name, "cause", err)
	default:
		s.manager.log.Info("refused token revoked", "server", s.name, "key", fingerprint(bad.cred.key))
	}
	s.revoked(bad.cred, bad.stamp.ID)
	s.manager.Revoked(bad.cred.key, bad.stamp.ID) // other servers of the same credential
	return nil
}

// Accepted is for a token that the server answered other than with 401 or 403.
// It is cheap enough for every answer.
func (s *Source) Accepted(t Token) {
	if t.g != nil && !t.g.accepted.Load() {
		t.g.accepted.Store(true)
	}
}

// Forbidden is Refused for a 403. It revokes only what this server has never
// accepted, and otherwise returns ErrAccepted.
func (s *Source) Forbidden(ctx context.Context, t Token) (Token, error) {
	if t.g != nil && t.g.accepted.Load() {
		return Token{}, &Error{Code: failure(s.name, ErrAccepted).Code, Server: s.name, Err: ErrAccepted}
	}
	return s.Refused(ctx, t)
}

// Confirm is for a replay that the server accepted with t: the revocation
// before was right, and the next one need not wait.
func (s *Source) Confirm(ctx context.Context, t Token) {
	if t.g == nil {
		return
	}
	s.Accepted(t)
	if err := s.manager.backend.Confirm(ctx, t.g.cred.key, t.g.stamp.ID); err != nil {
		s.manager.log.Debug("confirmation not shared", "server", s.name, "cause", err)
	}
}

// Invalidate revokes the token now in service, whatever its pace, and acquires
// another: what an operator asks for.
func (s *Source) Invalidate(ctx context.Context) (Token, error) {
	c := s.cred.Load()
	if _, err := s.manager.backend.Delete(ctx, c.key); err != nil {
		if ctx.Err() != nil {
			return Token{}, failure(s.name, err)
		}
		// As after a 401: what cannot be shared still holds here.
		s.manager.metrics.cacheError("backend")
		s.manager.log.Warn("revocation not shared", "server", s.name, "cause", err)
	}
	if g := s.near.Load(); g != nil {
		s.revoked(g.cred, g.stamp.ID)
		s.manager.Revoked(g.cred.key, g.stamp.ID)
	}
	g, err := s.obtain(ctx, c, backend.Stamp{})
	if err != nil {
		return Token{}, s.failed(err, noToken)
	}
	return Token{g}, nil
}
