package provider

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	maxBody  = 1 << 20  // a token response is a few kilobytes
	maxToken = 64 << 10 // larger ones fit into no server's header limits
	// MaxLifetime is the clamp of a token's life.
	MaxLifetime = 24 * time.Hour
	// DefaultAssumedLifetime is taken where the provider names no usable one.
	DefaultAssumedLifetime = 5 * time.Minute
	// absurdSeconds is 31 years: an instant sent as a duration, not a lifetime.
	absurdSeconds = 1e9
)

// Response is a token as the provider granted it.
type Response struct {
	AccessToken Secret
	Scheme      string        // always "Bearer": some servers refuse other spellings
	Lifetime    time.Duration // whole seconds, at most MaxLifetime
	Assumed     bool          // the provider named no usable lifetime
	Requests    int           // how many requests were sent; 0 counts as 1
}

// wire holds the fields of a token response or error that are read. All are
// raw: a field of a surprising type must not hide the others.
type wire struct {
	AccessToken json.RawMessage `json:"access_token"`
	TokenType   json.RawMessage `json:"token_type"`
	ExpiresIn   json.RawMessage `json:"expires_in"`
	Error       json.RawMessage `json:"error"`
}

var (
	errTooLarge = fmt.Errorf("body exceeds %d bytes", maxBody)
	errNoJSON   = errors.New("body is no JSON object")
	errNoToken  = errors.New("no access_token")
	errBadToken = fmt.Errorf("access_token is not 1 to %d visible ASCII characters", maxToken)
)

// readBody reads no more than maxBody.
func readBody(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, errTooLarge
	}
	return body, nil
}

// parse reads a successful answer. Errors hold no byte of it.
func parse(body []byte, assumed time.Duration) (Response, *Error) {
	var w wire
	// The text of a JSON error quotes the offending character.
	if json.Unmarshal(body, &w) != nil || !isObject(body) {
		return Response{}, badResponse(errNoJSON)
	}
	token, ok := text(w.AccessToken)
	if !ok || token == "" {
		return Response{}, withoutToken(w)
	}
	if !sendable(token) {
		return Response{}, &Error{Code: CodeValidation, RetryAfter: pauseResponse, Err: errBadToken}
	}
	if err := bearer(w.TokenType); err != nil {
		return Response{}, badResponse(err)
	}
	r := Response{AccessToken: NewSecret(token), Scheme: "Bearer"}
	r.Lifetime, r.Assumed = lifetime(w.ExpiresIn, token, assumed)
	return r, nil
}

func badResponse(err error) *Error {
	return &Error{Code: CodeResponse, RetryAfter: pauseResponse, Err: err}
}

// withoutToken tells a refusal sent with status 200 from nonsense.
func withoutToken(w wire) *Error {
	if code := oauthCode(w.Error); code != "" {
		e := classifyOAuth(code)
		if e == nil {
			e = &Error{Code: CodeAcquisition, RetryAfter: pauseCredentials}
		}
		e.OAuthError = code
		return e
	}
	return badResponse(errNoToken)
}

func isObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
}

// text decodes a JSON string; null and absent are the empty string.
func text(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 {
		return "", true
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// sendable reports whether a token can stand in a header: visible ASCII only,
// so that no provider can add header lines to a request.
func sendable(token string) bool {
	if len(token) > maxToken {
		return false
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return false
		}
	}
	return true
}

// bearer accepts the bearer type in any case, and its absence. Types that bind
// a token to a key are named, as an operator can switch them off.
func bearer(raw json.RawMessage) error {
	kind, ok := text(raw)
	switch kind = strings.ToLower(kind); {
	case ok && (kind == "" || kind == "bearer"):
		return nil
	case kind == "mac" || kind == "dpop":
		return fmt.Errorf("token_type %s: only bearer tokens can be used", kind)
	}
	return errors.New("unsupported token_type: only bearer tokens can be used")
}

// lifetime reads expires_in, or else what a JWT says of itself, or else the
// assumed life.
func lifetime(raw json.RawMessage, token string, assumed time.Duration) (life time.Duration, isAssumed bool) {
	if life := seconds(number(raw)); life > 0 {
		return life, false
	}
	if life := jwtLifetime(token); life > 0 {
		return life, false
	}
	return assumed, true
}

// number reads a JSON number or a string that holds one; NaN stands for
// anything else.
func number(raw json.RawMessage) float64 {
	digits := string(raw)
	if s, ok := text(raw); ok {
		digits = strings.TrimSpace(s)
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return math.NaN()
	}
	return f
}

// seconds floors and clamps a lifetime; 0 means that it is none.
func seconds(f float64) time.Duration {
	if math.IsNaN(f) || f < 1 || f >= absurdSeconds {
		return 0
	}
	return min(time.Duration(f)*time.Second, MaxLifetime)
}

// jwtLifetime returns exp - iat of a JWT, or 0. The signature is not looked at:
// the claims only replace a guess, and came over the same connection.
func jwtLifetime(token string) time.Duration {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return 0
	}
	var claims struct {
		Exp json.RawMessage `json:"exp"`
		Iat json.RawMessage `json:"iat"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return 0
	}
	return seconds(number(claims.Exp) - number(claims.Iat))
}

// oauthCode returns the error code of a refusal if it is a known one, else
// nothing: the field is written by a stranger, who may echo what was sent, and
// it will be logged.
func oauthCode(raw json.RawMessage) string {
	code, _ := text(raw)
	switch code {
	case "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client",
		"unsupported_grant_type", "invalid_scope", "scope_invalid", "insufficient_scope",
		"access_denied", "invalid_target", "invalid_resource", "unauthorized",
		"server_error", "temporarily_unavailable", "slow_down",
		"use_dpop_nonce", "invalid_dpop_proof":
		return code
	}
	return ""
}
