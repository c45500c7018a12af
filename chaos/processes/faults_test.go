//go:build chaos

package processes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"orthanc-oauth/chaos/history"
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
	inject   func(s *storm, ctx context.Context, p plan) error
}

// kinds is what can happen. The weights make ordinary faults ordinary.
func kinds() []kind {
	const s = time.Second
	return []kind{
		{"kill -9", 6, s / 2, 5 * s, false, (*storm).kill},
		{"stop and continue", 6, s, 15 * s, false, (*storm).freeze},
		{"graceful restart", 4, 0, 2 * s, false, (*storm).restart},
		{"rolling restart", 1, 0, 0, false, (*storm).rolling},
		{"restart of all at once", 1, 0, 0, false, (*storm).restartAll},
		{"cable pulled", 4, s, 10 * s, true, (*storm).unplug},
		{"interface down", 3, s, 10 * s, true, (*storm).ifdown},
		{"link flapping 2 s / 2 s", 2, 8 * s, 12 * s, true, (*storm).flap},
		{"partition", 4, 3 * s, 15 * s, true, (*storm).partition},
		{"one-way drop", 4, 2 * s, 12 * s, true, (*storm).oneWay},
		{"packet loss 1-30%", 4, 3 * s, 12 * s, true, (*storm).loss},
		{"provider slow", 3, 3 * s, 8 * s, false, (*storm).slow},
		{"provider 429", 2, 2 * s, 5 * s, false, (*storm).throttle},
		{"provider 503", 2, 2 * s, 5 * s, false, (*storm).unavailable},
		{"provider resets", 2, 2 * s, 5 * s, false, (*storm).reset},
		{"provider down", 2, 2 * s, 6 * s, false, (*storm).down},
		{"token revoked", 5, 0, 0, false, (*storm).revoke},
	}
}

