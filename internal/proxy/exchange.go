package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"orthanc-oauth/tokens"
)

// exchange is one request of a caller's and its attempts at the remote.
type exchange struct {
	up   *upstream
	req  *http.Request // the caller's, rewritten; its body belongs to tee
	body *tee          // nil for a request without a body
	xfer *transfer

	replays int // sent so far
}

// RoundTrip implements http.RoundTripper for httputil.ReverseProxy: it sends the
// request with a token, and again with a newer one where the remote refuses it. What the caller must not see (3xx, 401, 403, 407) is an error.
func (u *upstream) RoundTrip(req *http.Request) (*http.Response, error) {
	x := &exchange{up: u, req: req, xfer: transferOf(req.Context())}
	x.xfer.endpoint = "dicomweb"
	if req.Body != nil && req.Body != http.NoBody {
		x.body = u.proxy.newTee(req.Body, x.xfer)
		x.xfer.upload = x.body
	}
	resp, err := x.run(req.Context())
	if err != nil {
		return nil, x.explain(err)
	}
	x.xfer.dog.off()
	resp.Body = &watched{ReadCloser: resp.Body, dog: x.xfer.dog, count: x.xfer.received}
	return resp, nil
}

func (x *exchange) run(ctx context.Context) (*http.Response, error) {
	token, err := x.up.Source.Use(ctx)
	if err != nil {
		return nil, tokenFailure(ctx, x.up.Name, err)
	}
	resp, err := x.send(token)
	if err != nil {
		return nil, err
	}
	for x.replays < tokens.MaxReplays && refuses(resp.StatusCode) {
		resp, token, err = x.again(ctx, resp, token)
		if err != nil {
			return nil, err
		}
	}
	switch {
	case x.replays == 0:
	case accepts(resp.StatusCode):
		x.xfer.replay("accepted")
		x.up.Source.Confirm(ctx, token)
	default:
		x.xfer.replay("refused")
	}
	return x.deliver(resp, token)
}

// refuses reports whether an answer asks for another token.
func refuses(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// again replaces the token that resp refuses and sends the request with the new
// one. The token is revoked even where this request cannot be sent again, so
// that the next one works.
func (x *exchange) again(ctx context.Context, resp *http.Response, token Token) (*http.Response, Token, error) {
	refused := resp.StatusCode
	body, ok := x.giveUp(resp)
	fresh, err := x.another(ctx, token, refused)
	kept := err == nil && fresh.Header() == token.Header()
	switch {
	case x.replays > 0 && (err != nil || kept):
		x.xfer.replay("refused")
		return nil, token, refusal(x.up.Name, refused, "")
	case err != nil:
		return nil, token, tokenFailure(ctx, x.up.Name, err)
	case kept:
		x.xfer.replay("kept")
		return nil, token, refusal(x.up.Name, refused, "")
	case !ok:
		x.xfer.replay("impossible")
		return nil, token, refusal(x.up.Name, refused, "the upload was too far along to be sent again; the next one uses a new token")
	}
	x.replays++
	resp, err = x.sendBody(fresh, body)
	if err != nil {
		x.xfer.replay("failed")
	}
	return resp, fresh, err
}

// another returns what to try next, or token itself where nothing would help.
func (x *exchange) another(ctx context.Context, token Token, refused int) (Token, error) {
	if refused == http.StatusForbidden {
		return x.up.Source.Forbidden(ctx, token)
	}
	return x.up.Source.Refused(ctx, token)
}

// giveUp ends the first attempt and returns the body for a second one, or false
// where that has been consumed too far.
func (x *exchange) giveUp(resp *http.Response) (io.ReadCloser, bool) {
	defer discard(resp)
	if x.body == nil {
		return nil, true
	}
	return x.body.rewind()
}

// send is the first attempt.
func (x *exchange) send(token Token) (*http.Response, error) {
	if x.body == nil {
		return x.sendBody(token, nil)
	}
	body, _ := x.body.rewind()
	return x.sendBody(token, body)
}

// sendBody sends one attempt and follows redirects where that can be done.
func (x *exchange) sendBody(token Token, body io.ReadCloser) (*http.Response, error) {
	req := x.attempt(token, body)
	for hop := 1; ; hop++ {
		resp, err := x.up.Transport.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		x.xfer.remote = resp.StatusCode
		if !isRedirect(resp.StatusCode) {
			return resp, nil
		}
		next, err := redirected(req, resp, hop)
		discard(resp)
		if err != nil {
			return nil, err
		}
		req = next
	}
}

func (x *exchange) attempt(token Token, body io.ReadCloser) *http.Request {
	req := x.req.Clone(x.req.Context())
	req.Header.Set("Authorization", token.Header())
	req.Body, req.GetBody = nil, nil
	if body != nil {
		req.Body = body
		// A kept connection that the server closed meanwhile: net/http then sends
		// the request on another one, if it can have the body again.
		req.GetBody = func() (io.ReadCloser, error) {
			again, ok := x.body.rewind()
			if !ok {
				return nil, errDetached
			}
			return again, nil
		}
	}
	return req
}

// deliver hands a final answer to the caller, or the error that stands for it.
func (x *exchange) deliver(resp *http.Response, token Token) (*http.Response, error) {
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		discard(resp)
		return nil, refusal(x.up.Name, resp.StatusCode, "")
	case http.StatusSwitchingProtocols:
		discard(resp)
		return nil, &Failure{Code: codeConnection, Message: "the DICOMweb server switched protocols unasked", remote: resp.StatusCode, outcome: "remote_error"}
	}
	if accepts(resp.StatusCode) {
		x.up.Source.Accepted(token)
	}
	return resp, nil
}

