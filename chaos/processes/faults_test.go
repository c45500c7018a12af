//go:build chaos

package processes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"orthanc-oauth/chaos/storm"
	"orthanc-oauth/internal/idptest"
)

// plan is one fault of a schedule.
type plan struct {
	kind     kind
	after    time.Duration // since the storm began
	duration time.Duration
	node     int    // what it is done to
	leader   bool   // to the leader of key instead, whoever that is then
	key      string //
	side     []bool // of a partition, by node
	percent  int    // of loss
}

// kind is a kind of fault.
type kind struct {
	name     string
	weight   int
	least    time.Duration
	most     time.Duration
	needsNet bool
	inject   func(s *breaker, ctx context.Context, p plan) error
}

// kinds is what can happen. The weights make ordinary faults ordinary.
func kinds() []kind {
	const s = time.Second
	return []kind{
		{"kill -9", 6, s / 2, 5 * s, false, (*breaker).kill},
		{"stop and continue", 6, s, 15 * s, false, (*breaker).freeze},
		{"graceful restart", 4, 0, 2 * s, false, (*breaker).restart},
		{"rolling restart", 1, 0, 0, false, (*breaker).rolling},
		{"restart of all at once", 1, 0, 0, false, (*breaker).restartAll},
		{"cable pulled", 4, s, 10 * s, true, (*breaker).unplug},
		{"interface down", 3, s, 10 * s, true, (*breaker).ifdown},
		{"link flapping 2 s / 2 s", 2, 8 * s, 12 * s, true, (*breaker).flap},
		{"partition", 4, 3 * s, 15 * s, true, (*breaker).partition},
		{"one-way drop", 4, 2 * s, 12 * s, true, (*breaker).oneWay},
		{"packet loss 1-30%", 4, 3 * s, 12 * s, true, (*breaker).loss},
		{"provider slow", 3, 3 * s, 8 * s, false, (*breaker).slow},
		{"provider 429", 2, 2 * s, 5 * s, false, (*breaker).throttle},
		{"provider 503", 2, 2 * s, 5 * s, false, (*breaker).unavailable},
		{"provider resets", 2, 2 * s, 5 * s, false, (*breaker).reset},
		{"provider down", 2, 2 * s, 6 * s, false, (*breaker).down},
		{"token revoked", 5, 0, 0, false, (*breaker).revoke},
	}
}

// newDeck returns the kinds of faults that can be had here.
func newDeck(rng *rand.Rand, real bool) *storm.Deck[kind] {
	all := slices.DeleteFunc(kinds(), func(k kind) bool { return k.needsNet && !real })
	return storm.NewDeck(rng, all, func(k kind) int { return k.weight })
}

// schedule draws the faults of one storm.
func schedule(rng *rand.Rand, d *storm.Deck[kind], n, nodes int, keys []string) []plan {
	plans := make([]plan, n)
	for i := range plans {
		k := d.Deal()
		p := plan{
			kind: k, node: rng.IntN(nodes), leader: rng.IntN(2) == 0, key: keys[rng.IntN(len(keys))],
			after: storm.Between(rng, 0, stormLength), duration: storm.Between(rng, k.least, k.most),
			percent: 1 + rng.IntN(30), side: make([]bool, nodes),
		}
		for n := range p.side {
			p.side[n] = rng.IntN(2) == 0
		}
		p.side[p.node], p.side[(p.node+1)%nodes] = true, false // neither side is empty
		plans[i] = p
	}
	return plans
}

// String implements fmt.Stringer.
func (p plan) String() string {
	who := "node " + strconv.Itoa(p.node)
	if p.leader {
		who = "the leader of " + p.key
	}
	return fmt.Sprintf("%s (%s, %v)", p.kind.name, who, p.duration.Round(time.Millisecond))
}

// target is the node that a fault is for: the leader if it shall be, by what a
// node says of it, which may be wrong.
func (s *breaker) target(ctx context.Context, p plan) int {
	if !p.leader {
		return p.node
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	v, err := s.w.nodes[p.node].view(ctx)
	for _, l := range v.Leaders {
		if n, bad := strconv.Atoi(l.Leader[min(1, len(l.Leader)):]); err == nil && bad == nil && l.Server == p.key {
			return n
		}
	}
	return p.node
}

// held does something to a process that nothing else is being done to.
func (s *breaker) held(ctx context.Context, p plan, f func(n *node) error) error {
	return s.Hold(s.target(ctx, p), len(s.w.nodes), func(i int) error { return f(s.w.nodes[i]) })
}

func (s *breaker) kill(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		n.kill()
		storm.Pause(ctx, p.duration)
		return n.start(s.w.ctx)
	})
}

func (s *breaker) freeze(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		if err := n.freeze(); err != nil {
			return err
		}
		storm.Pause(ctx, p.duration)
		return n.thaw()
	})
}

func (s *breaker) restart(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		if err := n.leave(); err != nil {
			return err
		}
		storm.Pause(ctx, p.duration)
		return n.start(s.w.ctx)
	})
}

