package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestKey_AnotherSecretNeverJoinsAndIsCountedOnBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(2)
		defer l.end()
		wrong := l.start(2, func(c *Config) { c.Secrets = [][]byte{secret(9)} })
		other := l.start(3, func(c *Config) { c.ClusterName = "staging" })
		within(t, 5*time.Second, func() error { return see(2, nodes...) })
		time.Sleep(time.Minute)
		if err := errors.Join(see(2, nodes...), see(1, wrong, other)); err != nil {
			t.Error(err)
		}
		for _, c := range []*Cluster{wrong, other} {
			if s := c.Status(); s.Joined || s.Refused["refused client key"] == 0 || s.JoinError == "" {
				t.Errorf("the stranger: %+v", s)
			}
		}
		if s := nodes[0].Status(); s.Refused["refused server key"] == 0 {
			t.Errorf("the member: %+v", s.Refused)
		}
		if err := ask(t.Context(), nodes[0], nodes[1], "undisturbed"); err != nil {
			t.Error(err)
		}
		if err := ask(t.Context(), wrong, nodes[0], "x"); !errors.Is(err, errKey) {
			t.Errorf("a request without the key: %v", err)
		}
	})
}

// rawDial opens a TLS connection as a stranger would.
func rawDial(ctx context.Context, l *lab, from string, to *Cluster, cfg *tls.Config) error {
	raw, err := l.net.Host(from).Dial(ctx, to.Addr())
	if err != nil {
		return err
	}
	c := tls.Client(raw, cfg)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1)) // TLS 1.3 tells a client only now
	return err
}

func TestTLS_RefusesWhoOffersNoProtocolNoCertificateOrOldTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		c := l.start(0)
		defer l.end()
		sec := forged(t, "default", secret(1))
		good := func() *tls.Config {
			return &tls.Config{
				InsecureSkipVerify: true, Certificates: []tls.Certificate{sec.leaf},
				NextProtos: []string{alpnHTTP}, MinVersion: tls.VersionTLS12,
			}
		}
		for name, change := range map[string]func(*tls.Config){
			"no protocol":      func(c *tls.Config) { c.NextProtos = nil },
			"another protocol": func(c *tls.Config) { c.NextProtos = []string{"h2"} },
			"no certificate":   func(c *tls.Config) { c.Certificates = nil },
			"TLS 1.2":          func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
			"another key":      func(c *tls.Config) { c.Certificates = []tls.Certificate{forged(t, "default", secret(2)).leaf} },
		} {
			cfg := good()
			change(cfg)
			start := time.Now()
			if err := rawDial(t.Context(), l, "10.9.9.9", c, cfg); err == nil || !strings.Contains(err.Error(), "tls") {
				t.Errorf("%s: %v", name, err)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("%s: refused after %v", name, d)
			}
		}
		// The good one is left waiting for a request until its header is due.
		start := time.Now()
		err := rawDial(t.Context(), l, "10.9.9.9", c, good())
		if d := time.Since(start); err == nil || d < handshakeTimeout/2 {
			t.Errorf("the good one: %v after %v", err, d)
		}
	})
}

// With 2,000 idle strangers on the peer's own address, refusing newcomers
// failed every fresh dial of the peer's.
func TestStrangers_DoNotKeepAPeerOfTheSameAddressOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(2)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(2, nodes...) })
		host := nodes[1].transport.network
		stop := make(chan struct{})
		defer close(stop)
		for range 200 {
			go func() {
				for {
					c, err := host.Dial(context.Background(), nodes[0].Addr())
					if err == nil {
						_, _ = c.Read(make([]byte, 1)) // idle until it is evicted or out of time
						_ = c.Close()
					}
					select {
					case <-stop:
						return
					case <-time.After(rand.N(5 * time.Second)):
					}
				}
			}()
		}
		failed, full := 0, 0
		for range 20 {
			time.Sleep(rand.N(time.Second))
			nodes[1].client.Load().CloseIdleConnections()
			if ask(t.Context(), nodes[1], nodes[0], "x") != nil {
				failed++
			}
			books := &nodes[0].transport.strangers
			books.mu.Lock()
			n := len(books.all)
			books.mu.Unlock()
			if n > maxStrangersEach {
				t.Fatalf("%d strangers of one address", n)
			}
			if n >= maxStrangersEach-1 { // the fresh dial has just freed its slot
				full++
			}
		}
		if failed > 2 || full < 10 {
			t.Errorf("%d of 20 fresh dials failed, the strangers were at their bound %d times", failed, full)
		}
	})
}

