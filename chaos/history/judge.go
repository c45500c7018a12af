package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The bounds of faults.md.
const (
	AvailableBound = 10 * time.Second // a get, if a token is in reach
	HeldBound      = 2 * time.Second  // a get where no call of the provider is needed
	FaultTail      = 15 * time.Second // what a fault covers beyond its end
	ConvergeBound  = 30 * time.Second // until the fleet is one again
	MeanExtra      = 0.2              // acquisitions for a fault
	MaxExtra       = 1                // and component
)

// Pace is the pause of a client between two requests, and the step in which the
// judge looks at a span of time.
const Pace = 250 * time.Millisecond

const (
	// backoffTail is how long after a refusal by the provider the fleet may keep
	// away from it.
	backoffTail = 30 * time.Second
	// settled is how long two nodes must have been connected to count as one
	// component for an acquisition that began a moment before it was counted.
	settled = time.Second
)

// Op is one request of a client, and how it ended.
type Op struct {
	Node        int
	Key         string
	Data        bool // through the data path; else only a token was asked for
	Begun, Over time.Duration
	Failed      string // empty: it succeeded
	Code        string // of a failure, as documented
}

// Took is how long the client waited.
func (o Op) Took() time.Duration { return o.Over - o.Begun }

// Fault is one that was injected.
type Fault struct {
	Kind       string
	What       string
	Begun, End time.Duration
	Extras     map[int]int // acquisitions put down to it, by the first node of their component
}

// Judge knows the truth of a run.
type Judge struct {
	Time   *Timeline
	Book   *Book
	Faults []*Fault
}

// reach says what a node could have at an instant: a token that it holds itself,
// one that lives in its component, a provider that answers.
type reach struct{ held, near, provider bool }

func (j *Judge) reach(node int, key string, at time.Duration) (r reach) {
	m := j.Time.At(at)
	alone, all := map[int]bool{node: true}, m.Component(node)
	for _, g := range j.Book.Grants {
		if g.Key == key && g.Alive(at) {
			r.held = r.held || g.HeldIn(alone, m, at)
			r.near = r.near || g.HeldIn(all, m, at)
		}
	}
	r.provider = m.IdP == 0 && m.Cut[node] == 0 && !slices.ContainsFunc(j.Book.Refusals, func(t time.Duration) bool {
		return t <= at && at-t < backoffTail
	})
	return r
}

// Verdict is what the promises say of one get.
type Verdict string

// The verdicts. Broken and Slow are the product's fault.
const (
	Fine       Verdict = "fine"
	Excused    Verdict = "excused: node down"
	Unreached  Verdict = "excused: archive out of reach"
	Unlendable Verdict = "excused: no provider, no token"
	Recovering Verdict = "within 10 s of recovery"
	Broken     Verdict = "FAILED"
	Slow       Verdict = "SLOW"
)

// Get judges one get that failed or took long.
func (j *Judge) Get(o Op) Verdict {
	moments := j.Time.During(o.Begun-Pace, o.Over)
	for _, m := range moments {
		if m.Life[o.Node] == 0 || m.Life[o.Node] != moments[0].Life[o.Node] {
			return Excused
		}
	}
	if o.Data && j.archiveLost(o) {
		return Unreached
	}
	if o.Failed == "" {
		return j.slowness(o)
	}
	return j.failure(o)
}

// archiveLost reports whether a failure of the data path is one of the way to
// the archive, while that was disturbed.
func (j *Judge) archiveLost(o Op) bool {
	return slices.ContainsFunc(j.Time.During(o.Begun-AvailableBound, o.Over), func(m Moment) bool { return m.Disturbed(o.Node) })
}

