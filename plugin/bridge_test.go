package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestServe_RebuildsTheRequest(t *testing.T) {
	var got *http.Request
	var body []byte
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	})
	c := restCall{
		method: http.MethodPost,
		path:   "/dicomweb-oauth/servers/two words/test",
		query:  []pair{{"a", "b%20c+d%26"}, {"flag", ""}, {"raw", "x y&z"}, {"bad", "%zz"}},
		header: []pair{{"host", "orthanc:8042"}, {"origin", "http://orthanc:8042"}, {"sec-fetch-site", "same-origin"}},
		body:   []byte("{}"),
	}
	c.serve(t.Context(), h)
	if got.Method != http.MethodPost || got.URL.Path != c.path || got.Host != "orthanc:8042" || string(body) != "{}" {
		t.Errorf("got %s %s for %q with body %q", got.Method, got.URL.Path, got.Host, body)
	}
	if got.Header.Get("Origin") != "http://orthanc:8042" || got.Header.Get("Sec-Fetch-Site") != "same-origin" {
		t.Errorf("headers %v", got.Header)
	}
	if q := got.URL.Query(); q.Get("a") != "b c d&" || !q.Has("flag") || q.Get("raw") != "x y&z" || q.Get("bad") != "%zz" {
		t.Errorf("query %q", got.URL.RawQuery)
	}
	if got.RequestURI != got.URL.RequestURI() {
		t.Errorf("request URI %q", got.RequestURI)
	}
}

func TestServe_KeepsTheOrthancUsersCredentialsBack(t *testing.T) {
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if strings.Contains(strings.Join(values, ""), "canary") {
				t.Errorf("%s came through", name)
			}
		}
	})
	c := restCall{method: http.MethodGet, path: "/dicomweb-oauth/live", header: []pair{
		{"authorization", "Basic canary"},
		{"Authorization", "Basic canary"},
		{"proxy-authorization", "canary"},
		{"cookie", "session=canary"},
	}}
	c.serve(t.Context(), h)
}

func TestServe_AnswersAsTheHandlerDid(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "2")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusServiceUnavailable)
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X-Late", "1")
		_, _ = io.WriteString(w, "{}")
	})
	a := (&restCall{method: http.MethodGet, path: "/"}).serve(t.Context(), h)
	if a.status != http.StatusServiceUnavailable || string(a.body) != "{}" {
		t.Errorf("answer %d %q", a.status, a.body)
	}
	if a.header.Get("Retry-After") != "7" || a.header.Get("X-Late") != "" || a.header.Get("Content-Length") != "" {
		t.Errorf("headers %v", a.header)
	}
}

func TestServe_AHandlerThatSaysNothingAnswers200(t *testing.T) {
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	a := (&restCall{method: http.MethodGet, path: "/"}).serve(t.Context(), h)
	if a.status != http.StatusOK || a.header.Get("Content-Type") == "" {
		t.Errorf("answer %+v", a)
	}
}

func TestServe_RefusesWhatIsTooLargeOrNoRequest(t *testing.T) {
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") })
	large := restCall{method: http.MethodPost, path: "/", body: make([]byte, maxBody+1)}
	if a := large.serve(t.Context(), h); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of %d bytes: %d", len(large.body), a.status)
	}
	odd := restCall{method: "NO METHOD", path: "/"}
	if a := odd.serve(t.Context(), h); a.status != http.StatusBadRequest {
		t.Errorf("a method with a blank: %d", a.status)
	}
}

func TestServe_BoundsTheAnswer(t *testing.T) {
	var failed error
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 1<<20); failed == nil; {
			_, failed = w.Write(chunk)
		}
	})
	a := (&restCall{method: http.MethodGet, path: "/"}).serve(t.Context(), h)
	if len(a.body) > maxAnswer {
		t.Errorf("answer of %d bytes", len(a.body))
	}
}

func TestSendable_IsAStatusOrthancKnows(t *testing.T) {
	for status, want := range map[int]int{429: 503, 495: 502, 451: 400, 599: 500, 508: 500} {
		if got := sendable(status); got != want {
			t.Errorf("sendable(%d) = %d, want %d", status, got, want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("GET", "/dicomweb-oauth/live", "a", "b%20", "x-y", "z")
	f.Add("POST", "//..//\x00 %zz", "%", "\r\n", "host", "a\r\nb")
	f.Fuzz(func(t *testing.T, method, path, key, value, name, header string) {
		c := restCall{method: method, path: path, query: []pair{{key, value}}, header: []pair{{name, header}}}
		req, err := c.request(t.Context())
		if err != nil {
			return
		}
		if req.URL.Path != path {
			t.Errorf("path %q became %q", path, req.URL.Path)
		}
		if strings.ContainsAny(req.URL.RawQuery, " #\r\n\x00") {
			t.Errorf("query %q", req.URL.RawQuery)
		}
	})
}
