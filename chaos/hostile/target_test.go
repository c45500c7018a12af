//go:build chaos

package hostile

import (
	"bufio"
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// target is a fleet of three nodes, a provider and an archive that wants its
// tokens.
type target struct {
	idp   *idptest.IdP
	nodes []*fleet.Sidecar
	port  []int // of gossip
	keys  []string
	ring  [][]byte // the gossip secret
}

// password of the data path; its hash is the cheapest that is allowed.
const password = "canary-user-word"

// options change a target.
type options struct {
	keys int
	// advertise is the port that node i tells others, if not its own.
	advertise func(i, port int) int
}

func newTarget(t *testing.T, opts options) *target {
	t.Helper()
	f, err := fleet.New(context.WithoutCancel(t.Context()), fleet.Options{})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range f.Processes() {
				t.Logf("the last of %s:\n%s", p.Name, p.Log(2<<10))
			}
		}
		f.Close()
	})
	client := idptest.Client{ID: "radiology", Secrets: []string{"canary-client-word"}}
	tg := &target{idp: idptest.New(idptest.Options{Clients: []idptest.Client{client}})}
	issuer, err := idptest.Listen(tg.idp, idptest.ServerOptions{})
	must(t, err)
	t.Cleanup(issuer.Close)
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	archive, err := idptest.Listen(idptest.NewGate(idptest.GateConfig{State: tg.idp.State, Handler: ok}), idptest.ServerOptions{})
	must(t, err)
	t.Cleanup(archive.Close)
	secret := make([]byte, 32)
	rand.Read(secret)
	tg.ring = [][]byte{secret}
	file, err := f.WriteFile("client-secret", []byte(client.Secrets[0]))
	must(t, err)
	servers := map[string]any{}
	for i := range opts.keys {
		name := "archive" + strconv.Itoa(i)
		tg.keys = append(tg.keys, name)
		servers[name] = map[string]any{
			"Url": archive.URL + "/dicom-web/", "TokenEndpoint": issuer.URL + "/token", "Scope": name,
			"ClientId": client.ID, "ClientSecretFile": file,
		}
	}
	tg.start(t, f, servers, opts)
	tg.together(t)
	return tg
}

func (tg *target) start(t *testing.T, f *fleet.Fleet, servers map[string]any, opts options) {
	t.Helper()
	var peers []string
	for range 3 {
		port, err := f.Port()
		must(t, err)
		tg.port = append(tg.port, port)
		peers = append(peers, "127.0.0.1:"+strconv.Itoa(port))
	}
	users, err := usersLine()
	must(t, err)
	for i, port := range tg.port {
		gossip := map[string]any{
			"Name": string(rune('a' + i)), "BindAddr": "127.0.0.1", "BindPort": port, "Peers": peers,
			"SecretKey": base64.StdEncoding.EncodeToString(tg.ring[0]),
		}
		if opts.advertise != nil {
			gossip["AdvertisePort"] = opts.advertise(i, port)
		}
		n, err := f.Sidecar(t.Context(), fleet.SidecarConfig{
			Binary: os.Getenv(binaryVar), Name: gossip["Name"].(string),
			Section: map[string]any{"CacheBackend": "gossip", "Servers": servers, "Gossip": gossip},
			Users:   users, User: "modality", Password: password, Token: "canary-admin-word",
		})
		must(t, err)
		tg.nodes = append(tg.nodes, n)
	}
}

func usersLine() (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt)
	sum, err := pbkdf2.Key(sha256.New, password, salt, 10_000, sha256.Size)
	code := func(b []byte) string {
		return strings.ReplaceAll(base64.RawStdEncoding.EncodeToString(b), "+", ".")
	}
	return fmt.Sprintf("modality:$pbkdf2-sha256$10000$%s$%s\n", code(salt), code(sum)), err
}

// clusterView is what tests look at of GET /dicomweb-oauth/cluster.
type clusterView struct {
	Refused int64 `json:"refused_connections"`
	Members []struct{ Name, ID, State, Address string }
	Leaders []struct{ Server, Leader string }
}

func view(ctx context.Context, n *fleet.Sidecar) (clusterView, error) {
	var v struct{ Data clusterView }
	err := n.Get(ctx, "/dicomweb-oauth/cluster", &v)
	return v.Data, err
}

// together waits until every node sees three.
func (tg *target) together(t *testing.T) {
	t.Helper()
	must(t, fleet.Eventually(t.Context(), 30*time.Second, func(ctx context.Context) error {
		for _, n := range tg.nodes {
			if v, err := view(ctx, n); err != nil || len(v.Members) != len(tg.nodes) {
				return fmt.Errorf("%s sees %d members, %w", n.Name, len(v.Members), err)
			}
		}
		return nil
	}))
}

// get makes one request through a node's data path.
func get(ctx context.Context, n *fleet.Sidecar, key string) error {
	_, err := n.Data.Do(ctx, http.MethodGet, "/"+key+"/studies?limit=1", "", nil)
	return err
}

// warm has every node hold a token of every key.
func (tg *target) warm(t *testing.T) {
	t.Helper()
	for _, n := range tg.nodes {
		for _, key := range tg.keys {
			must(t, get(t.Context(), n, key))
		}
	}
}

// loadKey is the server that clients send to; the others are for cold gets.
const loadKey = "archive0"

// notLedBy returns the keys for cold gets that another node than n leads.
func (tg *target) notLedBy(t *testing.T, n *fleet.Sidecar) (keys []string) {
	t.Helper()
	v, err := view(t.Context(), n)
	must(t, err)
	for _, l := range v.Leaders {
		if l.Leader != n.Name && l.Server != loadKey {
			keys = append(keys, l.Server)
		}
	}
	return keys
}

// memory is what the kernel says of a process.
type memory struct{ now, peak float64 } // MiB

func memoryOf(n *fleet.Sidecar) (m memory, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Pid))
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			m.now = kib / 1024
		case "VmHWM:":
			m.peak = kib / 1024
		}
	}
	return m, err
}

// clients send through nodes until stop, and remember what failed.
type clients struct {
	stop func()

	mu     sync.Mutex
	sends  int
	failed []error
}

func (tg *target) send(t *testing.T, nodes ...*fleet.Sidecar) *clients {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	c := &clients{stop: func() { cancel(); all.Wait() }}
	t.Cleanup(c.stop)
	for _, n := range nodes {
		all.Go(func() {
			for ctx.Err() == nil {
				err := get(ctx, n, loadKey)
				if errors.Is(err, context.Canceled) {
					return
				}
				c.note(err)
				rest(ctx, 20*time.Millisecond)
			}
		})
	}
	return c
}

func (c *clients) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sends++
	if err != nil {
		c.failed = append(c.failed, err)
	}
}

// ended stops the clients and asserts that none failed.
func (c *clients) ended(t *testing.T) int {
	t.Helper()
	c.stop()
	if c.sends == 0 || len(c.failed) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(c.failed), c.sends, errors.Join(c.failed[:min(3, len(c.failed))]...))
	}
	return c.sends
}

// percentile returns the nearest rank.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, (len(sorted)*p+99)/100-1)]
}

// metric adds up the samples of a counter whose labels hold text.
func metric(ctx context.Context, n *fleet.Sidecar, name, labels string) (total float64, err error) {
	raw, err := n.Do(ctx, http.MethodGet, "/dicomweb-oauth/metrics", "", nil)
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, name) && strings.Contains(line, labels) {
			v, _ := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			total += v
		}
	}
	return total, err
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
