//go:build chaos

package processes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The bounds of faults.md.
const (
	availableBound = 10 * time.Second // a get, if a token is in reach
	heldBound      = 2 * time.Second  // a get where no call of the provider is needed
	faultTail      = 15 * time.Second // what a fault covers beyond its end
	convergeBound  = 30 * time.Second
	meanExtra      = 0.2
	maxExtra       = 1
	// backoffTail is how long after a refusal by the provider the fleet may keep
	// away from it.
	backoffTail = 30 * time.Second
	// settled is how long two nodes must have been connected to count as one
	// component for an acquisition that began a moment before it was counted.
	settled = time.Second
)

// fault is one that was injected.
type fault struct {
	kind       string
	what       string
	begun, end time.Duration
	extras     map[int]int // acquisitions put down to it, by the first node of their component
}

// judge knows the truth of a run.
type judge struct {
	time   *timeline
	out    *outside
	faults []*fault
}

// alive reports whether a token can be used at an instant by who holds it.
func (g *grant) alive(at time.Duration) bool {
	left := min(max(g.life/50, time.Second), time.Minute, g.life/4)
	return g.served <= at && at < g.arrived+g.life-left && (g.revoked == 0 || at < g.revoked)
}

// due reports whether a token may be renewed at an instant: a node with the
// default buffer does so a fifth before its end, a third if it lives less than a
// minute, and up to a twentieth sooner.
func (g *grant) due(at time.Duration) bool {
	ahead := g.life / 5
	if g.life < time.Minute {
		ahead = g.life / 3
	}
	return at > g.arrived+g.life-min(ahead, 5*time.Minute)-g.life/20-time.Second
}

// heldIn reports whether one of the nodes has the token at an instant: it came
// with it, and has not gone over to another since. Where a fault has made two, a
// node that learns of the other keeps one.
func (g *grant) heldIn(nodes map[int]bool, m moment, at time.Duration) bool {
	for n := range nodes {
		who := holder{n, m.life[n], g.key}
		seen, ok := g.seen[who]
		if dropped, gone := g.dropped[who]; ok && seen <= at && (!gone || dropped > at) {
			return true
		}
	}
	return false
}

// reach says what a node could have at an instant: a token that it holds itself,
// one that lives in its component, a provider that answers.
type reach struct{ held, near, provider bool }

func (j *judge) reach(node int, key string, at time.Duration) (r reach) {
	m := j.time.at(at)
	alone, all := map[int]bool{node: true}, m.component(node)
	for _, g := range j.out.grants {
		if g.key == key && g.alive(at) {
			r.held = r.held || g.heldIn(alone, m, at)
			r.near = r.near || g.heldIn(all, m, at)
		}
	}
	r.provider = m.idp == 0 && m.cut[node] == 0 && !slices.ContainsFunc(j.out.refusals, func(t time.Duration) bool {
		return t <= at && at-t < backoffTail
	})
	return r
}

// verdicts of one get.
type verdict string

const (
	fine       verdict = "fine"
	excused    verdict = "excused: node down"
	unreached  verdict = "excused: archive out of reach"
	unlendable verdict = "excused: no provider, no token"
	recovering verdict = "within 10 s of recovery"
	broken     verdict = "FAILED"
	slow       verdict = "SLOW"
)

// get judges one get that failed or took long.
func (j *judge) get(o op) verdict {
	moments := j.time.during(o.begun-pace, o.over)
	for _, m := range moments {
		if m.life[o.node] == 0 || m.life[o.node] != moments[0].life[o.node] {
			return excused
		}
	}
	if o.data && j.archiveLost(o) {
		return unreached
	}
	if o.failed == "" {
		return j.slowness(o)
	}
	return j.failure(o)
}

// archiveLost reports whether a failure of the data path is one of the way to
// the archive, while that was disturbed.
func (j *judge) archiveLost(o op) bool {
	return slices.ContainsFunc(j.time.during(o.begun-availableBound, o.over), func(m moment) bool { return m.disturbed(o.node) })
}

// failure is Available: a get may fail only where no token was in reach, or had
// not been for 10 s: from one and the same node, or from the provider. That one's
// own token ends when another node has just come back is not 10 s in reach.
func (j *judge) failure(o op) verdict {
	now := j.reach(o.node, o.key, o.over)
	if !now.near && !now.provider {
		return unlendable
	}
	provider, lenders := true, j.lenders(o, o.over)
	for at := o.over; at >= max(0, o.over-availableBound); at -= pace {
		provider = provider && j.reach(o.node, o.key, at).provider
		still := j.lenders(o, at)
		maps.DeleteFunc(lenders, func(n int, _ bool) bool { return !still[n] })
	}
	if provider || len(lenders) > 0 {
		return broken
	}
	return recovering
}

// lenders returns the nodes in reach of a get that hold a live token.
func (j *judge) lenders(o op, at time.Duration) map[int]bool {
	m, found := j.time.at(at), map[int]bool{}
	for n := range m.component(o.node) {
		for _, g := range j.out.grants {
			if g.key == o.key && g.alive(at) && g.heldIn(map[int]bool{n: true}, m, at) {
				found[n] = true
			}
		}
	}
	return found
}

