package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/proxy"
)

// user is who may use the data path of sidecars. One password for all: hashing
// takes its time by design.
var user = sync.OnceValue(func() (u struct{ name, password, line string }) {
	u.name, u.password = "modality", "canary-user-"+randomWord()
	hash, err := proxy.HashPassword(u.password)
	if err != nil {
		panic(err)
	}
	u.line = u.name + ":" + hash + "\n"
	return u
})

// sidecar starts orthanc-oauth serve and waits until it is live.
func (w *world) sidecar(t *testing.T, name string, section map[string]any, env ...string) *fleet.Sidecar {
	t.Helper()
	u := user()
	s, err := w.fleet.Sidecar(t.Context(), fleet.SidecarConfig{
		Binary: os.Getenv(binaryVar), Name: name, Section: section,
		Users: u.line, User: u.name, Password: u.password, Token: "canary-admin-" + randomWord(), Env: env,
	})
	must(t, err)
	return s
}

// sidecars starts a gossip fleet and waits until all see all. Names of nodes are
// a, b, c, ...
func (w *world) sidecars(t *testing.T, n int, changes func(name string, gossip map[string]any)) []*fleet.Sidecar {
	t.Helper()
	return w.configured(t, n, func(name string, section map[string]any) {
		if changes != nil {
			changes(name, section["Gossip"].(map[string]any))
		}
	})
}

// configured is sidecars with changes to each node's whole section.
func (w *world) configured(t *testing.T, n int, changes func(name string, section map[string]any)) []*fleet.Sidecar {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		ports[i] = w.port(t)
	}
	nodes := make([]*fleet.Sidecar, n)
	admins := make([]fleet.Client, n)
	for i := range nodes {
		name := string(rune('a' + i))
		section := w.section("gossip", map[string]any{"Gossip": w.gossip(name, ports[i], ports...)})
		changes(name, section)
		nodes[i] = w.sidecar(t, name, section)
		admins[i] = nodes[i].Client
	}
	together(t, admins...)
	return nodes
}

// clusterView is the part of GET /dicomweb-oauth/cluster that tests look at.
type clusterView struct {
	Self            string
	Joined          bool
	Refused         int64    `json:"refused_connections"`
	KeyFingerprints []string `json:"key_fingerprints"`
	Members         []struct {
		Name, State     string
		KeyFingerprints []string `json:"key_fingerprints"`
	}
	Leaders []struct{ Server, Leader string }
}

