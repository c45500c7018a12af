package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// eventually waits until ok returns nil; on real sockets time cannot be made up.
func eventually(t *testing.T, ok func() error) {
	t.Helper()
	deadline, tick := time.NewTimer(10*time.Second), time.NewTicker(10*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

func realNode(t *testing.T, peers ...string) *Cluster {
	t.Helper()
	c, err := New(Config{
		BindAddr: "127.0.0.1", Peers: peers, Secrets: [][]byte{secret(1)},
		Keys: []string{keyOf(1)}, Handler: http.HandlerFunc(answer),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestReal_ThreeNodesOnLoopbackJoinAskAndLeave(t *testing.T) {
	before := goleak.IgnoreCurrent()
	first := realNode(t)
	second := realNode(t, first.Addr().String())
	third := realNode(t, fmt.Sprintf("localhost:%d", first.Addr().Port()), second.Addr().String())
	nodes := []*Cluster{first, second, third}
	eventually(t, func() error { return see(3, nodes...) })
	for i, from := range nodes {
		if err := ask(t.Context(), from, nodes[(i+1)%3], "x"); err != nil {
			t.Error(err)
		}
	}
	if err := third.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, func() error { return see(2, first, second) })
	if err := errors.Join(second.Close(t.Context()), first.Close(t.Context())); err != nil {
		t.Error(err)
	}
	// What memberlist leaves behind its Shutdown ends within its timeouts.
	eventually(t, func() error { return goleak.Find(before) })
}

func TestReal_PortInUseIsOneClearError(t *testing.T) {
	first := realNode(t)
	_, err := New(Config{BindAddr: "127.0.0.1", BindPort: int(first.Addr().Port())})
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Fatalf("bound twice: %v", err)
	}
}

func BenchmarkDo(b *testing.B) {
	nodes := make([]*Cluster, 2)
	for i := range nodes {
		cfg := Config{BindAddr: "127.0.0.1", Secrets: [][]byte{secret(1)}, Handler: http.HandlerFunc(answer)}
		if i == 1 {
			cfg.Peers = []string{nodes[0].Addr().String()}
		}
		c, err := New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = c.Close(context.Background()) }()
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		nodes[i] = c
	}
	<-nodes[1].Joined()
	for b.Loop() {
		if err := ask(b.Context(), nodes[1], nodes[0], "x"); err != nil {
			b.Fatal(err)
		}
	}
}
