//go:build chaos

package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/internal/fleet"
)

// Servers of every orthanc.json: the archive behind the gate, and the same past
// it, without OAuth.
const (
	archive = "archive"
	control = "control"
)

// The demo's credentials, of config/.
const (
	demoUser, demoWord = "demo", "demo-value-only"
	clientID           = "radiology"
	gateUser           = "gate"
)

// container is one that things are done to.
type container struct {
	service string
	engine  *engine

	mu      sync.Mutex
	id, pid string
	addr    string
}

// refresh reads what a start may have changed.
func (c *container) refresh(ctx context.Context) error {
	id, err := c.engine.container(ctx, c.service)
	if err != nil {
		return err
	}
	out, err := c.engine.do(ctx, "inspect", "-f", "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id)
	if err != nil {
		return err
	}
	pid, addr, _ := strings.Cut(out, " ")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id, c.pid, c.addr = id, pid, addr
	return nil
}

// at returns the container's address and the process of its first program.
func (c *container) at() (addr, pid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addr, c.pid
}

func (c *container) do(ctx context.Context, verb string, args ...string) error {
	c.mu.Lock()
	id := c.id
	c.mu.Unlock()
	_, err := c.engine.do(ctx, slices.Concat([]string{verb}, args, []string{id})...)
	return err
}

// client returns one that asks the container directly, past the load balancer.
func (c *container) client(port string) fleet.Client {
	addr, _ := c.at()
	return fleet.Client{Base: "http://" + addr + ":" + port, HTTP: direct, User: demoUser, Password: demoWord}
}

// direct keeps no connection: an address may be another container's by then.
var direct = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// node is an Orthanc with the plugin.
type node struct {
	container
	number int
	world  *world
	lives  int
}

// startPatience is how long an Orthanc may take to register the archive on a
// busy machine.
const startPatience = 60 * time.Second

// ready waits until a node that was started lends tokens, and notes its life.
func (n *node) ready(ctx context.Context) error {
	if err := n.refresh(ctx); err != nil {
		return err
	}
	n.lives++
	n.world.moved(n)
	if err := n.world.links.Apply(ctx); err != nil { // a new namespace has none
		return err
	}
	err := fleet.Eventually(ctx, startPatience, func(ctx context.Context) error {
		o := fleet.Orthanc{Client: n.client("8042")}
		return errors.Join(o.Knows(ctx, archive), n.stoppable())
	})
	if err != nil {
		return fmt.Errorf("%s: %w", n.service, err)
	}
	n.world.time.Change(func(m *history.Moment) { m.Life[n.number] = n.lives })
	return nil
}

// stoppable returns an error while Orthanc does not mind SIGTERM yet.
func (n *node) stoppable() error {
	_, first := n.at()
	pid, err := strconv.Atoi(first)
	if err != nil {
		return fmt.Errorf("%s has no process: %w", n.service, err)
	}
	return fleet.Catches(pid, syscall.SIGTERM)
}

// host is the node's name among the others.
func (n *node) host() string { return fmt.Sprintf("orthanc-%d", n.number+1) }

// ours reports whether a name is that of a node.
func (w *world) ours(name string) bool {
	return slices.ContainsFunc(w.nodes, func(n *node) bool { return n.host() == name })
}

// gone notes that the node lives no more, before anything is done to it.
func (n *node) gone() { n.world.time.Change(func(m *history.Moment) { m.Life[n.number] = 0 }) }

func (n *node) start(ctx context.Context) error {
	if err := n.do(ctx, "start"); err != nil {
		return err
	}
	return n.ready(ctx)
}

func (n *node) stop(ctx context.Context) error {
	n.gone()
	if err := n.do(ctx, "stop", "-t", "10"); err != nil {
		return err
	}
	return n.world.ended(ctx, n)
}

// view is what a node says of the fleet.
type view struct {
	Members []struct{ Name, State string }
	Leaders []struct {
		Server, Leader string
		Order          []string
	}
	Fingerprints []string `json:"key_fingerprints"`
}

func (n *node) view(ctx context.Context) (view, error) {
	var v struct{ Data view }
	err := n.client("8042").Get(ctx, "/dicomweb-oauth/cluster", &v)
	return v.Data, err
}

// sees returns an error unless the node sees all nodes alive, and the order that
// it sees.
func (n *node) sees(ctx context.Context, all int) (string, error) {
	v, err := n.view(ctx)
	if err != nil {
		return "", err
	}
	alive := 0
	for _, m := range v.Members {
		if m.State == "alive" {
			alive++
		}
	}
	if alive != all || len(v.Leaders) != 1 {
		return "", fmt.Errorf("%s sees %d of %d nodes", n.service, alive, all)
	}
	return strings.Join(v.Leaders[0].Order, " "), nil
}

// server is what a node says of the archive.
type server struct {
	Valid bool   `json:"token_valid"`
	Key   string `json:"key_prefix"`
}

func (n *node) server(ctx context.Context) (server, error) {
	var v struct{ Data struct{ Servers []server } }
	err := n.client("8042").Get(ctx, "/dicomweb-oauth/servers", &v)
	if err != nil || len(v.Data.Servers) != 1 {
		return server{}, errors.Join(err, fmt.Errorf("%s has %d servers, want one", n.service, len(v.Data.Servers)))
	}
	return v.Data.Servers[0], nil
}

// healthy returns an error unless the node holds a token that is valid.
func (n *node) healthy(ctx context.Context) error {
	v, err := n.server(ctx)
	if err == nil && !v.Valid {
		err = errors.New(n.service + " holds no valid token")
	}
	return err
}

// version is what the node says of its plugin.
func (n *node) version(ctx context.Context) (string, error) {
	raw, err := n.client("8042").Do(ctx, http.MethodGet, "/dicomweb-oauth/status", "", nil)
	var v struct {
		Version string `json:"plugin_version"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	return v.Version, err
}
