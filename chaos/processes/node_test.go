//go:build chaos

package processes

import (
	"bufio"
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/internal/fleet"
)

const (
	userName  = "modality"
	userWord  = "canary-user-word"
	adminWord = "canary-admin-word"
)

// node is a process that is started again and again in one place.
type node struct {
	number  int
	place   place
	binary  string
	file    string // its configuration
	data    string // base URLs
	admin   string
	client  *http.Client
	fleet   *fleet.Fleet
	time    *history.Timeline
	mu      sync.Mutex
	process *fleet.Process
	lives   int
}

// ports are the same for all nodes: each has an address of its own.
type ports struct{ gossip, data, admin int }

func (p ports) of(place place) (gossip, data, admin string) {
	host := place.addr
	api := host // on loopback each node has an address; in a namespace loopback is its own
	if place.name != "" {
		api = "127.0.0.1"
	}
	join := func(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
	return join(host, p.gossip), join(api, p.data), join(api, p.admin)
}

// newNode writes the configuration of a node.
func newNode(n int, w *world) (*node, error) {
	where := w.net.nodes[n]
	_, data, admin := w.ports.of(where)
	peers := make([]string, len(w.net.nodes))
	for i, p := range w.net.nodes {
		peers[i], _, _ = w.ports.of(p)
	}
	servers := map[string]any{}
	for _, key := range w.out.keys {
		servers[key] = map[string]any{
			"Url":              w.out.archive.url(fmt.Sprintf("/%d/%s/", n, key)),
			"TokenEndpoint":    w.out.issuer.url("/token/" + key),
			"ClientId":         w.client.ID,
			"ClientSecretFile": w.secretFile,
			"VerifySSL":        w.caFile,
		}
	}
	section := map[string]any{
		"CacheBackend": "gossip", "Servers": servers, "UsersFile": w.usersFile, "AdminTokenFile": w.tokenFile,
		"Listen": data, "AdminListen": admin,
		"Gossip": map[string]any{
			"Name": "n" + strconv.Itoa(n), "BindAddr": where.addr, "BindPort": w.ports.gossip, "Peers": peers, "SecretKey": w.gossipKey,
		},
	}
	raw, err := json.Marshal(map[string]any{"DicomWebOAuth": section})
	if err != nil {
		return nil, err
	}
	file, err := w.fleet.WriteFile(fmt.Sprintf("n%d.json", n), raw)
	transport := &http.Transport{DialContext: where.dial, MaxIdleConnsPerHost: 8}
	return &node{
		number: n, place: where, binary: os.Getenv(binaryVar), file: file, fleet: w.fleet, time: w.time,
		data: "http://" + data, admin: "http://" + admin, client: &http.Client{Transport: transport},
	}, err
}

// usersLine is a line of a users file with the least work that is allowed.
func usersLine() (string, error) {
	const least = 10_000
	salt := make([]byte, 16)
	rand.Read(salt)
	sum, err := pbkdf2.Key(sha256.New, userWord, salt, least, sha256.Size)
	code := func(b []byte) string {
		return strings.ReplaceAll(base64.RawStdEncoding.EncodeToString(b), "+", ".")
	}
	return fmt.Sprintf("%s:$pbkdf2-sha256$%d$%s$%s\n", userName, least, code(salt), code(sum)), err
}

// startPatience is how long a node may take to answer on a busy machine.
const startPatience = 30 * time.Second

// start starts the process, waits until it is live, and notes its new life.
func (n *node) start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lives++
	line := n.place.command(n.binary, "serve", n.file)
	p, err := n.fleet.Start(fleet.Spec{Name: fmt.Sprintf("n%d-%d", n.number, n.lives), Path: line[0], Args: line[1:]})
	if err != nil {
		return err
	}
	n.process = p
	err = fleet.Eventually(ctx, startPatience, func(ctx context.Context) error {
		if !p.Running() {
			return fleet.Final(errors.New("has ended: " + p.Log(2<<10)))
		}
		_, err := n.ask(ctx, http.MethodGet, n.admin+"/dicomweb-oauth/live")
		return err
	})
	if err != nil {
		return fmt.Errorf("node %d: %w", n.number, err)
	}
	n.time.Change(func(m *history.Moment) { m.Life[n.number] = n.lives })
	return nil
}

