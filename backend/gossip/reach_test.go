package gossip

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/backend"
)

// slow gives every link to and from a place a round trip.
func (f *fleet) slow(at string, rtt time.Duration) {
	for i := range 10 {
		if other := addrOf(i); other != at {
			f.net.SetDelay(at, other, rtt/2)
			f.net.SetDelay(other, at, rtt/2)
		}
	}
}

// A connection takes two round trips before the request's own, and a request
// that is held takes a second more: none of it means that the leader is silent.
func TestFill_SlowLinkWithoutAConnectionIsNotASilentLeader(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		f.idp.set(func(p *provider) { p.latency = 4 * time.Second }) // so that the leader answers "pending"
		near := f.ordered()[3]
		f.slow(addrOf(len(f.nodes)), 600*time.Millisecond)
		far := f.start()
		<-far.cluster.Joined()
		done := make(chan error, 1)
		go func() {
			_, err := near.get(t.Context(), backend.Stamp{})
			done <- err
		}()
		if _, err := far.get(t.Context(), backend.Stamp{}); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.wantCalls(1)
	})
}

// The digest of a join reaches a node before the news of who sent it.
func TestJoin_FetchesWhatTheFleetHolds(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		held := f.must(1, backend.Stamp{})
		late := f.start()
		f.eventually(2*time.Second, func() error {
			if e, ok := late.gossip.store.Get(testKey); !ok || e.Stamp != held.Stamp {
				return errors.New("nothing was fetched though nobody asked")
			}
			return nil
		})
		f.wantCalls(1)
	})
}

// The node was cut off when it began to ask the provider, and is not any more
// when that refuses.
func TestFill_LooksAroundBeforeItTellsOfARefusal(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		order := f.ordered()
		lonely := order[4]
		for _, n := range order[:4] {
			f.net.Cut(lonely.host.Addr().String(), n.host.Addr().String())
			f.net.Cut(n.host.Addr().String(), lonely.host.Addr().String())
		}
		held, err := order[0].get(t.Context(), backend.Stamp{})
		if err != nil {
			t.Fatal(err)
		}
		f.idp.set(func(p *provider) {
			p.latency = 4 * time.Second
			p.refuse = func(int) error { return &backend.Refusal{Code: "AUTH-003"} }
		})
		done := make(chan error, 1)
		var got backend.Entry
		go func() {
			e, err := lonely.get(t.Context(), backend.Stamp{})
			got = e
			done <- err
		}()
		f.eventually(10*time.Second, func() error {
			if f.idp.count() < 2 {
				return errors.New("the provider has not been asked")
			}
			return nil
		})
		for _, n := range order[:4] {
			f.net.Join(lonely.host.Addr().String(), n.host.Addr().String())
			f.net.Join(n.host.Addr().String(), lonely.host.Addr().String())
		}
		if err := <-done; err != nil || got.Stamp != held.Stamp {
			t.Errorf("got %v, %v; want what the others hold, %v", got.Stamp, err, held.Stamp)
		}
	})
}

// Three who do not answer are no reason to give up for a node that has no way of
// its own: there is a fourth.
func TestFill_NodeWithoutAWayAsksBeyondTheFirstThree(t *testing.T) {
	inFleet(t, 6, func(t *testing.T, f *fleet) {
		order := f.ordered()
		self := order[5]
		f.idp.set(func(p *provider) {
			p.refuse = func(n int) error {
				if f.nodes[n] == self {
					return &backend.Refusal{Code: "NET-002", Way: true}
				}
				return nil
			}
		})
		for _, n := range order[:4] {
			n.host.Pause()
		}
		if _, err := self.get(t.Context(), backend.Stamp{}); err != nil {
			t.Errorf("nothing, though the fifth of the order can ask: %v", err)
		}
		for _, n := range order[:4] {
			n.host.Resume()
		}
	})
}

// 1. A peer leads for a node whose own way is broken, and what it acquires is
// revoked: that node has heard of it, the peer not yet.
// 2. The node tells it, instead of failing those who wait.
func TestFill_PeerThatOffersWhatIsRevokedIsToldAndAskedAgain(t *testing.T) {
	inFleet(t, 2, func(t *testing.T, f *fleet) {
		ordered := f.ordered()
		leader, other := ordered[0], ordered[1]
		first := f.must(1, backend.Stamp{})
		f.idp.set(func(p *provider) {
			p.refuse = func(n int) error {
				if f.nodes[n] == other {
					return &backend.Refusal{Code: "NET-002", Way: true}
				}
				return nil
			}
		})
		other.gossip.store.Revoke(testKey, first.ID, 0)
		e, err := other.get(t.Context(), backend.Stamp{})
		if err != nil || e.ID == first.ID {
			t.Fatalf("got %v (%v), want what the leader acquires next", e.Stamp, err)
		}
		if !leader.gossip.store.IsRevoked(testKey, first.ID) {
			t.Error("the leader has not been told")
		}
		f.wantCalls(2)
	})
}

func TestRevoke_SlowLeaderIsNotASuspect(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		e := f.must(1, backend.Stamp{})
		synctest.Wait()
		order := f.ordered()
		f.slow(order[2].host.Addr().String(), 600*time.Millisecond)
		if err := order[2].gossip.Revoke(t.Context(), testKey, e.ID); err != nil {
			t.Fatal(err)
		}
		if order[2].gossip.suspect.has(order[0].cluster.Self().ID) {
			t.Error("a leader that answers within a second and a half is suspected")
		}
		f.eventually(2*time.Second, func() error {
			if !order[0].gossip.store.IsRevoked(testKey, e.ID) {
				return errors.New("the leader was not told")
			}
			return nil
		})
	})
}