func TestStrangers_OldestOfTheNewcomersAddressIsEvicted(t *testing.T) {
	var s strangers
	at := func(i int) netip.Addr { return netip.MustParseAddr(ip(i)) }
	add := func(i int) (w, evicted *wire) {
		w = &wire{from: at(i)}
		return w, s.admit(w)
	}
	first, _ := add(0)
	for range maxStrangersEach - 1 {
		if _, evicted := add(0); evicted != nil {
			t.Fatal("evicted below the bound")
		}
	}
	if _, evicted := add(0); evicted != first {
		t.Fatal("not the oldest of the address")
	}
	for i := 1; len(s.all) < maxStrangers; i++ {
		add(i)
	}
	mine, _ := s.oldest(at(3)), 0
	if _, evicted := add(3); evicted != mine {
		t.Fatal("full: not the oldest of the newcomer's address")
	}
	busiest := s.oldest(at(0))
	if _, evicted := add(999); evicted != busiest {
		t.Fatal("full: not of the busiest address")
	}
	if len(s.all) != maxStrangers {
		t.Fatalf("%d strangers", len(s.all))
	}
	for len(s.all) > 0 {
		s.release(s.all[0])
	}
	if len(s.count) != 0 {
		t.Fatalf("addresses left: %v", s.count)
	}
}

func TestHolders_AreBoundedEachAndReleased(t *testing.T) {
	var h holders
	var list []*wire
	for range maxHeld {
		w := &wire{}
		if !h.admit(w, "a", maxHeld) {
			t.Fatal("refused below the bound")
		}
		list = append(list, w)
	}
	if h.admit(&wire{}, "a", maxHeld) {
		t.Fatal("admitted above the bound")
	}
	if !h.admit(&wire{epoch: 1}, "b", maxHeld) {
		t.Fatal("one peer keeps another out")
	}
	if n := len(h.before(1)); n != maxHeld {
		t.Fatalf("%d of an older ring", n)
	}
	for _, w := range list {
		h.release(w)
		h.release(w)
	}
	if h.all != 1 || len(h.by) != 1 {
		t.Fatalf("left: %d, %v", h.all, h.by)
	}
}

func TestRotation_LosesNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		// Every tenth answer takes half a second: a hard close would cut it off.
		var answers atomic.Int64
		slowly := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if answers.Add(1)%10 == 0 {
				time.Sleep(500 * time.Millisecond)
			}
			answer(w, r)
		})
		nodes := l.fleet(3, func(c *Config) { c.Handler = slowly })
		defer l.end()
		within(t, 5*time.Second, func() error { return see(3, nodes...) })
		stop, sent := make(chan struct{}), atomic.Int64{}
		var wg sync.WaitGroup
		for i, from := range nodes {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(80 * time.Millisecond):
					}
					to := nodes[(i+1+n%2)%3]
					if err := ask(t.Context(), from, to, "x"); err != nil {
						t.Errorf("request %d: %v", sent.Load(), err)
						return
					}
					sent.Add(1)
				}
			})
		}
		for _, ring := range [][][]byte{{secret(1), secret(2)}, {secret(2), secret(1)}, {secret(2)}} {
			for _, c := range nodes {
				if err := c.SetSecrets(ring); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
			}
			time.Sleep(10 * time.Second)
		}
		close(stop)
		wg.Wait()
		if sent.Load() < 500 {
			t.Fatalf("only %d requests", sent.Load())
		}
		if err := see(3, nodes...); err != nil {
			t.Error(err)
		}
		want := fmt.Sprint([]Fingerprint{forged(t, "default", secret(2)).fingerprints[0]})
		for _, c := range nodes {
			for _, m := range c.Members() {
				if got := fmt.Sprint(m.Meta.Fingerprints); got != want {
					t.Errorf("%s sees %s with %s, want %s", c.Self().Name, m.Name, got, want)
				}
			}
		}
		// The old key is worth nothing now, on old connections or new ones.
		late := l.start(3, func(c *Config) { c.Secrets = [][]byte{secret(1)} })
		time.Sleep(time.Minute)
		if err := errors.Join(see(3, nodes...), see(1, late)); err != nil {
			t.Error(err)
		}
	})
}

