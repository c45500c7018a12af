package tokens

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

// Provider obtains a token. Failures are *provider.Error values; others count
// as refusals without a pause of their own.
type Provider interface {
	Fetch(ctx context.Context) (provider.Response, error)
}

// credential is a Credential at work: it fills its key, for this process and
// for peers that ask. A rotated secret makes a new one.
type credential struct {
	manager  *Manager
	server   string            // for labels and logs
	identity [sha256.Size]byte // digest of what is asked for, without what proves it
	origin   *url.URL
	provider Provider
	buffer   time.Duration
	history  *history
	fills    atomic.Uint64 // times the provider was asked
	sealer
}

// fill is the backend.FillFunc of the credential.
func (c *credential) fill(ctx context.Context, gen uint64) (backend.Entry, error) {
	// Before the request: the token can have been issued any time after.
	t0 := c.manager.clock.Now()
	c.fills.Add(1)
	resp, err := c.provider.Fetch(ctx)
	var e backend.Entry
	if err != nil {
		err = refusal(err)
	} else {
		e, err = c.entry(resp, gen, t0)
	}
	c.manager.metrics.acquired(c.server, c.manager.clock.Now()-t0, err)
	if err == nil {
		c.manager.log.Info("token acquired", "server", c.server, "key", fingerprint(c.key),
			"expires_in", e.TTL.Round(time.Second), "assumed", resp.Assumed)
	}
	return e, err
}

// entry seals a response that was asked for at t0 as generation gen. A token
// that the provider has sent before keeps the longer of its ends; a revoked one
// is a refusal.
func (c *credential) entry(resp provider.Response, gen uint64, t0 time.Duration) (backend.Entry, error) {
	now := c.manager.clock.Now()
	token := resp.AccessToken.Reveal()
	v := sealed{
		token: token, scheme: resp.Scheme, assumed: resp.Assumed,
		life: resp.Lifetime, issued: c.manager.clock.Wall(),
	}
	stamp, end := backend.Stamp{Gen: gen, ID: c.nameOf(token)}, t0+resp.Lifetime
	if prev, pause, ok := c.history.repeated(stamp.ID); pause > 0 {
		return backend.Entry{}, repeatedRefusal(pause)
	} else if ok {
		end, v.repeated = max(end, prev.end), true
		v.life = min(end-now, provider.MaxLifetime)
	}
	ttl := end - margin(v.life) - now
	if ttl <= 0 {
		return backend.Entry{}, &backend.Refusal{Code: string(provider.CodeExpired), Err: errDead}
	}
	v.jitter = newJitter(v.life)
	value := c.seal(stamp, v)
	if len(value) > backend.MaxValue {
		return backend.Entry{}, &backend.Refusal{Code: string(provider.CodeValidation), Err: fmt.Errorf("sealed token of %d bytes, want at most %d", len(value), backend.MaxValue)}
	}
	c.history.note(stamp, end)
	return backend.Entry{Stamp: stamp, Value: value, TTL: ttl, From: backend.FromIdP}, nil
}

func repeatedRefusal(pause time.Duration) *backend.Refusal {
	return &backend.Refusal{Code: string(provider.CodeValidation), RetryAfter: pause, Err: errRepeated}
}

// refused returns an error for what has been refused before. An acquisition
// that a backend has not yet heard of as revoked is worth another question, but
// only one. A later acquisition of the same bytes comes from a provider that
// repeats them, which is asked again after a pause.
func (c *credential) refused(stamp backend.Stamp, again bool) error {
	if c.history.revoked(stamp) && !again {
		return errRevoked
	}
	if _, pause, _ := c.history.repeated(stamp.ID); pause > 0 {
		c.history.bar(c.manager.clock.Now() + pause)
		return repeatedRefusal(pause)
	}
	return nil
}

// read opens an entry that was just received. Reading again accepts a value
// whose age by the wall clock is absurd: two in a row mean that a clock is
// wrong, here or there.
func (c *credential) read(e backend.Entry, again bool) (*grant, error) {
	v, err := c.open(e)
	if err != nil {
		return nil, err
	}
	if !again && v.replayed(c.manager.clock.Wall()) {
		return nil, errReplayed
	}
	if err := c.refused(e.Stamp, again); err != nil {
		return nil, err
	}
	// A backend cannot make a token live longer than it was granted for.
	ttl := min(e.TTL, v.life-margin(v.life))
	c.history.note(e.Stamp, c.manager.clock.Now()+ttl+margin(v.life))
	now := c.manager.now()
	at := spanOf(v, now+ttl+margin(v.life), c.buffer)
	header := v.scheme + " " + v.token
	return &grant{
		header: &header, scheme: v.scheme, stamp: e.Stamp, origin: e.From,
		cred: c, base: c.manager.base, soft: at.soft, hard: at.hard, assumed: v.assumed,
	}, nil
}
