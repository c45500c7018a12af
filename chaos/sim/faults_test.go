//go:build chaos

package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// covers is how long a fault is felt after its end (faults.md, Figures).
const covers = 15 * time.Second

// fault is one thing that goes wrong.
type fault struct {
	kind   string
	what   string
	onIdP  bool // the network and the nodes are well
	began  time.Duration
	ended  time.Duration // -1 while it lasts
	extras int
	undo   func()
}

func (f *fault) String() string {
	return fmt.Sprintf("%s %s %.1f-%.1f s", f.kind, f.what, f.began.Seconds(), f.ended.Seconds())
}

func (f *fault) covers(at time.Duration) bool {
	return at >= f.began && (f.ended < 0 || at <= f.ended+covers)
}

// begin lets a fault happen; act says what it did and how to undo it.
func (w *world) begin(f *fault, act func() (what string, undo func())) *fault {
	w.mu.Lock()
	f.began, f.ended = w.now(), -1
	w.faults = append(w.faults, f)
	w.mu.Unlock()
	what, undo := act()
	f.what, f.undo = what, undo
	w.hist.add("FAULT", "%s %s begins", f.kind, what)
	return f
}

// end undoes a fault. It may take virtual time, as a restart does.
func (w *world) end(f *fault) {
	if f.undo == nil {
		return
	}
	f.undo()
	f.undo = nil
	w.mu.Lock()
	f.ended = w.now()
	w.mu.Unlock()
	w.hist.add("FAULT", "%s %s ends", f.kind, f.what)
}

func (w *world) endFaults() {
	for _, f := range w.faults {
		w.end(f)
	}
}

// covering returns the faults felt at a time, the one that ends first at first.
func (j *judge) covering(at time.Duration) (out []*fault) {
	for _, f := range j.w.faults {
		if f.covers(at) {
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b *fault) int { return cmp.Compare(a.ended, b.ended) })
	return out
}

// troubled reports whether a fault of the network or a node is felt.
func (j *judge) troubled(at time.Duration) bool { return j.troubledBetween(at, at) }

func (j *judge) troubledBetween(from, to time.Duration) bool {
	return slices.ContainsFunc(j.w.faults, func(f *fault) bool {
		return !f.onIdP && f.began <= to && (f.ended < 0 || from <= f.ended+covers)
	})
}

// clocked reports whether a clock has jumped of late.
func (j *judge) clocked(at time.Duration) bool {
	return slices.ContainsFunc(j.w.faults, func(f *fault) bool { return f.kind == "clock" && f.began <= at })
}

// kind is a fault that chance can choose.
type kind struct {
	name   string
	weight int
	onIdP  bool
	lasts  func(r *rand.Rand) time.Duration
	act    func(w *world, r *rand.Rand) (what string, undo func())
}

func seconds(from, to float64) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration {
		return time.Duration((from + (to-from)*r.Float64()) * float64(time.Second))
	}
}

func atOnce(*rand.Rand) time.Duration { return 0 }

func nothing() {}

// kinds are the faults of faults.md that chance combines.
var kinds = []kind{
	{"kill", 16, false, seconds(0.1, 15), func(w *world, r *rand.Rand) (string, func()) { return w.end1(r, kill) }},
	{"crash", 10, false, seconds(2, 20), func(w *world, r *rand.Rand) (string, func()) { return w.end1(r, crash) }},
	{"pause", 12, false, seconds(0.3, 25), pauseOne},
	{"leave", 6, false, seconds(0.1, 8), func(w *world, r *rand.Rand) (string, func()) { return w.end1(r, leave) }},
	{"halves", 7, false, seconds(1, 45), halves},
	{"alone", 7, false, seconds(1, 30), isolate},
	{"one-way", 8, false, seconds(1, 25), oneWay},
	{"flapping", 4, false, seconds(6, 20), flapping},
	{"loss", 6, false, seconds(3, 20), loss},
	{"slow-link", 6, false, seconds(3, 20), slowLink},
	{"clock", 6, false, atOnce, clockJump},
	{"restart", 0, false, atOnce, nil}, // one of a rolling restart
	{"rolling", 2, false, seconds(0, 0.1), rolling},
	{"all-at-once", 2, false, atOnce, allAtOnce},
	{"void", 14, true, atOnce, void},
	{"idp-slow", 4, true, seconds(2, 12), idpSlow},
	{"idp-5xx", 4, true, seconds(0.2, 10), idpMood(mood{status: 503})},
	{"idp-429", 3, true, seconds(0.2, 3), idpMood(mood{status: 429, retry: 7 * time.Second})},
	{"idp-html", 2, true, seconds(0.2, 5), idpMood(mood{body: "<html>maintenance</html>"})},
	{"idp-deaf", 2, true, seconds(0.5, 10), idpDeaf},
	{"no-way", 5, false, seconds(2, 20), noWay},
	{"repeats", 2, true, seconds(5, 20), repeats},
}

// someone picks a running node: every other time the first of a key's order.
func (w *world) someone(r *rand.Rand) *node {
	if r.IntN(2) == 0 {
		if order := w.order(r.IntN(w.o.keys)); len(order) > 0 {
			return order[0].node
		}
	}
	up := w.up()
	if len(up) == 0 {
		return w.nodes[0]
	}
	return up[r.IntN(len(up))].node
}

func (w *world) end1(r *rand.Rand, how ending) (string, func()) {
	n := w.someone(r)
	n.stop(how)
	return n.String(), func() { n.start() }
}

