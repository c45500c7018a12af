//go:build chaos

package sim

import (
	"testing"
	"time"
)

// script is one row of faults.md as a story, with what it may cost.
type script struct {
	name     string
	o        options
	extra    int // acquisitions beyond the needed, at most
	grants   int // acquisitions in all, at most; 0: not looked at
	failures int // gets that may go without a token
	story    func(w *world)
}

// small is a healthy fleet whose tokens outlive the story.
func small(n int) options {
	return options{
		seed: 1, nodes: n, keys: 1, life: 5 * time.Minute, latency: 100 * time.Millisecond,
		delay: time.Millisecond, every: 300 * time.Millisecond,
	}
}

func (o options) living(d time.Duration) options { o.life = d; return o }

func (o options) with(change func(o *options)) options { change(&o); return o }

// during lets a story go on for as long as a fault lasts.
func (w *world) during(kind string, onIdP bool, d time.Duration, act func() func()) {
	f := w.begin(&fault{kind: kind, onIdP: onIdP}, func() (string, func()) { return "", act() })
	time.Sleep(d)
	w.end(f)
}

// once lets a story do something that lasts no time.
func (w *world) once(kind string, onIdP bool, act func()) {
	w.during(kind, onIdP, 0, func() func() { act(); return nothing })
}

func (w *world) leader() *node { return w.order(0)[0].node }

func cutting(hits func(i, j int) bool) *trouble { return &trouble{cut: true, hits: hits} }

func odd(i, j int) bool { return i%2 != j%2 }

// hush stops everybody's own requests, so that a story alone asks.
func (w *world) hush(silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		n.silent = silent
	}
}

