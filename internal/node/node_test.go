package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orthanc-oauth/internal/config"
	"orthanc-oauth/internal/idptest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/hashicorp/memberlist.(*Memberlist).triggerFunc"))
}

const (
	clientID  = "radiology"
	oldSecret = "canary-old-secret-0123456789"
	newSecret = "canary-new-secret-0123456789"
)

// world is the outside: a provider and a remote behind a bearer gate.
type world struct {
	idp        *idptest.IdP
	token, pac string // URLs
}

func newWorld(t *testing.T) *world {
	t.Helper()
	idp := idptest.New(idptest.Options{Clients: []idptest.Client{{ID: clientID, Secrets: []string{oldSecret}}}})
	gate := idptest.NewGate(idptest.GateConfig{State: idp.State, Handler: idptest.NewTarget(idptest.TargetConfig{})})
	return &world{idp: idp, token: listen(t, idp) + "/token", pac: listen(t, gate)}
}

func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	s, err := idptest.Listen(h, idptest.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.URL
}

// section returns a configuration with one server whose secret stands in file.
func (w *world) section(file string, more map[string]any) map[string]any {
	s := map[string]any{"Servers": map[string]any{"pacs": map[string]any{
		"Url": w.pac, "TokenEndpoint": w.token, "ClientId": clientID, "ClientSecretFile": file,
	}}}
	maps.Copy(s, more)
	return s
}

