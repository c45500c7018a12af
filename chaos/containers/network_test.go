//go:build chaos

package containers

import (
	"context"
	"fmt"

	"orthanc-oauth/chaos/storm"
)

// away is what a loss means that lets nothing through: a cable out.
const away = 1000

// filters gives every node the packet filter that the present faults want.
func (w *world) filters(ctx context.Context, wanted storm.Wanted) error {
	if w.unborn {
		return nil
	}
	return w.each(func(n *node) error {
		_, pid := n.at()
		err := w.engine.filter(ctx, pid, w.rulesOf(n, wanted))
		if err != nil && w.time.Current().Life[n.number] == 0 {
			return nil // it has just been killed; ready gives it its rules
		}
		return err
	})
}

func (w *world) rulesOf(n *node, wanted storm.Wanted) (rules []string) {
	for pair := range wanted.Blocked {
		switch {
		case pair[1] == n.number && pair[0] < orthancs:
			addr, _ := w.nodes[pair[0]].at()
			rules = append(rules, dropFrom(addr)...)
		case pair[0] == n.number && pair[1] == store:
			for _, c := range w.redis {
				addr, _ := c.at()
				rules = append(rules, dropFrom(addr)...)
			}
		}
	}
	switch percent := wanted.Lost[n.number]; {
	case percent >= away:
		rules = append(rules, "-A INPUT ! -i lo -j DROP", "-A OUTPUT ! -o lo -j DROP")
	case percent > 0:
		chance := fmt.Sprintf(" -m statistic --mode random --probability %.2f -j DROP", float64(min(percent, 60))/100)
		rules = append(rules, "-A INPUT ! -i lo"+chance, "-A OUTPUT ! -o lo"+chance)
	}
	return rules
}

// dropFrom drops what an address sends. An address that is not known, as that of
// a container which does not run, sends nothing.
func dropFrom(addr string) []string {
	if addr == "" {
		return nil
	}
	return []string{"-A INPUT -s " + addr + " -j DROP"}
}

// partition parts one node from the two others; they all still reach the rest of
// the world.
func (s *breaker) partition(ctx context.Context, p plan) error {
	var pairs [][2]int
	for n := range orthancs {
		if n != p.alone {
			pairs = append(pairs, [2]int{n, p.alone}, [2]int{p.alone, n})
		}
	}
	return s.w.links.Drop(ctx, p.duration, pairs...)
}

func (s *breaker) oneWay(ctx context.Context, p plan) error {
	return s.w.links.Drop(ctx, p.duration, [2]int{p.node, (p.node + 1 + p.percent%(orthancs-1)) % orthancs})
}

// withoutRedis parts one node from Redis.
func (s *breaker) withoutRedis(ctx context.Context, p plan) error {
	return s.w.links.Drop(ctx, p.duration, [2]int{p.node, store})
}

func (s *breaker) loss(ctx context.Context, p plan) error {
	return s.w.links.Loss(ctx, p.duration, p.node, p.percent)
}

func (s *breaker) flap(ctx context.Context, p plan) error {
	set := func(by int) func() error { return func() error { return s.w.links.Lose(ctx, p.node, by) } }
	return s.w.links.Flap(ctx, p.duration, p.node, set(away), set(-away))
}