// failure is Available: a get may fail only where no token was in reach, or had
// not been for 10 s: from one and the same node, or from the provider. That one's
// own token ends when another node has just come back is not 10 s in reach.
func (j *Judge) failure(o Op) Verdict {
	now := j.reach(o.Node, o.Key, o.Over)
	if !now.near && !now.provider {
		return Unlendable
	}
	provider, lenders := true, j.lenders(o, o.Over)
	for at := o.Over; at >= max(0, o.Over-AvailableBound); at -= Pace {
		provider = provider && j.reach(o.Node, o.Key, at).provider
		still := j.lenders(o, at)
		maps.DeleteFunc(lenders, func(n int, _ bool) bool { return !still[n] })
	}
	if provider || len(lenders) > 0 {
		return Broken
	}
	return Recovering
}

// lenders returns the nodes in reach of a get that hold a live token.
func (j *Judge) lenders(o Op, at time.Duration) map[int]bool {
	m, found := j.Time.At(at), map[int]bool{}
	for n := range m.Component(o.Node) {
		for _, g := range j.Book.Grants {
			if g.Key == o.Key && g.Alive(at) && g.HeldIn(map[int]bool{n: true}, m, at) {
				found[n] = true
			}
		}
	}
	return found
}

// Within names what was in reach when a get ended: who held which acquisition.
func (j *Judge) Within(o Op) string {
	var out strings.Builder
	m := j.Time.At(o.Over)
	for _, g := range j.Book.Grants {
		if g.Key != o.Key || !g.Alive(o.Over) {
			continue
		}
		for n := range m.Component(o.Node) {
			if g.HeldIn(map[int]bool{n: true}, m, o.Over) {
				fmt.Fprintf(&out, "\n\tnode %d lends what node %d got at %v", n, g.Node, g.Served.Round(time.Millisecond))
			}
		}
	}
	return out.String()
}

func (j *Judge) slowness(o Op) Verdict {
	if o.Took() <= HeldBound {
		return Fine
	}
	for at := o.Begun; at <= o.Over; at += Pace {
		r := j.reach(o.Node, o.Key, at)
		if o.Took() > AvailableBound && !r.near && !r.provider || o.Took() <= AvailableBound && !r.held {
			return Fine
		}
	}
	return Slow
}

// Extra is an acquisition that need not have been.
type Extra struct {
	Grant, Before *Grant
	Component     int    // its first node
	Fault         *Fault // nil: in quiet
}

