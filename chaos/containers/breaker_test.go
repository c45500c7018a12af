//go:build chaos

package containers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/storm"
	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

const (
	// stormLength is when the last fault of a storm begins.
	stormLength = 40 * time.Second
	// stormFaults is how many are tried in one; some find their target taken.
	stormFaults = 22
)

// breaker breaks the fleet and what stands around it.
type breaker struct {
	*storm.Storm
	w                  *world
	redis, fleet, ring sync.Mutex // held by a fault of these
	lives              int        // of Redis
	lastRevoked        time.Duration
	rotations          int // of the client's secret
}

// steps makes a schedule of plans.
func (s *breaker) steps(plans []plan) []storm.Step {
	steps := make([]storm.Step, len(plans))
	for i, p := range plans {
		steps[i] = storm.Step{
			Kind: p.kind.name, What: p.String(), After: p.after,
			Inject: func(ctx context.Context) error { return p.kind.inject(s, ctx, p) },
		}
	}
	return steps
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
func (s *breaker) held(ctx context.Context, p plan, f func(n *node) error) error {
	return s.Hold(s.target(ctx, p), len(s.w.nodes), func(i int) error { return f(s.w.nodes[i]) })
}

func (s *breaker) kill(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		n.gone()
		if err := n.do(ctx, "kill"); err != nil {
			return err
		}
		storm.Pause(ctx, p.duration)
		return n.start(ctx)
	})
}

func (s *breaker) freeze(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		n.gone()
		if err := n.do(ctx, "pause"); err != nil {
			return err
		}
		storm.Pause(ctx, p.duration)
		err := n.do(ctx, "unpause")
		s.w.time.Change(func(m *history.Moment) { m.Life[n.number] = n.lives })
		return err
	})
}

func (s *breaker) restart(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		if err := n.stop(ctx); err != nil {
			return err
		}
		storm.Pause(ctx, p.duration)
		return n.start(ctx)
	})
}

// upgrade takes the fleet back to the version before this one and up again, as
// `docker compose up` with another tag does: one container after the other, so
// that both versions are at work beside each other. The volume with the studies
// stays.
func (s *breaker) upgrade(ctx context.Context, _ plan) error {
	if !s.fleet.TryLock() {
		return storm.ErrBusy
	}
	defer s.fleet.Unlock()
	return errors.Join(s.roll(ctx, before), s.roll(ctx, this))
}

