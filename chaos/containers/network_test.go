//go:build chaos

package containers

import (
	"context"
	"fmt"
	"time"

	"orthanc-oauth/chaos/history"
)

// away is what a loss means that lets nothing through: a cable out.
const away = 1000

// rules gives every node the packet filter that the present faults want.
func (w *world) rules(ctx context.Context) error {
	w.links.Lock()
	defer w.links.Unlock()
	if w.unborn {
		return nil
	}
	m := w.time.Current()
	blocked := cloneWithout(m.Blocked, w.ending)
	return w.each(func(n *node) error {
		_, pid := n.at()
		err := w.engine.filter(ctx, pid, w.rulesOf(n, blocked))
		if err != nil && w.time.Current().Life[n.number] == 0 {
			return nil // it has just been killed; ready gives it its rules
		}
		return err
	})
}

func (w *world) rulesOf(n *node, blocked map[[2]int]int) (rules []string) {
	for pair, wanted := range blocked {
		switch {
		case wanted <= 0:
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
	switch percent := w.losses[n.number]; {
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

// drop lets no packet pass from one set of nodes to another.
func (s *storm) drop(ctx context.Context, d time.Duration, pairs ...[2]int) error {
	add := func(by int) {
		s.w.time.Change(func(m *history.Moment) {
			for _, pair := range pairs {
				history.Count(m.Blocked, pair, by)
			}
		})
	}
	end := func(by int) {
		s.w.links.Lock()
		defer s.w.links.Unlock()
		for _, pair := range pairs {
			history.Count(s.w.ending, pair, by)
		}
	}
	add(1)
	if err := s.w.rules(ctx); err != nil {
		return err
	}
	pause(ctx, d)
	// Packets pass before the truth says so: what it calls one component is one.
	end(1)
	err := s.w.rules(ctx)
	add(-1)
	end(-1)
	return err
}

// partition parts one node from the two others; they all still reach the rest of
// the world.
func (s *storm) partition(ctx context.Context, p plan) error {
	var pairs [][2]int
	for n := range orthancs {
		if n != p.alone {
			pairs = append(pairs, [2]int{n, p.alone}, [2]int{p.alone, n})
		}
	}
	return s.drop(ctx, p.duration, pairs...)
}

func (s *storm) oneWay(ctx context.Context, p plan) error {
	return s.drop(ctx, p.duration, [2]int{p.node, (p.node + 1 + p.percent%(orthancs-1)) % orthancs})
}

// withoutRedis parts one node from Redis.
func (s *storm) withoutRedis(ctx context.Context, p plan) error {
	return s.drop(ctx, p.duration, [2]int{p.node, store})
}

// lose adds to the packets that a node loses, both ways.
func (s *storm) lose(ctx context.Context, node, by int) error {
	s.w.links.Lock()
	s.w.losses[node] += by
	s.w.links.Unlock()
	return s.w.rules(ctx)
}

func (s *storm) loss(ctx context.Context, p plan) error {
	s.w.time.Change(func(m *history.Moment) { history.Count(m.Lossy, p.node, 1) })
	defer s.w.time.Change(func(m *history.Moment) { history.Count(m.Lossy, p.node, -1) })
	if err := s.lose(ctx, p.node, p.percent); err != nil {
		return err
	}
	pause(ctx, p.duration)
	return s.lose(ctx, p.node, -p.percent)
}

func (s *storm) flap(ctx context.Context, p plan) error {
	const beat = 2 * time.Second
	for spent := time.Duration(0); spent < p.duration; spent += 2 * beat {
		s.w.time.Change(func(m *history.Moment) { history.Count(m.Cut, p.node, 1) })
		err := s.lose(ctx, p.node, away)
		pause(ctx, beat)
		if err == nil {
			err = s.lose(ctx, p.node, -away)
		}
		s.w.time.Change(func(m *history.Moment) { history.Count(m.Cut, p.node, -1) })
		if err != nil {
			return err
		}
		pause(ctx, beat)
	}
	return nil
}
