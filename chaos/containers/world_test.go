//go:build chaos

package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"orthanc-oauth/chaos/canary"
	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/storm"
	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

const (
	orthancs = 3
	// lifetime of a token: renewed every half minute, so that many faults meet a
	// renewal.
	lifetime = 45 * time.Second
	// renewal is the age at which a token of that life is renewed: a third before
	// its end, or up to a twentieth sooner.
	renewal = lifetime * 2 / 3
)

// store is the number that Redis has among the nodes.
const store = orthancs

// world is the fleet, what stands around it, and the truth about both.
type world struct {
	backend  string
	engine   *engine
	time     *history.Timeline
	nodes    []*node
	idp      *container
	remote   *container
	redis    []*container
	sentinel *container
	port     string // of the load balancer
	metrics  string // of Prometheus

	mu        sync.Mutex
	addresses []address
	secrets   canary.Secrets
	previous  string       // version that upgrades come from; empty: this one
	logs      canary.Sinks // of containers that are gone
	revoked   []time.Duration
	crashes   []string // of ours
	aborts    int      // of Orthanc

	links        *storm.Links
	unborn       bool   // the nodes have no filters yet
	clientSecret string // name of the present one among the secrets
}

// address is one that a node has from an instant on.
type address struct {
	at   time.Duration
	addr string
	node int
}

// shares says who can be one component, by backend.
func shares(backend string) func(a, b int) bool {
	switch backend {
	case "redis":
		return func(a, b int) bool { return a == store || b == store }
	case "memory":
		return func(int, int) bool { return false }
	}
	return nil
}

func newWorld(ctx context.Context, backend string) (*world, error) {
	w := &world{
		backend: backend, secrets: canary.Secrets{}, logs: canary.Sinks{},
		unborn: true, clientSecret: "client.secret",
	}
	count := orthancs
	if backend == "redis" {
		count++
	}
	w.time = history.NewTimeline(count, shares(backend))
	w.links = storm.NewLinks(w.time, w.filters)
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	w.port, w.metrics = ports[0], ports[1]
	w.engine, err = newEngine(ctx, fmt.Sprintf("oauth-chaos-%d", os.Getpid()), []string{
		"COMPOSE_PROFILES=" + backend, "TOKEN_LIFETIME=" + lifetime.String(), "PORT=" + w.port, "PROMETHEUS_PORT=" + w.metrics,
		"ORTHANC_TAG=" + this, "HEALTH_INTERVAL=1m", "DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0", "COMPOSE_PARALLEL_LIMIT=16",
	})
	return w, err
}

// freePorts returns ports that are free now; the balancer and Prometheus take
// them a moment later.
func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed at once
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

// images are built from what `make build` has left, and cached by the engine.
func (w *world) images(ctx context.Context) error {
	for _, file := range []string{"orthanc-oauth", "libOrthancDicomWebOAuth.so"} {
		if _, err := os.Stat(filepath.Join("..", "..", "build", file)); err != nil {
			return fmt.Errorf("run `make build` first: %w", err)
		}
	}
	if _, err := w.engine.do(ctx, "image", "inspect", "debian:bookworm-slim"); err != nil {
		if _, err := w.engine.do(ctx, "pull", "-q", "debian:bookworm-slim"); err != nil {
			return fmt.Errorf("no registry gives debian:bookworm-slim: run `make chaos-base` first: %w", err)
		}
	}
	if _, err := w.engine.composed(ctx, "--profile", "sidecar", "--profile", "stranger", "build"); err != nil {
		return err
	}
	return w.imageBefore(ctx)
}

// Tags of the images of Orthanc: with this version of the plugin, and with the
// one before.
const this, before = "dev", "before"

// imageBefore builds the image that upgrades come from, of what `make before`
// has left. Where that is nothing, both are this version.
func (w *world) imageBefore(ctx context.Context) error {
	version, err := os.ReadFile(filepath.Join("..", "..", "build", "before", "version"))
	if errors.Is(err, os.ErrNotExist) {
		_, err = w.engine.do(ctx, "tag", "orthanc-oauth/orthanc:"+this, "orthanc-oauth/orthanc:"+before)
		return err
	}
	if err == nil {
		w.previous = strings.TrimSpace(string(version))
		_, err = w.engine.with("ORTHANC_TAG="+before, "ORTHANC_BUILD=build/before").composed(ctx, "build", w.backend+"-1")
	}
	return err
}

