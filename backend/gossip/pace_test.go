package gossip

import (
	"errors"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

// Two halves hold a live token each, and the provider revokes both.
//
//  1. The half with the key's leader revokes its own, the older one: the pause
//     begins at the leader.
//  2. The halves meet, and everybody adopts the other token.
//  3. It is refused as well. It must go at once, since its users wait and the
//     revocation before has not cost anything yet.
//  4. What is acquired then follows two revocations, and has to wait.
func TestRevoke_TokenOfTheOtherHalfIsNotPaced(t *testing.T) {
	inFleet(t, 6, func(t *testing.T, f *fleet) {
		first := f.must(1, backend.Stamp{})
		order := f.ordered()
		left, right := addrsOf(order[:3]), addrsOf(order[3:])
		f.net.Partition(left, right)
		f.settle(3)
		other, err := order[5].get(t.Context(), first.Stamp)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := order[0].gossip.Revoke(t.Context(), testKey, first.ID); err != nil {
			t.Fatal(err)
		}
		f.net.Heal(left, right)
		f.settle(6)
		if e := f.must(1, first.Stamp); e.Stamp != other.Stamp {
			t.Fatalf("adopted %v, want %v", e.Stamp, other.Stamp)
		}
		if err := order[4].gossip.Revoke(t.Context(), testKey, other.ID); err != nil {
			t.Fatalf("the other half's token: %v", err)
		}
		next := f.must(1, other.Stamp)
		f.wantCalls(3)
		if err := order[4].gossip.Revoke(t.Context(), testKey, next.ID); !errors.Is(err, backend.ErrPaced) {
			t.Fatalf("what was acquired since: %v, want ErrPaced", err)
		}
		time.Sleep(backend.MinPace)
		if err := order[3].gossip.Revoke(t.Context(), testKey, next.ID); err != nil {
			t.Fatalf("after the pause: %v", err)
		}
	})
}

func addrsOf(nodes []*node) (out []string) {
	for _, n := range nodes {
		out = append(out, n.host.Addr().String())
	}
	return out
}