// explain tells a broken upload of the caller's from a broken remote: the
// transport reports both in the same way.
func (x *exchange) explain(err error) *Failure {
	ctx := x.req.Context()
	if x.body != nil && cancelled(ctx) == nil {
		if broken := x.body.failed(); broken != nil {
			f := clientGone(broken)
			f.Message = "the caller's request body broke off"
			f.status = http.StatusBadRequest
			return f
		}
	}
	return sendFailure(ctx, err)
}

// accepts reports whether an answer shows that the token was taken: a server
// that finds no such study, or no sense in the query, has looked past it.
func accepts(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusTooManyRequests:
		return false
	}
	return status < http.StatusInternalServerError
}

// refusal is a final 401, 403 or 407 of the remote's. Orthanc must not see it as
// such: it would ask its own user for a password.
func refusal(server string, status int, note string) *Failure {
	f := &Failure{
		Code:    codeScope,
		Message: fmt.Sprintf("server %q answered %d (%s)", server, status, http.StatusText(status)),
		status:  http.StatusBadGateway,
		remote:  status,
		outcome: "refused",
	}
	switch status {
	case http.StatusUnauthorized:
		f.Code = codeCredentials
		f.Hints = []string{
			"check that Scope, Audience and Resource are what this DICOMweb server expects of a token",
			"check that the server trusts this identity provider",
		}
	case http.StatusForbidden:
		f.Hints = []string{
			"the token is valid but the client lacks a permission at the DICOMweb server",
			"Azure Health Data Services: assign the role \"DICOM Data Owner\" or \"DICOM Data Reader\" to the client",
			"check Scope",
		}
	case http.StatusProxyAuthRequired:
		f.Code = codeConnection
		f.Hints = []string{"the HTTP proxy in between wants credentials: check Orthanc's HttpProxy"}
	}
	if note != "" {
		f.Message = fmt.Sprintf("server %q answered %d (%s): %s", server, status, http.StatusText(status), note)
	}
	return f
}

// maxDiscard is what is read of an answer nobody wants, to keep its connection:
// an error text, and cheaper than a new TLS handshake.
const maxDiscard = 16 << 10

// discard ends an answer that the caller does not get. One of unknown length is
// cut off: it could drip for ever.
func discard(resp *http.Response) {
	if 0 <= resp.ContentLength && resp.ContentLength <= maxDiscard {
		io.CopyN(io.Discard, resp.Body, maxDiscard) //nolint:errcheck // only to keep the connection
	}
	resp.Body.Close()
}
