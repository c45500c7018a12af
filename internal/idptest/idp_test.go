package idptest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	clientID = "orthanc & co"
	secret   = "s3cret+/=:%"
)

func newIdP() *IdP {
	return New(Options{Clients: []Client{{ID: clientID, Secrets: []string{secret}, Scopes: []string{"dicom", "read"}}}})
}

type outcome struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (o outcome) token() string { s, _ := o.body["access_token"].(string); return s }

// ask sends a token request through rt, with credentials added by auth.
func ask(ctx context.Context, rt http.RoundTripper, base string, form url.Values, auth func(*http.Request)) (outcome, error) {
	if form == nil {
		form = url.Values{"grant_type": {"client_credentials"}}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return outcome{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if auth != nil {
		auth(req)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return outcome{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	o := outcome{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &o.body)
	return o, err
}

func basic(id, pass string) func(*http.Request) {
	return func(r *http.Request) {
		plain := url.QueryEscape(id) + ":" + url.QueryEscape(pass)
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(plain)))
	}
}

func mustAsk(t *testing.T, i *IdP) outcome {
	t.Helper()
	o, err := ask(t.Context(), InMemory(i), "http://idp", nil, basic(clientID, secret))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestToken_AuthenticatesStrictly(t *testing.T) {
	post := func(id, pass, scope string) url.Values {
		return url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {pass}, "scope": {scope}}
	}
	for name, c := range map[string]struct {
		form url.Values
		auth func(*http.Request)
		want int
		why  string
	}{
		"basic":                  {auth: basic(clientID, secret), want: 200},
		"basic, wrong secret":    {auth: basic(clientID, "no"), want: 401, why: "invalid_client"},
		"basic, unknown client":  {auth: basic("who", secret), want: 401, why: "invalid_client"},
		"basic, not urlencoded":  {auth: func(r *http.Request) { r.SetBasicAuth(clientID, secret) }, want: 401, why: "invalid_client"},
		"no credentials":         {want: 401, why: "invalid_client"},
		"post":                   {form: post(clientID, secret, "dicom"), want: 200},
		"post, wrong secret":     {form: post(clientID, "no", ""), want: 401, why: "invalid_client"},
		"both":                   {form: post(clientID, secret, ""), auth: basic(clientID, secret), want: 400, why: "invalid_request"},
		"scope not allowed":      {form: post(clientID, secret, "dicom admin"), want: 400, why: "invalid_scope"},
		"other grant":            {form: url.Values{"grant_type": {"password"}}, auth: basic(clientID, secret), want: 400, why: "unsupported_grant_type"},
		"a parameter twice":      {form: url.Values{"grant_type": {"client_credentials"}, "scope": {"dicom", "read"}}, auth: basic(clientID, secret), want: 400, why: "invalid_request"},
		"parameters in the URL":  {auth: func(r *http.Request) { basic(clientID, secret)(r); r.URL.RawQuery = "scope=dicom" }, want: 400, why: "invalid_request"},
		"a body of another type": {auth: func(r *http.Request) { basic(clientID, secret)(r); r.Header.Set("Content-Type", "application/json") }, want: 400, why: "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIdP()
			o, err := ask(t.Context(), InMemory(i), "http://idp", c.form, c.auth)
			if err != nil {
				t.Fatal(err)
			}
			if why, _ := o.body["error"].(string); o.status != c.want || why != c.why {
				t.Fatalf("got %d %q, want %d %q", o.status, why, c.want, c.why)
			}
			if got := i.Counts(); got.Total != 1 || (got.Granted == 1) != (c.want == 200) {
				t.Fatalf("counts %+v", got)
			}
		})
	}
}

func TestToken_SecretsOverlapWhileTheyRotate(t *testing.T) {
	i := newIdP()
	for _, step := range []struct {
		accepted  []string
		old, next int
	}{
		{[]string{secret}, 200, 401},
		{[]string{secret, "new"}, 200, 200},
		{[]string{"new"}, 401, 200},
	} {
		i.SetSecrets(clientID, step.accepted...)
		for pass, want := range map[string]int{secret: step.old, "new": step.next} {
			o, err := ask(t.Context(), InMemory(i), "http://idp", nil, basic(clientID, pass))
			if err != nil || o.status != want {
				t.Fatalf("accepted %d secrets: got %d %v, want %d", len(step.accepted), o.status, err, want)
			}
		}
	}
}

func TestToken_LivesUntilItExpiresOrIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdP()
		i.Script(Answer{Lifetime: 10 * time.Second})
		short, long := mustAsk(t, i).token(), mustAsk(t, i).token()
		if got := i.State(short); got != Live {
			t.Fatalf("fresh token is %s", got)
		}
		time.Sleep(10 * time.Second)
		if got := i.State(short); got != Expired {
			t.Fatalf("after its life it is %s", got)
		}
		if n := i.RevokeAll(); n != 1 {
			t.Fatalf("revoked %d live tokens, want 1", n)
		}
		if got := i.State(long); got != Revoked {
			t.Fatalf("revoked token is %s", got)
		}
		if got := i.State("never issued"); got != Unknown {
			t.Fatalf("foreign token is %s", got)
		}
	})
}