// gone notes that the node lives no more, before anything is done to it.
func (n *node) gone() { n.time.Change(func(m *history.Moment) { m.Life[n.number] = 0 }) }

func (n *node) kill() {
	n.gone()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.process.Kill()
	n.client.CloseIdleConnections()
}

// stopBound is what a graceful stop may take (protocol.md, Leave), and some for
// a machine whose two cores run a whole fleet.
const stopBound = 5 * time.Second

// leave ends the process with SIGTERM.
func (n *node) leave() error {
	n.gone()
	n.mu.Lock()
	defer n.mu.Unlock()
	began := time.Now()
	n.process.Stop()
	n.client.CloseIdleConnections()
	if took := time.Since(began); took > stopBound || n.process.ExitCode() != 0 {
		return fmt.Errorf("node %d: stop took %v, exit code %d: %s", n.number, took, n.process.ExitCode(), n.process.Log(1<<10))
	}
	return nil
}

// freeze and thaw are SIGSTOP and SIGCONT.
func (n *node) freeze() error {
	n.gone()
	return n.process.Signal(syscall.SIGSTOP)
}

func (n *node) thaw() error {
	err := n.process.Signal(syscall.SIGCONT)
	n.time.Change(func(m *history.Moment) { m.Life[n.number] = n.lives })
	return err
}

// answer is any answer, success or not.
type answer struct {
	status int
	body   []byte
}

func (n *node) ask(ctx context.Context, method, url string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return answer{}, err
	}
	if strings.HasPrefix(url, n.admin) {
		req.Header.Set("Authorization", "Bearer "+adminWord)
	} else {
		req.SetBasicAuth(userName, userWord)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return answer{resp.StatusCode, body}, err
}

// view is what a node thinks of the fleet.
type view struct {
	Joined  bool
	Members []viewed
	Leaders []struct {
		Server, Leader string
		Order          []string
	}
}

// viewed is a member as a node sees it.
type viewed struct{ Name, ID, Address, State string }

func (n *node) view(ctx context.Context) (view, error) {
	a, err := n.ask(ctx, http.MethodGet, n.admin+"/dicomweb-oauth/cluster")
	if err != nil {
		return view{}, err
	}
	var v struct{ Data view }
	err = json.Unmarshal(a.body, &v)
	return v.Data, err
}

// sees returns an error unless n sees all nodes alive, and the orders it sees.
func (n *node) sees(ctx context.Context, all int) (orders string, err error) {
	v, err := n.view(ctx)
	if err != nil {
		return "", err
	}
	var alive []string
	for _, m := range v.Members {
		if m.State == "alive" {
			alive = append(alive, m.Name)
		}
	}
	slices.Sort(alive)
	if len(alive) != all {
		return "", fmt.Errorf("node %d sees %v, want %d", n.number, alive, all)
	}
	return fmt.Sprint(v.Leaders), nil
}

// usage is what a process holds.
type usage struct{ goroutines, descriptors, memory float64 }

func (n *node) usage(ctx context.Context) (u usage, err error) {
	a, err := n.ask(ctx, http.MethodGet, n.admin+"/dicomweb-oauth/metrics")
	if err != nil {
		return u, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(a.body)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		number, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_goroutines":
			u.goroutines = number
		case "process_open_fds":
			u.descriptors = number
		case "process_resident_memory_bytes":
			u.memory = number
		}
	}
	if u.goroutines == 0 {
		return u, fmt.Errorf("node %d shows no metrics", n.number)
	}
	return u, nil
}
