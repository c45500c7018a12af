package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func testAdmin(t *testing.T, change func(*AdminConfig)) http.Handler {
	t.Helper()
	reg := prometheus.NewRegistry()
	metrics, err := NewMetrics(reg)
	must(t, err)
	act := func(_ context.Context, name string) (TestResult, error) {
		switch name {
		case "my pacs":
			return TestResult{Server: name, Status: "success", TokenAcquired: true, HasToken: true, Provider: "generic", ExpiresIn: 3600}, nil
		case "refused":
			return TestResult{}, fmt.Errorf("fill: %w", &Failure{Code: "AUTH-001", RetryAfter: 30 * time.Second})
		case "panic":
			panic("planted")
		}
		return TestResult{}, ErrUnknownServer
	}
	cfg := AdminConfig{
		Version:    "1.2.3",
		Status:     func(context.Context) Status { return Status{Status: Healthy, TokenManagers: 1, ServersConfigured: 1} },
		Servers:    func(context.Context) []ServerStatus { return nil },
		Cluster:    func(context.Context) ClusterStatus { return ClusterStatus{} },
		Test:       act,
		Invalidate: act,
		ClearCache: func(context.Context) error { return nil },
		Gatherer:   reg,
		Metrics:    metrics,
	}
	if change != nil {
		change(&cfg)
	}
	return NewAdmin(cfg)
}