func TestCIDRs_RefuseAndNameTheSetting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var log lines
		first := l.start(0, func(c *Config) {
			c.AllowedCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.2/32")}
			c.Log = log.logger()
		})
		second := l.start(1)
		third := l.start(2)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(2, first) })
		time.Sleep(time.Minute)
		if err := errors.Join(see(2, first), see(3, second)); err != nil {
			t.Error(err)
		}
		if err := ask(t.Context(), third, first, "x"); err == nil {
			t.Error("answered from outside of AllowedCIDRs")
		}
		if n := log.count("setting=AllowedCIDRs"); n != 1 {
			t.Errorf("the setting is named in %d lines, want 1:\n%s", n, log.String())
		}
		if s := first.Status().Refused; s["refused server address"] == 0 || s["dropped address"] == 0 {
			t.Errorf("counted %v", s)
		}
	})
}

func TestPackets_OfStrangersAreDroppedSilentlyAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var log lines
		c := l.start(0, func(cfg *Config) { cfg.Log = log.logger() })
		defer l.end()
		time.Sleep(time.Second)
		before := log.String()
		stranger := l.net.Host("10.9.9.9")
		p, err := stranger.ListenPacket(t.Context(), netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		to := net.UDPAddrFromAddrPort(c.Addr())
		other := forged(t, "default", secret(2))
		bad := forged(t, "default", secret(1))
		for range 300 {
			_, _ = p.WriteTo([]byte("garbage that is longer than the overhead of a packet"), to)
			_, _ = p.WriteTo(other.sealPacket([]byte("\x00x")), to)
			_, _ = p.WriteTo(bad.sealPacket([]byte("\x09compressed")), to)
			time.Sleep(time.Millisecond)
		}
		if s := c.Status().Refused; s["dropped seal"] != 600 || s["dropped message"] != 300 {
			t.Errorf("counted %v", s)
		}
		if log.String() != before {
			t.Errorf("logged:\n%s", log.String())
		}
	})
}

func TestRotation_AnswersOnOldConnectionsAskToCloseThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(2)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(2, nodes...) })
		closes := func() bool {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := nodes[0].Do(req, nodes[1].Self())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body) // or the connection is not kept
			_ = resp.Body.Close()
			return resp.Close
		}
		for range 2 {
			if closes() {
				t.Fatal("a connection is not kept")
			}
		}
		if err := nodes[1].SetSecrets([][]byte{secret(1), secret(2)}); err != nil {
			t.Fatal(err)
		}
		if !closes() {
			t.Error("the first answer after a rotation keeps its connection")
		}
		closes() // the pool may have held a second
		if closes() {
			t.Error("a new connection is closed, too")
		}
	})
}

func TestDial_ChecksWhichInstanceAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(2)
		defer l.end()
		to := nodes[1].Self()
		for want, wrong := range map[string]error{to.ID: nil, "": nil, newID(): errOther} {
			for _, protocol := range []string{alpnGossip, alpnHTTP} {
				c, err := nodes[0].transport.dial(t.Context(), to.Addr, protocol, want)
				if !errors.Is(err, wrong) {
					t.Errorf("%s, want %q: %v", protocol, want, err)
				}
				if err == nil {
					_ = c.Close()
				}
			}
		}
		if _, err := nodes[0].transport.dial(t.Context(), nodes[0].Addr(), alpnGossip, ""); !errors.Is(err, errSelf) {
			t.Errorf("dialling oneself: %v", err)
		}
	})
}
