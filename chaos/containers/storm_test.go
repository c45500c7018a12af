//go:build chaos

package containers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// errBusy is for a fault whose target another fault holds; it is not counted.
var errBusy = errors.New("nothing left to do this to")

const (
	// stormLength is when the last fault of a storm begins.
	stormLength = 40 * time.Second
	// stormFaults is how many are tried in one; some find their target taken.
	stormFaults = 22
)

// storm injects faults.
type storm struct {
	w      *world
	mu     sync.Mutex // of faults and errs
	faults []*history.Fault
	errs   []error

	idp, redis, fleet, ring sync.Mutex // held by a fault of these
	lives                   int        // of Redis
	lastRevoked             time.Duration
}

// rage injects the planned faults, each at its time, and returns when the last
// one has ended.
func (s *storm) rage(ctx context.Context, plans []plan) {
	var all sync.WaitGroup
	for _, p := range plans {
		all.Go(func() {
			pause(ctx, p.after)
			if ctx.Err() == nil {
				s.inject(ctx, p)
			}
		})
	}
	all.Wait()
}

func (s *storm) inject(ctx context.Context, p plan) {
	f := &history.Fault{Kind: p.kind.name, What: p.String(), Begun: s.w.time.Now(), Extras: map[int]int{}}
	err := p.kind.inject(s, ctx, p)
	f.End = s.w.time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, errBusy):
	case err != nil:
		s.errs = append(s.errs, fmt.Errorf("%s: %w", p, err))
	default:
		s.faults = append(s.faults, f)
	}
}

// last is when the last fault ended.
func (s *storm) last() (end time.Duration) {
	for _, f := range s.faults {
		end = max(end, f.End)
	}
	return end
}

// take holds a node for one fault at a time; another that wants it takes the
// next node.
func (s *storm) take(ctx context.Context, p plan) (*node, func()) {
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
	if err != nil || len(v.Leaders) == 0 {
		return p.node
	}
	name := v.Leaders[0].Leader
	if n, bad := strconv.Atoi(name[max(len(name)-1, 0):]); bad == nil && n >= 1 && n <= orthancs {
		return n - 1
	}
	return p.node
}

// held does something to a node that nothing else is being done to.
func (s *storm) held(ctx context.Context, p plan, f func(n *node) error) error {
	n, free := s.take(ctx, p)
	if n == nil {
		return errBusy
	}
	defer free()
	return f(n)
}

func (s *storm) kill(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		n.gone()
		if err := n.do(ctx, "kill"); err != nil {
			return err
		}
		pause(ctx, p.duration)
		return n.start(ctx)
	})
}

func (s *storm) freeze(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		n.gone()
		if err := n.do(ctx, "pause"); err != nil {
			return err
		}
		pause(ctx, p.duration)
		err := n.do(ctx, "unpause")
		s.w.time.Change(func(m *history.Moment) { m.Life[n.number] = n.lives })
		return err
	})
}

func (s *storm) restart(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		if err := n.stop(ctx); err != nil {
			return err
		}
		pause(ctx, p.duration)
		return n.start(ctx)
	})
}