// alive returns the names of the members alive, sorted.
func (v clusterView) alive() (names []string) {
	for _, m := range v.Members {
		if m.State == "alive" {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

func cluster(ctx context.Context, admin fleet.Client) (clusterView, error) {
	var v struct{ Data clusterView }
	err := admin.Get(ctx, "/dicomweb-oauth/cluster", &v)
	return v.Data, err
}

// together waits until every node sees as many members as there are nodes.
func together(t *testing.T, admins ...fleet.Client) {
	t.Helper()
	eventually(t, func(ctx context.Context) error { return allSee(ctx, len(admins), admins...) })
}

func allSee(ctx context.Context, n int, admins ...fleet.Client) error {
	for _, admin := range admins {
		v, err := cluster(ctx, admin)
		if err != nil {
			return err
		}
		if alive := v.alive(); len(alive) != n {
			return fmt.Errorf("%s sees %v, want %d members", v.Self, alive, n)
		}
	}
	return nil
}

// statusView is the data of GET /dicomweb-oauth/status.
type statusView struct {
	Code    int
	Status  string
	Reasons []string
	Backend struct{ Name, State, Reason string }
}

func status(ctx context.Context, admin fleet.Client) (statusView, error) {
	a, err := ask(ctx, admin, http.MethodGet, "/dicomweb-oauth/status")
	if err != nil {
		return statusView{}, err
	}
	var v struct{ Data statusView }
	err = json.Unmarshal(a.body, &v)
	v.Data.Code = a.status
	return v.Data, err
}

// becomes waits until a node's status is as wanted and a reason holds text.
func becomes(t *testing.T, admin fleet.Client, want, text string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		s, err := status(ctx, admin)
		if err != nil {
			return err
		}
		if s.Status != want || !strings.Contains(strings.Join(s.Reasons, "\n"), text) {
			return fmt.Errorf("status is %+v, want %s with %q", s, want, text)
		}
		return nil
	})
}

// alive asserts that the liveness route answers 200.
func alive(t *testing.T, admin fleet.Client) {
	t.Helper()
	if _, err := admin.Do(t.Context(), http.MethodGet, "/dicomweb-oauth/live", "", nil); err != nil {
		t.Errorf("liveness: %v", err)
	}
}

// serverView is one entry of GET /dicomweb-oauth/servers.
type serverView struct {
	Name         string
	TokenValid   bool   `json:"token_valid"`
	ExpiresIn    int64  `json:"expires_in"`
	Source       string `json:"source"`
	KeyPrefix    string `json:"key_prefix"`
	Acquisitions int64  `json:"token_acquisitions"`
}

func servers(ctx context.Context, admin fleet.Client) (map[string]serverView, error) {
	var v struct {
		Data struct{ Servers []serverView }
	}
	err := admin.Get(ctx, "/dicomweb-oauth/servers", &v)
	byName := make(map[string]serverView)
	for _, s := range v.Data.Servers {
		byName[s.Name] = s
	}
	return byName, err
}

// answer is any answer, success or not.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// failure is what an error envelope says.
type failure struct {
	Code    string `json:"error_code"`
	Message string
	Details map[string]any
}

func (a answer) failure() (f failure) {
	var v struct{ Data *failure }
	v.Data = &f
	_ = json.Unmarshal(a.body, &v) // no envelope: an empty failure, which no test wants
	return f
}

func (a answer) String() string {
	return fmt.Sprintf("%d %.300s", a.status, bytes.TrimSpace(a.body))
}

// ask makes a request and returns the answer, whatever its status.
func ask(ctx context.Context, c fleet.Client, method, path string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, http.NoBody)
	if err != nil {
		return answer{}, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	} else if c.User != "" {
		req.SetBasicAuth(c.User, c.Password)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return answer{resp.StatusCode, resp.Header, body}, err
}

// query searches a server through a sidecar: the smallest request that needs a
// token.
func query(ctx context.Context, s *fleet.Sidecar, server string) (answer, error) {
	return ask(ctx, s.Data, http.MethodGet, "/"+server+"/studies?limit=1")
}

// works returns an error unless a request through a sidecar succeeds.
func works(ctx context.Context, s *fleet.Sidecar, server string) error {
	a, err := query(ctx, s, server)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("%s: %v", s.Name, a)
	}
	return err
}

// metric adds up the samples of a counter whose labels hold all the texts given.
func metric(ctx context.Context, admin fleet.Client, name string, labels ...string) (float64, error) {
	return admin.Metric(ctx, name, labels...)
}

// traffic sends through nodes without a pause until stop, and remembers what
// failed.
type traffic struct {
	stop func() // ends the sends and waits for them

	mu     sync.Mutex
	sends  int
	failed []error
}

// sendPause is the pace of a node's traffic: often enough to hit every moment of
// a change, rare enough for a machine of two cores.
const sendPause = 20 * time.Millisecond

// keepSending starts to send from every node, each request as soon as the one
// before is answered and the pace allows.
func keepSending(t *testing.T, nodes ...*fleet.Sidecar) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var senders sync.WaitGroup
	tr := &traffic{stop: func() { cancel(); senders.Wait() }}
	t.Cleanup(tr.stop)
	for _, n := range nodes {
		senders.Go(func() { tr.run(ctx, n) })
	}
	return tr
}

func (tr *traffic) run(ctx context.Context, n *fleet.Sidecar) {
	pace := time.NewTicker(sendPause)
	defer pace.Stop()
	for ctx.Err() == nil {
		err := works(ctx, n, archive)
		if errors.Is(err, context.Canceled) {
			return
		}
		tr.mu.Lock()
		tr.sends++
		if err != nil {
			tr.failed = append(tr.failed, err)
		}
		tr.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-pace.C:
		}
	}
}

// ended stops the sends and asserts that there were some and none failed.
func (tr *traffic) ended(t *testing.T) {
	t.Helper()
	tr.stop()
	if tr.sends == 0 || len(tr.failed) > 0 {
		t.Errorf("%d of %d sends failed: %v", len(tr.failed), tr.sends, errors.Join(tr.failed[:min(3, len(tr.failed))]...))
	}
}
