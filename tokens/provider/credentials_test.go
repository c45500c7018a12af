package provider

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const grantBody = `{"access_token":"tok","token_type":"bearer","expires_in":3600}`

// endpoint starts a token endpoint and returns a client of it.
func endpoint(t *testing.T, style AuthStyle, h http.HandlerFunc) *ClientCredentials {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return client(t, Config{TokenEndpoint: srv.URL + "/token", AuthStyle: style, Transport: srv.Client().Transport})
}

func client(t *testing.T, cfg Config) *ClientCredentials {
	t.Helper()
	cfg.ClientID, cfg.ClientSecret = "a:b c", NewSecret("s%:é canary")
	c, err := NewClientCredentials(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fetchError(t *testing.T, c *ClientCredentials) *Error {
	t.Helper()
	_, err := c.Fetch(t.Context())
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v, want an *Error", err)
	}
	return e
}

func TestNewClientCredentials_ChecksItsConfig(t *testing.T) {
	for endpoint, ok := range map[string]bool{
		"https://idp.example/token":        true,
		"https://idp.example/token?x=1":    true,
		"http://localhost:1/token":         true,
		"http://127.3.2.1/token":           true,
		"http://[::1]:80/token":            true,
		"http://idp.example/token":         false,
		"http://localhost.evil.com/token":  false,
		"https://u:canary@idp.example/tok": false,
		"https://idp.example/#f":           false,
		"ftp://idp.example/":               false,
		"idp.example/token":                false,
		"":                                 false,
		"https://%zz canary/":              false,
	} {
		_, err := NewClientCredentials(Config{TokenEndpoint: endpoint, ClientID: "id"})
		if (err == nil) != ok {
			t.Errorf("%q: %v", endpoint, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: error tells a secret: %v", endpoint, err)
		}
	}
	if _, err := NewClientCredentials(Config{TokenEndpoint: "https://a/"}); err == nil {
		t.Error("no client id: accepted")
	}
	if _, err := NewClientCredentials(Config{TokenEndpoint: "https://a/", ClientID: "i", AuthStyle: "digest"}); err == nil {
		t.Error("unknown style: accepted")
	}
}

func TestFetch_SendsWhatIsConfigured(t *testing.T) {
	var got url.Values
	var id, secret string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = r.PostForm
		id, secret, _ = r.BasicAuth()
		_, _ = io.WriteString(w, grantBody)
	}))
	t.Cleanup(srv.Close)
	c := client(t, Config{
		TokenEndpoint: srv.URL, AuthStyle: AuthBasic, Scope: "a b", Audience: "aud", Resource: "res",
		EndpointParams: url.Values{"extra": {"1", "2"}, "grant_type": {"password"}},
	})
	r, err := c.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.AccessToken.Reveal() != "tok" || r.Lifetime != time.Hour || r.Requests != 1 {
		t.Errorf("got %+v", r)
	}
	// The credentials are form-urlencoded inside Basic.
	if id != "a%3Ab+c" || secret != "s%25%3A%C3%A9+canary" {
		t.Errorf("basic %q %q", id, secret)
	}
	want := url.Values{
		"grant_type": {"client_credentials"}, "scope": {"a b"}, "audience": {"aud"},
		"resource": {"res"}, "extra": {"1", "2"},
	}
	if got.Encode() != want.Encode() {
		t.Errorf("form %v, want %v", got, want)
	}
}

func TestFetch_PostPutsCredentialsIntoTheForm(t *testing.T) {
	c := endpoint(t, AuthPost, func(w http.ResponseWriter, r *http.Request) {
		if _, _, basic := r.BasicAuth(); basic || r.PostFormValue("client_secret") != "s%:é canary" || r.PostFormValue("client_id") != "a:b c" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, grantBody)
	})
	if _, err := c.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// styles records the styles of the requests an endpoint saw.
type styles struct{ seen []AuthStyle }

func (s *styles) of(r *http.Request) AuthStyle {
	style := AuthPost
	if _, _, basic := r.BasicAuth(); basic {
		style = AuthBasic
	}
	s.seen = append(s.seen, style)
	return style
}

