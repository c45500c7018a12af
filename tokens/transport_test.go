package tokens

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orthanc-oauth/tokens/provider"
)

// pacs is a server that accepts one token.
type pacs struct {
	*httptest.Server
	accepts atomic.Value // string
	status  int          // of a refusal
	bodies  []string     // of accepted requests
	seen    atomic.Int32
}

func newPACS(t *testing.T, accepts string) *pacs {
	p := &pacs{status: http.StatusUnauthorized}
	p.accepts.Store(accepts)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.seen.Add(1)
		if r.Header.Get("Authorization") != "Bearer "+p.accepts.Load().(string) {
			w.WriteHeader(p.status)
			return
		}
		b, _ := io.ReadAll(r.Body)
		p.bodies = append(p.bodies, string(b))
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *pacs) send(t *testing.T, w *world, body io.Reader) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	c := http.Client{Transport: w.source.Transport(nil)}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if req.Header.Get("Authorization") != "" {
		t.Error("the caller's request was changed")
	}
	return resp.StatusCode
}

func TestTransport_SendsTheTokenAndCountsTheHit(t *testing.T) {
	w := newWorld(t, fresh(time.Hour))
	p := newPACS(t, "tok-1")
	for range 3 {
		if status := p.send(t, w, nil); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	if hits := w.metric("orthanc_oauth_cache_hits_total", "local"); hits != 2 {
		t.Errorf("%v hits", hits)
	}
	if misses := w.metric("dicomweb_oauth_cache_misses_total", "pacs"); misses != 1 {
		t.Errorf("%v misses", misses)
	}
	if !w.source.Status().Accepted {
		t.Error("not marked as accepted")
	}
}

func TestTransport_ReplaysOnceWithANewToken(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		w := newWorld(t, fresh(time.Hour))
		p := newPACS(t, "tok-2")
		p.status = status
		if got := p.send(t, w, strings.NewReader("study")); got != http.StatusOK || p.seen.Load() != 2 {
			t.Fatalf("%d: status %d after %d requests", status, got, p.seen.Load())
		}
		if len(p.bodies) != 1 || p.bodies[0] != "study" {
			t.Errorf("%d: bodies %q", status, p.bodies)
		}
		// The replay was accepted, so the next revocation need not wait.
		p.accepts.Store("tok-3")
		want := map[int]int{401: http.StatusOK, 403: http.StatusForbidden}[status]
		if got := p.send(t, w, nil); got != want {
			t.Errorf("%d: status %d of the next", status, got)
		}
	}
}

func TestTransport_PassesALastingRefusalOn(t *testing.T) {
	idp := fresh(time.Hour)
	w := newWorld(t, idp)
	p := newPACS(t, "never")
	for range 10 {
		if got := p.send(t, w, strings.NewReader("study")); got != http.StatusUnauthorized {
			t.Fatalf("status %d", got)
		}
	}
	if idp.count() != 2 || p.seen.Load() != 11 {
		t.Errorf("%d tokens, %d requests", idp.count(), p.seen.Load())
	}
}

func TestTransport_BodyThatIsGoneStillGetsTheTokenReplaced(t *testing.T) {
	w := newWorld(t, fresh(time.Hour))
	p := newPACS(t, "tok-2")
	once := struct{ io.Reader }{strings.NewReader("stream")}
	if got := p.send(t, w, once); got != http.StatusUnauthorized || p.seen.Load() != 1 {
		t.Fatalf("status %d after %d requests", got, p.seen.Load())
	}
	if got := p.send(t, w, once); got != http.StatusOK {
		t.Errorf("the next: status %d", got)
	}
}

func TestTransport_NeverSendsTheTokenElsewhere(t *testing.T) {
	w := newWorld(t, fresh(time.Hour))
	var leaked atomic.Value
	leaked.Store("")
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		leaked.Store(r.Header.Get("Authorization"))
	}))
	t.Cleanup(elsewhere.Close)
	hops := 0
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		hops++
		if r.Header.Get("Authorization") == "" {
			t.Error("no token at home")
		}
		to := elsewhere.URL
		if hops == 1 {
			to = "/again" // home first, then away
		}
		http.Redirect(rw, r, to, http.StatusFound)
	}))
	t.Cleanup(front.Close)
	get := func(url string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := http.Client{Transport: w.source.Transport(nil)}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	get(front.URL)
	if hops != 2 || leaked.Load() != "" {
		t.Errorf("%d hops, leaked %q", hops, leaked.Load())
	}
	w.set(SourceConfig{Name: "pacs", Credential: credentialOf("s"), Provider: fresh(time.Hour), URL: front.URL + "/base"})
	get(elsewhere.URL)
	if leaked.Load() != "" {
		t.Errorf("leaked %q to a first request elsewhere", leaked.Load())
	}
}

type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }

func TestTransport_WithoutATokenSendsNothing(t *testing.T) {
	w := newWorld(t, &idp{answer: func(int) (provider.Response, error) {
		return refuses(provider.Error{Code: provider.CodeCredentials})
	}})
	p := newPACS(t, "tok")
	body := &closer{Reader: strings.NewReader("x")}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.source.Transport(nil).RoundTrip(req)
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != provider.CodeCredentials {
		t.Errorf("got %v", err)
	}
	if p.seen.Load() != 0 || !body.closed {
		t.Errorf("%d requests, body closed %v", p.seen.Load(), body.closed)
	}
}
