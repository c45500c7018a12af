//go:build chaos

package containers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"orthanc-oauth/chaos/storm"
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
	inject   func(s *breaker, ctx context.Context, p plan) error
}

// kinds is what can happen. The weights make ordinary faults ordinary; each kind
// is dealt until it has happened once.
func kinds() []kind {
	const s = time.Second
	gossip, redis := []string{"gossip"}, []string{"redis"}
	return []kind{
		{"kill", "1-3", 4, s / 2, 5 * s, nil, (*breaker).kill},
		{"pause", "4, 5", 4, s, 12 * s, nil, (*breaker).freeze},
		{"restart", "7", 3, 0, 2 * s, nil, (*breaker).restart},
		{"rolled back and upgraded", "8, 19", 1, 0, 0, nil, (*breaker).upgrade},
		{"restart of the whole fleet", "9", 1, 0, 0, nil, (*breaker).restartAll},
		{"network disconnected", "49, 50", 3, 2 * s, 10 * s, nil, (*breaker).disconnect},
		{"partition", "10, 11", 3, 3 * s, 15 * s, nil, (*breaker).partition},
		{"one-way drop", "12", 2, 2 * s, 12 * s, nil, (*breaker).oneWay},
		{"link flapping 2 s / 2 s", "13", 1, 8 * s, 12 * s, nil, (*breaker).flap},
		{"packet loss 1-30%", "14", 2, 3 * s, 12 * s, nil, (*breaker).loss},
		{"provider refuses connections", "22", 2, 2 * s, 6 * s, nil, (*breaker).down},
		{"provider out of reach", "22", 1, 2 * s, 6 * s, nil, (*breaker).silence},
		{"provider slow", "23", 2, 3 * s, 8 * s, nil, answers(idptest.Answer{Delay: 3 * s})},
		{"provider throttles", "24", 2, 2 * s, 5 * s, nil, answers(idptest.Answer{Kind: idptest.Throttle, RetryAfter: "3"})},
		{"provider 503", "25", 1, 2 * s, 5 * s, nil, answers(idptest.Answer{Kind: idptest.Refuse, Status: 503, Error: "temporarily_unavailable"})},
		{"provider resets", "25", 1, 2 * s, 5 * s, nil, answers(idptest.Answer{Kind: idptest.Reset})},
		{"certificate expired", "25", 2, 2 * s, 6 * s, nil, (*breaker).expire},
		{"provider answers HTML", "26", 1, 2 * s, 5 * s, nil, answers(idptest.Answer{Kind: idptest.HTML})},
		{"token revoked", "33", 3, 0, 0, nil, (*breaker).revoke},
		{"client secret rotated", "36", 1, 0, 0, nil, (*breaker).rotateClient},
		{"gossip key rotated", "18", 1, 0, 0, gossip, (*breaker).rotate},
		{"a stranger's container", "17, 54", 1, 4 * s, 8 * s, gossip, (*breaker).stranger},
		{"Redis killed", "37", 3, s, 8 * s, redis, (*breaker).killRedis},
		{"Redis paused", "38", 3, s, 8 * s, redis, (*breaker).pauseRedis},
		{"Redis failed over", "39", 2, 0, 0, redis, (*breaker).failover},
		{"all of Redis killed", "37", 1, 3 * s, 8 * s, redis, (*breaker).killAllRedis},
		{"Redis takes no writes", "40", 1, 3 * s, 8 * s, redis, settings("min-replicas-to-write", "9", "0")},
		{"Redis out of memory", "41", 1, 3 * s, 8 * s, redis, settings("maxmemory", "1", "0")},
		{"Redis evicts", "42", 1, 0, 0, redis, (*breaker).evict},
		{"Redis wants another password", "43", 1, 3 * s, 8 * s, redis, (*breaker).shutOut},
		{"Redis denies commands", "43", 1, 3 * s, 8 * s, redis, (*breaker).deny},
		{"Redis shows another database", "43", 1, 3 * s, 8 * s, redis, (*breaker).swap},
		{"Redis out of one node's reach", "37", 2, 2 * s, 10 * s, redis, (*breaker).withoutRedis},
	}
}

// newDeck returns the kinds of faults that a backend can meet.
func newDeck(rng *rand.Rand, backend string) *storm.Deck[kind] {
	all := slices.DeleteFunc(kinds(), func(k kind) bool { return len(k.backends) > 0 && !slices.Contains(k.backends, backend) })
	return storm.NewDeck(rng, all, func(k kind) int { return k.weight })
}

// schedule draws the faults of one storm.
func schedule(rng *rand.Rand, d *storm.Deck[kind], n int) []plan {
	plans := make([]plan, n)
	for i := range plans {
		k := d.Deal()
		plans[i] = plan{
			kind: k, after: storm.Between(rng, 0, stormLength), duration: storm.Between(rng, k.least, k.most),
			node: rng.IntN(orthancs), leader: rng.IntN(2) == 0, alone: rng.IntN(orthancs), percent: 1 + rng.IntN(30),
		}
	}
	return plans
}