// schedule draws the faults of one storm.
func schedule(rng *rand.Rand, n, nodes int, keys []string, real bool) []plan {
	var deck []kind
	for _, k := range kinds() {
		for range k.weight {
			if real || !k.needsNet {
				deck = append(deck, k)
			}
		}
	}
	plans := make([]plan, n)
	for i := range plans {
		k := deck[rng.IntN(len(deck))]
		p := plan{
			kind: k, node: rng.IntN(nodes), leader: rng.IntN(2) == 0, key: keys[rng.IntN(len(keys))],
			after:    time.Duration(rng.Int64N(int64(stormLength))),
			duration: k.least + time.Duration(rng.Int64N(int64(k.most-k.least)+1)),
			percent:  1 + rng.IntN(30), side: make([]bool, nodes),
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

// process holds a node's process for one fault at a time; another that wants it
// takes the next node.
func (s *storm) process(ctx context.Context, p plan) (*node, func()) {
	want := p.node
	if p.leader {
		want = s.leader(ctx, p)
	}
	var got *node
	s.w.time.Change(func(m *history.Moment) {
		for i := range s.w.nodes {
			n := s.w.nodes[(want+i)%len(s.w.nodes)]
			if !m.Running[n.number] {
				m.Running[n.number], got = true, n
				return
			}
		}
	})
	if got == nil {
		return nil, nil
	}
	return got, func() { s.w.time.Change(func(m *history.Moment) { delete(m.Running, got.number) }) }
}

// leader asks a node who leads; its view may be wrong, as anybody's.
func (s *storm) leader(ctx context.Context, p plan) int {
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

func (s *storm) kill(ctx context.Context, p plan) error {
	n, free := s.process(ctx, p)
	if n == nil {
		return errBusy
	}
	defer free()
	n.kill()
	pause(ctx, p.duration)
	return n.start(s.w.ctx)
}

func (s *storm) freeze(ctx context.Context, p plan) error {
	n, free := s.process(ctx, p)
	if n == nil {
		return errBusy
	}
	defer free()
	if err := n.freeze(); err != nil {
		return err
	}
	pause(ctx, p.duration)
	return n.thaw()
}

func (s *storm) restart(ctx context.Context, p plan) error {
	n, free := s.process(ctx, p)
	if n == nil {
		return errBusy
	}
	defer free()
	if err := n.leave(); err != nil {
		return err
	}
	pause(ctx, p.duration)
	return n.start(s.w.ctx)
}

// rolling restarts every node that nothing else is being done to, one by one.
func (s *storm) rolling(ctx context.Context, p plan) error {
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
func (s *storm) restartAll(ctx context.Context, p plan) error {
	p.leader = false
	var taken []*node
	for range s.w.nodes {
		n, free := s.process(ctx, p)
		if n == nil {
			break
		}
		defer free()
		taken = append(taken, n)
	}
	if len(taken) == 0 {
		return errBusy
	}
	if err := each(taken, func(n *node) error { return n.leave() }); err != nil {
		return err
	}
	return each(taken, func(n *node) error { return n.start(s.w.ctx) })
}

// cut applies a change that takes a node off the network, and undoes it.
func (s *storm) cut(ctx context.Context, n *node, d time.Duration, off, on func() error) error {
	s.w.time.Change(func(m *history.Moment) { history.Count(m.Cut, n.number, 1) })
	defer s.w.time.Change(func(m *history.Moment) { history.Count(m.Cut, n.number, -1) })
	if err := off(); err != nil {
		return err
	}
	pause(ctx, d)
	return on()
}

// link takes a port or an interface down, or up again once no fault wants it
// down.
func (s *storm) link(at place, device string, by int) error {
	s.links.Lock()
	defer s.links.Unlock()
	id := at.name + device
	if s.downs[id] += by; s.downs[id] > 0 {
		return at.batch("link set " + device + " down")
	}
	return at.batch("link set " + device + " up")
}

func (s *storm) unplug(ctx context.Context, p plan) error {
	n := s.w.nodes[p.node]
	return s.cut(ctx, n, p.duration,
		func() error { return s.link(s.w.net.hub, n.place.port, 1) }, func() error { return s.link(s.w.net.hub, n.place.port, -1) })
}

func (s *storm) ifdown(ctx context.Context, p plan) error {
	n := s.w.nodes[p.node]
	return s.cut(ctx, n, p.duration,
		func() error { return s.link(n.place, "eth0", 1) }, func() error { return s.link(n.place, "eth0", -1) })
}

func (s *storm) flap(ctx context.Context, p plan) error {
	const beat = 2 * time.Second
	once := p
	once.duration = beat
	for spent := time.Duration(0); spent < p.duration; spent += 2 * beat {
		if err := s.unplug(ctx, once); err != nil {
			return err
		}
		pause(ctx, beat)
	}
	return nil
}

// drop lets no packet pass from one set of nodes to another.
func (s *storm) drop(ctx context.Context, d time.Duration, blocked func(from, to int) bool) error {
	add := func(by int) {
		s.w.time.Change(func(m *history.Moment) {
			for from := range s.w.nodes {
				for to := range s.w.nodes {
					if from != to && blocked(from, to) {
						history.Count(m.Blocked, [2]int{from, to}, by)
					}
				}
			}
		})
	}
	add(1)
	if err := s.rules(nil); err != nil {
		return err
	}
	pause(ctx, d)
	// Packets pass before the truth says so: what it calls one component is one.
	without := map[[2]int]int{}
	for from := range s.w.nodes {
		for to := range s.w.nodes {
			if from != to && blocked(from, to) {
				without[[2]int{from, to}] = 1
			}
		}
	}
	err := s.rules(without)
	add(-1)
	return err
}

// rules gives every node the rules that the present faults want, but for those
// that end.
func (s *storm) rules(ending map[[2]int]int) error {
	s.links.Lock()
	defer s.links.Unlock()
	for pair := range ending {
		s.ending[pair] += ending[pair]
	}
	m := s.w.time.Current()
	err := each(s.w.nodes, func(n *node) error {
		var rules []string
		for pair, wanted := range m.Blocked {
			if pair[1] == n.number && wanted > s.ending[pair] {
				rules = append(rules, "-A INPUT -s "+s.w.nodes[pair[0]].place.addr+" -j DROP")
			}
		}
		if percent := s.losses[n.number]; percent > 0 {
			chance := fmt.Sprintf(" -m statistic --mode random --probability %.2f -j DROP", float64(percent)/100)
			rules = append(rules, "-A INPUT -i eth0"+chance, "-A OUTPUT -o eth0"+chance)
		}
		return n.place.filter(rules)
	})
	for pair := range ending {
		s.ending[pair] -= ending[pair]
	}
	return err
}

func (s *storm) partition(ctx context.Context, p plan) error {
	return s.drop(ctx, p.duration, func(from, to int) bool { return p.side[from] != p.side[to] })
}

func (s *storm) oneWay(ctx context.Context, p plan) error {
	to := (p.node + 1 + p.percent%(len(s.w.nodes)-1)) % len(s.w.nodes)
	return s.drop(ctx, p.duration, func(f, t int) bool { return f == p.node && t == to })
}

func (s *storm) loss(ctx context.Context, p plan) error {
	n := s.w.nodes[p.node]
	set := func(by int) error {
		s.links.Lock()
		s.losses[n.number] += by
		s.links.Unlock()
		return s.rules(nil)
	}
	s.w.time.Change(func(m *history.Moment) { history.Count(m.Lossy, n.number, 1) })
	defer s.w.time.Change(func(m *history.Moment) { history.Count(m.Lossy, n.number, -1) })
	if err := set(p.percent); err != nil {
		return err
	}
	pause(ctx, p.duration)
	return set(-p.percent)
}

// provider holds the provider for one fault at a time.
func (s *storm) provider(ctx context.Context, p plan, begin, end func() error) error {
	if !s.idp.TryLock() {
		return errBusy
	}
	defer s.idp.Unlock()
	s.w.time.Change(func(m *history.Moment) { m.IdP++ })
	defer s.w.time.Change(func(m *history.Moment) { m.IdP-- })
	if err := begin(); err != nil {
		return err
	}
	pause(ctx, p.duration)
	return end()
}

func (s *storm) misbehave(ctx context.Context, p plan, a idptest.Answer) error {
	set := func(a idptest.Answer) func() error {
		return func() error { s.w.out.behave(a); return nil }
	}
	return s.provider(ctx, p, set(a), set(idptest.Answer{}))
}

func (s *storm) slow(ctx context.Context, p plan) error {
	return s.misbehave(ctx, p, idptest.Answer{Delay: p.duration / 2})
}

func (s *storm) throttle(ctx context.Context, p plan) error {
	return s.misbehave(ctx, p, idptest.Answer{Kind: idptest.Throttle, RetryAfter: "3"})
}

func (s *storm) unavailable(ctx context.Context, p plan) error {
	return s.misbehave(ctx, p, idptest.Answer{Kind: idptest.Refuse, Status: 503, Error: "temporarily_unavailable"})
}

func (s *storm) reset(ctx context.Context, p plan) error {
	return s.misbehave(ctx, p, idptest.Answer{Kind: idptest.Reset})
}

func (s *storm) down(ctx context.Context, p plan) error {
	return s.provider(ctx, p, func() error { s.w.out.issuer.down(); return nil }, func() error { return s.w.out.issuer.up(s.w.ctx) })
}

// revokePause is the least time between two revocations of a key: sooner, the
// fleet holds the second back, as it must (protocol.md, 401).
const revokePause = 45 * time.Second

func (s *storm) revoke(_ context.Context, p plan) error {
	s.idpBook.Lock()
	defer s.idpBook.Unlock()
	if at, before := s.revoked[p.key]; before && s.w.time.Now()-at < revokePause {
		return errBusy
	}
	s.revoked[p.key] = s.w.time.Now()
	s.w.out.revoke(p.key)
	return nil
}
