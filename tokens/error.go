package tokens

import (
	"context"
	"errors"
	"fmt"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

// ErrPaced says that a refused token was not revoked, because the last
// revocation is recent and brought no token that the server accepts: its
// refusal means "not allowed", and the caller passes it on.
var ErrPaced = backend.ErrPaced

// ErrAccepted says that a token was not revoked on a 403, because this server
// has accepted it before: the 403 is about the request, not the token.
var ErrAccepted = errors.New("server has accepted this token before")

var (
	// errRepeated says that the provider sent the bytes of a revoked token.
	errRepeated = errors.New("provider repeats a token that the server refused")
	errRevoked  = errors.New("token has been revoked")
	errDead     = errors.New("token expired before it arrived")
)

// Error says why there is no token for a server. It holds no secret.
type Error struct {
	Code       provider.Code
	Server     string
	RetryAfter time.Duration // asking earlier gives the same answer; 0: not known
	Err        error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("server %q: %v", e.Server, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// attrs are what a log says of the error.
func (e *Error) attrs() []any {
	return []any{"server", e.Server, "code", string(e.Code), "retry_after", e.RetryAfter.Round(time.Millisecond), "cause", e.Err}
}

// failure gives err the code of what it means to the user of a server.
func failure(server string, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Code: provider.CodeInternal, Server: server, Err: err}
	r, refused := errors.AsType[*backend.Refusal](err)
	switch {
	case refused:
		e.Code, e.RetryAfter = knownCode(r.Code), r.RetryAfter
	case errors.Is(err, ErrPaced), errors.Is(err, ErrAccepted), errors.Is(err, errRepeated):
		e.Code = provider.CodeValidation
	case errors.Is(err, context.DeadlineExceeded):
		e.Code = provider.CodeTimeout
	}
	return e
}

// knownCode keeps what a peer sent out of logs and labels unless it is a code.
func knownCode(s string) provider.Code {
	switch c := provider.Code(s); c {
	case provider.CodeAcquisition, provider.CodeExpired, provider.CodeValidation, provider.CodeResponse,
		provider.CodeRefresh, provider.CodeTimeout, provider.CodeConnection, provider.CodeTLS,
		provider.CodeCredentials, provider.CodeScope, provider.CodeUnavailable:
		return c
	}
	return provider.CodeInternal
}

// refusal turns a failed fetch into what the fleet is told. A stop of this
// process is none: it says nothing about the provider.
func refusal(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e, ok := errors.AsType[*provider.Error](err)
	if !ok {
		code := provider.CodeAcquisition
		if errors.Is(err, context.DeadlineExceeded) {
			code = provider.CodeTimeout
		}
		return &backend.Refusal{Code: string(code), Err: err}
	}
	return &backend.Refusal{Code: string(e.Code), Way: e.Way, RetryAfter: e.RetryAfter, Err: e}
}
