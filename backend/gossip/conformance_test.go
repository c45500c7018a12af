package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/backendtest"
	"orthanc-oauth/cluster"
	"orthanc-oauth/cluster/memnet"
)

func TestBackendContract(t *testing.T) {
	backendtest.Run(t, backendtest.Harness{Fleet: contractFleet, Shared: true, Bubble: true})
}

// contractFleet returns n joined members that are configured for the suite's
// keys: more than metadata can list, so every member counts as configured.
func contractFleet(t testing.TB, n int, resolve func(int) backend.Resolver) []backend.Backend {
	t.Helper()
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("%064x", 0x5eed0000+i))
	}
	net, log := memnet.New(1), slog.New(slog.DiscardHandler)
	members := make([]backend.Backend, n)
	for i := range n {
		g, err := New(Config{Resolve: resolve(i), Clock: backend.NewClock(nil), Log: log})
		if err != nil {
			t.Fatal(err)
		}
		c, err := cluster.New(cluster.Config{
			Name: fmt.Sprint("member", i), BindAddr: addrOf(i), BindPort: 7946, Peers: []string{addrOf(0), addrOf(1)},
			Secrets: [][]byte{testSecret}, Keys: keys, Handler: g, Delegate: g, Log: log, Network: net.Host(addrOf(i)),
		})
		if err != nil {
			t.Fatal(err)
		}
		g.SetKeys(keys)
		g.Start(c)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeMember(g, c) })
		members[i] = g
	}
	time.Sleep(5 * time.Second)
	return members
}

func closeMember(g *Gossip, c *cluster.Cluster) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	g.Close(ctx)
	c.Close(ctx)
	time.Sleep(15 * time.Second) // memberlist's goroutines outlive its shutdown
}