func ask(t *testing.T, h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func dataOf(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var e struct {
		PluginVersion string         `json:"plugin_version"`
		APIVersion    string         `json:"api_version"`
		Data          map[string]any `json:"data"`
	}
	must(t, json.Unmarshal(w.Body.Bytes(), &e))
	if e.PluginVersion != "1.2.3" || e.APIVersion != "2.0" {
		t.Errorf("envelope: %s", w.Body)
	}
	return e.Data
}

func TestAdmin_RoutesAnswerInTheEnvelope(t *testing.T) {
	h := testAdmin(t, nil)
	for target, key := range map[string]string{
		"/dicomweb-oauth/live": "status", "/dicomweb-oauth/status": "servers_configured", "/plugins/oauth/status": "token_managers",
		"/dicomweb-oauth/servers": "servers", "/dicomweb-oauth/cluster": "members",
	} {
		w := ask(t, h, http.MethodGet, target, "")
		want(t, target, w.Code, 200)
		want(t, target, w.Header().Get("Cache-Control"), "no-store")
		if _, ok := dataOf(t, w)[key]; !ok {
			t.Errorf("%s: no %q in %s", target, key, w.Body)
		}
		w = ask(t, h, http.MethodHead, target, "")
		want(t, "HEAD "+target, w.Code, 200)
		want(t, "HEAD "+target, w.Body.Len(), 0)
	}
	for _, target := range []string{"/dicomweb-oauth/metrics", "/plugins/oauth/metrics"} {
		w := ask(t, h, http.MethodGet, target, "")
		if w.Code != 200 || !strings.Contains(w.Body.String(), `dicomweb_oauth_http_requests_total{endpoint="live",method="GET",status="200"} 1`) {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	for _, target := range []string{"/", "/dicomweb-oauth/", "/dicomweb-oauth/nope", "/plugins/oauth/servers", "/dicomweb-oauth/servers//test", "/dicomweb-oauth/servers/a/b/test", "/dicomweb-oauth/servers/a/nope"} {
		w := ask(t, h, http.MethodGet, target, "")
		want(t, target, w.Code, 404)
		failureIn(t, w.Body.String())
	}
}

func TestAdmin_UnhealthyIs503AndLiveStays200(t *testing.T) {
	h := testAdmin(t, func(c *AdminConfig) { c.Status = func(context.Context) Status { return Status{Status: Unhealthy} } })
	want(t, "status", ask(t, h, http.MethodGet, "/dicomweb-oauth/status", "").Code, 503)
	want(t, "live", ask(t, h, http.MethodGet, "/dicomweb-oauth/live", "").Code, 200)
}

func TestAdmin_TestAndInvalidate(t *testing.T) {
	h := testAdmin(t, nil)
	for _, act := range []string{"test", "invalidate"} {
		w := ask(t, h, http.MethodPost, "/dicomweb-oauth/servers/my%20pacs/"+act, "")
		want(t, act, w.Code, 200)
		want[any](t, act, dataOf(t, w)["expires_in"], 3600.0)
		want(t, "unknown", ask(t, h, http.MethodPost, "/dicomweb-oauth/servers/x/"+act, "").Code, 404)
		w = ask(t, h, http.MethodPost, "/dicomweb-oauth/servers/refused/"+act, "")
		want(t, "refused", w.Code, 503)
		want(t, "Retry-After", w.Header().Get("Retry-After"), "30")
		want(t, "code", failureIn(t, w.Body.String()).ErrorCode, "AUTH-001")
	}
	want(t, "clear", ask(t, h, http.MethodPost, "/dicomweb-oauth/cache/clear", "").Code, 200)
	w := ask(t, h, http.MethodPost, "/dicomweb-oauth/servers/panic/test", "")
	want(t, "panic", w.Code, 500)
}

func TestAdmin_WrongMethodIs405WithAllow(t *testing.T) {
	h := testAdmin(t, nil)
	for target, allow := range map[string]string{
		"/dicomweb-oauth/status": "GET, HEAD", "/dicomweb-oauth/servers/a/test": "POST", "/dicomweb-oauth/cache/clear": "POST",
	} {
		w := ask(t, h, http.MethodPut, target, "")
		want(t, target, w.Code, 405)
		want(t, target, w.Header().Get("Allow"), allow)
	}
	want(t, "GET test", ask(t, h, http.MethodGet, "/dicomweb-oauth/servers/my%20pacs/test", "").Code, 405)
}

// The Host of these requests is example.com.
func TestAdmin_PostsOfForeignPagesAreRefused(t *testing.T) {
	h := testAdmin(t, nil)
	jsonType := []string{"Content-Type", "application/json; charset=utf-8"}
	for _, c := range []struct {
		name    string
		status  int
		body    string
		headers []string
	}{
		{"plain curl", 200, "", nil},
		{"curl with a form type and no body", 200, "", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"JSON", 200, "{}", jsonType},
		{"body without JSON", 415, "x=1", []string{"Content-Type", "text/plain"}},
		{"same origin", 200, "", append(jsonType, "Origin", "http://example.com", "Sec-Fetch-Site", "same-origin")},
		{"same origin with the default port", 200, "", append(jsonType, "Origin", "https://EXAMPLE.com:443")},
		{"Origin without JSON", 415, "", []string{"Origin", "http://example.com"}},
		{"behind a proxy", 200, "", append(jsonType, "Origin", "https://pacs.site", "X-Forwarded-Host", "outer.site, pacs.site")},
		{"other origin", 403, "", append(jsonType, "Origin", "http://evil.example")},
		{"other port", 403, "", append(jsonType, "Origin", "http://example.com:8080")},
		{"null", 403, "", append(jsonType, "Origin", "null")},
		{"two origins", 403, "", append(jsonType, "Origin", "http://example.com", "Origin", "http://evil.example")},
		{"cross-site", 403, "", append(jsonType, "Sec-Fetch-Site", "cross-site")},
		{"same-site", 403, "", append(jsonType, "Sec-Fetch-Site", "same-site")},
		{"typed into the browser", 200, "", append(jsonType, "Sec-Fetch-Site", "none")},
		{"large", 413, strings.Repeat("x", maxAdminBody+1), jsonType},
	} {
		w := ask(t, h, http.MethodPost, "/dicomweb-oauth/servers/my%20pacs/test", c.body, c.headers...)
		want(t, c.name, w.Code, c.status)
	}
}

func TestAdmin_TokenGuardsAllButLive(t *testing.T) {
	check, err := Bearer([]byte("0123456789abcdef0123\n"))
	must(t, err)
	h := testAdmin(t, func(c *AdminConfig) { c.Authorize = check })
	want(t, "live", ask(t, h, http.MethodGet, "/dicomweb-oauth/live", "").Code, 200)
	for name, c := range map[string]struct {
		status int
		header []string
	}{
		"none": {401, nil}, "wrong": {401, []string{"Authorization", "Bearer 0123456789abcdef0124"}},
		"basic": {401, []string{"Authorization", "Basic 0123456789abcdef0123"}},
		"twice": {401, []string{"Authorization", "Bearer 0123456789abcdef0123", "Authorization", "Bearer x"}},
		"right": {200, []string{"Authorization", "bearer 0123456789abcdef0123"}},
	} {
		w := ask(t, h, http.MethodGet, "/dicomweb-oauth/status", "", c.header...)
		want(t, name, w.Code, c.status)
	}
	for _, bad := range []string{"", "short", "0123456789 abcdef0123", "line one 0123456\nline two"} {
		if _, err := Bearer([]byte(bad)); err == nil {
			t.Errorf("%q was accepted as a token", bad)
		}
	}
}

func TestAdmin_LimitIsForPostsAndPerAddress(t *testing.T) {
	limit := NewLimit(2, time.Hour, true)
	h := testAdmin(t, func(c *AdminConfig) { c.Limit = limit })
	post := func(addr string) int {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/dicomweb-oauth/servers/my%20pacs/test", nil)
		req.RemoteAddr = addr
		req.Header.Set("X-Forwarded-For", "10.9.9."+addr[len(addr)-1:])
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
	want(t, "1", post("10.0.0.1:1"), 200)
	want(t, "2", post("10.0.0.1:2"), 200)
	want(t, "3", post("10.0.0.1:3"), 429)
	want(t, "another address", post("10.0.0.2:1"), 200)
	want(t, "GET", ask(t, h, http.MethodGet, "/dicomweb-oauth/status", "").Code, 200)
	all := NewLimit(1, time.Hour, false)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	if !all(req) || all(req) {
		t.Error("one bucket for all did not let exactly one through")
	}
}

func TestCheckHost_RefusesReboundNames(t *testing.T) {
	h := CheckHost([]string{"Sidecar.site"}, http.HandlerFunc(status(204)))
	for host, code := range map[string]int{
		"localhost:8043": 204, "127.0.0.1:8043": 204, "[::1]:8043": 204, "::1": 204, "sidecar.site": 204, "SIDECAR.site.:443": 204,
		"evil.example": 421, "127.0.0.1.evil.example:8043": 421, "": 421,
	} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		req.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		want(t, host, w.Code, code)
	}
}

func TestUsers_RightPasswordIsHashedOnce(t *testing.T) {
	hash, err := hashPassword("s3cret:with colon", minIterations)
	must(t, err)
	users, err := NewUsers([]byte("# people\n\nann:" + hash + "\n"))
	must(t, err)
	check := func(user, password string) bool {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		req.SetBasicAuth(user, password)
		return users.Authorize(req)
	}
	if !check("ann", "s3cret:with colon") {
		t.Fatal("the right password was refused")
	}
	if check("ann", "s3cret") || check("bob", "s3cret:with colon") || check("", "") {
		t.Fatal("a wrong one was accepted")
	}
	table := users.table.Load()
	broken := table.hashes["ann"]
	broken.sum = make([]byte, 32)
	table.hashes["ann"] = broken // whoever hashes again fails now
	if !check("ann", "s3cret:with colon") {
		t.Error("the password was hashed a second time")
	}
	other, err := hashPassword("new", minIterations)
	must(t, err)
	must(t, users.Load([]byte("ann:"+other)))
	if check("ann", "s3cret:with colon") || !check("ann", "new") {
		t.Error("the file was changed, and the old password goes on")
	}
}

func TestUsers_RefusesUnusableFiles(t *testing.T) {
	const good = "$pbkdf2-sha256$600000$MDEyMzQ1Njc4OWFiY2RlZg$1JJXwn6vjVqEWr6TpN8Do8IWGk8TDNvKOWCqiuDFbz4"
	if _, err := NewUsers([]byte("ann:" + good)); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, file := range map[string]string{
		"empty": "", "comment": "# x", "no colon": "ann", "no name": ":" + good, "clear text": "ann:canary",
		"bcrypt": "ann:$2y$05$canarycanarycanary", "few rounds": "ann:" + strings.Replace(good, "600000", "1", 1),
		"rounds": "ann:" + strings.Replace(good, "600000", "99999999999", 1), "salt": "ann:" + strings.Replace(good, "MDEyMzQ1Njc4OWFiY2RlZg", "MDE", 1),
		"sum": "ann:" + good[:len(good)-4], "twice": "ann:" + good + "\nann:" + good,
	} {
		_, err := NewUsers([]byte(file))
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestFromTokens_ErrorsOfTokensAreTold(t *testing.T) {
	plain := errors.New("plain")
	if got := asFailure(plain); !errors.Is(got, plain) {
		t.Errorf("got %v", got)
	}
	if asFailure(nil) != nil {
		t.Error("nil became an error")
	}
}