func pauseOne(w *world, r *rand.Rand) (string, func()) {
	n := w.someone(r)
	n.pause(1)
	return n.String(), func() { n.pause(-1) }
}

func (w *world) trouble(t *trouble) func() { return w.links.add(t) }

func halves(w *world, r *rand.Rand) (string, func()) {
	side := make([]bool, w.o.nodes)
	for i := range side {
		side[i] = r.IntN(2) == 0
	}
	return fmt.Sprint(side), w.trouble(&trouble{cut: true, hits: func(i, j int) bool { return side[i] != side[j] }})
}

func isolate(w *world, r *rand.Rand) (string, func()) {
	n := w.someone(r)
	return n.String(), w.trouble(&trouble{cut: true, hits: func(i, j int) bool { return i == n.i || j == n.i }})
}

func oneWay(w *world, r *rand.Rand) (string, func()) {
	from, to := w.someone(r), w.nodes[r.IntN(len(w.nodes))]
	if r.IntN(3) == 0 {
		return fmt.Sprintf("%v to all", from), w.trouble(&trouble{cut: true, hits: func(i, _ int) bool { return i == from.i }})
	}
	return fmt.Sprintf("%v to %v", from, to), w.trouble(&trouble{cut: true, hits: func(i, j int) bool { return i == from.i && j == to.i }})
}

func flapping(w *world, r *rand.Rand) (string, func()) {
	n := w.someone(r)
	over := make(chan struct{})
	w.tasks.Go(func() {
		for {
			undo := w.trouble(&trouble{cut: true, hits: func(i, j int) bool { return i == n.i || j == n.i }})
			time.Sleep(2 * time.Second)
			undo()
			select {
			case <-over:
				return
			case <-time.After(2 * time.Second):
			}
		}
	})
	return n.String(), func() { close(over); time.Sleep(2 * time.Second) }
}

func loss(w *world, r *rand.Rand) (string, func()) {
	share := 0.01 + 0.29*r.Float64()
	return fmt.Sprintf("%.0f%%", 100*share), w.trouble(&trouble{loss: share, hits: func(int, int) bool { return true }})
}

func slowLink(w *world, r *rand.Rand) (string, func()) {
	n, d := w.someone(r), time.Duration(100+r.IntN(400))*time.Millisecond
	return fmt.Sprintf("%v by %v", n, d), w.trouble(&trouble{delay: d, hits: func(i, j int) bool { return i == n.i || j == n.i }})
}

// clockJump steps one wall clock. What a suspend would do to tokens follows.
func clockJump(w *world, r *rand.Rand) (string, func()) {
	n := w.someone(r)
	step := time.Duration(10+r.IntN(50)) * time.Minute
	if r.IntN(3) == 0 {
		step = -step
	}
	n.jump(step)
	return fmt.Sprintf("%v by %v", n, step), nothing
}

func (n *node) jump(step time.Duration) {
	n.skew.Add(int64(step))
	if step < 0 {
		return
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for _, g := range n.w.idp.grants {
		delete(g.holders, n.in) // it thinks them expired
	}
}

// rolling restarts all in turn. In a fleet that is whole this costs nothing; one
// that is split has many whose seeds are out of reach, so every restart counts.
func rolling(w *world, _ *rand.Rand) (string, func()) {
	for _, n := range w.nodes {
		f := w.begin(&fault{kind: "restart"}, func() (string, func()) {
			n.stop(leave)
			n.start()
			return n.String(), nothing
		})
		w.end(f)
		time.Sleep(2 * time.Second)
	}
	return "restart", nothing
}

func allAtOnce(w *world, _ *rand.Rand) (string, func()) {
	for _, n := range w.nodes {
		n.stop(kill)
	}
	w.mu.Lock()
	for _, g := range w.idp.grants {
		g.lost = false // nobody was left to miss it
	}
	w.mu.Unlock()
	for _, n := range w.nodes {
		n.start()
	}
	return "restart", nothing
}

func void(w *world, r *rand.Rand) (string, func()) {
	k := r.IntN(w.o.keys)
	w.voids(k)
	return fmt.Sprintf("key %d", k), nothing
}

func idpSlow(w *world, r *rand.Rand) (string, func()) {
	slow := time.Duration(1+r.IntN(8)) * time.Second
	w.setIdP(func(p *idp) { p.latency = slow })
	return slow.String(), func() { w.setIdP(func(p *idp) { p.latency = w.o.latency }) }
}

func idpMood(m mood) func(*world, *rand.Rand) (string, func()) {
	return func(w *world, _ *rand.Rand) (string, func()) {
		w.setIdP(func(p *idp) { p.mood = m })
		return fmt.Sprint(m.status), func() { w.setIdP(func(p *idp) { p.mood = mood{} }) }
	}
}

func idpDeaf(w *world, _ *rand.Rand) (string, func()) {
	w.setIdP(func(p *idp) { p.deaf = true })
	return "", func() { w.setIdP(func(p *idp) { p.deaf = false }) }
}

func noWay(w *world, r *rand.Rand) (string, func()) {
	n := w.someone(r)
	w.setIdP(func(p *idp) { p.noWay[n.i]++ })
	return n.String(), func() { w.setIdP(func(p *idp) { p.noWay[n.i]--; p.wayBack[n.i] = w.now() }) }
}

func repeats(w *world, _ *rand.Rand) (string, func()) {
	w.setIdP(func(p *idp) { p.repeats = true })
	return "", func() { w.setIdP(func(p *idp) { p.repeats = false }) }
}
