package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// troupe is a cast that plays inside a synctest bubble: instances without
// processes that share a token as a backend would, or spoil it as a test wants.
type troupe struct {
	story  *story
	target *idptest.Target
	spoil  spoil

	mu        sync.Mutex
	acquiring chan struct{} // a lock: held while somebody asks the provider
	shared    map[string]*grant
	alive     []string
}

// spoil is what goes wrong.
type spoil struct {
	extraRequest bool // two acquisitions for a cold fleet
	noReplay     bool // a 401 reaches the caller
	lostInstance bool // one instance less comes back than went out
	falseBooks   bool // the instances' counters are not the provider's
	disagree     bool // each instance names itself as the leader
}

// grant is a token and when it is renewed and given up.
type grant struct {
	token      string
	soft, hard time.Time
}

func (t *troupe) noun() string    { return "fake" }
func (t *troupe) names() []string { return []string{"a", "b", "c", "d"} }

func (t *troupe) studies() []fleet.Study { return newSidecars(nil, "").made }

func (t *troupe) remote(context.Context) (idptest.GateConfig, error) {
	return idptest.GateConfig{}, nil
}

func (t *troupe) start(_ context.Context, name string, section map[string]any) (instance, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.alive = append(t.alive, name)
	return &actor{troupe: t, name: name, backend: section["CacheBackend"].(string)}, nil
}

// actor is one instance.
type actor struct {
	troupe        *troupe
	name, backend string
	mu            sync.Mutex
	near          *grant
	metrics       counters
}

func (a *actor) pid() int                    { return 1 }
func (a *actor) ready(context.Context) error { return nil }

func (a *actor) kill() {
	a.troupe.mu.Lock()
	defer a.troupe.mu.Unlock()
	a.troupe.alive = a.troupe.alive[1:] // the leader is the first
}

// store is where this actor's tokens are shared.
func (a *actor) store() string {
	if a.backend == memoryBackend {
		return a.name
	}
	return "all"
}

// token returns a token other than stale, and acquires one only if no instance
// has it.
func (a *actor) token(ctx context.Context, stale string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g := a.near; g != nil && g.token != stale && time.Now().Before(g.soft) {
		a.metrics.Local++
		return g.token, nil
	}
	a.troupe.acquiring <- struct{}{}
	defer func() { <-a.troupe.acquiring }()
	g := a.troupe.shared[a.store()]
	if g != nil && g.token != stale && time.Now().Before(g.soft) {
		a.near = g
		if a.backend == redisBackend {
			a.metrics.Redis++
		} else {
			a.metrics.Peer++
		}
		return g.token, nil
	}
	asked := 1
	if a.troupe.spoil.extraRequest && g == nil {
		asked = 2
	}
	for range asked {
		var err error
		if g, err = a.acquire(ctx); err != nil {
			return "", err
		}
	}
	a.near, a.troupe.shared[a.store()] = g, g
	return g.token, nil
}

func (a *actor) acquire(ctx context.Context) (*grant, error) {
	s := a.troupe.story
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {s.fixture.client.ID}, "client_secret": {s.fixture.client.Secrets[0]}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://idp/token", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	begin := time.Now()
	raw, err := do(idptest.InMemory(s.idp), req)
	if err != nil {
		return nil, err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, err
	}
	if !a.troupe.spoil.falseBooks {
		a.metrics.Acquisitions++
	}
	life := time.Duration(answer.ExpiresIn) * time.Second
	return &grant{token: answer.AccessToken, soft: begin.Add(life * 2 / 3), hard: begin.Add(life)}, nil
}

func do(rt http.RoundTripper, req *http.Request) ([]byte, error) {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = &fleet.StatusError{Status: resp.StatusCode}
	}
	return raw, err
}

