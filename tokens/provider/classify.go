package provider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// refusal turns an answer that grants nothing into a typed error. The OAuth
// code decides where there is one, as providers disagree about the status.
func refusal(resp *http.Response, body []byte) *Error {
	var w wire
	_ = json.Unmarshal(body, &w) // not all refusals are JSON; the status then speaks
	code := oauthCode(w.Error)
	e := classifyOAuth(code)
	// A throttled request says nothing about the credentials in it.
	if e == nil || resp.StatusCode == http.StatusTooManyRequests {
		e = classifyStatus(resp.StatusCode)
	}
	e.Status, e.OAuthError = resp.StatusCode, code
	if after := retryAfter(resp.Header); after > 0 {
		e.RetryAfter = after
		e.Retryable = false // it asked for quiet
	}
	return e
}

func classifyOAuth(code string) *Error {
	switch code {
	case "invalid_client", "unauthorized_client", "unauthorized":
		return &Error{Code: CodeCredentials, RetryAfter: pauseCredentials}
	case "invalid_scope", "scope_invalid", "insufficient_scope", "access_denied", "invalid_target", "invalid_resource":
		return &Error{Code: CodeScope, RetryAfter: pauseCredentials}
	case "server_error", "temporarily_unavailable":
		return &Error{Code: CodeUnavailable, Retryable: true}
	case "slow_down":
		return &Error{Code: CodeUnavailable}
	}
	return nil
}

func classifyStatus(status int) *Error {
	switch {
	case status == http.StatusTooManyRequests:
		return &Error{Code: CodeUnavailable}
	case status == http.StatusUnauthorized:
		return &Error{Code: CodeCredentials, RetryAfter: pauseCredentials}
	case status == http.StatusForbidden:
		return &Error{Code: CodeScope, RetryAfter: pauseCredentials}
	case status == http.StatusRequestTimeout:
		return &Error{Code: CodeTimeout, Retryable: true}
	case status >= 500:
		return &Error{Code: CodeUnavailable, Retryable: true}
	case status >= 300 && status < 400:
		// Following would send the client secret to another address.
		return &Error{Code: CodeResponse, RetryAfter: pauseResponse, Err: errRedirect}
	case status < 300:
		return &Error{Code: CodeResponse, RetryAfter: pauseResponse}
	}
	return &Error{Code: CodeAcquisition, RetryAfter: pauseCredentials}
}

var errRedirect = errors.New("redirect not followed")

// retryAfter reads Retry-After as seconds or as a date, which is taken against
// the answer's own Date: the two clocks need not agree. 0 means none.
func retryAfter(h http.Header) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(v, 10, 64); err == nil {
		return time.Duration(min(n, uint64(MaxRetryAfter/time.Second))) * time.Second
	}
	until, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(0, until.Sub(now)), MaxRetryAfter)
}

// unreachable types a failure to get an answer. Its text holds no URL: a query
// or user info in it may be secret.
func unreachable(err error) *Error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	e := &Error{Code: CodeConnection, Retryable: true, Err: err}
	switch {
	case isTLS(err):
		e.Code, e.Way, e.Retryable = CodeTLS, true, false
	case isTimeout(err):
		e.Code = CodeTimeout
		e.Way = isDial(err) || isHandshakeTimeout(err)
	default:
		e.Way = isDial(err)
	}
	if errors.Is(err, context.Canceled) {
		e.Retryable = false
	}
	return e
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &t) && t.Timeout()
}

// isDial reports whether no connection came about, to the provider or to the
// proxy before it.
func isDial(err error) bool {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "dial" || op.Op == "proxyconnect") || errors.Is(err, syscall.ECONNREFUSED)
}

// isHandshakeTimeout knows net/http's error, which has no exported type.
func isHandshakeTimeout(err error) bool {
	return strings.Contains(err.Error(), "TLS handshake timeout")
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	return isCertificate(err) || isRemoteAlert(err) || errors.Is(err, http.ErrSchemeMismatch)
}

func isCertificate(err error) bool {
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	_, roots := errors.AsType[x509.SystemRootsError](err)
	return authority || host || invalid || roots
}

// isRemoteAlert knows an alert that the other side sent: crypto/tls wraps those
// in a net.OpError of their own.
func isRemoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "remote error" || op.Op == "local error")
}

// broken types a failure while the answer's body was read.
func broken(err error) *Error {
	switch {
	case errors.Is(err, errTooLarge):
		return badResponse(errTooLarge)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{Code: CodeConnection, Retryable: true, Err: io.ErrUnexpectedEOF}
	}
	e := unreachable(err)
	e.Way = false // an answer had begun
	return e
}
