package gossip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/backend"
)

func TestFill_ColdFleetAcquiresOnce(t *testing.T) {
	inFleet(t, 10, func(t *testing.T, f *fleet) {
		started := time.Now()
		f.must(200, backend.Stamp{})
		f.wantCalls(1)
		if took := time.Since(started); took > f.idp.latency+30*time.Millisecond {
			t.Errorf("all served after %v, want the provider's %v and 30 ms", took, f.idp.latency)
		}
	})
}

func TestFill_NodesThatStartTogetherAcquireOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 5)
		defer f.stop()
		for range 5 {
			f.start()
		}
		f.must(20, backend.Stamp{}) // nobody waited for the join
		f.wantCalls(1)
	})
}

func TestFill_LeaderKilledIdle_NextServesFromItsCopy(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		first := f.must(1, backend.Stamp{})
		synctest.Wait()
		f.kill(f.ordered()[0])
		started := time.Now()
		if e := f.must(1, backend.Stamp{}); e.Stamp != first.Stamp {
			t.Errorf("got %v, want the copy of %v", e.Stamp, first.Stamp)
		}
		if took := time.Since(started); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		f.wantCalls(1)
	})
}

func TestFill_NodeStartedAfterTheLeaderDiedGetsThePeersToken(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		first := f.must(1, backend.Stamp{})
		synctest.Wait()
		f.kill(f.ordered()[0])
		late := f.start()
		e, err := late.get(t.Context(), backend.Stamp{})
		if err != nil || e.Stamp != first.Stamp || e.From != backend.FromPeer {
			t.Fatalf("got %v from %q, %v; want %v from a peer", e.Stamp, e.From, err, first.Stamp)
		}
		f.wantCalls(1)
	})
}

func TestFill_LeaderKilledMidAcquisition_NextTakesOver(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		f.idp.latency = time.Second
		order := f.ordered()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := order[4].get(t.Context(), backend.Stamp{}); err != nil {
				t.Errorf("get: %v", err)
			}
		}()
		time.Sleep(500 * time.Millisecond)
		f.wantCalls(1)
		f.kill(order[0])
		started := time.Now()
		<-done
		if took := time.Since(started); took > 2*time.Second+f.idp.latency {
			t.Errorf("took %v after the leader's death", took)
		}
		f.wantCalls(2)
	})
}

func TestFill_LeaderPaused_NextTakesOverWithinTwoSeconds(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		order := f.ordered()
		order[0].host.Pause()
		started := time.Now()
		if _, err := order[4].get(t.Context(), backend.Stamp{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(started); took > 2*time.Second+f.idp.latency {
			t.Errorf("took %v", took)
		}
		f.wantCalls(1)
		order[0].host.Resume()
	})
}

func TestFill_SlowProviderIsNotAHungLeader(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		f.idp.latency = 8 * time.Second
		f.must(5, backend.Stamp{})
		f.wantCalls(1)
	})
}

func TestFill_LateComplaintAdoptsTheNewToken(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		old := f.must(1, backend.Stamp{})
		fresh := f.must(3, old.Stamp)
		f.wantCalls(2)
		if e := f.must(3, old.Stamp); e.Stamp != fresh.Stamp {
			t.Errorf("a late complainer got %v, want %v", e.Stamp, fresh.Stamp)
		}
		f.wantCalls(2)
	})
}

func TestFill_RefreshIsLedOnceAndTheOthersFindIt(t *testing.T) {
	inFleet(t, 10, func(t *testing.T, f *fleet) {
		old := f.must(1, backend.Stamp{})
		time.Sleep(time.Minute)
		f.must(1, old.Stamp)
		f.wantCalls(2)
	})
}

