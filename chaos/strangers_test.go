package chaos

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"orthanc-oauth/internal/fleet"
)

// refusals is how many strangers a node says that it has refused, by its metrics
// and by its cluster route.
func refusals(ctx context.Context, n *fleet.Sidecar) (metrics, route float64, err error) {
	refused, err := metric(ctx, n.Client, "orthanc_oauth_cluster_refused_connections_total")
	if err != nil {
		return 0, 0, err
	}
	v, err := cluster(ctx, n.Client)
	return refused, float64(v.Refused), err
}

// Rows 17 and 54, against a fleet at work.
func TestStrangers_AreRefusedCountedAndDisturbNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	ports := make(map[string]int)
	nodes := w.sidecars(t, 3, func(name string, gossip map[string]any) {
		ports[name] = gossip["BindPort"].(int)
		gossip["ClusterName"] = "hospital"
	})
	sends := keepSending(t, nodes...)
	eventually(t, func(ctx context.Context) error { return works(ctx, nodes[2], archive) })
	w.counted(t, 1)

	for i, change := range map[string]func(gossip map[string]any){
		"another-key":     func(g map[string]any) { g["SecretKey"] = randomKey() },
		"no-key":          func(g map[string]any) { delete(g, "SecretKey") },
		"another-cluster": func(g map[string]any) { g["ClusterName"] = "clinic" },
	} {
		t.Run(i, func(t *testing.T) {
			before := make([]float64, len(nodes))
			for i, n := range nodes {
				_, before[i], _ = refusals(t.Context(), n) // 0 before the first one
			}
			gossip := w.gossip(t.Name(), w.port(t), ports["a"], ports["b"], ports["c"])
			gossip["ClusterName"] = "hospital"
			change(gossip)
			section := w.section("gossip", map[string]any{"Gossip": gossip})
			w.isAlone(t, w.sidecar(t, i, section))
			for i, n := range nodes {
				refuses(t, n, before[i])
			}
		})
	}
	must(t, errors.Join(allSee(t.Context(), 3, nodes[0].Client, nodes[1].Client, nodes[2].Client)))
	sends.ended(t)
	// One for the fleet, one for each of the three strangers.
	w.counted(t, 4)
	for _, n := range nodes {
		if warnings := strings.Count(n.Log(1<<20), "level=WARN"); warnings > 6 {
			t.Errorf("%s warned %d times about three strangers", n.Name, warnings)
		}
	}
}

// isAlone asserts that a stranger serves with a token of its own, sees nobody,
// and says so.
func (w *world) isAlone(t *testing.T, stranger *fleet.Sidecar) {
	t.Helper()
	before := w.requests()
	must(t, works(t.Context(), stranger, archive))
	w.counted(t, before+1)
	becomes(t, stranger.Client, "degraded", "gossip: alone")
	v, err := cluster(t.Context(), stranger.Client)
	if err != nil || v.Joined || len(v.alive()) != 1 {
		t.Errorf("the stranger sees %v, joined %v, %v", v.alive(), v.Joined, err)
	}
}

// refuses waits until a node has counted more strangers than before.
func refuses(t *testing.T, n *fleet.Sidecar, before float64) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		metrics, route, err := refusals(ctx, n)
		if err != nil {
			return err
		}
		if metrics <= before || route <= before {
			return fmt.Errorf("%s counts %v in its metrics, %v in its cluster route, and %v before", n.Name, metrics, route, before)
		}
		return nil
	})
}

// Row 54, without any node of ours on the other side.
func TestStrangers_LearnNothingFromThePort(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	var port int
	nodes := w.sidecars(t, 2, func(name string, gossip map[string]any) {
		if name == "a" {
			port = gossip["BindPort"].(int)
		}
	})
	must(t, works(t.Context(), nodes[0], archive))
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for _, protocol := range []string{"http/1.1", "orthanc-oauth-gossip/1", ""} {
		conf := &tls.Config{InsecureSkipVerify: true} // a stranger does not care whom it robs
		if protocol != "" {
			conf.NextProtos = []string{protocol}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/", http.NoBody)
		must(t, err)
		if resp, err := client.Do(req); err == nil {
			t.Errorf("a stranger that speaks %q got an answer: %s", protocol, resp.Status)
			resp.Body.Close()
		}
	}
	refuses(t, nodes[0], 0)
	must(t, allSee(t.Context(), 2, nodes[0].Client, nodes[1].Client))
}
