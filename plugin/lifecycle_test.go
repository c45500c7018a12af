package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// fakeNode is an assembly whose data path answers with "pong", holds /hang until
// its request is cancelled, and panics where it is told to.
type fakeNode struct {
	creds     credentials
	started   chan struct{}
	closed    chan struct{}
	cut       chan struct{} // a held request was cancelled
	startErr  error
	closeErr  error
	panics    bool
	hangClose bool
}

func newFakeNode() *fakeNode {
	return &fakeNode{started: make(chan struct{}), closed: make(chan struct{}), cut: make(chan struct{}, 16)}
}

func (n *fakeNode) Start() error {
	close(n.started)
	if n.panics {
		panic("start")
	}
	return n.startErr
}

func (n *fakeNode) Admin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.panics {
			panic("admin")
		}
		_, _ = io.WriteString(w, r.URL.Path)
	})
}

func (n *fakeNode) Data() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !n.creds.authorize(r) {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/hang") {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			n.cut <- struct{}{}
			return
		}
		_, _ = io.WriteString(w, "pong")
	})
}

func (n *fakeNode) Servers() []string { return []string{"pacs", "two words"} }

func (n *fakeNode) Gauges() map[string]float64 { return map[string]float64{"orthanc_oauth_members": 3} }

func (n *fakeNode) Close(ctx context.Context) error {
	close(n.closed)
	if n.hangClose {
		<-ctx.Done()
		return ctx.Err()
	}
	return n.closeErr
}

// with returns the assembler that builds n.
func (n *fakeNode) with() assembler {
	return func(_ []byte, c credentials, _ *slog.Logger, _ *slog.LevelVar) (built, error) {
		n.creds = c
		return built{node: n, dicomWebRoot: "/dicom-web/", timeout: time.Hour}, nil
	}
}

func requireNoLeak(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		goleak.VerifyNone(t, ignore)
	})
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// startPlugin brings a plugin up to where Orthanc's users can send.
func startPlugin(t *testing.T, o *fakeOrthanc, n *fakeNode) *plugin {
	t.Helper()
	p, err := newPlugin(o, n.with())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.Started()
	eventually(t, func() error {
		if found := o.registered(); len(found) != 2 {
			return fmt.Errorf("registered: %v", found)
		}
		return nil
	})
	return p
}

// ask sends one request the way libcurl would for a registered server.
func ask(t *testing.T, n *fakeNode, url, password string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(n.creds.user, password)
	return http.DefaultClient.Do(req)
}

func TestPlugin_RegistersALoopbackAddressThatAnswers(t *testing.T) {
	requireNoLeak(t)
	o, n := newFakeOrthanc(), newFakeNode()
	startPlugin(t, o, n)
	for name, s := range o.registered() {
		if s.Timeout != 3600 || s.Username != n.creds.user || !strings.HasPrefix(s.URL, "http://127.0.0.1:") {
			t.Errorf("%s: %+v", name, s)
		}
		resp, err := ask(t, n, s.URL+"studies", n.creds.password)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "pong" {
			t.Errorf("%s answers %d %q", name, resp.StatusCode, body)
		}
	}
	if o.env["no_proxy"] != loopback {
		t.Errorf("environment %v", o.env)
	}
}

func TestNewPlugin_TouchesNothingOfOrthancs(t *testing.T) {
	requireNoLeak(t)
	o, n := newFakeOrthanc(), newFakeNode()
	p, err := newPlugin(o, n.with())
	if err != nil {
		t.Fatal(err)
	}
	if gets, puts := o.counts(); gets+puts != 0 {
		t.Errorf("%d REST calls during Initialize", gets+puts)
	}
	select {
	case <-n.started:
		t.Error("joined during Initialize")
	default:
	}
	p.Close() // a plugin loaded after ours refused to start
	<-n.closed
	if gets, _ := o.counts(); gets != 0 {
		t.Error("REST call in Finalize")
	}
}

func TestNewPlugin_RefusesABadConfigurationAndLeavesNothingOpen(t *testing.T) {
	requireNoLeak(t)
	bad := errors.New("CFG-002: Url of server pacs is no URL")
	_, err := newPlugin(newFakeOrthanc(), func([]byte, credentials, *slog.Logger, *slog.LevelVar) (built, error) {
		return built{}, bad
	})
	if !errors.Is(err, bad) {
		t.Errorf("err = %v", err)
	}
	o := newFakeOrthanc()
	o.confErr = errDetached
	if _, err := newPlugin(o, newFakeNode().with()); !errors.Is(err, errDetached) {
		t.Errorf("without a configuration: %v", err)
	}
	o, n := newFakeOrthanc(), newFakeNode()
	o.envErr = errors.New("out of memory")
	if _, err := newPlugin(o, n.with()); !errors.Is(err, o.envErr) {
		t.Errorf("without an environment: %v", err)
	}
	<-n.closed
}