func TestFill_RefusalIsSharedAndHonoured(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		f.idp.refuse = func(int) error {
			return &backend.Refusal{Code: "AUTH-003", RetryAfter: time.Minute}
		}
		for range 3 {
			_, errs := f.all(5, backend.Stamp{})
			for _, err := range errs {
				var r *backend.Refusal
				if !errors.As(err, &r) || r.Code != "AUTH-003" || r.RetryAfter <= 0 {
					t.Fatalf("got %v, want the refusal with its Retry-After", err)
				}
			}
			time.Sleep(15 * time.Second)
		}
		f.wantCalls(1)
		f.kill(f.ordered()[0]) // a new leader knows it too
		_, errs := f.all(1, backend.Stamp{})
		if len(errs) != 4 {
			t.Fatalf("%d of 4 were refused after the leader's death", len(errs))
		}
		f.wantCalls(1)
		f.idp.set(func(p *provider) { p.refuse = nil })
		time.Sleep(time.Minute)
		f.must(1, backend.Stamp{})
		f.wantCalls(2)
	})
}

func TestFill_BrokenWayOfOneLeaderIsGoneRound(t *testing.T) {
	inFleet(t, 4, func(t *testing.T, f *fleet) {
		order := f.ordered()
		broken := order[0]
		f.idp.refuse = func(i int) error {
			if f.nodes[i] == broken {
				return &backend.Refusal{Code: "NET-002", Way: true}
			}
			return nil
		}
		if _, err := order[3].get(t.Context(), backend.Stamp{}); err != nil {
			t.Fatalf("get: %v", err)
		}
		if _, err := broken.get(t.Context(), backend.Stamp{}); err != nil {
			t.Fatalf("get on the node without a way: %v", err)
		}
		f.wantCalls(2)
	})
}

func TestRevoke_ManyRefusedAtOnceCostOneAcquisition(t *testing.T) {
	inFleet(t, 25, func(t *testing.T, f *fleet) {
		bad := f.must(1, backend.Stamp{})
		var wg sync.WaitGroup
		for _, n := range f.nodes {
			wg.Go(func() {
				if err := n.gossip.Revoke(t.Context(), testKey, bad.ID); err != nil {
					t.Errorf("revoke: %v", err)
				}
				e, err := n.get(t.Context(), bad.Stamp)
				if err != nil || e.ID == bad.ID {
					t.Errorf("after the revocation: %v, %v", e.Stamp, err)
				}
			})
		}
		wg.Wait()
		f.wantCalls(2)
	})
}

func TestRevoke_ReachesEverybodyAndIsPacedAtTheLeader(t *testing.T) {
	inFleet(t, 10, func(t *testing.T, f *fleet) {
		bad := f.must(1, backend.Stamp{})
		if err := f.nodes[7].gossip.Revoke(t.Context(), testKey, bad.ID); err != nil {
			t.Fatal(err)
		}
		f.eventually(10*time.Second, func() error {
			for i, n := range f.nodes {
				if !n.gossip.store.IsRevoked(testKey, bad.ID) {
					return fmt.Errorf("node %d does not know", i)
				}
			}
			return nil
		})
		next := f.must(1, bad.Stamp)
		if err := f.nodes[3].gossip.Revoke(t.Context(), testKey, next.ID); !errors.Is(err, backend.ErrPaced) {
			t.Fatalf("second revocation by another node: %v, want ErrPaced", err)
		}
		if err := f.nodes[5].gossip.Confirm(t.Context(), testKey, next.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the leader is told behind the caller
		if err := f.nodes[3].gossip.Revoke(t.Context(), testKey, next.ID); err != nil {
			t.Fatalf("after a confirmed replay: %v", err)
		}
	})
}

func TestClose_LeavesWithoutAFurtherAcquisition(t *testing.T) {
	inFleet(t, 6, func(t *testing.T, f *fleet) {
		first := f.must(1, backend.Stamp{})
		for range 4 {
			leader := f.ordered()[0]
			started := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			if err := errors.Join(leader.gossip.Close(ctx), leader.cluster.Close(ctx)); err != nil {
				t.Fatalf("leave: %v", err)
			}
			cancel()
			if took := time.Since(started); took > 3*time.Second {
				t.Errorf("leaving took %v", took)
			}
			leader.dead = true
			if e := f.must(2, backend.Stamp{}); e.Stamp != first.Stamp {
				t.Fatalf("got %v, want %v", e.Stamp, first.Stamp)
			}
			f.settle(len(f.alive()))
		}
		f.wantCalls(1)
	})
}

// The next leader waits for what the leaving one has begun.
func TestClose_AnAcquisitionUnderWayIsNotMadeTwice(t *testing.T) {
	inFleet(t, 6, func(t *testing.T, f *fleet) {
		f.idp.set(func(p *provider) { p.latency = time.Second })
		order := f.ordered()
		done := make(chan error, 2)
		get := func(n *node) {
			_, err := n.get(t.Context(), backend.Stamp{})
			done <- err
		}
		go get(order[5])
		time.Sleep(300 * time.Millisecond) // the first of the order is at it
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			order[0].gossip.Close(ctx)
		}()
		time.Sleep(100 * time.Millisecond)
		go get(order[4])
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		f.wantCalls(1)
	})
}

