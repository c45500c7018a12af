//go:build chaos

package sim

import (
	"slices"
	"time"
)

// trouble is what one fault does to some directions of the network.
type trouble struct {
	hits  func(from, to int) bool
	cut   bool
	loss  float64
	delay time.Duration
}

// state is what all troubles together do to one direction.
type state struct {
	cut   bool
	loss  float64
	delay time.Duration
}

// links is the network as the faults make it. They overlap, so each direction is
// worked out from all that are active.
type links struct {
	w      *world
	active []*trouble
	now    map[[2]int]state
}

func newLinks(w *world) links { return links{w: w, now: make(map[[2]int]state)} }

// add makes trouble and returns how to end it.
func (l *links) add(t *trouble) (undo func()) {
	l.w.mu.Lock()
	l.active = append(l.active, t)
	l.w.mu.Unlock()
	l.apply()
	return func() {
		l.w.mu.Lock()
		l.active = slices.DeleteFunc(l.active, func(o *trouble) bool { return o == t })
		l.w.mu.Unlock()
		l.apply()
	}
}

func (l *links) of(from, to int) state {
	s := state{delay: l.w.o.delay}
	for _, t := range l.active {
		if t.hits(from, to) {
			s.cut = s.cut || t.cut
			s.loss = max(s.loss, t.loss)
			s.delay += t.delay
		}
	}
	return s
}

// apply brings the network to where the troubles want it.
func (l *links) apply() {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	for i := range l.w.o.nodes {
		for j := range l.w.o.nodes {
			if i != j {
				l.set(i, j)
			}
		}
	}
	l.w.judge.moved()
}

func (l *links) set(i, j int) {
	old, now := l.now[[2]int{i, j}], l.of(i, j)
	if old == now {
		return
	}
	l.now[[2]int{i, j}] = now
	from, to, net := addrOf(i), addrOf(j), l.w.net
	if old.cut != now.cut {
		if now.cut {
			net.Cut(from, to)
		} else {
			net.Join(from, to)
		}
	}
	if old.loss != now.loss {
		net.SetLoss(from, to, now.loss)
	}
	if old.delay != now.delay {
		net.SetDelay(from, to, now.delay)
	}
}

// component returns the nodes that an instance and its neighbours can truly
// reach both ways, itself included. The caller holds the world's mutex.
func (w *world) component(in *instance) map[int]bool {
	seen := map[int]bool{in.node.i: true}
	for todo := []int{in.node.i}; len(todo) > 0; todo = todo[1:] {
		for _, n := range w.nodes {
			if !seen[n.i] && n.reachable() && w.joined(todo[0], n.i) {
				seen[n.i] = true
				todo = append(todo, n.i)
			}
		}
	}
	return seen
}

func (w *world) joined(i, j int) bool {
	return !w.links.now[[2]int{i, j}].cut && !w.links.now[[2]int{j, i}].cut
}

// longestTrip is the longest round trip between an instance and any node. The
// caller holds the world's mutex.
func (w *world) longestTrip(in *instance) (longest time.Duration) {
	for i := range w.nodes {
		there, back := w.links.now[[2]int{in.node.i, i}], w.links.now[[2]int{i, in.node.i}]
		longest = max(longest, there.delay+back.delay)
	}
	return longest
}

// label names a component by its first node.
func label(component map[int]bool) int {
	first := -1
	for i := range component {
		if first < 0 || i < first {
			first = i
		}
	}
	return first
}