func TestFetch_AutoRemembersWhatWorked(t *testing.T) {
	for _, refused := range []struct {
		name, body string
		status     int
	}{
		{"401 without a body", "", 401},
		{"invalid_client", `{"error":"invalid_client"}`, 400},
		{"missing parameter", `{"error":"invalid_request"}`, 400},
	} {
		t.Run(refused.name, func(t *testing.T) {
			var s styles
			c := endpoint(t, AuthAuto, func(w http.ResponseWriter, r *http.Request) {
				if s.of(r) == AuthBasic {
					w.WriteHeader(refused.status)
					_, _ = io.WriteString(w, refused.body)
					return
				}
				_, _ = io.WriteString(w, grantBody)
			})
			for i, requests := range []int{2, 1} {
				r, err := c.Fetch(t.Context())
				if err != nil || r.Requests != requests {
					t.Fatalf("fetch %d: %d requests, %v", i, r.Requests, err)
				}
			}
			if want := []AuthStyle{AuthBasic, AuthPost, AuthPost}; !slices.Equal(s.seen, want) {
				t.Errorf("styles %v, want %v", s.seen, want)
			}
		})
	}
}

func TestFetch_AutoSendsOtherRefusalsOnce(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
	}{
		{429, `{"error":"invalid_client"}`},
		{400, `{"error":"invalid_scope"}`},
		{401, `{"error":"scope_invalid"}`},
		{403, ``},
		{500, ``},
		{302, ``},
		{200, `<html>`},
	} {
		var s styles
		cc := endpoint(t, AuthAuto, func(w http.ResponseWriter, r *http.Request) {
			s.of(r)
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		if e := fetchError(t, cc); e.Requests > 1 {
			t.Errorf("counts %d requests", e.Requests)
		}
		if len(s.seen) != 1 {
			t.Errorf("%d %s: %d requests, want 1", c.status, c.body, len(s.seen))
		}
	}
}

func TestFetch_AutoStopsAtAThrottledSecondStyle(t *testing.T) {
	var s styles
	c := endpoint(t, AuthAuto, func(w http.ResponseWriter, r *http.Request) {
		if s.of(r) == AuthBasic {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	e := fetchError(t, c)
	if e.Code != CodeUnavailable || e.RetryAfter != time.Minute || e.Requests != 2 {
		t.Errorf("got %+v", e)
	}
}

func TestFetch_Classifies(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		code       Code
		pause      time.Duration
		retryable  bool
	}{
		{"invalid client", `{"error":"invalid_client"}`, 401, CodeCredentials, pauseCredentials, false},
		{"invalid client as 400", `{"error":"invalid_client"}`, 400, CodeCredentials, pauseCredentials, false},
		{"invalid client as 500", `{"error":"invalid_client"}`, 500, CodeCredentials, pauseCredentials, false},
		{"bare 401", ``, 401, CodeCredentials, pauseCredentials, false},
		{"bare 403", ``, 403, CodeScope, pauseCredentials, false},
		{"invalid scope", `{"error":"invalid_scope"}`, 400, CodeScope, pauseCredentials, false},
		{"scope_invalid", `{"error":"scope_invalid"}`, 401, CodeScope, pauseCredentials, false},
		{"unsupported grant", `{"error":"unsupported_grant_type"}`, 400, CodeAcquisition, pauseCredentials, false},
		{"not found", `canary`, 404, CodeAcquisition, pauseCredentials, false},
		{"throttled", `{"error":"canary"}`, 429, CodeUnavailable, 0, false},
		{"server error", `<html>canary`, 500, CodeUnavailable, 0, true},
		{"bad gateway", ``, 502, CodeUnavailable, 0, true},
		{"unavailable by name", `{"error":"temporarily_unavailable"}`, 400, CodeUnavailable, 0, true},
		{"redirect", ``, 307, CodeResponse, pauseResponse, false},
		{"no content", ``, 204, CodeResponse, pauseResponse, false},
		{"html", `<html>canary</html>`, 200, CodeResponse, pauseResponse, false},
		{"too large", strings.Repeat(" ", maxBody+1), 200, CodeResponse, pauseResponse, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls atomic.Int32
			cc := endpoint(t, AuthBasic, func(w http.ResponseWriter, _ *http.Request) {
				calls.Add(1)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			e := fetchError(t, cc)
			if e.Code != c.code || e.Status != c.status || e.RetryAfter != c.pause || e.Retryable != c.retryable || e.Way {
				t.Errorf("got %+v", e)
			}
			if strings.Contains(e.Error(), "canary") {
				t.Errorf("error tells the body: %v", e)
			}
			if calls.Load() != 1 {
				t.Errorf("%d requests", calls.Load())
			}
		})
	}
}

func TestFetch_ConnectionRefusedIsTheWay(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	e := fetchError(t, client(t, Config{TokenEndpoint: gone.URL + "/token?canary=1"}))
	if e.Code != CodeConnection || !e.Way || !e.Retryable {
		t.Errorf("got %+v", e)
	}
	if strings.Contains(e.Error(), "canary") {
		t.Errorf("error tells the query: %v", e)
	}
}

func TestFetch_ResetIsNotTheWay(t *testing.T) {
	c := endpoint(t, AuthBasic, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	})
	if e := fetchError(t, c); e.Code != CodeConnection || e.Way || !e.Retryable {
		t.Errorf("got %+v", e)
	}
}

func TestFetch_CutOffAnswer(t *testing.T) {
	c := endpoint(t, AuthBasic, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "500")
		_, _ = io.WriteString(w, `{"access_token":"tok"`)
	})
	if e := fetchError(t, c); e.Code != CodeConnection || e.Way || !e.Retryable {
		t.Errorf("got %+v", e)
	}
}

func TestFetch_UntrustedCertificateIsDistinct(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, grantBody) }))
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	t.Cleanup(srv.Close)
	e := fetchError(t, client(t, Config{TokenEndpoint: srv.URL, Transport: &http.Transport{}}))
	if e.Code != CodeTLS || !e.Way || e.Retryable {
		t.Errorf("unknown authority: %+v", e)
	}
	trusted := srv.Client().Transport.(*http.Transport).Clone()
	trusted.TLSClientConfig.ServerName = "elsewhere.example"
	e = fetchError(t, client(t, Config{TokenEndpoint: srv.URL, Transport: trusted}))
	if e.Code != CodeTLS || e.Retryable {
		t.Errorf("wrong host: %+v", e)
	}
}

