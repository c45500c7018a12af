//go:build chaos

package processes

import (
	"testing"
	"time"
)

// history is one made by hand, of three nodes that all run from the start.
type history struct {
	time *timeline
	out  *outside
	j    *judge
}

func newHistory() *history {
	t := newTimeline(3)
	t.moments[0].life = []int{1, 1, 1}
	out := &outside{time: t, keys: []string{"short"}, byToken: map[string]*grant{}, last: map[holder]string{}}
	return &history{time: t, out: out, j: &judge{time: t, out: out}}
}

// at changes the truth from an instant on.
func (h *history) at(when time.Duration, f func(m *moment)) {
	h.time.change(f)
	h.time.moments[len(h.time.moments)-1].at = when
}

// grant is a token of a minute for a node, which others use from then on.
func (h *history) grant(node int, at time.Duration, users ...int) *grant {
	g := &grant{
		key: "short", token: at.String(), node: node, life: time.Minute, arrived: at, served: at + time.Second/10,
		seen: map[holder]time.Duration{}, dropped: map[holder]time.Duration{}, refused: map[holder]bool{}, replaced: map[holder]bool{},
	}
	for _, n := range append(users, node) {
		g.seen[holder{n, 1, "short"}] = g.served
	}
	h.out.grants = append(h.out.grants, g)
	h.out.byToken[g.token] = g
	return g
}

func (h *history) fault(begun, end time.Duration) *fault {
	f := &fault{begun: begun, end: end, extras: map[int]int{}}
	h.j.faults = append(h.j.faults, f)
	return f
}

const second = time.Second

func TestJudge_CountsAcquisitionsThatNeedNotHaveBeen(t *testing.T) {
	for name, c := range map[string]struct {
		story        func(h *history)
		extra, quiet int
	}{
		"two in quiet":         {func(h *history) { h.grant(0, second, 1, 2); h.grant(1, 9*second) }, 1, 1},
		"both under way":       {func(h *history) { h.grant(0, second); h.grant(1, second+time.Millisecond) }, 1, 1},
		"due":                  {func(h *history) { h.grant(0, second, 1, 2); h.grant(1, 50*second, 0, 2) }, 0, 0},
		"due, and twice":       {func(h *history) { h.grant(0, second, 1, 2); h.grant(1, 50*second, 0, 2); h.grant(2, 52*second) }, 1, 1},
		"nobody holds it here": {func(h *history) { h.grant(0, second); h.at(2*second, partition); h.grant(1, 9*second, 2) }, 0, 0},
		"the holder was killed": {func(h *history) {
			h.grant(0, second)
			h.at(2*second, func(m *moment) { m.life[0] = 0 })
			h.grant(1, 9*second, 2)
		}, 0, 0},
		"the holder came back empty": {func(h *history) {
			h.grant(0, second)
			h.at(2*second, func(m *moment) { m.life[0] = 2 })
			h.grant(1, 9*second, 2)
		}, 0, 0},
		"one-way loss splits nobody while a third is there": {func(h *history) {
			h.grant(0, second)
			h.at(2*second, func(m *moment) { m.blocked[[2]int{0, 1}] = 1 })
			h.grant(1, 9*second)
		}, 1, 1},
		"revoked":        {func(h *history) { h.grant(0, second, 1, 2).revoked = 5 * second; h.grant(1, 9*second) }, 0, 0},
		"during a fault": {func(h *history) { h.grant(0, second, 1, 2); h.fault(2*second, 3*second); h.grant(1, 9*second) }, 1, 0},
		"long after it":  {func(h *history) { h.grant(0, 3*second, 1, 2); h.fault(2*second, 3*second); h.grant(1, 30*second) }, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			c.story(h)
			quiet := 0
			found := h.j.extras()
			for _, e := range found {
				if e.fault == nil {
					quiet++
				}
			}
			if len(found) != c.extra || quiet != c.quiet {
				t.Errorf("%d extra, %d in quiet; want %d, %d", len(found), quiet, c.extra, c.quiet)
			}
		})
	}
}

func partition(m *moment) {
	for _, pair := range [][2]int{{0, 1}, {0, 2}} {
		m.blocked[pair] = 1
	}
}

func TestJudge_PutsOneExtraDownToOneFault(t *testing.T) {
	h := newHistory()
	a, b := h.fault(0, second), h.fault(0, 2*second)
	h.grant(0, second, 1, 2)
	h.grant(1, 3*second, 0, 2)
	h.grant(2, 5*second, 0, 1)
	if found := h.j.extras(); len(found) != 2 || a.extras[0] != 1 || b.extras[0] != 1 {
		t.Errorf("%d extra: %v, %v; want one for each fault", len(found), a.extras, b.extras)
	}
}

func TestJudge_JudgesGets(t *testing.T) {
	failed := op{node: 1, key: "short", begun: 20 * second, over: 20*second + second/10, failed: "503"}
	late := op{node: 1, key: "short", begun: 20 * second, over: 23 * second}
	broke := func(h *history) { h.at(second/2, func(m *moment) { m.idp = 1 }) }
	for name, c := range map[string]struct {
		story func(h *history)
		get   op
		want  verdict
	}{
		"the provider was there": {func(*history) {}, failed, broken},
		"a peer held a token":    {func(h *history) { broke(h); h.grant(0, second) }, failed, broken},
		"neither":                {broke, failed, unlendable},
		"the peer went over to another, which ended": {func(h *history) {
			broke(h)
			h.grant(0, second).dropped[holder{0, 1, "short"}] = 8 * second
		}, failed, unlendable},
		"its own ended as a peer came back": {func(h *history) {
			broke(h)
			h.at(second, partition)
			h.grant(1, second).life = 19 * second
			h.grant(0, second)
			h.at(19*second, func(m *moment) { clear(m.blocked) })
		}, failed, recovering},
		"the peer was out of reach":  {func(h *history) { broke(h); h.grant(0, second); h.at(2*second, partition) }, failed, unlendable},
		"the peer's was revoked":     {func(h *history) { broke(h); h.grant(0, second).revoked = 5 * second }, failed, unlendable},
		"the provider is just back":  {func(h *history) { broke(h); h.at(18*second, func(m *moment) { m.idp = 0 }) }, failed, recovering},
		"the node was stopped":       {func(h *history) { h.at(20*second, func(m *moment) { m.life[1] = 0 }) }, failed, excused},
		"slow though it held one":    {func(h *history) { h.grant(1, second) }, late, slow},
		"slow, it had to ask others": {func(h *history) { h.grant(0, second) }, late, fine},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			c.story(h)
			if got := h.j.get(c.get); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestOutside_NoticesARevokedTokenThatComesBack(t *testing.T) {
	h := newHistory()
	a, b := h.grant(0, 0, 1), h.grant(0, second)
	h.out.presented(1, "short", a.token)
	a.revoked = time.Nanosecond
	h.out.presented(1, "short", a.token)
	h.out.presented(1, "short", b.token)
	if len(h.out.regressed) != 0 {
		t.Fatalf("too soon: %v", h.out.regressed)
	}
	h.out.presented(1, "short", a.token)
	if len(h.out.regressed) != 1 {
		t.Errorf("got %v, want one", h.out.regressed)
	}
}
