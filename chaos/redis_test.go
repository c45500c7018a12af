package chaos

import (
	"net/http"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"orthanc-oauth/internal/fleet"
)

// redisAt starts a redis-server on a port that was one's before.
func (w *world) redisAt(t *testing.T, tools fleet.Tools, name string, port int) *fleet.Process {
	t.Helper()
	p, err := w.fleet.Start(fleet.Spec{Name: name, Path: tools.Redis, Args: []string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", filepath.Dir(w.secret), "--save", "", "--appendonly", "no",
	}})
	must(t, err)
	return p
}

func (w *world) redisSection(port int) map[string]any {
	return w.section("redis", map[string]any{"Redis": map[string]any{"Host": "127.0.0.1", "Port": port}})
}

// soon is how long a request that needs no provider may take, whatever Redis
// does (faults.md, Available).
const soon = 2 * time.Second

// worksSoon returns an error unless a request succeeds, and in time.
func worksSoon(t *testing.T, nodes ...*fleet.Sidecar) {
	t.Helper()
	for _, n := range nodes {
		begin := time.Now()
		if err := works(t.Context(), n, archive); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > soon {
			t.Errorf("a send through %s took %v", n.Name, took)
		}
	}
}

// invalidate revokes a node's token and obtains another: what needs Redis while
// tokens live for an hour.
func invalidate(t *testing.T, n *fleet.Sidecar) {
	t.Helper()
	_, err := n.Do(t.Context(), http.MethodPost, "/dicomweb-oauth/servers/"+archive+"/invalidate", "", nil)
	must(t, err)
}

func TestRedis_AbsentAtStartCostsATokenANodeAndNoSend(t *testing.T) {
	t.Parallel()
	tools := needRedis(t)
	w := newWorld(t, worldOptions{})
	port := w.port(t)
	nodes := []*fleet.Sidecar{w.sidecar(t, "a", w.redisSection(port)), w.sidecar(t, "b", w.redisSection(port))}
	worksSoon(t, nodes...)
	w.counted(t, 2)
	for _, n := range nodes {
		becomes(t, n.Client, "degraded", "redis: unreachable")
		alive(t, n.Client)
	}
	w.redisAt(t, tools, "redis", port)
	for _, n := range nodes {
		becomes(t, n.Client, "healthy", "")
	}
	// What is acquired from now on is shared: with them, and with a newcomer.
	invalidate(t, nodes[0])
	worksSoon(t, nodes...)
	before := w.requests()
	worksSoon(t, w.sidecar(t, "c", w.redisSection(port)))
	w.counted(t, before)
}

func TestRedis_HungOrKilledMidRunCostsNoSend(t *testing.T) {
	t.Parallel()
	tools := needRedis(t)
	w := newWorld(t, worldOptions{})
	port := w.port(t)
	redis := w.redisAt(t, tools, "redis", port)
	nodes := []*fleet.Sidecar{w.sidecar(t, "a", w.redisSection(port)), w.sidecar(t, "b", w.redisSection(port))}
	worksSoon(t, nodes...)
	for _, n := range nodes {
		becomes(t, n.Client, "healthy", "")
	}
	w.counted(t, 1)
	sends := keepSending(t, nodes...)

	must(t, redis.Signal(syscall.SIGSTOP))
	newcomer := w.sidecar(t, "c", w.redisSection(port))
	worksSoon(t, newcomer) // acquires for itself
	w.counted(t, 2)
	becomes(t, newcomer.Client, "degraded", "redis: timeout")
	must(t, redis.Signal(syscall.SIGCONT))
	becomes(t, newcomer.Client, "healthy", "")
	newcomer.Stop()

	redis.Kill()
	// Every node has to revoke and to acquire, without Redis.
	w.idp.RevokeAll()
	for _, n := range nodes {
		becomes(t, n.Client, "degraded", "redis: unreachable")
	}
	worksSoon(t, nodes...)
	w.redisAt(t, tools, "redis-again", port)
	for _, n := range nodes {
		becomes(t, n.Client, "healthy", "")
	}
	sends.ended(t)
	// The first token, the newcomer's, and one for each node without Redis.
	w.counted(t, 2+len(nodes))
}
