package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestMembers_TwoOfOneNameAndARestartAtOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(3, func(c *Config) { c.Name = "orthanc" })
		defer l.end()
		within(t, 5*time.Second, func() error { return see(3, nodes...) })
		old := nodes[2].Self()
		l.net.Host(ip(2)) // the power fails, and comes back
		restarted := l.start(2, func(c *Config) { c.Name = "orthanc" })
		if restarted.Self().ID == old.ID {
			t.Fatal("the restarted node is taken for the old one")
		}
		// The old instance is gone, whatever gossip thinks: the new one must not
		// answer in its place.
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := nodes[0].Ping(ctx, old); !errors.Is(err, errOther) {
			t.Errorf("ping of the old instance: %v", err)
		}
		within(t, 30*time.Second, func() error { return see(3, nodes[0], nodes[1], restarted) })
		for _, m := range nodes[0].Members() {
			if m.ID == old.ID {
				t.Error("the old instance is still a member")
			}
		}
		if err := ask(t.Context(), nodes[0], restarted, "x"); err != nil {
			t.Error(err)
		}
	})
}

func TestSetKeys_ChangesTheOrderOnEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(4)
		defer l.end()
		sameOrder := func(key string, n int) error {
			want := idsOf(nodes[0].Order(key))
			if len(want) != n {
				return fmt.Errorf("%d of %d in the order", len(want), n)
			}
			for _, c := range nodes {
				if got := idsOf(c.Order(key)); !slices.Equal(got, want) {
					return fmt.Errorf("%s: %v, others %v", c.Self().Name, got, want)
				}
			}
			return nil
		}
		within(t, 5*time.Second, func() error { return sameOrder(keyOf(1), 4) })
		within(t, 5*time.Second, func() error { return sameOrder(keyOf(2), 0) })
		changed := nodes[0].Changed()
		nodes[1].SetKeys([]string{keyOf(2)})
		nodes[2].SetKeys([]string{keyOf(1), keyOf(2)})
		<-changed
		within(t, 5*time.Second, func() error { return errors.Join(sameOrder(keyOf(1), 3), sameOrder(keyOf(2), 2)) })
		nodes[3].SetKeys(manyKeys(1000))
		within(t, 5*time.Second, func() error { return sameOrder(keyOf(999999), 1) })
	})
}

// hearer is a Delegate that keeps what it hears.
type hearer struct {
	mu    sync.Mutex
	state []byte
	said  []string
	heard []string
}

func (h *hearer) Gossip(msg []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, string(msg))
}

func (h *hearer) State() []byte { return h.state }

func (h *hearer) MergeState(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, string(b[:min(len(b), 10)]))
}

func (h *hearer) has(list *[]string, s string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(*list, s) {
		return fmt.Errorf("%q not in %q", s, *list)
	}
	return nil
}

func TestGossip_ReachesAllAndStatesAreExchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var hearers []*hearer
		for i := range 4 {
			h := &hearer{state: []byte(fmt.Sprintf("state %d", i))}
			if i == 3 {
				h.state = make([]byte, MaxState+1) // refused, and the node goes on
			}
			hearers = append(hearers, h)
			l.start(i, func(c *Config) { c.Delegate = h })
		}
		defer l.end()
		within(t, 5*time.Second, func() error { return see(4, l.nodes...) })
		l.nodes[0].Broadcast("a", []byte("replaced"))
		l.nodes[0].Broadcast("a", []byte("news"))
		l.nodes[0].Broadcast("b", bytes.Repeat([]byte("x"), MaxGossip))
		l.nodes[0].Broadcast("c", make([]byte, MaxGossip+1)) // dropped, not stuck in the queue
		for _, h := range hearers[1:] {
			within(t, 5*time.Second, func() error {
				l.nodes[0].Broadcast("a", []byte("news")) // gossip promises nothing; who cares repeats
				l.nodes[0].Broadcast("b", bytes.Repeat([]byte("x"), MaxGossip))
				return errors.Join(h.has(&h.said, "news"), h.has(&h.said, strings.Repeat("x", MaxGossip)))
			})
			if h.has(&h.said, "replaced") == nil {
				t.Error("a replaced message was sent")
			}
			within(t, time.Minute, func() error { return h.has(&h.heard, "state 0") })
		}
		for i := range 5 * maxBroadcast {
			l.nodes[0].Broadcast(fmt.Sprint(i), []byte("flood"))
		}
		if n := l.nodes[0].gossip.queue.NumQueued(); n > maxBroadcast {
			t.Errorf("%d messages queued", n)
		}
	})
}

func TestPeers_BehindANameAreFoundWhenTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var log lines
		byName := func(c *Config) { c.Peers = []string{"orthanc.example.org"} }
		l.net.SetDNS("orthanc.example.org")
		first := l.start(0, byName, func(c *Config) { c.Log = log.logger() })
		second := l.start(1, byName)
		defer l.end()
		time.Sleep(10 * time.Minute)
		if err := see(1, first, second); err != nil {
			t.Error(err)
		}
		if n := log.count("WARN"); n != 1 {
			t.Errorf("%d warnings in ten minutes without names:\n%s", n, log.String())
		}
		l.net.SetDNS("orthanc.example.org", ip(0), ip(1), "10.0.9.9")
		within(t, 20*time.Second, func() error { return see(2, first, second) })
		third := l.start(2, byName)
		within(t, 20*time.Second, func() error { return see(3, first, second, third) })
	})
}

