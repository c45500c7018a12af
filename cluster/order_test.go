package cluster

import (
	"fmt"
	"slices"
	"testing"

	"github.com/golang/groupcache/consistenthash"
)

// groupcacheOrder is the definition: the owner, then the owner of the ring
// without it, and so on.
func groupcacheOrder(ids []string, hash consistenthash.Hash, key string) []string {
	ids = slices.Sorted(slices.Values(ids))
	var order []string
	for len(ids) > 0 {
		m := consistenthash.New(points, hash)
		m.Add(ids...)
		owner := m.Get(key)
		order = append(order, owner)
		ids = slices.DeleteFunc(ids, func(id string) bool { return id == owner })
	}
	return order
}

func membersOf(ids []string) []Member {
	list := make([]Member, len(ids))
	for i, id := range ids {
		list[i] = Member{ID: id, Meta: Meta{AllKeys: true}}
	}
	return list
}

func idsOf(members []Member) []string {
	list := make([]string, len(members))
	for i, m := range members {
		list[i] = m.ID
	}
	return list
}

func TestOrder_IsThatOfGroupcacheWithExclusions(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 20} {
		ids := make([]string, n)
		for i := range ids {
			ids[i] = newID()
		}
		r := newRing(membersOf(ids))
		for k := range 10 {
			got, want := idsOf(r.order(keyOf(k))), groupcacheOrder(ids, hash, keyOf(k))
			if !slices.Equal(got, want) {
				t.Fatalf("%d members, key %d: %v, groupcache says %v", n, k, got, want)
			}
		}
	}
}

// Collisions of 32 bits are too rare to meet, so hashes of 8 bits are put in.
func TestOrder_CollisionsAreDecidedAsInGroupcache(t *testing.T) {
	coarse := func(b []byte) uint32 { return hash(b) & 0xff }
	for round := range 5 {
		ids := make([]string, 12)
		for i := range ids {
			ids[i] = newID()
		}
		r := ringOf(membersOf(ids), coarse)
		for k := range 10 {
			got, want := idsOf(r.order(keyOf(k))), groupcacheOrder(ids, coarse, keyOf(k))
			if !slices.Equal(got, want) {
				t.Fatalf("round %d, key %d: %v, groupcache says %v", round, k, got, want)
			}
		}
	}
}

func TestOrder_LeavesOutWhoIsNotConfigured(t *testing.T) {
	members := membersOf([]string{newID(), newID(), newID(), newID(), newID()})
	all := newRing(members).order(keyOf(1))
	without := all[1].ID
	for i := range members {
		if members[i].ID == without {
			members[i].Meta = Meta{}.withKeys([]string{keyOf(2)})
		}
	}
	got := idsOf(newRing(members).order(keyOf(1)))
	want := slices.DeleteFunc(idsOf(all), func(id string) bool { return id == without })
	if !slices.Equal(got, want) {
		t.Fatalf("order %v, want %v", got, want)
	}
}

func TestOrder_NoMemberNoKeyIsHarmless(t *testing.T) {
	if got := newRing(nil).order("x"); len(got) != 0 {
		t.Fatalf("order of nobody: %v", got)
	}
	if got := newRing(membersOf([]string{newID()})).order(""); len(got) != 1 {
		t.Fatalf("order of the empty key: %v", got)
	}
}

func BenchmarkRing(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		ids := make([]string, n)
		for i := range ids {
			ids[i] = newID()
		}
		members := membersOf(ids)
		b.Run(fmt.Sprintf("build/%d", n), func(b *testing.B) {
			for b.Loop() {
				newRing(members)
			}
		})
		s := newSnapshot(map[string]Member{}, nil)
		s.ring = newRing(members)
		s.orders = map[string][]Member{keyOf(1): s.ring.order(keyOf(1))}
		b.Run(fmt.Sprintf("configured/%d", n), func(b *testing.B) {
			for b.Loop() {
				s.order(keyOf(1))
			}
		})
	}
}
