package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"orthanc-oauth/cluster/memnet"
)

// secret returns a key of the ring that differs by n.
func secret(n byte) []byte { return bytes.Repeat([]byte{n}, minSecret) }

// keyOf returns a key as tokens makes them.
func keyOf(n int) string {
	return strings.Repeat(fmt.Sprintf("%08x", uint32(n)*2654435761), 8)
}

// lab runs nodes on a network in memory, inside a bubble.
type lab struct {
	t     *testing.T
	net   *memnet.Net
	nodes []*Cluster
	hosts map[int]*memnet.Host
}

func newLab(t *testing.T) *lab {
	return &lab{t: t, net: memnet.New(1), hosts: make(map[int]*memnet.Host)}
}

func ip(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250+1) }

func ips(from, to int) []string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, ip(i))
	}
	return list
}

// config is that of node i in a fleet whose peer list names the first three.
func (l *lab) config(i int) Config {
	l.hosts[i] = l.net.Host(ip(i))
	return Config{
		Name:     fmt.Sprintf("node-%d", i),
		BindPort: 7946,
		Peers:    ips(0, 3),
		Secrets:  [][]byte{secret(1)},
		Network:  l.hosts[i],
		Keys:     []string{keyOf(1)},
		Handler:  http.HandlerFunc(answer),
		Log:      slog.New(slog.DiscardHandler),
	}
}

// answer tells who asked and how much.
func answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	m, _ := PeerFrom(r.Context())
	_, _ = fmt.Fprintf(w, "%s %s %d", m.ID, r.URL.Path, len(body))
}

// start starts a node of a changed config.
func (l *lab) start(i int, change ...func(*Config)) *Cluster {
	l.t.Helper()
	cfg := l.config(i)
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.nodes = append(l.nodes, c)
	return c
}

func (l *lab) fleet(n int, change ...func(*Config)) []*Cluster {
	for i := range n {
		l.start(i, change...)
	}
	return l.nodes
}

// end closes all nodes and lets memberlist's goroutines, which outlive its
// Shutdown, run out.
func (l *lab) end() {
	var wg sync.WaitGroup
	for _, c := range l.nodes {
		wg.Go(func() { _ = c.Close(context.Background()) })
	}
	wg.Wait()
	time.Sleep(15 * time.Second)
}

// within waits until ok returns nil, at most d.
func within(t *testing.T, d time.Duration, ok func() error) {
	t.Helper()
	start := time.Now()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Since(start) > d {
			t.Fatalf("after %v: %v", d, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// see returns an error unless every node sees n members.
func see(n int, nodes ...*Cluster) error {
	for _, c := range nodes {
		if got := len(c.Members()); got != n {
			return fmt.Errorf("%s sees %d of %d", c.Self().Name, got, n)
		}
	}
	return nil
}

// ask sends a POST to a member and checks who answered what.
func ask(ctx context.Context, from, to *Cluster, body string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "/x", strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := from.Do(req, to.Self())
	if err != nil {
		return err
	}
	got, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if want := fmt.Sprintf("%s /x %d", from.Self().ID, len(body)); err == nil && string(got) != want {
		err = fmt.Errorf("answer %q, want %q", got, want)
	}
	return errors.Join(err)
}

// lines keeps what was logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count(what string) int {
	n := 0
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}