// data is the data path: the gate with a token, replayed once after a 401.
func (a *actor) data() fleet.Client {
	return fleet.Client{Base: "http://gate", HTTP: &http.Client{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
		body, _ := io.ReadAll(orEmpty(req.Body))
		stale := ""
		for {
			token, err := a.token(req.Context(), stale)
			if err != nil {
				return nil, err
			}
			out := req.Clone(req.Context())
			out.Body = io.NopCloser(bytes.NewReader(body))
			out.URL.Path = strings.TrimPrefix(out.URL.Path, "/"+archive)
			out.Header.Set("Authorization", "Bearer "+token)
			resp, err := idptest.InMemory(a.troupe.story.gate).RoundTrip(out)
			if err != nil || resp.StatusCode != http.StatusUnauthorized || stale != "" || a.troupe.spoil.noReplay {
				return resp, err
			}
			_ = resp.Body.Close()
			stale = token
		}
	})}}
}

func orEmpty(r io.Reader) io.Reader {
	if r == nil {
		return http.NoBody
	}
	return r
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (a *actor) send(ctx context.Context, study fleet.Study) error {
	return (&sidecar{&fleet.Sidecar{Data: a.data()}}).send(ctx, study)
}

func (a *actor) query(ctx context.Context, study fleet.Study) (int, error) {
	return (&sidecar{&fleet.Sidecar{Data: a.data()}}).query(ctx, study)
}

func (a *actor) retrieve(ctx context.Context, study fleet.Study) (int, error) {
	n, err := (&sidecar{&fleet.Sidecar{Data: a.data()}}).retrieve(ctx, study)
	if a.troupe.spoil.lostInstance {
		n--
	}
	return n, err
}

// admin answers the cluster and the metrics route.
func (a *actor) admin() fleet.Client {
	mux := http.NewServeMux()
	mux.HandleFunc("/dicomweb-oauth/cluster", func(w http.ResponseWriter, _ *http.Request) {
		a.troupe.mu.Lock()
		defer a.troupe.mu.Unlock()
		leader := a.troupe.alive[0]
		if a.troupe.spoil.disagree {
			leader = a.name
		}
		var c cluster
		for _, name := range a.troupe.alive {
			c.Data.Members = append(c.Data.Members, struct{ Name, State string }{name, "alive"})
		}
		c.Data.Leaders = append(c.Data.Leaders, struct{ Server, Leader string }{archive, leader})
		_ = json.NewEncoder(w).Encode(c)
	})
	mux.HandleFunc("/dicomweb-oauth/metrics", func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for source, n := range map[string]int{"local": a.metrics.Local, "peer": a.metrics.Peer, "redis": a.metrics.Redis} {
			_, _ = fmt.Fprintf(w, "orthanc_oauth_cache_hits_total{server=%q,source=%q} %d\n", archive, source, n)
		}
		_, _ = fmt.Fprintf(w, "orthanc_oauth_token_acquisitions_total{server=%q,result=\"success\"} %d\n", archive, a.metrics.Acquisitions)
	})
	return fleet.Client{Base: "http://admin", HTTP: &http.Client{Transport: idptest.InMemory(mux)}}
}

// tellStory plays the story with fakes and returns what was told.
func tellStory(t *testing.T, backend string, asJSON bool, sp spoil) (told string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, ferr := fleet.New(t.Context(), fleet.Options{})
		if ferr != nil {
			t.Fatal(ferr)
		}
		defer f.Close()
		var out bytes.Buffer
		client := idptest.Client{ID: "c", Secrets: []string{newSecret()}}
		s := &story{opts: Options{Backend: backend}, fleet: f, narrator: newNarrator(&out, asJSON), close: func() {}}
		s.fixture = fixture{backend: backend, client: client, gossipSecret: newSecret(), redis: &fleet.Redis{}}
		s.idp = idptest.New(idptest.Options{Clients: []idptest.Client{client}})
		target := idptest.NewTarget(idptest.TargetConfig{})
		s.gate = idptest.NewGate(idptest.GateConfig{State: s.idp.State, Handler: target})
		s.cast = &troupe{story: s, target: target, spoil: sp, acquiring: make(chan struct{}, 1), shared: map[string]*grant{}}
		ctx, cancel := context.WithTimeout(t.Context(), budget)
		defer cancel()
		err = s.play(ctx)
		told = out.String()
	})
	return told, err
}

