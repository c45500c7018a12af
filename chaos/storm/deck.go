package storm

import (
	"math/rand/v2"
	"time"
)

// Deck deals kinds of faults from a seed: each kind once, in any order, and then
// by their weights.
type Deck[K any] struct {
	rng    *rand.Rand
	kinds  []K
	first  []K
	weight func(K) int
}

// NewDeck returns a deck of kinds, of which each weighs at least 1.
func NewDeck[K any](rng *rand.Rand, kinds []K, weight func(K) int) *Deck[K] {
	d := &Deck[K]{rng: rng, kinds: kinds, weight: weight}
	for _, i := range rng.Perm(len(kinds)) {
		d.first = append(d.first, kinds[i])
	}
	return d
}

// Deal returns the next kind.
func (d *Deck[K]) Deal() K {
	if len(d.first) > 0 {
		k := d.first[0]
		d.first = d.first[1:]
		return k
	}
	all := 0
	for _, k := range d.kinds {
		all += d.weight(k)
	}
	n := d.rng.IntN(all)
	for _, k := range d.kinds {
		if n -= d.weight(k); n < 0 {
			return k
		}
	}
	panic("unreachable: n is below the sum of the weights")
}

// Again deals a kind once more before chance decides.
func (d *Deck[K]) Again(k K) { d.first = append(d.first, k) }

// Between returns a time from least to most.
func Between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)+1))
}