// up starts everything and waits until all nodes lend tokens.
func (w *world) up(ctx context.Context) error {
	if _, err := w.engine.composed(ctx, "up", "-d"); err != nil {
		return err
	}
	others := map[string]**container{"idp": &w.idp, "remote": &w.remote}
	for service, at := range others {
		*at = &container{service: service, engine: w.engine}
		if err := (*at).refresh(ctx); err != nil {
			return err
		}
	}
	for i := range orthancs {
		n := &node{number: i, world: w, container: container{service: fmt.Sprintf("%s-%d", w.backend, i+1), engine: w.engine}}
		w.nodes = append(w.nodes, n)
	}
	if w.backend == "redis" {
		w.redis = []*container{{service: "redis-primary", engine: w.engine}, {service: "redis-replica", engine: w.engine}}
		w.sentinel = &container{service: "sentinel-1", engine: w.engine}
		for _, c := range append(slices.Clone(w.redis), w.sentinel) {
			if err := c.refresh(ctx); err != nil {
				return err
			}
		}
		w.time.Change(func(m *history.Moment) { m.Life[store] = 1 })
	}
	if err := w.each(func(n *node) error { return n.refresh(ctx) }); err != nil {
		return err
	}
	w.unborn = false
	if err := w.each(func(n *node) error { return n.ready(ctx) }); err != nil {
		return err
	}
	return w.learn(ctx)
}

// learn reads the secrets that were made at the start.
func (w *world) learn(ctx context.Context) error {
	for _, name := range []string{"gossip.key", "stranger.key", "client.secret", "redis.password", "admin.token", "user.password"} {
		secret, err := w.nodes[0].exec(ctx, "cat", secrets+name)
		if err != nil {
			return err
		}
		w.keep(name, secret)
	}
	return nil
}

// keep notes a secret that must stand nowhere.
func (w *world) keep(name, secret string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets[name] = secret
}

func (w *world) secret(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.secrets[name]
}

func (c *container) exec(ctx context.Context, args ...string) (string, error) {
	c.mu.Lock()
	id := c.id
	c.mu.Unlock()
	return c.engine.do(ctx, append([]string{"exec", id}, args...)...)
}

// write replaces a file of a container that has no shell, for the account that
// all images use.
func (c *container) write(name, text string) error {
	_, pid := c.at()
	path := filepath.Join("/proc", pid, "root", name)
	err := os.WriteFile(path+".next", []byte(text+"\n"), 0o600)
	if err == nil {
		err = os.Chown(path+".next", account, account)
	}
	if err == nil {
		err = os.Rename(path+".next", path)
	}
	return err
}

// take reads a file of a container that has no shell, and removes it.
func (c *container) take(name string) (string, error) {
	_, pid := c.at()
	path := filepath.Join("/proc", pid, "root", name)
	raw, err := os.ReadFile(path)
	return strings.TrimSpace(string(raw)), errors.Join(err, os.Remove(path))
}

// account is the one that the images run as.
const account = 10001

// moved notes a node's present address.
func (w *world) moved(n *node) {
	addr, _ := n.at()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addresses = append(w.addresses, address{w.time.Now(), addr, n.number})
}

// nodeAt tells nodes by their addresses; -1 where it is no node's.
func (w *world) nodeAt(addr string, when time.Duration) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := -1
	for _, a := range w.addresses {
		if a.addr == addr && (a.at <= when || found < 0) {
			found = a.node
		}
	}
	return found
}

// provider controls the provider and the gate.
func (w *world) provider() idptest.Remote {
	addr, _ := w.idp.at()
	return idptest.Remote{URL: "http://" + addr + ":9001", Client: direct}
}

// load puts the studies that will be sent into each node, and those that will
// be retrieved into the archive.
func (w *world) load(ctx context.Context, sent, kept []fleet.Study) error {
	err := w.each(func(n *node) error {
		for _, s := range sent {
			if err := put(ctx, n.client("8042"), s); err != nil {
				return err
			}
		}
		return nil
	})
	for _, s := range kept {
		if err == nil {
			c := w.remote.client("8042")
			c.User = gateUser
			err = put(ctx, c, s)
		}
	}
	return err
}

func put(ctx context.Context, c fleet.Client, s fleet.Study) error {
	for _, d := range s.Instances {
		if _, err := c.Do(ctx, http.MethodPost, "/instances", "application/dicom", bytes.NewReader(d.Raw)); err != nil {
			return err
		}
	}
	return nil
}

// converged returns an error unless all nodes hold valid tokens and, with gossip,
// see one ring.
func (w *world) converged(ctx context.Context) error {
	if w.backend != "gossip" {
		return w.each(func(n *node) error { return n.healthy(ctx) })
	}
	var mu sync.Mutex
	orders := map[string]int{}
	err := w.each(func(n *node) error {
		order, err := n.sees(ctx, len(w.nodes))
		mu.Lock()
		defer mu.Unlock()
		orders[order]++
		return errors.Join(err, n.healthy(ctx))
	})
	if err == nil && len(orders) != 1 {
		err = fmt.Errorf("the ring has %d shapes: %v", len(orders), orders)
	}
	return err
}