func TestStory_IsTrueForEveryBackend(t *testing.T) {
	for backend, total := range map[string]int{
		gossipBackend: 1 + 1 + 1,         // cold, roll-over, revocation
		redisBackend:  1 + 1 + 1,         // the same
		memoryBackend: 3 + 1 + 3 + 3 + 0, // each for itself, the fourth as well
	} {
		t.Run(backend, func(t *testing.T) {
			told, err := tellStory(t, backend, false, spoil{})
			if err != nil {
				t.Fatalf("%v\n%s", err, told)
			}
			for _, want := range []string{"1. Three instances", "6. The books", fmt.Sprintf("token requests so far: %d\n", total), "acquisitions", "killed"} {
				if !strings.Contains(told, want) {
					t.Errorf("%q was not told:\n%s", want, told)
				}
			}
		})
	}
}

func TestStory_FailsWhereSomethingIsUntrue(t *testing.T) {
	for name, c := range map[string]struct {
		spoil spoil
		want  string
	}{
		"an acquisition too many":   {spoil{extraRequest: true}, "counted 2 token requests, expected 1"},
		"a 401 reaches the caller":  {spoil{noReplay: true}, "the remote revokes the token"},
		"an instance does not come": {spoil{lostInstance: true}, "instances back"},
		"counters that do not add":  {spoil{falseBooks: true}, "the instances say that they asked 0 times"},
		"leaders that differ":       {spoil{disagree: true}, "leads, another said"},
	} {
		t.Run(name, func(t *testing.T) {
			told, err := tellStory(t, gossipBackend, false, c.spoil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q\n%s", err, c.want, told)
			}
		})
	}
}

func TestStory_AsEvents(t *testing.T) {
	told, err := tellStory(t, gossipBackend, true, spoil{})
	if err != nil {
		t.Fatal(err)
	}
	var last event
	lines := strings.Split(strings.TrimSpace(told), "\n")
	steps, tables := map[int]string{}, 0
	for _, line := range lines {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if e.Seconds < last.Seconds || e.Step < last.Step {
			t.Errorf("out of order: %+v after %+v", e, last)
		}
		if e.Data != nil {
			tables++
		}
		steps[e.Step], last = e.Title, e
	}
	if len(steps) != 6 || tables != 1 {
		t.Errorf("%d steps, %d tables", len(steps), tables)
	}
}

func TestLifetime_FollowsTheMachine(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		100 * time.Millisecond: minLifetime, 3 * time.Second: 33 * time.Second, time.Minute: maxLifetime,
	} {
		if got := lifetime(took); got != want {
			t.Errorf("after %v: %v, want %v", took, got, want)
		}
	}
}

func TestRun_RefusesWhatCannotWork(t *testing.T) {
	for name, c := range map[string]struct {
		opts Options
		want string
	}{
		"backend": {Options{Backend: "etcd"}, `backend "etcd": allowed are`},
		"plugin":  {Options{Orthanc: true, Plugin: "/nowhere/x.so"}, "the "},
	} {
		t.Run(name, func(t *testing.T) {
			c.opts.Out = io.Discard
			if err := Run(t.Context(), c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRun_ReportsAnInstanceThatDoesNotStart(t *testing.T) {
	var out bytes.Buffer
	err := Run(t.Context(), Options{Binary: "/bin/false", Backend: memoryBackend, Out: &out})
	if err == nil || !strings.Contains(err.Error(), "has ended (exit status 1)") {
		t.Errorf("got %v\n%s", err, &out)
	}
}

func TestSum_AddsTheSamplesOfOneLabel(t *testing.T) {
	const exposition = `# HELP hits_total x
hits_total{server="a",source="local"} 3
hits_total{server="b",source="local"} 4e+00
hits_total{server="a",source="peer"} 5
hits_total_other{source="local"} 100
plain 7
`
	for _, c := range []struct {
		name, label string
		want        int
	}{{"hits_total", `source="local"`, 7}, {"hits_total", `source="peer"`, 5}, {"hits_total", "", 12}, {"plain", "", 7}, {"none", "", 0}} {
		if got := sum([]byte(exposition), c.name, c.label); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.name, c.label, got, c.want)
		}
	}
}