// When the first of the order die together, their successors look at whoever is
// left, and so at the same nodes.
func TestFill_FirstOfTheOrderDieTogether_OthersStillMeet(t *testing.T) {
	inFleet(t, 12, func(t *testing.T, f *fleet) {
		f.idp.set(func(p *provider) { p.latency = 300 * time.Millisecond })
		order := f.ordered()
		for _, n := range order[:3] {
			n.host.Pause()
		}
		var all sync.WaitGroup
		for i, n := range order[3:] {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 30 * time.Millisecond)
				if _, err := n.get(t.Context(), backend.Stamp{}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		f.wantCalls(1)
		for _, n := range order[:3] {
			n.host.Resume()
		}
	})
}

// A node is cut off just after many have told it that they mean to acquire.
func TestLead_ManySilentRivalsDoNotUseUpAFlight(t *testing.T) {
	inFleet(t, 10, func(t *testing.T, f *fleet) {
		first := f.ordered()[0]
		for _, n := range f.ordered()[1:] {
			first.gossip.intents.note(testKey, n.cluster.Self().ID)
			n.host.Pause()
		}
		if _, err := first.get(t.Context(), backend.Stamp{}); err != nil {
			t.Error(err)
		}
		for _, n := range f.nodes {
			n.host.Resume()
		}
	})
}

// A digest brings the token while the flight waits for a leader that is silent.
func TestFill_WhatArrivesByAnotherWayEndsTheWait(t *testing.T) {
	inFleet(t, 6, func(t *testing.T, f *fleet) {
		order := f.ordered()
		asker, silent := order[5], order[0]
		silent.host.Pause()
		began := time.Now()
		go func() {
			time.Sleep(200 * time.Millisecond)
			e := backend.Entry{Stamp: backend.Stamp{Gen: 1, ID: backend.NewID()}, Value: []byte("token"), TTL: time.Hour}
			asker.gossip.hold(testKey, e)
		}()
		if _, err := asker.get(t.Context(), backend.Stamp{}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 250*time.Millisecond {
			t.Errorf("took %v", took)
		}
		f.wantCalls(0)
		silent.host.Resume()
	})
}

// The way is back while the node still asks others, who are all silent.
func TestFill_OwnWayIsTriedAgainWhenItsPauseIsOver(t *testing.T) {
	inFleet(t, 8, func(t *testing.T, f *fleet) {
		self := f.ordered()[0]
		began := time.Now()
		f.idp.set(func(p *provider) {
			p.refuse = func(int) error {
				if time.Since(began) < 2*time.Second {
					return &backend.Refusal{Code: "NET-002", Way: true}
				}
				return nil
			}
		})
		for _, n := range f.ordered()[1:] {
			n.host.Pause()
		}
		if _, err := self.get(t.Context(), backend.Stamp{}); err != nil {
			t.Error(err)
		}
		for _, n := range f.nodes {
			n.host.Resume()
		}
	})
}

// A flight that began while nobody answered ends for want of time.
func TestFill_WhoJoinsAFlightLateGetsAnotherOne(t *testing.T) {
	inFleet(t, 12, func(t *testing.T, f *fleet) {
		order := f.ordered()
		self := order[0]
		broken := func(n int) error {
			if f.nodes[n] == self {
				return &backend.Refusal{Code: "NET-002", Way: true, RetryAfter: time.Minute}
			}
			return nil
		}
		f.idp.set(func(p *provider) { p.refuse = broken })
		for _, n := range order[1:] {
			n.host.Pause()
		}
		early := make(chan error, 1)
		go func() {
			_, err := self.get(t.Context(), backend.Stamp{})
			early <- err
		}()
		time.Sleep(backend.FlightBudget - 500*time.Millisecond)
		go func() {
			time.Sleep(time.Second)
			for _, n := range order[1:] {
				n.host.Resume()
			}
		}()
		if _, err := self.get(t.Context(), backend.Stamp{}); err != nil {
			t.Errorf("late: %v", err)
		}
		<-early
	})
}

// A node that was started while its cable was out tries to join at long
// intervals. When the cable is in again and somebody wants a token, it does not
// wait for its turn: it would acquire alone what the others hold.
func TestFill_ANodeThatHasNeverMetAnybodyLooksOnceMoreBeforeItAcquires(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		held := f.must(1, backend.Stamp{})
		late, others := addrOf(len(f.nodes)), []string{}
		for _, n := range f.nodes {
			others = append(others, n.host.Addr().String())
		}
		for round := range 5 {
			f.net.Partition([]string{late}, others)
			n := f.start()
			time.Sleep(time.Minute + time.Duration(round)*1700*time.Millisecond) // its tries are ten seconds apart
			f.net.Heal([]string{late}, others)
			if e, err := n.get(t.Context(), backend.Stamp{}); err != nil || e.Stamp != held.Stamp {
				t.Errorf("round %d: got %v, %v; want the entry that the others hold", round, e.Stamp, err)
			}
			f.kill(n)
			late = addrOf(len(f.nodes))
		}
		f.wantCalls(1)
	})
}

// While one node acquires, so many join that a leader among them looks at none
// but newcomers.
func TestFill_NewcomersAreToldOfAnAcquisitionUnderWay(t *testing.T) {
	for range 8 { // who leads whom is chance
		inFleet(t, 1, func(t *testing.T, f *fleet) {
			f.idp.set(func(p *provider) { p.latency = 8 * time.Second })
			first, done := f.nodes[0], make(chan error, 1)
			go func() {
				_, err := first.get(t.Context(), backend.Stamp{})
				done <- err
			}()
			time.Sleep(time.Second + settleQuiet)
			for range 8 {
				f.start()
				time.Sleep(500 * time.Millisecond)
			}
			if _, err := f.ordered()[0].get(t.Context(), backend.Stamp{}); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			f.wantCalls(1)
		})
	}
}