// counted returns an error unless the nodes' metrics add up to what the provider
// has counted, as they must until the first of them starts anew.
func (w *world) counted(ctx context.Context) error {
	sum := 0
	for _, n := range w.nodes {
		// A node that has not asked yet has no such metric.
		asked, err := n.client("8042").Metric(ctx, "orthanc_oauth_token_acquisitions_total")
		if err == nil {
			sum += int(asked)
		}
	}
	report, err := w.provider().Report(ctx)
	if err == nil && report.IdP.Total != sum {
		err = fmt.Errorf("the nodes say that they have asked %d times, the provider counted %d", sum, report.IdP.Total)
	}
	return err
}

// each calls f for all nodes at once.
func (w *world) each(f func(n *node) error) error {
	errs := make([]error, len(w.nodes))
	var all sync.WaitGroup
	for i, n := range w.nodes {
		all.Go(func() { errs[i] = f(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// killed is the exit code of a process that did not end by itself: 128 and SIGKILL.
const killed = "137"

// ended returns an error if a node that was told to stop did not, and notes a
// crash: no host must ever crash by us. Orthanc 1.10.1 with dicom-web 1.7 often
// does so by itself where jobs of DICOMweb are under way ("SingleFunctionJob must
// explicitly call Finalize()"), without our plugin as well: that is counted. A
// crash of ours leaves a trace of goroutines.
func (w *world) ended(ctx context.Context, n *node) error {
	code, err := w.engine.do(ctx, "inspect", "-f", "{{.State.ExitCode}}", n.id)
	if err != nil || code == "0" {
		return err
	}
	text, err := w.engine.logs(ctx, n.id, "--tail", "200")
	if code == killed {
		return errors.Join(err, fmt.Errorf("%s was told to stop and had to be killed at %v:\n%s", n.service, w.time.Now().Round(time.Millisecond), text))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !bytes.Contains(text, []byte("goroutine ")) {
		w.aborts++
		return err
	}
	w.crashes = append(w.crashes, fmt.Sprintf("%s ended with code %s at %v:\n%s", n.service, code, w.time.Now().Round(time.Millisecond), text))
	return err
}

// keepLog takes the log of a container that is about to be replaced.
func (w *world) keepLog(ctx context.Context, name, id string) error {
	text, err := w.engine.logs(ctx, id)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logs[fmt.Sprintf("the log of %s, %d", name, len(w.logs))] = text
	return err
}

// book reads the provider's and the gate's books, once the run is over.
func (w *world) book(ctx context.Context) (*history.Book, int, error) {
	requests, err := w.provider().Requests(ctx)
	if err != nil {
		return nil, 0, err
	}
	uses, err := w.provider().Uses(ctx)
	if err != nil {
		return nil, 0, err
	}
	book := history.NewBook(w.time)
	for _, r := range requests {
		arrived := w.time.When(r.At)
		if r.Token == "" {
			book.Refusals = append(book.Refusals, arrived+r.Took)
			continue
		}
		book.Granted(&history.Grant{
			Key: archive, Token: r.Token, Node: w.nodeAt(r.From, arrived), Life: lifetime, Arrived: arrived, Served: arrived + r.Took,
		})
	}
	for _, at := range w.revoked {
		book.Revoke(archive, at)
	}
	for _, u := range uses {
		if at := w.time.When(u.At); w.nodeAt(u.From, at) >= 0 {
			book.Presented(w.nodeAt(u.From, at), archive, u.Token, at)
		}
	}
	return book, len(requests), nil
}

// leaks returns what planted secrets stand in any container's log or any node's
// answers, and how many bytes were searched.
func (w *world) leaks(ctx context.Context) (found []string, searched int, err error) {
	tokens, err := w.provider().Tokens(ctx)
	if err != nil {
		return nil, 0, err
	}
	planted := canary.Secrets{}
	maps.Copy(planted, w.secrets)
	for i, t := range tokens {
		planted["token "+strconv.Itoa(i)] = t
	}
	ids, err := w.engine.all(ctx)
	for _, id := range ids {
		if err == nil {
			var name string
			name, err = w.engine.do(ctx, "inspect", "-f", "{{.Name}}", id)
			err = errors.Join(err, w.keepLog(ctx, strings.TrimPrefix(name, "/"), id))
		}
	}
	for _, n := range w.nodes {
		for _, route := range []string{"metrics", "servers", "cluster", "status"} {
			if raw, bad := n.client("8042").Do(ctx, http.MethodGet, "/dicomweb-oauth/"+route, "", nil); bad == nil {
				w.logs[route+" of "+n.service] = raw
			}
		}
	}
	for _, text := range w.logs {
		searched += len(text)
	}
	return w.logs.Leaks(planted), searched, err
}
