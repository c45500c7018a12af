package gossip

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"orthanc-oauth/backend"
)

// quiet has a node know that the provider wants to be left alone.
func quiet(n *node, pause time.Duration) {
	n.gossip.store.AdoptRefusal(testKey, &backend.Refusal{Code: "AUTH-003", RetryAfter: pause})
}

func TestFill_BackoffDoesNotHideWhatOthersHold(t *testing.T) {
	inFleet(t, 5, func(t *testing.T, f *fleet) {
		held := f.must(1, backend.Stamp{})
		for range 3 {
			// A node that has heard of the backoff but lacks the copy: it has
			// just started, and digests have not told it of any.
			n := f.start()
			n.gossip.SetKeys(nil)
			f.settle(len(f.nodes))
			if _, has := n.gossip.store.Get(testKey); has {
				t.Fatal("the node has a copy already")
			}
			quiet(n, 30*time.Second)
			if e, err := n.get(t.Context(), backend.Stamp{}); err != nil || e.Stamp != held.Stamp {
				t.Errorf("rank %d got %v, %v; want the entry that the others hold", n.gossip.rank(testKey), e.Stamp, err)
			}
		}
		if f.idp.count() != 1 {
			t.Errorf("%d acquisitions, want 1", f.idp.count())
		}
	})
}

func TestFill_BackoffIsNoFloodOfQuestionsToPeers(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		last := f.ordered()[2]
		quiet(last, 30*time.Second)
		for range 100 {
			if _, err := last.get(t.Context(), backend.Stamp{}); !errors.As(err, new(*backend.Refusal)) {
				t.Fatalf("got %v, want the refusal", err)
			}
		}
		sent := testutil.ToFloat64(last.gossip.metrics.peerRequests.WithLabelValues("peek", "none"))
		if sent == 0 || sent > 4 {
			t.Errorf("%v questions for 100 gets at once, want one to each of two peers", sent)
		}
	})
}

func TestDigest_AnOldOneDoesNotProlongABackoff(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		const pause = 7 * time.Second
		refused := f.nodes[0]
		quiet(refused, pause)
		old := refused.gossip.State()
		refused.gossip.announce(testKey)
		time.Sleep(time.Second)
		for _, n := range f.nodes[1:] {
			if b := n.gossip.store.Backoff(testKey); b == nil || b.RetryAfter > pause-time.Second {
				t.Errorf("a node has heard of %v, want the rest of what the provider asks for", b)
			}
		}
		// A queue or the socket of a machine that stood still held it back.
		time.Sleep(pause - 2*time.Second)
		for _, n := range f.nodes[1:] {
			n.gossip.Gossip(old)
		}
		time.Sleep(time.Second)
		for _, n := range f.nodes {
			if b := n.gossip.store.Backoff(testKey); b != nil {
				t.Errorf("a node still waits %v after the pause that the provider asked for", b.RetryAfter)
			}
		}
	})
}