func TestToken_RepeatGivesTheSameBytesWithWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdP()
		first := mustAsk(t, i)
		time.Sleep(100 * time.Second)
		i.Script(Answer{Repeat: true})
		again := mustAsk(t, i)
		if again.token() != first.token() || again.body["expires_in"] != 3500.0 {
			t.Fatalf("got %v", again.raw)
		}
	})
}

func TestAnswer_ShapesTheGrant(t *testing.T) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for name, c := range map[string]struct {
		answer Answer
		want   string
	}{
		"string":     {Answer{AccessToken: "x", ExpiresIn: raw(`"3600"`)}, `{"access_token":"x","token_type":"Bearer","expires_in":"3600"}`},
		"fraction":   {Answer{AccessToken: "x", ExpiresIn: raw(`3599.5`)}, `{"access_token":"x","token_type":"Bearer","expires_in":3599.5}`},
		"absurd":     {Answer{AccessToken: "x", ExpiresIn: raw(`1e30`)}, `{"access_token":"x","token_type":"Bearer","expires_in":1e30}`},
		"null":       {Answer{AccessToken: "x", ExpiresIn: raw(`null`)}, `{"access_token":"x","token_type":"Bearer","expires_in":null}`},
		"missing":    {Answer{AccessToken: "x", NoExpiresIn: true, NoTokenType: true}, `{"access_token":"x"}`},
		"other type": {Answer{AccessToken: "x", TokenType: "mac", Scope: "read"}, `{"access_token":"x","token_type":"mac","expires_in":3600,"scope":"read"}`},
		"line break": {Answer{AccessToken: "x\r\nEvil: 1"}, `{"access_token":"x\r\nEvil: 1","token_type":"Bearer","expires_in":3600}`},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIdP()
			i.Script(c.answer)
			if got := mustAsk(t, i).raw; got != c.want {
				t.Fatalf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAnswer_Misbehaves(t *testing.T) {
	for name, c := range map[string]struct {
		answer Answer
		check  func(o outcome, err error) bool
	}{
		"refuse":    {Answer{Kind: Refuse, Status: 401, Error: "invalid_client"}, func(o outcome, _ error) bool { return o.status == 401 && o.body["error"] == "invalid_client" }},
		"throttle":  {Answer{Kind: Throttle, RetryAfter: "60"}, func(o outcome, _ error) bool { return o.status == 429 && o.header.Get("Retry-After") == "60" }},
		"raw":       {Answer{Kind: Raw, Status: 503, Body: "x", Header: map[string]string{"X-A": "b"}}, func(o outcome, _ error) bool { return o.status == 503 && o.raw == "x" && o.header.Get("X-A") == "b" }},
		"html":      {Answer{Kind: HTML}, func(o outcome, _ error) bool { return o.status == 200 && strings.HasPrefix(o.raw, "<!doctype") }},
		"empty":     {Answer{Kind: Empty}, func(o outcome, err error) bool { return o.status == 200 && o.raw == "" && err == nil }},
		"malformed": {Answer{Kind: Malformed}, func(o outcome, _ error) bool { return o.status == 200 && o.body == nil && o.raw != "" }},
		"truncated": {Answer{Kind: Truncated}, func(_ outcome, err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"endless":   {Answer{Kind: Endless}, func(o outcome, err error) bool { return len(o.raw) == 4<<20 && err == nil }},
		"huge":      {Answer{Kind: Huge}, func(o outcome, err error) bool { return len(o.raw) == 4<<20 && err == nil }},
		"reset":     {Answer{Kind: Reset}, func(_ outcome, err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
		"redirect":  {Answer{Kind: Redirect, Location: "/elsewhere"}, func(o outcome, _ error) bool { return o.status == 307 && o.header.Get("Location") == "/elsewhere" }},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIdP()
			i.Script(c.answer)
			s := listen(t, i, ServerOptions{})
			o, err := ask(t.Context(), &http.Transport{DisableKeepAlives: true}, s.URL, nil, basic(clientID, secret))
			if !c.check(o, err) {
				t.Fatalf("got %d %v %.80q, %v", o.status, o.header, o.raw, err)
			}
			if got := i.Counts().ByAnswer[string(c.answer.Kind)]; got != 1 {
				t.Fatalf("counted %d answers of this kind", got)
			}
		})
	}
}

func TestAnswer_SlowOnes(t *testing.T) {
	for name, c := range map[string]struct {
		answer  Answer
		timeout time.Duration
		ok      bool
	}{
		"late":            {Answer{Delay: 30 * time.Second}, 31 * time.Second, true},
		"too late":        {Answer{Delay: 30 * time.Second}, 29 * time.Second, false},
		"hangs":           {Answer{Kind: Hang}, time.Hour, false},
		"drips":           {Answer{Kind: Drip}, 10 * time.Second, false},
		"drips, patience": {Answer{Kind: Drip}, 2 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIdP()
				i.Script(c.answer)
				ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
				defer cancel()
				o, err := ask(ctx, InMemory(i), "http://idp", nil, basic(clientID, secret))
				if ok := err == nil && o.token() != ""; ok != c.ok {
					t.Fatalf("got %q, %v", o.raw, err)
				}
				synctest.Wait()
				if open := i.Counts().Open; open != 0 {
					t.Fatalf("%d requests still open after their client left", open)
				}
			})
		})
	}
}

func TestAnswer_RetryAfterDateIsOnTheProvidersOwnClock(t *testing.T) {
	i := New(Options{Skew: 10 * time.Minute})
	i.Script(Answer{Kind: Throttle, RetryAfterDate: time.Minute})
	h := mustAsk(t, i).header
	at, err1 := http.ParseTime(h.Get("Retry-After"))
	date, err2 := http.ParseTime(h.Get("Date"))
	if left := at.Sub(date); err1 != nil || err2 != nil || left < 59*time.Second || left > 61*time.Second {
		t.Fatalf("Date %q, Retry-After %q", h.Get("Date"), h.Get("Retry-After"))
	}
}

func TestCounts_SeeConcurrentRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdP()
		i.Always(Answer{Delay: time.Second})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { mustAsk(t, i) })
		}
		time.Sleep(500 * time.Millisecond)
		if c := i.Counts(); c.Open != 5 || c.Total != 5 || c.Granted != 0 {
			t.Errorf("in the middle: %+v", c)
		}
		wg.Wait()
		c := i.Counts()
		if c.Open != 0 || c.MostOpen != 5 || c.Granted != 5 || c.ByClient[clientID] != 5 || c.ByKey[clientID+"|||"] != 5 {
			t.Errorf("at the end: %+v", c)
		}
		for n, r := range i.Requests() {
			if r.Seq != n+1 || r.Took != time.Second || r.Answer != "granted" || r.Style != "basic" {
				t.Errorf("request %d: %+v", n, r)
			}
		}
	})
}