// within names what was in reach when a get ended: who held which acquisition.
func (j *judge) within(o op) string {
	var out strings.Builder
	m := j.time.at(o.over)
	for _, g := range j.out.grants {
		if g.key != o.key || !g.alive(o.over) {
			continue
		}
		for n := range m.component(o.node) {
			if g.heldIn(map[int]bool{n: true}, m, o.over) {
				fmt.Fprintf(&out, "\n\tnode %d lends what node %d got at %v", n, g.node, g.served.Round(time.Millisecond))
			}
		}
	}
	return out.String()
}

func (j *judge) slowness(o op) verdict {
	if o.took() <= heldBound {
		return fine
	}
	for at := o.begun; at <= o.over; at += pace {
		r := j.reach(o.node, o.key, at)
		if o.took() > availableBound && !r.near && !r.provider || o.took() <= availableBound && !r.held {
			return fine
		}
	}
	return slow
}

// extra is an acquisition that need not have been.
type extra struct {
	grant, before *grant
	component     int // its first node
	fault         *fault
}

// extras is Once: for each acquisition, was there a live token in the component,
// or an acquisition under way, that was neither revoked nor due?
func (j *judge) extras() (found []extra) {
	for i, g := range j.out.grants {
		if g.node < 0 {
			continue
		}
		if g.renewed = j.renews(g); g.renewed != nil {
			continue
		}
		for k, h := range j.out.grants {
			if k != i && j.redundant(g, h) {
				found = append(found, extra{grant: g, before: h, component: j.first(g)})
				break
			}
		}
	}
	j.assign(found)
	return found
}

// renews returns a token that g may have been acquired to replace: one that was
// due, in use in g's component, and not yet replaced there. Beside it there may
// be a younger one, where a fault has split the fleet or cut an acquisition off:
// the fleet goes on with either, and renews it once.
func (j *judge) renews(g *grant) *grant {
	for _, h := range j.out.grants {
		if h.key != g.key || h == g || !h.alive(g.arrived) || !h.due(g.arrived) {
			continue
		}
		if h.heldIn(j.near(g), j.time.at(g.arrived), g.arrived) && !j.replaced(h, g) {
			return h
		}
	}
	return nil
}

// replaced reports whether another node of g's component has replaced h before.
func (j *judge) replaced(h, g *grant) bool {
	near := j.near(g)
	return slices.ContainsFunc(j.out.grants, func(o *grant) bool {
		return o != g && o.renewed == h && o.arrived < g.arrived && o.heldIn(near, j.time.at(g.arrived), g.arrived)
	})
}

// near returns the nodes that were in reach of the acquirer for a while, in the
// same incarnations.
func (j *judge) near(g *grant) map[int]bool {
	here, before := j.time.at(g.arrived), j.time.at(max(0, g.arrived-settled))
	nodes, then := here.component(g.node), before.component(g.node)
	for n := range nodes {
		if !then[n] || before.life[n] != here.life[n] {
			delete(nodes, n)
		}
	}
	return nodes
}

// redundant reports whether g was acquired although h was there. Of two that
// were under way at once, the later one is.
func (j *judge) redundant(g, h *grant) bool {
	at := g.arrived
	if h.key != g.key || h.arrived >= at || h.due(at) || h.revoked != 0 && h.revoked <= at {
		return false
	}
	here, near := j.time.at(at), j.near(g)
	if h.heldIn(near, here, at) {
		return true
	}
	return near[h.node] && j.time.at(h.arrived).life[h.node] == here.life[h.node]
}

// first names a component by its first node.
func (j *judge) first(g *grant) int {
	nodes := j.time.at(g.arrived).component(g.node)
	for n := range len(j.time.at(0).life) {
		if nodes[n] {
			return n
		}
	}
	return g.node
}

// assign puts each extra down to one fault that covers it: the one that has the
// fewest already, so that overlapping faults are counted once.
func (j *judge) assign(found []extra) {
	for i := range found {
		e := &found[i]
		for _, f := range j.faults {
			covers := f.begun <= e.grant.served && e.grant.arrived <= f.end+faultTail
			if covers && (e.fault == nil || f.extras[e.component] < e.fault.extras[e.component]) {
				e.fault = f
			}
		}
		if e.fault != nil {
			e.fault.extras[e.component]++
		}
	}
}

func (e extra) String() string {
	why := "in quiet"
	if e.fault != nil {
		why = fmt.Sprintf("during %s (%v to %v)", e.fault.what, e.fault.begun.Round(time.Millisecond), e.fault.end.Round(time.Millisecond))
	}
	return fmt.Sprintf("%q by node %d at %v although node %d had asked at %v (answered at %v): %s", e.grant.key, e.grant.node,
		e.grant.arrived.Round(time.Millisecond), e.before.node, e.before.arrived.Round(time.Millisecond), e.before.served.Round(time.Millisecond), why)
}
