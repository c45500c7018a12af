package gossip_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/gossip"
	"orthanc-oauth/cluster"
	"orthanc-oauth/tokens"
	"orthanc-oauth/tokens/provider"
)

// idpLatency is that of the figure: 100 ms.
const idpLatency = 100 * time.Millisecond

// allowed is what all callers of a cold fleet may take beyond it.
const allowed = 30 * time.Millisecond

// countingIdP grants after idpLatency.
type countingIdP struct{ calls atomic.Int64 }

func (p *countingIdP) Fetch(ctx context.Context) (provider.Response, error) {
	n := p.calls.Add(1)
	select {
	case <-time.After(idpLatency):
	case <-ctx.Done():
		return provider.Response{}, ctx.Err()
	}
	return provider.Response{AccessToken: provider.NewSecret(fmt.Sprint("token-", n)), Scheme: "Bearer", Lifetime: time.Hour}, nil
}

// BenchmarkColdFleet asks ten nodes on real sockets, 200 callers each at once,
// for a key that nobody has. It reports how much longer than the provider's own
// latency the last caller waited, and the provider's count a round.
func BenchmarkColdFleet(b *testing.B) {
	const nodes, callers, rounds = 10, 200, 80
	idp := new(countingIdP)
	fleet := startFleet(b, nodes, rounds, idp, nil)
	var worst, total time.Duration
	within := 0
	// The fleet is cold, not just started: its view stands still, and the nodes
	// have made the connections that they keep (jittered, over some seconds).
	const warm = 20
	for i := range warm {
		coldRound(b, fleet, fmt.Sprint("server-", i), 1)
	}
	round := warm
	for b.Loop() {
		if round == rounds {
			b.Fatalf("more than %d rounds: every round needs a key of its own", rounds)
		}
		took := coldRound(b, fleet, fmt.Sprint("server-", round), callers) - idpLatency
		worst, total = max(worst, took), total+took
		if took <= allowed {
			within++
		}
		round++
	}
	b.ReportMetric(float64(idp.calls.Load()-warm)/float64(round-warm), "idp-calls/op")
	b.ReportMetric(float64(total.Microseconds())/float64(round-warm)/1000, "mean-ms-over-idp")
	b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms-over-idp")
	b.ReportMetric(100*float64(within)/float64(round-warm), "%-within-30-ms")
}

// coldRound returns how long the last of all callers waited.
func coldRound(b *testing.B, fleet []*tokens.Manager, server string, callers int) time.Duration {
	start := make(chan struct{})
	var all sync.WaitGroup
	for _, m := range fleet {
		source, ok := m.Source(server)
		if !ok {
			b.Fatalf("no source %q", server)
		}
		for range callers {
			all.Go(func() {
				<-start
				if _, err := source.Token(b.Context()); err != nil {
					b.Error(err)
				}
			})
		}
	}
	began := time.Now()
	close(start)
	all.Wait()
	return time.Since(began)
}

func startFleet(b *testing.B, nodes, servers int, idp tokens.Provider, network cluster.Network) []*tokens.Manager {
	var peers []string
	managers := make([]*tokens.Manager, nodes)
	clusters := make([]*cluster.Cluster, nodes)
	for i := range nodes {
		managers[i], clusters[i] = startNode(b, i, servers, idp, network, peers)
		peers = append(peers, clusters[0].Addr().String())[:1]
	}
	deadline := time.Now().Add(30 * time.Second)
	for _, c := range clusters {
		for len(c.Members()) < nodes {
			if time.Now().After(deadline) {
				b.Fatalf("%d of %d members after 30 s", len(c.Members()), nodes)
			}
			<-c.Changed()
		}
	}
	return managers
}

func startNode(b *testing.B, i, servers int, idp tokens.Provider, network cluster.Network, peers []string) (*tokens.Manager, *cluster.Cluster) {
	log, clock := slog.New(slog.DiscardHandler), backend.NewClock(nil)
	var m *tokens.Manager
	g, err := gossip.New(gossip.Config{
		Resolve: func(key string) (backend.FillFunc, bool) { return m.Resolve(key) },
		Clock:   clock, Log: log,
	})
	if err != nil {
		b.Fatal(err)
	}
	if m, err = tokens.New(tokens.Config{Backend: g, BackendName: "gossip", Clock: clock, Log: log}); err != nil {
		b.Fatal(err)
	}
	for s := range servers {
		if _, err := m.Set(tokens.SourceConfig{
			Name: fmt.Sprint("server-", s), Provider: idp,
			Credential: tokens.Credential{TokenEndpoint: "https://idp/token", ClientID: "orthanc", Scope: fmt.Sprint("scope-", s), Root: []byte("0123456789abcdef0123456789abcdef")},
		}); err != nil {
			b.Fatal(err)
		}
	}
	c, err := cluster.New(cluster.Config{
		Name: fmt.Sprint("node-", i), BindAddr: "127.0.0.1", Peers: peers, Keys: m.Keys(),
		Secrets: [][]byte{[]byte("0123456789abcdef0123456789abcdef")}, Handler: g, Delegate: g, Log: log, Network: network,
		AllowedCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		b.Fatal(err)
	}
	g.SetKeys(m.Keys())
	g.Start(c)
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		m.Close(ctx)
		g.Close(ctx)
		c.Close(ctx)
	})
	return m, c
}