func TestFetch_AlertAndPlainTextAreTLSFailures(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	e := fetchError(t, client(t, Config{TokenEndpoint: srv.URL, Transport: srv.Client().Transport}))
	if e.Code != CodeTLS || e.Retryable {
		t.Errorf("alert: %+v", e)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	e = fetchError(t, client(t, Config{TokenEndpoint: strings.Replace(plain.URL, "http:", "https:", 1), Transport: &http.Transport{}}))
	if e.Code != CodeTLS || e.Retryable {
		t.Errorf("plain text: %+v", e)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// drip is a body that gives one byte a second until its request ends.
type drip struct{ ctx context.Context }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (drip) Close() error { return nil }

func dripping(status int) roundTripper {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Body: drip{r.Context()}, Request: r,
		}, nil
	}
}

func TestFetch_DrippingBodyEndsWithTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		e := fetchError(t, client(t, Config{TokenEndpoint: "https://idp.example", Transport: dripping(200)}))
		if e.Code != CodeTimeout || e.Way {
			t.Errorf("got %+v", e)
		}
		if took := time.Since(start); took != DefaultTimeout {
			t.Errorf("took %v", took)
		}
	})
}

func TestFetch_DrippingRefusalKeepsItsMeaning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		e := fetchError(t, client(t, Config{TokenEndpoint: "https://idp.example", Transport: dripping(429)}))
		if e.Code != CodeUnavailable || e.RetryAfter != 7*time.Second {
			t.Errorf("got %+v", e)
		}
		if took := time.Since(start); took != refusalBodyTimeout {
			t.Errorf("took %v", took)
		}
	})
}

func TestFetch_SilentProviderEndsWithTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		if e := fetchError(t, client(t, Config{TokenEndpoint: "https://idp.example", Transport: silent})); e.Code != CodeTimeout || e.Way {
			t.Errorf("got %+v", e)
		}
	})
}

func TestFetch_CancelledCallerIsSeen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := endpoint(t, AuthBasic, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, grantBody) })
	_, err := c.Fetch(ctx)
	if e, ok := errors.AsType[*Error](err); !errors.Is(err, context.Canceled) || !ok || e.Retryable {
		t.Errorf("got %v", err)
	}
}