// upgrade replaces one container after the other by one of the next image, as
// `docker compose up` with another tag does. The volume with the studies stays.
func (s *storm) upgrade(ctx context.Context, p plan) error {
	if !s.fleet.TryLock() {
		return errBusy
	}
	defer s.fleet.Unlock()
	for i := range s.w.nodes {
		p.node, p.leader = i, false
		err := fleet.Eventually(ctx, commandPatience, func(ctx context.Context) error {
			if s.w.time.Current().Running[i] {
				return errBusy // until whatever is done to it is over: all of them are upgraded
			}
			return nil
		})
		if err == nil {
			err = s.held(ctx, p, func(n *node) error { return s.replace(ctx, n) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *storm) replace(ctx context.Context, n *node) error {
	if err := n.stop(ctx); err != nil {
		return err
	}
	if err := s.w.keepLog(ctx, n.service, n.id); err != nil {
		return err
	}
	next := *s.w.engine
	next.env = append(slices.Clip(next.env), "ORTHANC_TAG=next")
	if _, err := next.composed(ctx, "up", "-d", "--no-deps", "--no-build", "--force-recreate", "-t", "10", n.service); err != nil {
		return err
	}
	return n.ready(ctx)
}

// restartAll ends every node before it starts the first again.
func (s *storm) restartAll(ctx context.Context, p plan) error {
	if !s.fleet.TryLock() {
		return errBusy
	}
	defer s.fleet.Unlock()
	p.leader = false
	taken := map[*node]bool{}
	for range s.w.nodes {
		n, free := s.take(ctx, p)
		if n == nil {
			break
		}
		defer free()
		taken[n] = true
	}
	if len(taken) == 0 {
		return errBusy
	}
	each := func(f func(n *node) error) error {
		return s.w.each(func(n *node) error {
			if !taken[n] {
				return nil
			}
			return f(n)
		})
	}
	if err := each(func(n *node) error { return n.stop(ctx) }); err != nil {
		return err
	}
	return each(func(n *node) error { return n.start(ctx) })
}

// disconnect takes a node off its network. It comes back with whatever address
// is free then.
func (s *storm) disconnect(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		network := s.w.engine.project + "_fleet"
		s.w.time.Change(func(m *history.Moment) { history.Count(m.Cut, n.number, 1) })
		defer s.w.time.Change(func(m *history.Moment) { history.Count(m.Cut, n.number, -1) })
		if _, err := s.w.engine.do(ctx, "network", "disconnect", network, n.id); err != nil {
			return err
		}
		pause(ctx, p.duration)
		name := fmt.Sprintf("orthanc-%d", n.number+1)
		if _, err := s.w.engine.do(ctx, "network", "connect", "--alias", "orthanc", "--alias", name, network, n.id); err != nil {
			return err
		}
		if err := n.refresh(ctx); err != nil {
			return err
		}
		s.w.moved(n)
		return s.w.rules(ctx)
	})
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

// order returns what gives the provider an order.
func (s *storm) order(ctx context.Context, o idptest.Order) func() error {
	return func() error { _, err := s.w.provider().Do(ctx, o); return err }
}

// answers returns a fault in which the provider answers everybody alike.
func answers(a idptest.Answer) func(s *storm, ctx context.Context, p plan) error {
	return func(s *storm, ctx context.Context, p plan) error {
		return s.provider(ctx, p, s.order(ctx, idptest.Order{Always: &a}), s.order(ctx, idptest.Order{Behave: true}))
	}
}

func (s *storm) down(ctx context.Context, p plan) error {
	yes, no := true, false
	return s.provider(ctx, p, s.order(ctx, idptest.Order{Down: &yes}), s.order(ctx, idptest.Order{Down: &no}))
}

func (s *storm) expire(ctx context.Context, p plan) error {
	yes, no := true, false
	return s.provider(ctx, p, s.order(ctx, idptest.Order{Expired: &yes}), s.order(ctx, idptest.Order{Expired: &no}))
}

// silence drops what is sent to the provider's port: nobody answers.
func (s *storm) silence(ctx context.Context, p plan) error {
	_, pid := s.w.idp.at()
	rules := func(lines ...string) func() error {
		return func() error { return s.w.engine.filter(ctx, pid, lines) }
	}
	return s.provider(ctx, p, rules("-A INPUT -p tcp --dport 8443 -j DROP"), rules())
}

// revokePause is the least time between two revocations: sooner, the fleet holds
// the second back, as it must (docs/protocol.md).
const revokePause = 45 * time.Second

func (s *storm) revoke(ctx context.Context, _ plan) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	now := s.w.time.Now()
	if s.lastRevoked != 0 && now-s.lastRevoked < revokePause {
		return errBusy
	}
	s.lastRevoked = now
	s.w.revoked = append(s.w.revoked, now)
	return s.order(ctx, idptest.Order{RevokeAll: true})()
}

// rotate replaces the fleet's secret in the three steps of the handbook. The
// containers share the file.
func (s *storm) rotate(ctx context.Context, _ plan) error {
	if !s.ring.TryLock() {
		return errBusy
	}
	defer s.ring.Unlock()
	const file, fresh = "/run/oauth/gossip.key", "/run/oauth/next.key"
	ours := func(args ...string) error {
		_, err := s.w.idp.exec(ctx, append([]string{"/orthanc-oauth"}, args...)...)
		return err
	}
	v, err := s.w.nodes[0].view(ctx)
	if err != nil || len(v.Fingerprints) != 1 {
		return errBusy // the node that would be asked is down just now
	}
	before := v.Fingerprints[0]
	if err := errors.Join(ours("keygen", "--output", fresh), ours("keyring", "add", file, fresh)); err != nil {
		return err
	}
	ring, err := s.ringOf(ctx, 2, before)
	if err != nil {
		return err
	}
	s.w.mu.Lock()
	s.w.secrets["the next gossip.key"], err = s.w.nodes[0].exec(ctx, "cat", fresh)
	s.w.mu.Unlock()
	after := ring[1]
	if err := errors.Join(err, ours("keyring", "use", file, after)); err != nil {
		return err
	}
	if _, err := s.ringOf(ctx, 2, after); err != nil {
		return err
	}
	if err := ours("keyring", "remove", file, before); err != nil {
		return err
	}
	_, err = s.ringOf(ctx, 1, after)
	return err
}

// ringPatience is how long a step of a rotation waits for nodes that other faults
// hold.
const ringPatience = 90 * time.Second

// ringOf waits until all nodes have a ring of that many keys with this one first.
func (s *storm) ringOf(ctx context.Context, keys int, first string) (ring []string, err error) {
	var mu sync.Mutex
	err = fleet.Eventually(ctx, ringPatience, func(ctx context.Context) error {
		return s.w.each(func(n *node) error {
			v, err := n.view(ctx)
			if err == nil && (len(v.Fingerprints) != keys || v.Fingerprints[0] != first) {
				err = fmt.Errorf("%s has the ring %v", n.service, v.Fingerprints)
			}
			mu.Lock()
			defer mu.Unlock()
			ring = v.Fingerprints
			return err
		})
	})
	return ring, err
}

// stranger starts somebody else's sidecar on the same network, with another key
// and our names for peers. It must be nobody's member.
func (s *storm) stranger(ctx context.Context, p plan) error {
	if !s.ring.TryLock() {
		return errBusy
	}
	defer s.ring.Unlock()
	if _, err := s.w.engine.composed(ctx, "up", "-d", "--no-deps", "--no-build", "stranger"); err != nil {
		return err
	}
	pause(ctx, p.duration)
	err := s.w.each(func(n *node) error {
		v, err := n.view(ctx)
		if err == nil && len(v.Members) > orthancs {
			return fmt.Errorf("%s has %d members while a stranger is about: %+v", n.service, len(v.Members), v.Members)
		}
		return nil // a node that is down just now has let nobody in
	})
	id, bad := s.w.engine.container(ctx, "stranger")
	if bad == nil {
		bad = s.w.keepLog(ctx, "stranger", id)
	}
	_, gone := s.w.engine.composed(ctx, "rm", "-s", "-f", "stranger")
	return errors.Join(err, bad, gone)
}

// cloneWithout returns the counts of a without those of b.
func cloneWithout(a, b map[[2]int]int) map[[2]int]int {
	out := maps.Clone(a)
	for pair, n := range b {
		history.Count(out, pair, -n)
	}
	return out
}