// roll replaces one container after the other by one of another tag.
func (s *breaker) roll(ctx context.Context, tag string) error {
	for _, n := range s.w.nodes {
		free, err := s.takeOnly(ctx, n)
		if err == nil {
			err = s.replace(ctx, n, tag)
			free()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeOnly holds this node and no other, once whatever is done to it is over.
func (s *breaker) takeOnly(ctx context.Context, n *node) (free func(), err error) {
	err = fleet.Eventually(ctx, commandPatience, func(context.Context) error {
		i, release, ok := s.Take(n.number, len(s.w.nodes))
		switch {
		case ok && i == n.number:
			free = release
			return nil
		case ok:
			release()
		}
		return fmt.Errorf("%s is held by another fault", n.service)
	})
	return free, err
}

func (s *breaker) replace(ctx context.Context, n *node, tag string) error {
	if err := n.stop(ctx); err != nil {
		return err
	}
	if err := s.w.keepLog(ctx, n.service, n.id); err != nil {
		return err
	}
	if _, err := s.w.engine.with("ORTHANC_TAG="+tag).composed(ctx, "up", "-d", "--no-deps", "--no-build", "--force-recreate", "-t", "10", n.service); err != nil {
		return err
	}
	return n.ready(ctx)
}

// restartAll ends every node before it starts the first again.
func (s *breaker) restartAll(ctx context.Context, p plan) error {
	if !s.fleet.TryLock() {
		return storm.ErrBusy
	}
	defer s.fleet.Unlock()
	taken := map[*node]bool{}
	for range s.w.nodes {
		i, free, ok := s.Take(p.node, len(s.w.nodes))
		if !ok {
			break
		}
		defer free()
		taken[s.w.nodes[i]] = true
	}
	if len(taken) == 0 {
		return storm.ErrBusy
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
func (s *breaker) disconnect(ctx context.Context, p plan) error {
	return s.held(ctx, p, func(n *node) error {
		network := s.w.engine.project + "_fleet"
		off := func() error {
			_, err := s.w.engine.do(ctx, "network", "disconnect", network, n.id)
			return err
		}
		on := func() error {
			if _, err := s.w.engine.do(ctx, "network", "connect", "--alias", "orthanc", "--alias", n.host(), network, n.id); err != nil {
				return err
			}
			if err := n.refresh(ctx); err != nil {
				return err
			}
			s.w.moved(n)
			return s.w.links.Apply(ctx)
		}
		return s.w.links.Cut(ctx, p.duration, n.number, off, on)
	})
}

// order returns what gives the provider an order.
func (s *breaker) order(ctx context.Context, o idptest.Order) func() error {
	return func() error { _, err := s.w.provider().Do(ctx, o); return err }
}

// answers returns a fault in which the provider answers everybody alike.
func answers(a idptest.Answer) func(s *breaker, ctx context.Context, p plan) error {
	return func(s *breaker, ctx context.Context, p plan) error {
		return s.Provider(ctx, p.duration, s.order(ctx, idptest.Order{Always: &a}), s.order(ctx, idptest.Order{Behave: true}))
	}
}

func (s *breaker) down(ctx context.Context, p plan) error {
	yes, no := true, false
	return s.Provider(ctx, p.duration, s.order(ctx, idptest.Order{Down: &yes}), s.order(ctx, idptest.Order{Down: &no}))
}

func (s *breaker) expire(ctx context.Context, p plan) error {
	yes, no := true, false
	return s.Provider(ctx, p.duration, s.order(ctx, idptest.Order{Expired: &yes}), s.order(ctx, idptest.Order{Expired: &no}))
}

// silence drops what is sent to the provider's port: nobody answers.
func (s *breaker) silence(ctx context.Context, p plan) error {
	_, pid := s.w.idp.at()
	rules := func(lines ...string) func() error {
		return func() error { return s.w.engine.filter(ctx, pid, lines) }
	}
	return s.Provider(ctx, p.duration, rules("-A INPUT -p tcp --dport 8443 -j DROP"), rules())
}

// revokePause is the least time between two revocations: sooner, the fleet holds
// the second back, as it must (docs/protocol.md).
const revokePause = 45 * time.Second

func (s *breaker) revoke(ctx context.Context, _ plan) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	now := s.w.time.Now()
	if s.lastRevoked != 0 && now-s.lastRevoked < revokePause {
		return storm.ErrBusy
	}
	s.lastRevoked = now
	s.w.revoked = append(s.w.revoked, now)
	return s.order(ctx, idptest.Order{RevokeAll: true})()
}

// secrets is where the containers share what is secret.
const secrets = "/run/oauth/"

// rotateClient replaces the client's secret, node by node, while the provider
// takes both. Who has the new one asks under another key: a node that starts anew
// just then can use nothing that the others hold, and needs the provider.
func (s *breaker) rotateClient(ctx context.Context, _ plan) error {
	return s.Whole(func() error { return s.rotateSecrets(ctx) })
}

func (s *breaker) rotateSecrets(ctx context.Context) error {
	name := s.w.clientSecret
	old, fresh := s.w.secret(name), rand.Text()
	s.rotations++
	s.w.clientSecret = fmt.Sprintf("client.secret, %d", s.rotations)
	s.w.keep(s.w.clientSecret, fresh)
	accepts := func(words ...string) error {
		_, err := s.w.provider().Do(ctx, idptest.Order{Secrets: map[string][]string{clientID: words}})
		return err
	}
	if err := accepts(old, fresh); err != nil {
		return err
	}
	for _, n := range s.w.nodes {
		if err := s.w.idp.write(secrets+n.host()+".secret", fresh); err != nil {
			return err
		}
		storm.Pause(ctx, stagger)
	}
	// A node that is down reads it at its start.
	if err := s.oneKey(ctx); err != nil {
		return err
	}
	return accepts(fresh)
}

// stagger is what an operator takes from one node to the next.
const stagger = 2 * time.Second

// oneKey waits until all nodes share one key again.
func (s *breaker) oneKey(ctx context.Context) error {
	return fleet.Eventually(ctx, ringPatience, func(ctx context.Context) error {
		var mu sync.Mutex
		keys := map[string]bool{}
		err := s.w.each(func(n *node) error {
			v, err := n.server(ctx)
			mu.Lock()
			defer mu.Unlock()
			keys[v.Key] = true
			return err
		})
		if err == nil && len(keys) != 1 {
			err = fmt.Errorf("the nodes use %d keys", len(keys))
		}
		return err
	})
}

// rotate replaces the fleet's secret in the three steps of the handbook. The
// containers share the file.
func (s *breaker) rotate(ctx context.Context, _ plan) error {
	if !s.ring.TryLock() {
		return storm.ErrBusy
	}
	defer s.ring.Unlock()
	const file, fresh = secrets + "gossip.key", secrets + "next.key"
	ours := func(args ...string) error {
		_, err := s.w.idp.exec(ctx, append([]string{"/orthanc-oauth"}, args...)...)
		return err
	}
	v, err := s.w.nodes[0].view(ctx)
	if err != nil || len(v.Fingerprints) != 1 {
		return storm.ErrBusy // the node that would be asked is down just now
	}
	before := v.Fingerprints[0]
	if err := errors.Join(ours("keygen", "--output", fresh), ours("keyring", "add", file, fresh)); err != nil {
		return err
	}
	ring, err := s.ringOf(ctx, 2, before)
	if err != nil {
		return err
	}
	next, err := s.w.idp.take(fresh)
	s.w.keep(fmt.Sprintf("gossip.key, %s", ring[1]), next)
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
func (s *breaker) ringOf(ctx context.Context, keys int, first string) (ring []string, err error) {
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
func (s *breaker) stranger(ctx context.Context, p plan) error {
	if !s.ring.TryLock() {
		return storm.ErrBusy
	}
	defer s.ring.Unlock()
	if _, err := s.w.engine.composed(ctx, "up", "-d", "--no-deps", "--no-build", "stranger"); err != nil {
		return err
	}
	storm.Pause(ctx, p.duration)
	err := s.w.each(func(n *node) error {
		v, _ := n.view(ctx) // a node that is down just now has let nobody in
		for _, m := range v.Members {
			if !s.w.ours(m.Name) { // two of one name are a node's last life and its present one
				return fmt.Errorf("%s has let %s in: %+v", n.service, m.Name, v.Members)
			}
		}
		return nil
	})
	id, bad := s.w.engine.container(ctx, "stranger")
	if bad == nil {
		bad = s.w.keepLog(ctx, "stranger", id)
	}
	_, gone := s.w.engine.composed(ctx, "rm", "-s", "-f", "stranger")
	return errors.Join(err, bad, gone)
}