// Extras is Once: for each acquisition, was there a live token in the component,
// or an acquisition under way, that was neither revoked nor due?
func (j *Judge) Extras() (found []Extra) {
	for i, g := range j.Book.Grants {
		if g.Node < 0 {
			continue
		}
		if g.renewed = j.renews(g); g.renewed != nil {
			continue
		}
		for k, h := range j.Book.Grants {
			if k != i && j.redundant(g, h) {
				found = append(found, Extra{Grant: g, Before: h, Component: j.first(g)})
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
func (j *Judge) renews(g *Grant) *Grant {
	for _, h := range j.Book.Grants {
		if h.Key != g.Key || h == g || !h.Alive(g.Arrived) {
			continue
		}
		if j.dueIn(j.near(g), h, g.Arrived) && !j.replaced(h, g) {
			return h
		}
	}
	return nil
}

// dueIn reports whether one of the nodes holds h and takes it to be due. Who asked
// for it takes the whole wait off its life, so that it looks due sooner there: the
// acquirer by what its request took to arrive, and who was given it by another
// node by no more than what passed until the node came with it.
func (j *Judge) dueIn(nodes map[int]bool, h *Grant, at time.Duration) bool {
	m := j.Time.At(at)
	for n := range nodes {
		if !h.HeldIn(map[int]bool{n: true}, m, at) {
			continue
		}
		aged := j.onItsWay(h)
		if n != h.Node {
			aged += min(h.seen[Holder{n, m.Life[n], h.Key}]-h.Arrived, AvailableBound)
		}
		if h.Due(at + aged) {
			return true
		}
	}
	return false
}

// onItsWay is how long before its arrival the request for h may have begun: its
// first packets were lost if anything was wrong with the network or the provider.
func (j *Judge) onItsWay(h *Grant) time.Duration {
	earliest := h.Arrived - AvailableBound // when a request is given up
	for _, m := range j.Time.During(earliest, h.Arrived) {
		if m.Disturbed(h.Node) || m.IdP > 0 {
			return h.Arrived - max(m.At, earliest)
		}
	}
	return 0
}

// replaced reports whether another node of g's component has replaced h before.
func (j *Judge) replaced(h, g *Grant) bool {
	near := j.near(g)
	return slices.ContainsFunc(j.Book.Grants, func(o *Grant) bool {
		return o != g && o.renewed == h && o.Arrived < g.Arrived && o.HeldIn(near, j.Time.At(g.Arrived), g.Arrived)
	})
}

// near returns the nodes that were in reach of the acquirer for a while, in the
// same incarnations.
func (j *Judge) near(g *Grant) map[int]bool {
	here, before := j.Time.At(g.Arrived), j.Time.At(max(0, g.Arrived-settled))
	nodes, then := here.Component(g.Node), before.Component(g.Node)
	for n := range nodes {
		if !then[n] || before.Life[n] != here.Life[n] {
			delete(nodes, n)
		}
	}
	return nodes
}

// redundant reports whether g was acquired although h was there. Of two that
// were under way at once, the later one is.
func (j *Judge) redundant(g, h *Grant) bool {
	at := g.Arrived
	if h.Key != g.Key || h.Arrived >= at || h.Due(at) || h.Revoked != 0 && h.Revoked <= at {
		return false
	}
	here, near := j.Time.At(at), j.near(g)
	if h.HeldIn(near, here, at) {
		return true
	}
	return near[h.Node] && j.Time.At(h.Arrived).Life[h.Node] == here.Life[h.Node]
}

// first names a component by its first node.
func (j *Judge) first(g *Grant) int {
	nodes := j.Time.At(g.Arrived).Component(g.Node)
	for n := range len(j.Time.At(0).Life) {
		if nodes[n] {
			return n
		}
	}
	return g.Node
}

// assign puts each extra down to one fault that covers it: the one that has the
// fewest already, so that overlapping faults are counted once.
func (j *Judge) assign(found []Extra) {
	for i := range found {
		e := &found[i]
		for _, f := range j.Faults {
			covers := f.Begun <= e.Grant.Served && e.Grant.Arrived <= f.End+FaultTail
			if covers && (e.Fault == nil || f.Extras[e.Component] < e.Fault.Extras[e.Component]) {
				e.Fault = f
			}
		}
		if e.Fault != nil {
			e.Fault.Extras[e.Component]++
		}
	}
}

// String implements fmt.Stringer.
func (e Extra) String() string {
	why := "in quiet"
	if e.Fault != nil {
		why = fmt.Sprintf("during %s (%v to %v)", e.Fault.What, e.Fault.Begun.Round(time.Millisecond), e.Fault.End.Round(time.Millisecond))
	}
	return fmt.Sprintf("%q by node %d at %v although node %d had asked at %v (answered at %v): %s", e.Grant.Key, e.Grant.Node,
		e.Grant.Arrived.Round(time.Millisecond), e.Before.Node, e.Before.Arrived.Round(time.Millisecond), e.Before.Served.Round(time.Millisecond), why)
}

// Lent reports whether a live token was in reach of a get all along, and nothing
// was done to its node or to that one's network.
func (j *Judge) Lent(o Op) bool {
	for _, m := range j.Time.During(o.Begun-Pace, o.Over) {
		if m.Life[o.Node] == 0 || m.Disturbed(o.Node) || m.Life[o.Node] != j.Time.At(o.Over).Life[o.Node] {
			return false
		}
	}
	lenders := j.lenders(o, o.Over)
	for at := o.Begun; at < o.Over; at += Pace {
		if len(j.lenders(o, at)) == 0 {
			return false
		}
	}
	return len(lenders) > 0
}