func TestPartition_BothSidesGoOnAndHealWithoutACall(t *testing.T) {
	inFleet(t, 6, func(t *testing.T, f *fleet) {
		f.must(1, backend.Stamp{})
		left, right := []string{addrOf(0), addrOf(1), addrOf(2)}, []string{addrOf(3), addrOf(4), addrOf(5)}
		f.net.Partition(left, right)
		time.Sleep(2 * time.Minute)
		f.must(1, backend.Stamp{})
		f.wantCalls(1)
		f.net.Heal(left, right)
		healed := time.Now()
		f.settle(6)
		if took := time.Since(healed); took > 30*time.Second {
			t.Errorf("one ring after %v", took)
		}
		f.must(1, backend.Stamp{})
		f.wantCalls(1)
	})
}

func TestGossip_ShortLivedTokensAreNotReplicated(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		f.idp.life = 5 * time.Second
		f.must(5, backend.Stamp{})
		synctest.Wait()
		holders := 0
		for _, n := range f.nodes {
			if _, ok := n.gossip.store.Get(testKey); ok {
				holders++
			}
		}
		// Those that asked while the flight lasted got it as its callers.
		if calls := f.idp.count(); calls != 1 || holders == 0 {
			t.Fatalf("%d calls, %d holders", calls, holders)
		}
		late := f.start()
		f.settle(4)
		if _, ok := late.gossip.store.Get(testKey); ok {
			t.Fatal("a digest offered a token too short to share")
		}
	})
}

// A push that lay in the socket of a stopped process names a remaining time that
// is over.
func TestPush_RemainingTimeInItIsNotBelieved(t *testing.T) {
	inFleet(t, 4, func(t *testing.T, f *fleet) {
		stamp := backend.Stamp{Gen: 1, ID: backend.NewID()}
		f.nodes[0].gossip.store.Merge(testKey, backend.Entry{Stamp: stamp, Value: []byte("x"), TTL: 20 * time.Second})
		f.evil(f.nodes[0], f.nodes[1], opPush, map[string]string{hStamp: formatStamp(stamp), hTTL: "3600000"}, []byte("x"))
		e, ok := f.nodes[1].gossip.store.Get(testKey)
		if !ok || e.TTL > 20*time.Second {
			t.Errorf("held: %v, for %v", ok, e.TTL)
		}
	})
}

func TestFill_BackoffDoesNotOutliveItsRetryAfterInALargeFleet(t *testing.T) {
	inFleet(t, 20, func(t *testing.T, f *fleet) {
		f.idp.refuse = func(int) error { return &backend.Refusal{Code: "TOK-005", RetryAfter: 5 * time.Second} }
		f.all(1, backend.Stamp{})
		time.Sleep(5100 * time.Millisecond)
		for i, n := range f.nodes {
			if r := n.gossip.store.Backoff(testKey); r != nil {
				t.Errorf("node %d waits another %v", i, r.RetryAfter)
			}
		}
	})
}
