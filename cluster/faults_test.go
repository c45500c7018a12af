package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/cluster/memnet"
)

func TestFaults_CrashIsNoticedAndRestIsUndisturbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(5)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(5, nodes...) })
		l.net.Host(ip(4))
		within(t, 15*time.Second, func() error { return see(4, nodes[:4]...) })
		for _, c := range nodes[:4] {
			if lost := c.Status().Lost; len(lost) != 1 || lost[0].Addr != ip(4)+":7946" {
				t.Errorf("%s: lost %v", c.Self().Name, lost)
			}
		}
	})
}

func TestFaults_OneWayLossDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(5)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(5, nodes...) })
		l.net.Cut(ip(0), ip(1))
		time.Sleep(30 * time.Second)
		for range 40 {
			time.Sleep(time.Second)
			if err := see(5, nodes...); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(t.Context(), nodes[0], nodes[1], "x"); err == nil {
			t.Error("the cut let a request through")
		}
		l.net.Join(ip(0), ip(1))
		within(t, 5*time.Second, func() error { return ask(t.Context(), nodes[0], nodes[1], "x") })
	})
}

func TestFaults_NoFalseDeathAtAFifthOfThePacketsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(5)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(5, nodes...) })
		for _, a := range ips(0, 5) {
			for _, b := range ips(0, 5) {
				l.net.SetLoss(a, b, 0.2)
			}
		}
		for range 40 {
			time.Sleep(time.Second)
			if err := see(5, nodes...); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestFaults_RoundTripsOfASecondAreMeasuredAndServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for _, a := range ips(0, 3) {
			for _, b := range ips(0, 3) {
				if a != b {
					l.net.SetDelay(a, b, 500*time.Millisecond)
				}
			}
		}
		nodes := l.fleet(3, func(c *Config) { c.Profile = "wan" })
		defer l.end()
		within(t, 30*time.Second, func() error { return see(3, nodes...) })
		time.Sleep(2 * time.Minute)
		for _, to := range nodes[1:] {
			if rtt := nodes[0].RTT(to.Self().ID); rtt < 900*time.Millisecond || rtt > 1200*time.Millisecond {
				t.Errorf("round trip to %s: %v", to.Self().Name, rtt)
			}
			fastest := time.Hour // a ping may be using the connection just now
			for range 3 {
				start := time.Now()
				if err := ask(t.Context(), nodes[0], to, "x"); err != nil {
					t.Error(err)
				}
				fastest = min(fastest, time.Since(start))
			}
			if fastest > 1100*time.Millisecond {
				t.Errorf("a request took %v: no connection was kept", fastest)
			}
		}
		if rtt := nodes[0].RTT("nobody"); rtt != 0 {
			t.Errorf("round trip to nobody: %v", rtt)
		}
	})
}

func TestFaults_PausedNodeComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(3)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(3, nodes...) })
		host := l.hosts[1]
		host.Pause()
		within(t, 30*time.Second, func() error { return errors.Join(see(2, nodes[0], nodes[2])) })
		time.Sleep(time.Minute)
		host.Resume()
		within(t, 30*time.Second, func() error { return see(3, nodes...) })
	})
}

func TestFaults_NewAddressOfTheMachineIsAMemberAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(4)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(4, nodes...) })
		before := nodes[3].Self()
		time.Sleep(20 * time.Second) // the rounds of joins are ten seconds apart by now
		l.hosts[3].Move("10.0.7.7")
		within(t, 2*addrEvery, func() error {
			if nodes[3].Addr().Addr().String() != "10.0.7.7" {
				return errors.New("still at the old address")
			}
			return see(4, nodes...)
		})
		if err := errors.Join(ask(t.Context(), nodes[0], nodes[3], "x"), ask(t.Context(), nodes[3], nodes[0], "x")); err != nil {
			t.Error(err)
		}
		for range 40 {
			time.Sleep(time.Second)
			if err := see(4, nodes...); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range nodes[0].Members() {
			if m.ID == before.ID {
				t.Error("the instance at the old address is still a member")
			}
		}
	})
}

// bridged is a machine with a bridge for its containers, whose address is the
// same on every machine, and a lease that may be lost.
type bridged struct {
	*memnet.Host
	lost atomic.Bool
}

func (b *bridged) LocalAddrs() ([]netip.Addr, error) {
	bridge := netip.MustParseAddr("172.17.0.1")
	if b.lost.Load() {
		return []netip.Addr{bridge}, nil
	}
	return []netip.Addr{b.Addr(), bridge}, nil
}

func TestFaults_LostLeaseIsNoReasonToBeAtTheBridge(t *testing.T) {
	for name, lost := range map[string]time.Duration{"for a moment": 3 * time.Second, "for a minute": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				l.fleet(3)
				var machine *bridged
				c := l.start(3, func(c *Config) {
					machine = &bridged{Host: l.hosts[3]}
					c.Network = machine
				})
				nodes := l.nodes
				defer l.end()
				within(t, 15*time.Second, func() error { return see(4, nodes...) })
				home, before := c.Addr(), c.Self().ID
				machine.lost.Store(true)
				time.Sleep(lost) // of the bubble's time
				machine.lost.Store(false)
				within(t, 2*addrEvery, func() error {
					if c.Addr() != home {
						return fmt.Errorf("at %v, not back at %v", c.Addr(), home)
					}
					return see(4, nodes...)
				})
				if lost < rejoinEvery && c.Self().ID != before {
					t.Error("it has become another instance")
				}
			})
		})
	}
}
