//go:build chaos

package containers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"orthanc-oauth/internal/idptest"
)

// plan is one fault of a schedule.
type plan struct {
	kind     kind
	after    time.Duration // since the storm began
	duration time.Duration
	node     int  // what it is done to
	leader   bool // to the leader instead, whoever that is then
	alone    int  // the side of a partition that has one node
	percent  int  // of loss
}

// String implements fmt.Stringer.
func (p plan) String() string {
	who := fmt.Sprintf("node %d", p.node+1)
	if p.leader {
		who = "the leader"
	}
	return fmt.Sprintf("%s (%s, %v)", p.kind.name, who, p.duration.Round(time.Millisecond))
}

// kind is a kind of fault.
type kind struct {
	name     string
	rows     string // of faults.md
	weight   int
	least    time.Duration
	most     time.Duration
	backends []string // none: all
	inject   func(s *storm, ctx context.Context, p plan) error
}

// kinds is what can happen. The weights make ordinary faults ordinary; in a full
// run each kind happens at least once.
func kinds() []kind {
	const s = time.Second
	gossip, redis := []string{"gossip"}, []string{"redis"}
	return []kind{
		{"kill", "1-3", 4, s / 2, 5 * s, nil, (*storm).kill},
		{"pause", "4, 5", 4, s, 12 * s, nil, (*storm).freeze},
		{"restart", "7", 3, 0, 2 * s, nil, (*storm).restart},
		{"rolling upgrade of all", "8, 19", 1, 0, 0, nil, (*storm).upgrade},
		{"restart of the whole fleet", "9", 1, 0, 0, nil, (*storm).restartAll},
		{"network disconnected", "49, 50", 3, 2 * s, 10 * s, nil, (*storm).disconnect},
		{"partition", "10, 11", 3, 3 * s, 15 * s, nil, (*storm).partition},
		{"one-way drop", "12", 2, 2 * s, 12 * s, nil, (*storm).oneWay},
		{"link flapping 2 s / 2 s", "13", 1, 8 * s, 12 * s, nil, (*storm).flap},
		{"packet loss 1-30%", "14", 2, 3 * s, 12 * s, nil, (*storm).loss},
		{"provider refuses connections", "22", 2, 2 * s, 6 * s, nil, (*storm).down},
		{"provider out of reach", "22", 1, 2 * s, 6 * s, nil, (*storm).silence},
		{"provider slow", "23", 2, 3 * s, 8 * s, nil, answers(idptest.Answer{Delay: 3 * s})},
		{"provider throttles", "24", 2, 2 * s, 5 * s, nil, answers(idptest.Answer{Kind: idptest.Throttle, RetryAfter: "3"})},
		{"provider 503", "25", 1, 2 * s, 5 * s, nil, answers(idptest.Answer{Kind: idptest.Refuse, Status: 503, Error: "temporarily_unavailable"})},
		{"provider resets", "25", 1, 2 * s, 5 * s, nil, answers(idptest.Answer{Kind: idptest.Reset})},
		{"certificate expired", "25", 2, 2 * s, 6 * s, nil, (*storm).expire},
		{"provider answers HTML", "26", 1, 2 * s, 5 * s, nil, answers(idptest.Answer{Kind: idptest.HTML})},
		{"token revoked", "33", 3, 0, 0, nil, (*storm).revoke},
		{"gossip key rotated", "18", 1, 0, 0, gossip, (*storm).rotate},
		{"a stranger's container", "17, 54", 1, 4 * s, 8 * s, gossip, (*storm).stranger},
		{"Redis killed", "37", 3, s, 8 * s, redis, (*storm).killRedis},
		{"Redis paused", "38", 3, s, 8 * s, redis, (*storm).pauseRedis},
		{"Redis failed over", "39", 2, 0, 0, redis, (*storm).failover},
		{"all of Redis killed", "37", 1, 3 * s, 8 * s, redis, (*storm).killAllRedis},
		{"Redis out of one node's reach", "37", 2, 2 * s, 10 * s, redis, (*storm).withoutRedis},
	}
}

// deck is what a run of a backend draws from.
type deck struct {
	rng   *rand.Rand
	kinds []kind
	first []kind // each kind once, before chance decides
}

func newDeck(rng *rand.Rand, backend string) *deck {
	d := &deck{rng: rng}
	for _, k := range kinds() {
		if len(k.backends) == 0 || slices.Contains(k.backends, backend) {
			d.kinds = append(d.kinds, k)
			d.first = append(d.first, k)
		}
	}
	rng.Shuffle(len(d.first), func(i, j int) { d.first[i], d.first[j] = d.first[j], d.first[i] })
	return d
}

func (d *deck) draw() kind {
	if len(d.first) > 0 {
		k := d.first[0]
		d.first = d.first[1:]
		return k
	}
	all := 0
	for _, k := range d.kinds {
		all += k.weight
	}
	n := d.rng.IntN(all)
	for _, k := range d.kinds {
		if n -= k.weight; n < 0 {
			return k
		}
	}
	return d.kinds[0] // never: n is below the sum of the weights
}

// schedule draws the faults of one storm.
func (d *deck) schedule(n int) []plan {
	plans := make([]plan, n)
	for i := range plans {
		k := d.draw()
		plans[i] = plan{
			kind: k, after: time.Duration(d.rng.Int64N(int64(stormLength))), duration: k.least,
			node: d.rng.IntN(orthancs), leader: d.rng.IntN(2) == 0, alone: d.rng.IntN(orthancs), percent: 1 + d.rng.IntN(30),
		}
		if k.most > k.least {
			plans[i].duration += time.Duration(d.rng.Int64N(int64(k.most - k.least)))
		}
	}
	return plans
}
