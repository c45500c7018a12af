package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"orthanc-oauth/cluster/memnet"
)

type fakeToken string

func (t fakeToken) Header() string { return "Bearer " + string(t) }

// fakeSource hands out token-1, and the next number after each revocation.
type fakeSource struct {
	mu        sync.Mutex
	now       int
	useErr    error
	refuseErr error
	paced     bool
	accepted  string
	revoked   []string
	confirmed []string
}

func (s *fakeSource) current() Token { return fakeToken("token-" + strconv.Itoa(s.now+1)) }

func (s *fakeSource) Use(context.Context) (Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current(), s.useErr
}

func (s *fakeSource) Refused(_ context.Context, bad Token) (Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paced {
		return bad, nil
	}
	s.revoked = append(s.revoked, bad.Header())
	if bad.Header() == s.current().Header() {
		s.now++
	}
	return s.current(), s.refuseErr
}

func (s *fakeSource) Accepted(t Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = t.Header()
}

func (s *fakeSource) Forbidden(ctx context.Context, bad Token) (Token, error) {
	s.mu.Lock()
	known := s.accepted == bad.Header()
	s.mu.Unlock()
	if known {
		return bad, nil
	}
	return s.Refused(ctx, bad)
}

func (s *fakeSource) Confirm(_ context.Context, t Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confirmed = append(s.confirmed, t.Header())
}

func (s *fakeSource) seen() (revoked, confirmed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.revoked), len(s.confirmed)
}

const testUser, testPassword = "orthanc", "loopback-password-canary"

// rig is a proxy in front of one remote, "pacs", on real sockets unless its test is
// about time.
type rig struct {
	t      *testing.T
	proxy  *Proxy
	front  *httptest.Server
	remote *httptest.Server
	source *fakeSource
	reg    *prometheus.Registry
	log    *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type option func(*Config, *TransportConfig)

func newRig(t *testing.T, remote http.HandlerFunc, opts ...option) *rig {
	t.Helper()
	return newRigOn(t, place{}, remote, opts)
}

// inBubble runs f with a rig in a bubble of virtual time.
func inBubble(t *testing.T, remote http.HandlerFunc, idle time.Duration, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		on := place{memnet.New(1).Host("10.0.0.1")}
		f(t, newRigOn(t, on, remote, []option{func(c *Config, _ *TransportConfig) { c.IdleTimeout = idle }}))
	})
}

// place is where a rig's servers are: on this machine, or on a host in memory.
type place struct{ host *memnet.Host }

func (p place) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	conn, err := p.host.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	return newLingerer(conn), nil
}

func (p place) serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	if p.host == nil {
		return httptest.NewServer(h)
	}
	s := httptest.NewUnstartedServer(h)
	must(t, s.Listener.Close())
	var err error
	s.Listener, err = p.host.Listen(t.Context(), netip.AddrPortFrom(p.host.Addr(), 0))
	must(t, err)
	s.Start()
	s.Client().Transport.(*http.Transport).DialContext = p.dial
	return s
}

func newRigOn(t *testing.T, on place, remote http.HandlerFunc, opts []option) *rig {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	r := &rig{t: t, source: &fakeSource{}, reg: prometheus.NewRegistry(), log: &syncBuffer{}}
	metrics, err := NewMetrics(r.reg)
	must(t, err)
	cfg := Config{
		Authorize: Credential(testUser, testPassword), Version: "test", Metrics: metrics,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	tc := TransportConfig{}
	for _, o := range opts {
		o(&cfg, &tc)
	}
	r.proxy, err = New(cfg)
	must(t, err)
	transport, err := NewTransport(tc)
	must(t, err)
	r.remote, r.front = on.serve(t, remote), on.serve(t, r.proxy)
	if on.host != nil {
		transport.DialContext = on.dial
	}
	r.front.Client().Transport.(*http.Transport).DisableCompression = true // as libcurl
	base, err := url.Parse(r.remote.URL + "/dicom-web/")
	must(t, err)
	must(t, r.proxy.SetUpstreams([]Upstream{{Name: "pacs", URL: base, Source: r.source, Transport: transport}}))
	t.Cleanup(func() {
		must(t, r.proxy.Close(context.WithoutCancel(t.Context())))
		r.front.Client().CloseIdleConnections()
		r.front.Close()
		r.remote.Close()
	})
	return r
}

func (r *rig) request(method, path string, body io.Reader) *http.Request {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.front.URL+path, body)
	must(r.t, err)
	req.SetBasicAuth(testUser, testPassword)
	return req
}

// do sends a request without following redirects and reads the whole answer.
func (r *rig) do(req *http.Request) (*http.Response, string) {
	r.t.Helper()
	resp, err := r.front.Client().Transport.RoundTrip(req)
	must(r.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(r.t, err)
	return resp, string(body)
}

func (r *rig) get(path string) (*http.Response, string) {
	r.t.Helper()
	return r.do(r.request(http.MethodGet, path, nil))
}

// count returns the value of the counter dicomweb_oauth_name that has these label values.
func (r *rig) count(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	must(r.t, err)
	for _, f := range families {
		if f.GetName() != "dicomweb_oauth_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(values, l) }) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// counts waits for a counter: answers arrive before they are counted.
func (r *rig) counts(n float64, name string, labels ...string) {
	r.t.Helper()
	eventually(r.t, func() error {
		if got := r.count(name, labels...); got != n {
			return fmt.Errorf("%s %v is %v, want %v", name, labels, got, n)
		}
		return nil
	})
}

func failureIn(t *testing.T, body string) ErrorBody {
	t.Helper()
	var e struct {
		PluginVersion string    `json:"plugin_version"`
		APIVersion    string    `json:"api_version"`
		Timestamp     time.Time `json:"timestamp"`
		Data          ErrorBody `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("not an envelope: %v in %q", err, body)
	}
	if e.APIVersion != "2.0" || e.Timestamp.IsZero() || e.Data.Message == "" || len(e.Data.Troubleshooting) == 0 {
		t.Errorf("incomplete envelope: %s", body)
	}
	return e.Data
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T comparable](t testing.TB, what string, got, wanted T) {
	t.Helper()
	if got != wanted {
		t.Errorf("%s: got %v, want %v", what, got, wanted)
	}
}

// eventually waits for a condition of real sockets.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %v", err)
		}
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// gate accepts only one token, and reads drain bytes of a body before it says no.
func gate(token string, drain int64, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+token {
			next(w, r)
			return
		}
		io.CopyN(io.Discard, r.Body, drain) // the end may come earlier
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// size answers with the length of the body and its checksum.
func size(w http.ResponseWriter, r *http.Request) {
	sum := newChecksum()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d %x", n, sum.Sum32())
}
