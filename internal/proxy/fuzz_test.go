package proxy

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzAdmin lets a stranger with a browser, or without, send anything to the
// admin routes.
func FuzzAdmin(f *testing.F) {
	f.Add("POST", "/dicomweb-oauth/servers/azure/test", "", "", "", "Bearer admin", "")
	f.Add("POST", "/dicomweb-oauth/servers/a%2Fb/invalidate", "https://evil.example", "cross-site", "text/plain", "Bearer admin", "x=1")
	f.Add("POST", "/dicomweb-oauth/cache/clear", "http://127.0.0.1", "same-origin", "application/json", "Bearer wrong", "{}")
	f.Add("GET", "/plugins/oauth/status", "", "", "", "", "")
	f.Add("HEAD", "/dicomweb-oauth/live", "null", "", "", "", "")
	f.Fuzz(func(t *testing.T, method, path, origin, site, contentType, authorization, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return // net/http refuses it before us
		}
		acted := false
		act := func(context.Context, string) (TestResult, error) { acted = true; return TestResult{}, nil }
		handler := NewAdmin(AdminConfig{
			Status: func(context.Context) Status { return Status{Status: Healthy} }, Servers: func(context.Context) []ServerStatus { return nil },
			Cluster: func(context.Context) ClusterStatus { return ClusterStatus{} }, Test: act, Invalidate: act,
			ClearCache: func(context.Context) error { acted = true; return nil },
			Authorize:  func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer admin" },
		})
		r := &http.Request{Method: method, URL: u, Host: "127.0.0.1", Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}}
		for name, value := range map[string]string{"Origin": origin, "Sec-Fetch-Site": site, "Content-Type": contentType, "Authorization": authorization} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		allowed := method == http.MethodPost && authorization == "Bearer admin" && site != "cross-site" && site != "same-site"
		if acted && (!allowed || origin != "" && !isOwnOrigin(r, origin)) {
			t.Fatalf("%s %s from %q (%s) was acted on", method, path, origin, site)
		}
		if w.Code == http.StatusInternalServerError || method != http.MethodHead && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s: %d %q", method, path, w.Code, w.Body)
		}
	})
}
