package tokens

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxDrain is how much of a refused answer is read so that its connection can
// be used again; beyond that a new connection is cheaper.
const maxDrain = 64 << 10

// Transport returns an http.RoundTripper that sends the token with every
// request to the source's server, over base (http.DefaultTransport when nil). A
// request that the server refuses is sent again with a newer token, at most
// MaxReplays times and if its body can be had again (GetBody). The token goes to no other host: neither
// where a redirect leads nor, if SourceConfig.URL is set, anywhere but there.
func (s *Source) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{source: s, base: base}
}

type transport struct {
	source *Source
	base   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.mayCarry(req) {
		return t.base.RoundTrip(req)
	}
	token, err := t.source.Use(req.Context())
	if err != nil {
		closeBody(req)
		return nil, fmt.Errorf("token: %w", err)
	}
	resp, err := t.base.RoundTrip(authorized(req, token))
	if err != nil {
		return nil, err
	}
	for range MaxReplays {
		next, ok := t.next(req, resp, token)
		if !ok {
			break
		}
		again, err := replay(req, next)
		if err != nil {
			break // the server's refusal is the better answer
		}
		discard(resp)
		if resp, err = t.base.RoundTrip(again); err != nil {
			return nil, err
		}
		if accepted(resp.StatusCode) {
			t.source.Confirm(req.Context(), next)
			break
		}
		token = next
	}
	return resp, nil
}

// next returns the token to replay with, if the answer asks for a replay and
// the request can be sent again. The token is revoked in any case, so that the
// next request works.
func (t *transport) next(req *http.Request, resp *http.Response, token Token) (Token, bool) {
	var next Token
	var err error
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		next, err = t.source.Refused(req.Context(), token)
	case http.StatusForbidden:
		next, err = t.source.Forbidden(req.Context(), token)
	default:
		if accepted(resp.StatusCode) {
			t.source.Accepted(token)
		}
		return Token{}, false
	}
	return next, err == nil && replayable(req)
}

// accepted reports whether a status shows that the server took the token. A
// failure or a throttle may have come before it looked.
func accepted(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusTooManyRequests:
		return false
	}
	return status < http.StatusInternalServerError
}

// mayCarry reports whether the token may go where the request goes.
func (t *transport) mayCarry(req *http.Request) bool {
	if o := t.source.cred.Load().origin; o != nil {
		return sameOrigin(o, req.URL)
	}
	// http.Client sets Response on requests that a redirect caused.
	for r := req; r.Response != nil && r.Response.Request != nil; {
		r = r.Response.Request
		if !sameOrigin(r.URL, req.URL) {
			return false
		}
	}
	return true
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// authorized returns a copy, as a RoundTripper must not change its request.
func authorized(req *http.Request, token Token) *http.Request {
	r := req.Clone(req.Context())
	r.Header.Set("Authorization", token.Header())
	return r
}

func replayable(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

func replay(req *http.Request, token Token) (*http.Request, error) {
	r := authorized(req, token)
	if req.GetBody == nil {
		return r, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, fmt.Errorf("body for replay: %w", err)
	}
	r.Body = body
	return r, nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, maxDrain) //nolint:errcheck // only saves a connection
	resp.Body.Close()
}