func TestNewPlugin_IsNilWhereOAuthIsNotConfigured(t *testing.T) {
	p, err := newPlugin(newFakeOrthanc(), func([]byte, credentials, *slog.Logger, *slog.LevelVar) (built, error) {
		return built{}, nil
	})
	if p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
}

func TestStopped_DeregistersCutsRequestsAndClosesTheListener(t *testing.T) {
	requireNoLeak(t)
	o, n := newFakeOrthanc(), newFakeNode()
	p := startPlugin(t, o, n)
	base := o.registered()["pacs"].URL
	resp, err := ask(t, n, base+"hang", n.creds.password)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()

	p.Stopped()
	if found := o.registered(); len(found) != 0 {
		t.Errorf("still registered: %v", found)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a request that was cut ended as if it were whole")
	}
	<-n.cut
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.listener.Addr().String()); err == nil {
		t.Error("the listener still accepts")
	}
	if a := p.Answer(restCall{method: http.MethodGet, path: "/dicomweb-oauth/live"}); a.status != http.StatusServiceUnavailable {
		t.Errorf("a route answers %d while stopping", a.status)
	}
	p.Stopped() // twice does no harm
	p.Close()
	<-n.closed
	p.Close()
	if lines := append(o.logged("WARN"), o.logged("ERROR")...); len(lines) != 0 {
		t.Errorf("an orderly stop logged %q", lines)
	}
}

func TestReset_EveryLifeHasItsOwnPortAndPassword(t *testing.T) {
	requireNoLeak(t)
	o := newFakeOrthanc()
	passwords := map[string]bool{}
	for range 20 {
		n := newFakeNode()
		p := startPlugin(t, o, n)
		passwords[n.creds.password] = true
		resp, err := ask(t, n, o.registered()["pacs"].URL, "not "+n.creds.password)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("a wrong password: %d", resp.StatusCode)
		}
		p.Stopped()
		p.Close()
	}
	if len(passwords) != 20 {
		t.Errorf("%d passwords in 20 lives", len(passwords))
	}
}

func TestClose_IsBoundedWhenNothingEnds(t *testing.T) {
	o, n := newFakeOrthanc(), newFakeNode()
	n.hangClose = true
	p := startPlugin(t, o, n)
	hang := make(chan struct{})
	o.set(func(o *fakeOrthanc) { o.hang = hang })
	defer close(hang)

	begin := time.Now()
	p.Stopped()
	if took := time.Since(begin); took > removeTimeout+time.Second {
		t.Errorf("Stopped took %v with an Orthanc that does not answer", took)
	}
	p.Close()
	if took := time.Since(begin); took > closeTimeout+time.Second {
		t.Errorf("Close took %v", took)
	}
	if len(o.logged("left behind")) != 1 {
		t.Errorf("log %q", o.lines)
	}
}

func TestPlugin_LetsNoPanicOut(t *testing.T) {
	requireNoLeak(t)
	o, n := newFakeOrthanc(), newFakeNode()
	n.panics = true
	p := startPlugin(t, o, n)
	if a := p.Answer(restCall{method: http.MethodGet, path: "/dicomweb-oauth/live"}); a.status != http.StatusInternalServerError {
		t.Errorf("a handler that panics answers %d", a.status)
	}
	eventually(t, func() error {
		if lines := o.logged("internal error"); len(lines) != 2 {
			return fmt.Errorf("%d panics logged, want those of start and route", len(lines))
		}
		return nil
	})
}

func TestStarted_GoesOnAloneWhenItCannotJoin(t *testing.T) {
	requireNoLeak(t)
	o, n := newFakeOrthanc(), newFakeNode()
	n.startErr = errors.New("port 7946 in use")
	startPlugin(t, o, n)
	eventually(t, func() error {
		if lines := o.logged("port 7946 in use"); len(lines) != 1 {
			return fmt.Errorf("log %q", o.lines)
		}
		return nil
	})
}

func TestRefreshGauges_ReachOrthancsMetrics(t *testing.T) {
	o, n := newFakeOrthanc(), newFakeNode()
	p := startPlugin(t, o, n)
	p.RefreshGauges()
	if o.gauges["orthanc_oauth_members"] != 3 {
		t.Errorf("gauges %v", o.gauges)
	}
	p.Stopped()
	clear(o.gauges)
	p.RefreshGauges()
	if len(o.gauges) != 0 {
		t.Errorf("gauges after the stop: %v", o.gauges)
	}
}

func TestWait_ReportsWhetherTheGroupWasDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plugin{log: slog.New(slog.DiscardHandler)}
		p.spawn("slow", func() { time.Sleep(time.Second) })
		if wait(&p.goroutines, time.Second-1) {
			t.Error("done before its time")
		}
		if !wait(&p.goroutines, time.Second) {
			t.Error("not done when it was")
		}
	})
}
