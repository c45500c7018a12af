package cluster

import (
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// points is how often a member stands on the ring. With 128, the most loaded of
// 50 members leads about a quarter more keys than the mean.
const points = 128

// ring is consistent hashing as golang/groupcache does it, walked as a total
// order: the first member clockwise of a key owns it, the second would own it
// if the first were not there, and so on.
type ring struct {
	members []Member // by falling ID
	points  []uint64 // hash<<32 | index of the member, sorted
	hash    func([]byte) uint32
}

// newRing places members, whose IDs differ and have one length.
func newRing(members []Member) ring { return ringOf(members, hash) }

// ringOf is newRing with a hash of its own.
//
// groupcache keeps the member added last where two points collide. Added by
// rising ID that is the highest, so members are numbered by falling ID here and
// the lowest number wins.
func ringOf(members []Member, hash func([]byte) uint32) ring {
	r := ring{
		members: slices.SortedFunc(slices.Values(members), func(a, b Member) int { return -compareIDs(a, b) }),
		points:  make([]uint64, 0, points*len(members)),
		hash:    hash,
	}
	var buf []byte
	for i, m := range r.members {
		for p := range points {
			buf = append(strconv.AppendInt(buf[:0], int64(p), 10), m.ID...)
			r.points = append(r.points, uint64(hash(buf))<<32|uint64(i)) //nolint:gosec // i counts members
		}
	}
	slices.Sort(r.points)
	return r
}

// hash is xxhash64 folded to the 32 bits that groupcache's ring takes.
func hash(b []byte) uint32 {
	h := xxhash.Sum64(b)
	return uint32(h>>32) ^ uint32(h) //nolint:gosec // folding is what is meant
}

// order returns the members that are configured for key, in the key's order.
func (r ring) order(key string) []Member {
	want := 0
	for _, m := range r.members {
		if m.Meta.Configured(key) {
			want++
		}
	}
	order := make([]Member, 0, want)
	seen := make([]bool, len(r.members))
	start, _ := slices.BinarySearch(r.points, uint64(r.hash([]byte(key)))<<32)
	for i := range r.points {
		if len(order) == want {
			break
		}
		at := uint32(r.points[(start+i)%len(r.points)]) //nolint:gosec // the low half is the index
		if m := r.members[at]; !seen[at] {
			seen[at] = true
			if m.Meta.Configured(key) {
				order = append(order, m)
			}
		}
	}
	return order
}