func parse(t *testing.T, section map[string]any) *config.Config {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"DicomWeb": map[string]any{"OAuth": section}})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := config.Parse(raw, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

func newNode(t *testing.T, conf *config.Config, log *slog.Logger) (*Node, error) {
	t.Helper()
	n, err := New(Config{Config: conf, Log: log, Authorize: func(*http.Request) bool { return true }})
	if err == nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			if err := n.Close(ctx); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	return n, err
}

// started returns a running node of section, and what it logs.
func started(t *testing.T, section map[string]any) (*Node, *logs) {
	t.Helper()
	logs := new(logs)
	n, err := newNode(t, parse(t, section), slog.New(slog.NewTextHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	return n, logs
}

func secretFile(t *testing.T, secret string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	write(t, name, secret)
	return name
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func query(n *Node) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	n.Data().ServeHTTP(rec, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/pacs/studies", nil))
	return rec
}

func (w *world) wantRequests(t *testing.T, want int) {
	t.Helper()
	if got := len(w.idp.Requests()); got != want {
		t.Errorf("the provider was asked %d times, want %d", got, want)
	}
}

func TestNode_LendsOneTokenToManyRequests(t *testing.T) {
	w := newWorld(t)
	n, logs := started(t, w.section(secretFile(t, oldSecret), nil))
	for range 20 {
		if rec := query(n); rec.Code != http.StatusOK {
			t.Fatalf("status %d: %s", rec.Code, rec.Body)
		}
	}
	w.wantRequests(t, 1)
	rec := httptest.NewRecorder()
	n.Admin().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/dicomweb-oauth/metrics", nil))
	for _, want := range []string{
		`orthanc_oauth_cache_hits_total{backend="memory",server="pacs",source="local"} 19`,
		`orthanc_oauth_token_acquisitions_total{backend="memory",result="success",server="pacs"} 1`,
	} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	for sink, text := range map[string]string{"log": logs.String(), "metrics": rec.Body.String()} {
		for _, secret := range append(w.idp.Tokens(), oldSecret) {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds a secret", sink)
			}
		}
	}
}

func TestNode_RotatedSecretIsTakenIntoUse(t *testing.T) {
	w := newWorld(t)
	file := secretFile(t, oldSecret)
	n, logs := started(t, w.section(file, nil))
	query(n)
	w.idp.SetSecrets(clientID, newSecret)
	write(t, file, newSecret)
	n.reloadChanged()
	if rec := query(n); rec.Code != http.StatusOK {
		t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
	if !strings.Contains(logs.String(), "secret file changed and is in use") {
		t.Errorf("the rotation is not logged:\n%s", logs)
	}
	// The old token serves until the new secret has brought one.
	eventually(t, func() error {
		if got := n.servers[0].source.Status().Renewed; got != 2 {
			return fmt.Errorf("%d tokens so far, none with the new secret", got)
		}
		return nil
	})
	w.wantRequests(t, 2)
}

func TestNode_UnusableSecretFileKeepsTheOldSecretAndSaysSoOnce(t *testing.T) {
	w := newWorld(t)
	file := secretFile(t, oldSecret)
	n, logs := started(t, w.section(file, nil))
	write(t, file, "")
	for range 3 {
		n.reloadChanged()
	}
	if got := strings.Count(logs.String(), "cannot be used"); got != 1 {
		t.Errorf("said %d times, want once:\n%s", got, logs)
	}
	if rec := query(n); rec.Code != http.StatusOK {
		t.Errorf("status %d with the old secret", rec.Code)
	}
	write(t, file, oldSecret)
	n.reloadChanged()
	if !strings.Contains(logs.String(), "secret file changed and is in use") {
		t.Errorf("the mended file is not taken into use:\n%s", logs)
	}
}

func TestNew_PortInUseIsOneErrorAndLeavesNothing(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	w := newWorld(t)
	_, err = newNode(t, parse(t, w.section(secretFile(t, oldSecret), map[string]any{
		"CacheBackend": "gossip", "Gossip": map[string]any{"BindAddr": "127.0.0.1", "BindPort": port},
	})), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(port)) {
		t.Errorf("got %v, want an error that names port %d", err, port)
	}
}

func TestNode_TwoGossipNodesShareOneToken(t *testing.T) {
	w := newWorld(t)
	file := secretFile(t, oldSecret)
	a, _ := started(t, w.section(file, gossipOn("a")))
	port := a.store.(*gossipStorage).cluster.Addr().Port()
	b, _ := started(t, w.section(file, gossipOn("b", fmt.Sprintf("127.0.0.1:%d", port))))
	eventually(t, func() error {
		if got := len(b.members()); got != 2 {
			return fmt.Errorf("%d members", got)
		}
		return nil
	})
	for _, n := range []*Node{b, a, b} {
		if rec := query(n); rec.Code != http.StatusOK {
			t.Fatalf("status %d: %s", rec.Code, rec.Body)
		}
	}
	w.wantRequests(t, 1)
	if st := b.status(t.Context()); st.Status != "healthy" || st.Members != 2 {
		t.Errorf("status %+v", st)
	}
	cl := b.clusterStatus(t.Context())
	if len(cl.Leaders) != 1 || cl.Leaders[0].Leader == "" || len(cl.Leaders[0].Order) != 2 {
		t.Errorf("cluster %+v", cl)
	}
}

func gossipOn(name string, peers ...string) map[string]any {
	if peers == nil {
		peers = []string{}
	}
	return map[string]any{"CacheBackend": "gossip", "Gossip": map[string]any{
		"Name": name, "BindAddr": "127.0.0.1", "BindPort": 0, "Peers": peers,
		"SecretKey": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	}}
}

func TestStatus_FollowsTheProvidersHealth(t *testing.T) {
	w := newWorld(t)
	n, _ := started(t, w.section(secretFile(t, oldSecret), nil))
	w.idp.Always(idptest.Answer{Kind: idptest.Refuse, Status: http.StatusUnauthorized})
	if rec := query(n); rec.Code != http.StatusBadGateway || !strings.Contains(rec.Body.String(), "AUTH-001") {
		t.Errorf("status %d: %s; want 502 with AUTH-001", rec.Code, rec.Body)
	}
	if st := n.status(t.Context()); st.Status != "unhealthy" || len(st.Reasons) != 1 {
		t.Errorf("status %+v, want unhealthy with one reason", st)
	}
	rec := httptest.NewRecorder()
	n.Admin().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/dicomweb-oauth/live", nil))
	if rec.Code != http.StatusOK {
		t.Errorf("live: %d", rec.Code)
	}
}
