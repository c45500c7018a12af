package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// The error codes of this package; the rest arrive from a TokenSource.
const (
	codeTimeout      = "NET-001"
	codeConnection   = "NET-002"
	codeTLS          = "NET-003"
	codeCredentials  = "AUTH-001"
	codeScope        = "AUTH-002"
	codeUnavailable  = "AUTH-003"
	codeInvalidValue = "CFG-002"
	codeInternal     = "INT-001"
	codeAcquisition  = "TOK-001"
)

// Failure is why a request got no answer of the remote's, in the terms of the
// documented error codes. A TokenSource returns one where it can; any other
// error counts as TOK-001.
type Failure struct {
	Code       string        // "AUTH-001", "NET-002", ...
	RetryAfter time.Duration // asking again earlier is useless; 0: not known
	Message    string        // what happened, for the caller; empty: what the code says
	Hints      []string      // what to do about it; empty: what the code says
	Err        error         // the cause; told to the caller, so free of secrets

	status  int    // the answer's status, where it is not the code's
	remote  int    // what the remote answered, or 0
	outcome string // the transfer's result in metrics
}

// Error implements error.
func (f *Failure) Error() string {
	msg := f.message()
	if f.Err != nil {
		msg += ": " + f.Err.Error()
	}
	return f.Code + ": " + msg
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

func (f *Failure) message() string {
	if f.Message != "" {
		return f.Message
	}
	return f.kind().summary
}

func (f *Failure) kind() kind {
	if k, ok := kinds[f.Code]; ok {
		return k
	}
	return kinds[codeAcquisition]
}

// dataStatus is the status Orthanc sees. It is never 401 or 407, which Orthanc
// would show its own user as a demand for a password, and no other 4xx of the
// identity provider's or of TLS (495) either: the caller's request was right.
func (f *Failure) dataStatus() int {
	if f.status != 0 {
		return f.status
	}
	switch documented := f.kind().status; documented {
	case http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return documented
	default:
		return http.StatusBadGateway
	}
}

// Causes with which a transfer's context is cancelled.
var (
	errClosing = errors.New("the proxy is shutting down")
	errIdle    = errors.New("no byte moved for too long")
)

// tokenFailure is what a TokenSource's error means for a request.
func tokenFailure(ctx context.Context, server string, err error) *Failure {
	if f := cancelled(ctx); f != nil {
		return f
	}
	var given *Failure
	if !errors.As(asFailure(err), &given) {
		given = &Failure{Code: codeAcquisition, Err: err}
	}
	f := *given // shared with the other waiters of a flight
	f.outcome = "no_token"
	if f.Message == "" {
		f.Message = fmt.Sprintf("no access token for server %q: %s", server, f.kind().summary)
	}
	return &f
}

// sendFailure is what an error on the way to the remote means.
func sendFailure(ctx context.Context, err error) *Failure {
	if f := cancelled(ctx); f != nil {
		return f
	}
	var given *Failure
	switch {
	case errors.As(err, &given):
		return given
	case isTimeout(err):
		return &Failure{Code: codeTimeout, Message: "the DICOMweb server did not answer in time", Err: err, outcome: "timeout"}
	case isTLS(err):
		return &Failure{Code: codeTLS, Message: "TLS with the DICOMweb server failed", Err: err, outcome: "unreachable"}
	default:
		return &Failure{Code: codeConnection, Message: "the DICOMweb server could not be reached", Err: err, outcome: "unreachable"}
	}
}

// statusClientGone is nginx's: nobody is left to read it.
const statusClientGone = 499

// cancelled says why ctx ended, or nil while it has not.
func cancelled(ctx context.Context) *Failure {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return nil
	case errors.Is(cause, errClosing):
		return &Failure{Code: codeInternal, Message: cause.Error(), status: http.StatusServiceUnavailable, outcome: "closing"}
	case errors.Is(cause, errIdle):
		return &Failure{Code: codeTimeout, Message: "the transfer stood still", Err: cause, outcome: "timeout"}
	default:
		return clientGone(cause)
	}
}

func clientGone(cause error) *Failure {
	return &Failure{Code: codeConnection, Message: "the caller went away", Err: cause, status: statusClientGone, outcome: "client_gone"}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func isTLS(err error) bool {
	var (
		verify *tls.CertificateVerificationError
		header tls.RecordHeaderError
		alert  tls.AlertError
		cert   x509.CertificateInvalidError
		issuer x509.UnknownAuthorityError
		host   x509.HostnameError
	)
	return errors.As(err, &verify) || errors.As(err, &header) || errors.As(err, &alert) ||
		errors.As(err, &cert) || errors.As(err, &issuer) || errors.As(err, &host)
}