func TestJWT_CarriesItsTimes(t *testing.T) {
	i := New(Options{Clients: []Client{{ID: clientID, Secrets: []string{secret}}}, JWT: true, Lifetime: time.Minute})
	parts := strings.Split(mustAsk(t, i).token(), ".")
	if len(parts) != 3 {
		t.Fatalf("%d segments", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ Iat, Exp int64 }
	if err != nil || json.Unmarshal(raw, &claims) != nil || claims.Exp-claims.Iat != 60 {
		t.Fatalf("claims %s, %v", raw, err)
	}
}

func listen(t *testing.T, h http.Handler, opts ServerOptions) *Server {
	t.Helper()
	s, err := Listen(h, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestServer_TLSIsTrustedOnlyWhileItIsValid(t *testing.T) {
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	good, err1 := ca.Server()
	old, err2 := ca.ExpiredServer()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	client := ca.Client()
	i := newIdP()
	if o, err := ask(t.Context(), client.Transport, listen(t, i, ServerOptions{TLS: good}).URL, nil, basic(clientID, secret)); err != nil || o.status != 200 {
		t.Fatalf("got %d, %v", o.status, err)
	}
	_, err = ask(t.Context(), client.Transport, listen(t, i, ServerOptions{TLS: old}).URL, nil, basic(clientID, secret))
	if err == nil || !strings.Contains(err.Error(), "expired") {
		t.Fatalf("an expired certificate: %v", err)
	}
	if n := i.Counts().Total; n != 1 {
		t.Fatalf("counted %d requests", n)
	}
}

func TestServer_ComesUpAgainOnTheSamePort(t *testing.T) {
	s := listen(t, newIdP(), ServerOptions{})
	rt := &http.Transport{DisableKeepAlives: true}
	s.Down()
	if _, err := ask(t.Context(), rt, s.URL, nil, nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("while down: %v", err)
	}
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
	if o, err := ask(t.Context(), rt, s.URL, nil, basic(clientID, secret)); err != nil || o.status != 200 {
		t.Fatalf("up again: %d, %v", o.status, err)
	}
}
