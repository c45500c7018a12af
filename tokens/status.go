package tokens

import (
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

// SourceStatus is what an operator may see of a source.
type SourceStatus struct {
	Name       string         `json:"name"`
	Key        string         `json:"key"` // first 8 hexadecimal digits of K
	HasToken   bool           `json:"has_cached_token"`
	Valid      bool           `json:"token_valid"`
	ExpiresIn  time.Duration  `json:"-"` // until the token is no longer handed out
	RefreshIn  time.Duration  `json:"-"` // until it is renewed; 0 when due
	Refreshing bool           `json:"refreshing"`
	Origin     backend.Origin `json:"source,omitempty"`
	Assumed    bool           `json:"lifetime_assumed"` // the provider named no lifetime
	Accepted   bool           `json:"accepted"`         // the server has accepted the token
	Renewed    uint64         `json:"renewed"`          // tokens held so far, adopted ones included
	Fills      uint64         `json:"acquisitions"`     // times this process asked the provider with the present credential
	LastError  provider.Code  `json:"last_error,omitempty"`
	RetryAfter time.Duration  `json:"-"` // what LastError asked for when it came
}

// Status returns a snapshot.
func (s *Source) Status() SourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cred.Load()
	st := SourceStatus{
		Name: s.name, Key: fingerprint(c.key),
		Refreshing: s.refreshing.Load(), Renewed: s.renewed, Fills: c.fills.Load(),
	}
	if s.last != nil {
		st.LastError, st.RetryAfter = s.last.Code, s.last.RetryAfter
	}
	if g := s.near.Load(); g != nil {
		now := s.manager.now()
		st.HasToken, st.Valid = true, now < g.hard
		st.ExpiresIn, st.RefreshIn = max(0, g.hard-now), max(0, max(g.soft, 0)-now)
		st.Origin, st.Assumed, st.Accepted = g.origin, g.assumed, g.accepted.Load()
	}
	return st
}

// Key returns K, which names the source's token throughout the fleet.
func (s *Source) Key() string { return s.cred.Load().key }