// rolling restarts every node that nothing else is being done to, one by one.
func (s *breaker) rolling(ctx context.Context, p plan) error {
	p.leader = false
	for i := range s.w.nodes {
		p.node = i
		if s.w.time.Current().Running[i] {
			continue
		}
		if err := s.restart(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// restartAll ends every node before it starts the first again.
func (s *breaker) restartAll(_ context.Context, p plan) error {
	var taken []*node
	for range s.w.nodes {
		i, free, ok := s.Take(p.node, len(s.w.nodes))
		if !ok {
			break
		}
		defer free()
		taken = append(taken, s.w.nodes[i])
	}
	if len(taken) == 0 {
		return storm.ErrBusy
	}
	if err := each(taken, func(n *node) error { return n.leave() }); err != nil {
		return err
	}
	return each(taken, func(n *node) error { return n.start(s.w.ctx) })
}

// link takes a port or an interface down, or up again once no fault wants it
// down.
func (s *breaker) link(at place, device string, by int) error {
	s.cables.Lock()
	defer s.cables.Unlock()
	id := at.name + device
	if s.downs[id] += by; s.downs[id] > 0 {
		return at.batch("link set " + device + " down")
	}
	return at.batch("link set " + device + " up")
}

// switched returns what takes a port or an interface down, or lets it go up.
func (s *breaker) switched(at place, device string, by int) func() error {
	return func() error { return s.link(at, device, by) }
}

func (s *breaker) unplug(ctx context.Context, p plan) error {
	hub, port := s.w.net.hub, s.w.nodes[p.node].place.port
	return s.links.Cut(ctx, p.duration, p.node, s.switched(hub, port, 1), s.switched(hub, port, -1))
}

func (s *breaker) ifdown(ctx context.Context, p plan) error {
	at := s.w.nodes[p.node].place
	return s.links.Cut(ctx, p.duration, p.node, s.switched(at, "eth0", 1), s.switched(at, "eth0", -1))
}

func (s *breaker) flap(ctx context.Context, p plan) error {
	hub, port := s.w.net.hub, s.w.nodes[p.node].place.port
	return s.links.Flap(ctx, p.duration, p.node, s.switched(hub, port, 1), s.switched(hub, port, -1))
}

// filters gives every node the packet filter that the present faults want.
func (w *world) filters(_ context.Context, wanted storm.Wanted) error {
	return each(w.nodes, func(n *node) error {
		var rules []string
		for pair := range wanted.Blocked {
			if pair[1] == n.number {
				rules = append(rules, "-A INPUT -s "+w.nodes[pair[0]].place.addr+" -j DROP")
			}
		}
		if percent := wanted.Lost[n.number]; percent > 0 {
			chance := fmt.Sprintf(" -m statistic --mode random --probability %.2f -j DROP", float64(min(percent, 100))/100)
			rules = append(rules, "-A INPUT -i eth0"+chance, "-A OUTPUT -o eth0"+chance)
		}
		return n.place.filter(rules)
	})
}

// pairs returns those of nodes that something is true of.
func (s *breaker) pairs(blocked func(from, to int) bool) (pairs [][2]int) {
	for from := range s.w.nodes {
		for to := range s.w.nodes {
			if from != to && blocked(from, to) {
				pairs = append(pairs, [2]int{from, to})
			}
		}
	}
	return pairs
}

func (s *breaker) partition(ctx context.Context, p plan) error {
	return s.links.Drop(ctx, p.duration, s.pairs(func(from, to int) bool { return p.side[from] != p.side[to] })...)
}

func (s *breaker) oneWay(ctx context.Context, p plan) error {
	to := (p.node + 1 + p.percent%(len(s.w.nodes)-1)) % len(s.w.nodes)
	return s.links.Drop(ctx, p.duration, [2]int{p.node, to})
}

func (s *breaker) loss(ctx context.Context, p plan) error {
	return s.links.Loss(ctx, p.duration, p.node, p.percent)
}

func (s *breaker) misbehave(ctx context.Context, p plan, a idptest.Answer) error {
	set := func(a idptest.Answer) func() error {
		return func() error { s.w.out.behave(a); return nil }
	}
	return s.Provider(ctx, p.duration, set(a), set(idptest.Answer{}))
}

func (s *breaker) slow(ctx context.Context, p plan) error {
	return s.misbehave(ctx, p, idptest.Answer{Delay: p.duration / 2})
}

func (s *breaker) throttle(ctx context.Context, p plan) error {
	return s.misbehave(ctx, p, idptest.Answer{Kind: idptest.Throttle, RetryAfter: "3"})
}

func (s *breaker) unavailable(ctx context.Context, p plan) error {
	return s.misbehave(ctx, p, idptest.Answer{Kind: idptest.Refuse, Status: 503, Error: "temporarily_unavailable"})
}

func (s *breaker) reset(ctx context.Context, p plan) error {
	return s.misbehave(ctx, p, idptest.Answer{Kind: idptest.Reset})
}

func (s *breaker) down(ctx context.Context, p plan) error {
	return s.Provider(ctx, p.duration, func() error { s.w.out.issuer.down(); return nil }, func() error { return s.w.out.issuer.up(s.w.ctx) })
}

// revokePause is the least time between two revocations of a key: sooner, the
// fleet holds the second back, as it must (protocol.md, 401).
const revokePause = 45 * time.Second

func (s *breaker) revoke(_ context.Context, p plan) error {
	s.idpBook.Lock()
	defer s.idpBook.Unlock()
	if at, before := s.revoked[p.key]; before && s.w.time.Now()-at < revokePause {
		return storm.ErrBusy
	}
	s.revoked[p.key] = s.w.time.Now()
	s.w.out.revoke(p.key)
	return nil
}
