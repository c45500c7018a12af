package tokens

import (
	"context"

	"golang.org/x/oauth2"

	"orthanc-oauth/backend"
)

// OAuth2 returns the source as an oauth2.TokenSource for other Go programs.
// Where a refused token should be replaced, use Transport: an
// oauth2.Transport cannot tell anyone that the server refused.
func (s *Source) OAuth2() oauth2.TokenSource { return oauth2Source{s} }

type oauth2Source struct{ source *Source }

// Token implements oauth2.TokenSource. It waits no longer than a flight may
// take.
func (o oauth2Source) Token() (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(o.source.manager.life, backend.FlightBudget)
	defer cancel()
	t, err := o.source.Use(ctx)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: t.Reveal(), TokenType: t.Scheme(), Expiry: t.Expiry()}, nil
}