var scripts = []script{
	{
		name: "quiet: a token is renewed once for all", o: small(8).living(time.Minute), grants: 4,
		story: func(*world) { time.Sleep(2 * time.Minute) },
	},
	{
		name: "1 bystander killed", o: small(8), grants: 1,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			w.during("kill", false, 5*time.Second, func() func() {
				n := w.order(0)[7].node
				n.stop(kill)
				return func() { n.start() }
			})
		},
	},
	{
		name: "2 leader killed, idle", o: small(6), grants: 1,
		story: func(w *world) {
			for range 4 {
				time.Sleep(5 * time.Second)
				w.during("kill", false, 5*time.Second, func() func() {
					n := w.leader()
					n.stop(kill)
					return func() { n.start() }
				})
			}
		},
	},
	{
		name: "4, 5 leader stopped and resumed around a renewal", o: small(6).living(time.Minute), extra: 2,
		story: func(w *world) {
			for range 2 {
				time.Sleep(35 * time.Second)
				w.during("pause", false, 25*time.Second, func() func() {
					n := w.leader()
					n.pause(1)
					return func() { n.pause(-1) }
				})
				time.Sleep(20 * time.Second)
			}
		},
	},
	{
		name: "5 what reached a stopped process late is not believed", o: small(5).living(30 * time.Second), extra: 2,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			order := w.order(0)
			w.during("pause", false, 25*time.Second, func() func() {
				order[1].node.pause(1)
				w.during("leave", false, 0, func() func() { order[0].node.stop(leave); return nothing })
				return func() { order[1].node.pause(-1) }
			})
		},
	},
	{
		name: "7 graceful leave of every leader in turn", o: small(6), grants: 1,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			for range 5 {
				w.once("leave", false, func() { w.leader().stop(leave) })
				time.Sleep(2 * time.Second)
			}
		},
	},
	{
		name: "8 rolling restart of all", o: small(7), grants: 1,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			w.once("rolling", false, func() { rolling(w, nil) })
		},
	},
	{
		name: "9 all restarted at once", o: small(10), grants: 2,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			w.once("all-at-once", false, func() { allAtOnce(w, nil) })
			time.Sleep(20 * time.Second)
		},
	},
	{
		name: "10, 11 halves for two minutes", o: small(8).with(func(o *options) { o.names = 8 }), grants: 1,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			w.during("halves", false, 2*time.Minute, func() func() { return w.trouble(cutting(odd)) })
		},
	},
	{
		name: "11 halves that renewed heal without a call", o: small(8).living(90 * time.Second), grants: 5,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			w.during("halves", false, 100*time.Second, func() func() { return w.trouble(cutting(odd)) })
			time.Sleep(20 * time.Second)
		},
	},
	{
		name: "11 of two that meet the older gives way", o: small(6).with(func(o *options) { o.names = 6 }), grants: 4, failures: 1 << 20,
		story: func(w *world) {
			w.during("halves", false, 248*time.Second, func() func() {
				undo := w.trouble(cutting(odd))
				w.tasks.Go(func() {
					time.Sleep(220 * time.Second) // both are due, and cannot be renewed
					w.setIdP(func(p *idp) { p.mood = mood{status: 503} })
				})
				return undo
			})
			time.Sleep(25 * time.Second)
			w.setIdP(func(p *idp) { p.mood = mood{} })
		},
	},
	{
		name: "11 a split on the seeds' side is healed by the others", o: small(9), grants: 1,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			w.during("halves", false, time.Minute, func() func() {
				return w.trouble(cutting(func(i, j int) bool { return (i < 3) != (j < 3) }))
			})
		},
	},
	{
		name: "12 one way only, around a renewal", o: small(6).living(time.Minute), extra: 1,
		story: func(w *world) {
			time.Sleep(30 * time.Second)
			first := w.leader()
			w.during("one-way", false, 30*time.Second, func() func() {
				return w.trouble(cutting(func(i, _ int) bool { return i == first.i }))
			})
		},
	},
	{
		name: "15 a slow link is no reason to acquire", o: small(6), grants: 1,
		story: func(w *world) {
			time.Sleep(15 * time.Second)
			n := w.order(0)[5].node
			w.during("slow-link", false, 15*time.Second, func() func() {
				return w.trouble(&trouble{delay: 300 * time.Millisecond, hits: func(i, j int) bool { return i == n.i || j == n.i }})
			})
		},
	},
	{
		name: "a node that joins while the leader acquires waits for it", o: small(6), grants: 1,
		story: func(w *world) {
			w.hush(true)
			time.Sleep(5 * time.Second)
			n := w.leader() // as a new instance it may be anywhere in the order
			n.stop(leave)
			w.setIdP(func(p *idp) { p.latency = 4 * time.Second })
			at := w.order(0)[4]
			w.tasks.Go(func() { at.get(0) })
			time.Sleep(100 * time.Millisecond)
			w.once("join", true, func() { n.start() })
			for i := range 30 {
				time.Sleep(100 * time.Millisecond)
				in := w.up()[i%5]
				w.tasks.Go(func() { in.get(0) })
				if in := n.running(); i > 6 {
					w.tasks.Go(func() { in.get(0) })
				}
			}
			time.Sleep(5 * time.Second)
		},
	},
	{
		name: "nodes join one after the other while a slow acquisition runs", o: small(10).with(func(o *options) { o.names = 10 }), grants: 1,
		story: func(w *world) {
			w.hush(true)
			time.Sleep(5 * time.Second)
			var back []*node
			for _, in := range w.order(0)[:5] {
				back = append(back, in.node)
				in.node.stop(leave)
			}
			time.Sleep(time.Second)
			w.setIdP(func(p *idp) { p.latency = 7 * time.Second })
			at := w.order(0)[1]
			w.tasks.Go(func() { at.get(0) })
			time.Sleep(100 * time.Millisecond)
			for _, n := range back {
				w.once("join", true, func() { n.start() })
				time.Sleep(700 * time.Millisecond)
				for _, in := range w.up() {
					w.tasks.Go(func() { in.get(0) })
				}
			}
			time.Sleep(10 * time.Second)
		},
	},
	{
		name: "the first three have lost their way, two far nodes ask at once", o: small(10), grants: 1,
		story: func(w *world) {
			w.hush(true)
			time.Sleep(5 * time.Second)
			order := w.order(0)
			w.setIdP(func(p *idp) {
				p.latency = 2 * time.Second
				for _, in := range order[:3] {
					p.noWay[in.node.i]++
				}
			})
			w.during("no-way", true, 4*time.Second, func() func() {
				for _, i := range []int{4, 9} {
					w.tasks.Go(func() { order[i].get(0) })
				}
				return func() {
					w.setIdP(func(p *idp) { clear(p.noWay) })
				}
			})
		},
	},
	{
		name: "the leader has lost its way and asks itself", o: small(5), grants: 1,
		story: func(w *world) {
			w.hush(true)
			time.Sleep(5 * time.Second)
			first := w.order(0)[0]
			w.during("no-way", false, 15*time.Second, func() func() {
				w.setIdP(func(p *idp) { p.noWay[first.node.i]++ })
				w.tasks.Go(func() { first.get(0) })
				return func() { w.setIdP(func(p *idp) { p.noWay[first.node.i]-- }) }
			})
		},
	},
	{
		name: "who has lost all finds the token of one who comes back while the provider is down",
		o:    small(3).with(func(o *options) { o.seed = 7 }), grants: 1, failures: 1 << 20,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			order := w.order(0)
			last := order[2].node
			w.setIdP(func(p *idp) { p.mood = mood{status: 503} })
			for range 4 {
				w.during("alone", true, 30*time.Second, func() func() {
					undo := w.trouble(cutting(func(i, j int) bool { return i == last.i || j == last.i }))
					for _, in := range order[:2] {
						in.node.stop(kill)
						in.node.start()
					}
					return undo
				})
				time.Sleep(3 * time.Second)
				for _, in := range w.up() {
					if err := in.get(0); err != nil {
						w.mu.Lock()
						w.judge.violated(available, "%s has no token: %v", in, err)
						w.mu.Unlock()
					}
				}
			}
		},
	},
	{
		name: "20 clocks wrong by up to ten minutes", o: small(8).living(time.Minute).with(func(o *options) { o.skew = true }), grants: 4,
		story: func(w *world) { time.Sleep(2 * time.Minute) },
	},
	{
		name: "21 a clock jumps by an hour", o: small(6), extra: 1,
		story: func(w *world) {
			time.Sleep(10 * time.Second)
			w.once("clock", false, func() { w.leader().jump(time.Hour) })
			time.Sleep(20 * time.Second)
			w.once("clock", false, func() { w.order(0)[3].node.jump(-time.Hour) })
		},
	},
	{
		name: "22 provider down: serve to the end, one prober", o: small(8).living(time.Minute), failures: 1 << 20,
		story: func(w *world) {
			time.Sleep(20 * time.Second)
			w.during("idp-5xx", true, 70*time.Second, func() func() {
				w.setIdP(func(p *idp) { p.mood = mood{status: 500} })
				return func() { w.setIdP(func(p *idp) { p.mood = mood{} }) }
			})
			time.Sleep(time.Minute)
		},
	},
	{
		name: "23 provider slow: one call in flight", o: small(8).living(time.Minute), failures: 1 << 20,
		story: func(w *world) {
			time.Sleep(10 * time.Second)
			w.during("idp-slow", true, 90*time.Second, func() func() {
				w.setIdP(func(p *idp) { p.latency = 8 * time.Second })
				return func() { w.setIdP(func(p *idp) { p.latency = w.o.latency }) }
			})
		},
	},
	{
		name: "24 Retry-After outlives the leader that heard it", o: small(6), failures: 1 << 20, grants: 1,
		story: func(w *world) {
			w.hush(true)
			w.setIdP(func(p *idp) { p.mood = mood{status: 429, retry: 40 * time.Second} })
			time.Sleep(5 * time.Second)
			w.once("idp-429", true, func() { w.order(0)[3].get(0) })
			w.hush(false)
			time.Sleep(5 * time.Second)
			for range 3 {
				w.once("kill", false, func() { w.leader().stop(kill) })
				time.Sleep(5 * time.Second)
			}
			w.setIdP(func(p *idp) { p.mood = mood{} })
			time.Sleep(30 * time.Second)
		},
	},
	{
		name: "33 a revoked token costs one acquisition", o: small(12), grants: 4,
		story: func(w *world) {
			for range 3 {
				time.Sleep(20 * time.Second)
				w.once("void", true, func() { w.voids(0) })
			}
		},
	},
	{
		name: "34 a 401 that means not allowed never becomes a loop", o: small(6), grants: 5, failures: 1 << 20,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			w.during("forbidden", true, 3*time.Minute, func() func() {
				w.setIdP(func(p *idp) { p.forbids = true })
				return func() { w.setIdP(func(p *idp) { p.forbids = false }) }
			})
		},
	},
	{
		name: "late 401 of an isolated node touches no later token", o: small(6), grants: 2,
		story: func(w *world) {
			time.Sleep(5 * time.Second)
			late := w.order(0)[5].node
			w.mu.Lock()
			late.silent = true
			w.mu.Unlock()
			w.during("alone", false, 10*time.Second, func() func() {
				undo := w.trouble(cutting(func(i, j int) bool { return i == late.i || j == late.i }))
				w.voids(0)
				return undo
			})
			for range 5 {
				late.running().get(0)
				time.Sleep(100 * time.Millisecond)
			}
		},
	},
	{
		name: "49 reboot of every machine in turn, silently", o: small(6), grants: 1,
		story: func(w *world) {
			for _, n := range w.nodes {
				time.Sleep(5 * time.Second)
				w.during("crash", false, 3*time.Second, func() func() {
					n.stop(crash)
					return func() { n.start() }
				})
			}
		},
	},
	{
		name: "51 fifty nodes, cold", o: small(50).with(func(o *options) { o.every = 50 * time.Millisecond }), grants: 3,
		story: func(*world) { time.Sleep(3 * time.Second) },
	},
}

func (s script) run(t *testing.T) *world {
	return simulate(t, s.o, func(w *world) { s.story(w); w.endFaults() }, s.verdict)
}

func (s script) verdict(w *world) {
	switch j := &w.judge; {
	case s.grants > 0 && len(w.idp.grants) > s.grants:
		j.violated(once, "%d acquisitions, at most %d are needed", len(w.idp.grants), s.grants)
	case s.grants == 0 && len(j.extras) > s.extra:
		j.violated(once, "%d extra acquisitions, at most %d are excusable", len(j.extras), s.extra)
	case j.failed > s.failures:
		j.violated(available, "%d of %d gets failed", j.failed, j.gets)
	}
}

func TestScripts_RowsOfTheFaultMatrix(t *testing.T) {
	for i, s := range scripts {
		if i%slowdown != 0 {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			w := s.run(t)
			t.Logf("%d acquisitions, %d extra, %d gets, slowest %v", len(w.idp.grants), len(w.judge.extras), w.judge.gets, w.judge.slowest)
		})
	}
}
