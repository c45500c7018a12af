package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// AuthStyle is how a client shows its credentials (RFC 6749, 2.3.1).
type AuthStyle string

// The styles of authentication.
const (
	AuthAuto  AuthStyle = "auto"  // Basic first, and what worked from then on
	AuthBasic AuthStyle = "basic" // in the Authorization header
	AuthPost  AuthStyle = "post"  // in the form
)

// DefaultTimeout bounds one request with its answer.
const DefaultTimeout = 10 * time.Second

// refusalBodyTimeout bounds reading a refusal's body, which only refines what
// its status says: a dripping one must not use up the flight.
const refusalBodyTimeout = 2 * time.Second

// Config describes a client of a token endpoint.
type Config struct {
	TokenEndpoint   string // https, or http on loopback
	ClientID        string
	ClientSecret    Secret
	Scope           string
	Audience        string
	Resource        string
	EndpointParams  url.Values
	AuthStyle       AuthStyle         // AuthAuto when empty
	AssumedLifetime time.Duration     // DefaultAssumedLifetime when 0
	Timeout         time.Duration     // DefaultTimeout when 0
	Transport       http.RoundTripper // its TLS and proxy settings are used; http.DefaultTransport when nil
}

// String implements fmt.Stringer.
func (c Config) String() string { return "client " + c.ClientID + " of a token endpoint" }

// Format implements fmt.Formatter for every verb: parameters can be secret.
func (c Config) Format(f fmt.State, _ rune) {
	io.WriteString(f, c.String()) //nolint:errcheck // fmt.State reports no errors
}

// LogValue implements slog.LogValuer.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText implements encoding.TextMarshaler, and so JSON.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// ClientCredentials is a client that authenticates with an id and a secret.
// It is safe for concurrent use.
type ClientCredentials struct {
	// Behind pointers, so that fmt shows addresses wherever it cannot ask Format:
	// parameters can be secret, and the wrong verb for a pointer dumps a struct.
	cfg    *Config
	form   *url.Values
	client *http.Client
	// worked is the style that an answer proved right; auto only.
	worked atomic.Pointer[AuthStyle]
}

// NewClientCredentials validates cfg. It sends nothing.
func NewClientCredentials(cfg Config) (*ClientCredentials, error) {
	if err := checkEndpoint(cfg.TokenEndpoint); err != nil {
		return nil, err
	}
	if cfg.ClientID == "" {
		return nil, errors.New("client id is empty")
	}
	switch cfg.AuthStyle {
	case "":
		cfg.AuthStyle = AuthAuto
	case AuthAuto, AuthBasic, AuthPost:
	default:
		return nil, fmt.Errorf("auth style %q: want auto, basic or post", cfg.AuthStyle)
	}
	if cfg.AssumedLifetime <= 0 {
		cfg.AssumedLifetime = DefaultAssumedLifetime
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	client := &http.Client{
		Transport:     cfg.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	f := form(cfg)
	return &ClientCredentials{cfg: &cfg, form: &f, client: client}, nil
}

func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil, u.Host == "":
		return errors.New("token endpoint is no URL") // the text could hold a secret
	case u.User != nil:
		return errors.New("token endpoint holds user info")
	case u.Fragment != "":
		return errors.New("token endpoint holds a fragment")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return errors.New("token endpoint is not https, which only loopback may go without")
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func form(cfg Config) url.Values {
	f := url.Values{}
	maps.Copy(f, cfg.EndpointParams)
	for name, value := range map[string]string{
		"grant_type": "client_credentials",
		"scope":      cfg.Scope,
		"audience":   cfg.Audience,
		"resource":   cfg.Resource,
	} {
		if value != "" {
			f.Set(name, value)
		}
	}
	return f
}

// String implements fmt.Stringer.
func (c *ClientCredentials) String() string { return c.cfg.String() }

// Format implements fmt.Formatter for every verb.
func (c *ClientCredentials) Format(f fmt.State, verb rune) { c.cfg.Format(f, verb) }

// Fetch obtains a token. A failure is an *Error. In auto mode one call may send
// two requests, until an answer has shown which style the provider takes.
func (c *ClientCredentials) Fetch(ctx context.Context) (Response, error) {
	style, known := c.style()
	r, refused := c.request(ctx, style)
	if refused == nil {
		return c.granted(style, r, 1), nil
	}
	if known || !otherStyleMayWork(refused) {
		c.forget(refused)
		return Response{}, refused
	}
	if r, refused = c.request(ctx, AuthPost); refused == nil {
		return c.granted(AuthPost, r, 2), nil
	}
	refused.Requests = 2
	return Response{}, refused
}

// style returns the style to use and whether it is certain.
func (c *ClientCredentials) style() (AuthStyle, bool) {
	if c.cfg.AuthStyle != AuthAuto {
		return c.cfg.AuthStyle, true
	}
	if s := c.worked.Load(); s != nil {
		return *s, true
	}
	return AuthBasic, false
}

func (c *ClientCredentials) granted(style AuthStyle, r Response, requests int) Response {
	if c.cfg.AuthStyle == AuthAuto {
		c.worked.Store(&style)
	}
	r.Requests = requests
	return r
}

// forget drops a style that no longer works, so that the next call finds out
// anew: providers get reconfigured.
func (c *ClientCredentials) forget(e *Error) {
	if otherStyleMayWork(e) {
		c.worked.Store(nil)
	}
}

// otherStyleMayWork reports whether a refusal can mean that the credentials
// were looked for elsewhere. Providers say so as invalid_client, as
// invalid_request for a missing client_id, or as a bare 400 or 401. Anything
// else, a 429 above all, would only be sent twice.
func otherStyleMayWork(e *Error) bool {
	if e.Status != http.StatusBadRequest && e.Status != http.StatusUnauthorized {
		return false
	}
	switch e.OAuthError {
	case "", "invalid_client", "invalid_request", "unauthorized":
		return true
	}
	return false
}

// request sends one request and reads its answer, within Timeout for both.
func (c *ClientCredentials) request(ctx context.Context, style AuthStyle) (Response, *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := c.build(ctx, style)
	if err != nil {
		return Response{}, &Error{Code: CodeInternal, Err: err}
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return Response{}, unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		defer time.AfterFunc(refusalBodyTimeout, cancel).Stop()
		body, _ := readBody(resp.Body) // the status is enough
		return Response{}, refusal(resp, body)
	}
	r, bad := c.grant(resp.Body)
	if bad != nil {
		bad.Status = resp.StatusCode
	}
	return r, bad
}

func (c *ClientCredentials) grant(r io.Reader) (Response, *Error) {
	body, err := readBody(r)
	if err != nil {
		return Response{}, broken(err)
	}
	return parse(body, c.cfg.AssumedLifetime)
}

func (c *ClientCredentials) build(ctx context.Context, style AuthStyle) (*http.Request, error) {
	f := maps.Clone(*c.form)
	if style == AuthPost {
		f.Set("client_id", c.cfg.ClientID)
		f.Set("client_secret", c.cfg.ClientSecret.Reveal())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.TokenEndpoint, strings.NewReader(f.Encode()))
	if err != nil {
		return nil, errors.New("token endpoint is no URL")
	}
	if style == AuthBasic {
		// Form-urlencoded first (RFC 6749, 2.3.1): providers refuse a raw "%" or ":".
		req.SetBasicAuth(url.QueryEscape(c.cfg.ClientID), url.QueryEscape(c.cfg.ClientSecret.Reveal()))
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "orthanc-oauth")
	return req, nil
}