func TestJoined_MeansAnotherInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		first := l.start(0, func(c *Config) {
			c.BindAddr = "0.0.0.0"
			l.net.SetDNS("everybody", ip(0))
			c.Peers = []string{ip(0), "everybody:7946"}
		})
		defer l.end()
		time.Sleep(time.Minute)
		if first.hasJoined() || !first.HasPeers() {
			t.Fatal("joined itself")
		}
		second := l.start(1)
		<-second.Joined()
		<-first.Joined()
		if len(first.Members()) != 2 || len(second.Members()) != 2 {
			t.Error("joined before the members were known")
		}
	})
}

// A node that reaches itself by an address it does not know as its own, as
// behind a balancer, has still joined nobody.
func TestJoined_NotByAnAddressOfOnesOwnThatOneDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		c := l.start(0, func(c *Config) { c.AdvertiseAddr, c.BindAddr = "192.0.2.1", "10.0.0.77" })
		defer l.end()
		time.Sleep(time.Minute)
		if c.hasJoined() {
			t.Error("joined itself")
		}
		if s := c.Status(); strings.Contains(s.JoinError, errSelf.Error()) {
			t.Error("finding oneself is reported as an error:", s.JoinError)
		}
	})
}

func TestClose_LeavesAtOnceAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(3)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(3, nodes...) })
		start := time.Now()
		if err := nodes[2].Close(t.Context()); err != nil {
			t.Error(err)
		}
		within(t, time.Second, func() error { return see(2, nodes[:2]...) })
		if d := time.Since(start); d > closeTime {
			t.Errorf("left after %v", d)
		}
		// Cut off from everybody, leaving cannot be told and must not wait.
		l.net.Partition(ips(0, 1), ips(1, 3))
		start = time.Now()
		_ = nodes[0].Close(t.Context())
		_ = nodes[0].Close(t.Context())
		if d := time.Since(start); d > closeTime {
			t.Errorf("cut off, closed after %v", d)
		}
		if err := nodes[0].Start(); !errors.Is(err, ErrClosed) {
			t.Errorf("start after close: %v", err)
		}
		nodes[0].SetKeys(nil)
		nodes[0].Broadcast("a", []byte("late"))
		_ = nodes[0].Leave(t.Context())
	})
}

func TestClose_WithAnEndedContextAndHangingRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		release := make(chan struct{})
		hanging := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })
		nodes := l.fleet(2, func(c *Config) { c.Handler = hanging })
		defer l.end()
		within(t, 5*time.Second, func() error { return see(2, nodes...) })
		for range 4 {
			go func() { _ = ask(context.Background(), nodes[0], nodes[1], "x") }()
		}
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		_ = nodes[1].Close(ctx)
		if d := time.Since(start); d > closeTime {
			t.Errorf("closed after %v", d)
		}
		close(release)
	})
}

func TestNew_FailuresLeaveNothingBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		host := l.net.Host(ip(0))
		good := Config{BindPort: 7946, Secrets: [][]byte{secret(1)}, Network: host}
		for name, change := range map[string]func(*Config){
			"a short secret":      func(c *Config) { c.Secrets = [][]byte{[]byte("short")} },
			"four secrets":        func(c *Config) { c.Secrets = [][]byte{secret(1), secret(2), secret(3), secret(4)} },
			"no secret":           func(c *Config) { c.Secrets = nil },
			"a bad peer":          func(c *Config) { c.Peers = []string{"a:b:c"} },
			"a bad address":       func(c *Config) { c.BindAddr = "eth0" },
			"a bad port":          func(c *Config) { c.BindPort = 70000 },
			"a bad profile":       func(c *Config) { c.Profile = "moon" },
			"a bad key":           func(c *Config) { c.Keys = []string{"pacs"} },
			"an unknown name":     func(c *Config) { c.AdvertiseAddr = "nowhere.example.org" },
			"unreadable PKI file": func(c *Config) { c.PKI = &PKI{CAFile: "/nonexistent"} },
		} {
			cfg := good
			change(&cfg)
			if c, err := New(cfg); err == nil {
				t.Errorf("%s: no error", name)
				_ = c.Close(t.Context())
			}
		}
		c, err := New(good)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(good); err == nil {
			t.Error("bound twice")
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for _, addr := range []string{"127.0.0.1", "::1", "localhost"} {
			cfg := good
			cfg.BindAddr, cfg.Secrets = addr, nil
			c, err := New(cfg)
			if err != nil {
				t.Errorf("no secret on %s: %v", addr, err)
				continue
			}
			_ = c.Close(t.Context())
		}
	})
}
