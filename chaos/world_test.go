package chaos

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// archive is the name that every node gives to the remote server.
const archive = "archive"

// patience is how long a condition may take to become true on a busy machine.
const patience = 40 * time.Second

// world is the outside of a fleet: a scripted provider, a DICOMweb server behind
// a gate that wants the provider's tokens, and a folder for processes.
type world struct {
	fleet  *fleet.Fleet
	idp    *idptest.IdP
	others []*idptest.IdP  // whose tokens the gate takes as well
	issuer *idptest.Server // the provider's address
	gate   *idptest.Gate
	front  *idptest.Server // the gate's address
	client idptest.Client
	secret string // file of the client secret
	key    string // of gossip

	password string   // of the user of real Orthancs
	env      []string // of real Orthancs
}

// worldOptions change a world.
type worldOptions struct {
	fleet    *fleet.Fleet // nil: one of its own
	upstream *url.URL     // a real DICOMweb server; nil: a small one in this process
	tls      *tls.Config  // of provider and gate
	sink     bool         // the small one keeps nothing: studies of any size
}

func newWorld(t *testing.T, opts worldOptions) *world {
	t.Helper()
	w := &world{fleet: opts.fleet, key: randomKey(), password: "canary-orthanc-" + randomWord(), client: idptest.Client{ID: "radiology", Secrets: []string{"canary-client-" + randomWord()}}}
	if w.fleet == nil {
		w.fleet = newFleet(t)
	}
	w.idp = idptest.New(idptest.Options{Clients: []idptest.Client{w.client}})
	gate := idptest.GateConfig{State: w.state, Upstream: opts.upstream}
	if opts.upstream == nil {
		gate.Handler = idptest.NewTarget(idptest.TargetConfig{Discard: opts.sink})
	}
	w.gate = idptest.NewGate(gate)
	t.Cleanup(w.gate.Close)
	w.issuer = listen(t, w.idp, idptest.ServerOptions{TLS: opts.tls})
	w.front = listen(t, w.gate, idptest.ServerOptions{TLS: opts.tls})
	w.secret = w.write(t, "client-secret", w.client.Secrets[0])
	return w
}

// newFleet makes a fleet that shows the last words of its processes if the test
// fails. It outlives the test's context, which ends before clean-up begins.
func newFleet(t *testing.T) *fleet.Fleet {
	t.Helper()
	f, err := fleet.New(context.WithoutCancel(t.Context()), fleet.Options{})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range f.Processes() {
				t.Logf("the last of %s:\n%s", p.Name, p.Log(8<<10))
			}
		}
		f.Close()
	})
	return f
}

func (w *world) write(t *testing.T, name, content string) string {
	t.Helper()
	path, err := w.fleet.WriteFile(name, []byte(content))
	must(t, err)
	return path
}

func (w *world) port(t *testing.T) int {
	t.Helper()
	port, err := w.fleet.Port()
	must(t, err)
	return port
}

// server is one entry of Servers.
func (w *world) server() map[string]any {
	return map[string]any{
		"Url":              w.front.URL + "/dicom-web/",
		"TokenEndpoint":    w.issuer.URL + "/token",
		"ClientId":         w.client.ID,
		"ClientSecretFile": w.secret,
		"Scope":            "dicom",
	}
}

// section is all that an operator writes: changes are merged into it.
func (w *world) section(backend string, changes ...map[string]any) map[string]any {
	section := map[string]any{"CacheBackend": backend, "Servers": map[string]any{archive: w.server()}}
	for _, change := range changes {
		maps.Copy(section, change)
	}
	return section
}

// gossip is the Gossip section of a node that binds port and knows the peers'.
func (w *world) gossip(name string, port int, peers ...int) map[string]any {
	addrs := make([]string, len(peers))
	for i, p := range peers {
		addrs[i] = "127.0.0.1:" + strconv.Itoa(p)
	}
	return map[string]any{"Name": name, "BindAddr": "127.0.0.1", "BindPort": port, "Peers": addrs, "SecretKey": w.key}
}

// state asks every provider about a token.
func (w *world) state(token string) idptest.TokenState {
	for _, idp := range append([]*idptest.IdP{w.idp}, w.others...) {
		if state := idp.State(token); state != idptest.Unknown {
			return state
		}
	}
	return idptest.Unknown
}

// requests is how many token requests the provider has counted.
func (w *world) requests() int { return w.idp.Counts().Total }

// counted asserts the provider's count.
func (w *world) counted(t *testing.T, want int) {
	t.Helper()
	if c := w.idp.Counts(); c.Total != want {
		t.Errorf("the provider counted %d token requests (%v), want %d", c.Total, c.ByAnswer, want)
	}
}

// study makes up a small study.
func study(number, instances int) fleet.Study {
	s := fleet.Study{UID: fmt.Sprintf("1.2.826.0.1.3680043.10.1337.%d", number), Patient: "Chaos", Modality: "OT"}
	for n := range instances {
		d := idptest.Instance{
			Class: "1.2.840.10008.5.1.4.1.1.7", SOP: fmt.Sprintf("%s.1.%d", s.UID, n+1), Series: s.UID + ".1", Study: s.UID,
			StudyDate: "20240229", Modality: s.Modality, PatientName: s.Patient, PatientID: "CHAOS",
		}
		d.Raw = d.Encode(512)
		s.Instances = append(s.Instances, d)
	}
	return s
}

func listen(t *testing.T, h http.Handler, opts idptest.ServerOptions) *idptest.Server {
	t.Helper()
	s, err := idptest.Listen(h, opts)
	must(t, err)
	t.Cleanup(s.Close)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until check returns nil.
func eventually(t *testing.T, check func(ctx context.Context) error) {
	t.Helper()
	must(t, fleet.Eventually(t.Context(), patience, check))
}

// randomKey returns 32 random bytes in base64, as keygen does.
func randomKey() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

func randomWord() string { return strings.ToLower(rand.Text()) }
