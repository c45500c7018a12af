package history

import (
	"testing"
	"time"
)

// history is one made by hand, of three nodes that all run from the start.
type history struct {
	time *Timeline
	book *Book
	j    *Judge
}

func newHistory() *history {
	t := NewTimeline(3, nil)
	t.moments[0].Life = []int{1, 1, 1}
	book := NewBook(t)
	return &history{time: t, book: book, j: &Judge{Time: t, Book: book}}
}

// at changes the truth from an instant on.
func (h *history) at(when time.Duration, f func(m *Moment)) {
	h.time.Change(f)
	h.time.moments[len(h.time.moments)-1].At = when
}

// grant is a token of a minute for a node, which others use from then on.
func (h *history) grant(node int, at time.Duration, users ...int) *Grant {
	g := &Grant{Key: "short", Token: at.String(), Node: node, Life: time.Minute, Arrived: at, Served: at + time.Second/10}
	h.book.Granted(g)
	for _, n := range append(users, node) {
		g.seen[Holder{n, 1, "short"}] = g.Served
	}
	return g
}

func (h *history) fault(begun, end time.Duration) *Fault {
	f := &Fault{Begun: begun, End: end, Extras: map[int]int{}}
	h.j.Faults = append(h.j.Faults, f)
	return f
}

const second = time.Second

func TestJudge_CountsAcquisitionsThatNeedNotHaveBeen(t *testing.T) {
	for name, c := range map[string]struct {
		story        func(h *history)
		extra, quiet int
	}{
		"two in quiet":   {func(h *history) { h.grant(0, second, 1, 2); h.grant(1, 9*second) }, 1, 1},
		"both under way": {func(h *history) { h.grant(0, second); h.grant(1, second+time.Millisecond) }, 1, 1},
		"due":            {func(h *history) { h.grant(0, second, 1, 2); h.grant(1, 50*second, 0, 2) }, 0, 0},
		"due, and twice": {func(h *history) { h.grant(0, second, 1, 2); h.grant(1, 50*second, 0, 2); h.grant(2, 52*second) }, 1, 1},
		"too soon":       {func(h *history) { h.grant(0, second, 1, 2); h.grant(1, 42*second, 0, 2) }, 1, 1},
		"a node that waited 4 s for it takes it to be due": {func(h *history) {
			h.grant(0, second, 2).seen[Holder{1, 1, "short"}] = 5 * second
			h.grant(1, 42*second, 0, 2)
		}, 0, 0},
		"its request was lost for 4 s, and its life counts from then": {func(h *history) {
			h.at(second, func(m *Moment) { m.Lossy[0] = 1 })
			h.at(5*second, func(m *Moment) { delete(m.Lossy, 0) })
			h.grant(0, 5*second, 1, 2)
			h.grant(0, 46*second, 1, 2)
		}, 0, 0},
		"the network was whole again long before its request": {func(h *history) {
			h.at(second, func(m *Moment) { m.Lossy[0] = 1 })
			h.at(2*second, func(m *Moment) { delete(m.Lossy, 0) })
			h.grant(0, 15*second, 1, 2)
			h.grant(0, 56*second, 1, 2)
		}, 1, 1},
		"nobody holds it here": {func(h *history) { h.grant(0, second); h.at(2*second, partition); h.grant(1, 9*second, 2) }, 0, 0},
		"the holder was killed": {func(h *history) {
			h.grant(0, second)
			h.at(2*second, func(m *Moment) { m.Life[0] = 0 })
			h.grant(1, 9*second, 2)
		}, 0, 0},
		"the holder came back empty": {func(h *history) {
			h.grant(0, second)
			h.at(2*second, func(m *Moment) { m.Life[0] = 2 })
			h.grant(1, 9*second, 2)
		}, 0, 0},
		"one-way loss splits nobody while a third is there": {func(h *history) {
			h.grant(0, second)
			h.at(2*second, func(m *Moment) { m.Blocked[[2]int{0, 1}] = 1 })
			h.grant(1, 9*second)
		}, 1, 1},
		"revoked":        {func(h *history) { h.grant(0, second, 1, 2).Revoked = 5 * second; h.grant(1, 9*second) }, 0, 0},
		"during a fault": {func(h *history) { h.grant(0, second, 1, 2); h.fault(2*second, 3*second); h.grant(1, 9*second) }, 1, 0},
		"long after it":  {func(h *history) { h.grant(0, 3*second, 1, 2); h.fault(2*second, 3*second); h.grant(1, 30*second) }, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			c.story(h)
			quiet := 0
			found := h.j.Extras()
			for _, e := range found {
				if e.Fault == nil {
					quiet++
				}
			}
			if len(found) != c.extra || quiet != c.quiet {
				t.Errorf("%d extra, %d in quiet; want %d, %d", len(found), quiet, c.extra, c.quiet)
			}
		})
	}
}

func partition(m *Moment) {
	for _, pair := range [][2]int{{0, 1}, {0, 2}} {
		m.Blocked[pair] = 1
	}
}

func TestJudge_PutsOneExtraDownToOneFault(t *testing.T) {
	h := newHistory()
	a, b := h.fault(0, second), h.fault(0, 2*second)
	h.grant(0, second, 1, 2)
	h.grant(1, 3*second, 0, 2)
	h.grant(2, 5*second, 0, 1)
	if found := h.j.Extras(); len(found) != 2 || a.Extras[0] != 1 || b.Extras[0] != 1 {
		t.Errorf("%d extra: %v, %v; want one for each fault", len(found), a.Extras, b.Extras)
	}
}

func TestJudge_JudgesGets(t *testing.T) {
	failed := Op{Node: 1, Key: "short", Begun: 20 * second, Over: 20*second + second/10, Failed: "503"}
	late := Op{Node: 1, Key: "short", Begun: 20 * second, Over: 23 * second}
	broke := func(h *history) { h.at(second/2, func(m *Moment) { m.IdP = 1 }) }
	for name, c := range map[string]struct {
		story func(h *history)
		get   Op
		want  Verdict
	}{
		"the provider was there": {func(*history) {}, failed, Broken},
		"a peer held a token":    {func(h *history) { broke(h); h.grant(0, second) }, failed, Broken},
		"neither":                {broke, failed, Unlendable},
		"the peer went over to another, which ended": {func(h *history) {
			broke(h)
			h.grant(0, second).dropped[Holder{0, 1, "short"}] = 8 * second
		}, failed, Unlendable},
		"its own ended as a peer came back": {func(h *history) {
			broke(h)
			h.at(second, partition)
			h.grant(1, second).Life = 19 * second
			h.grant(0, second)
			h.at(19*second, func(m *Moment) { clear(m.Blocked) })
		}, failed, Recovering},
		"the peer was out of reach":  {func(h *history) { broke(h); h.grant(0, second); h.at(2*second, partition) }, failed, Unlendable},
		"the peer's was revoked":     {func(h *history) { broke(h); h.grant(0, second).Revoked = 5 * second }, failed, Unlendable},
		"the provider is just back":  {func(h *history) { broke(h); h.at(18*second, func(m *Moment) { m.IdP = 0 }) }, failed, Recovering},
		"the node was stopped":       {func(h *history) { h.at(20*second, func(m *Moment) { m.Life[1] = 0 }) }, failed, Excused},
		"slow though it held one":    {func(h *history) { h.grant(1, second) }, late, Slow},
		"slow, it had to ask others": {func(h *history) { h.grant(0, second) }, late, Fine},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			c.story(h)
			if got := h.j.Get(c.get); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestBook_NoticesARevokedTokenThatComesBack(t *testing.T) {
	h := newHistory()
	a, b := h.grant(0, 0, 1), h.grant(0, second)
	h.book.Presented(1, "short", a.Token, second)
	a.Revoked = time.Nanosecond
	h.book.Presented(1, "short", a.Token, second)
	h.book.Presented(1, "short", b.Token, second)
	if len(h.book.Regressed) != 0 {
		t.Fatalf("too soon: %v", h.book.Regressed)
	}
	h.book.Presented(1, "short", a.Token, second)
	if len(h.book.Regressed) != 1 {
		t.Errorf("got %v, want one", h.book.Regressed)
	}
}

func TestBook_NoticesATokenThatComesAfterItsEnd(t *testing.T) {
	h := newHistory()
	a := h.grant(0, second, 1)
	h.book.Presented(1, "short", a.Token, 59*second)
	h.book.Presented(1, "short", a.Token, 63*second)
	h.at(64*second, func(m *Moment) { m.Life[2] = 2 })
	h.book.Presented(2, "short", a.Token, 65*second)
	if len(h.book.Expired) != 1 {
		t.Errorf("got %v, want one", h.book.Expired)
	}
}

func TestTimeline_NodesShareAsTheirBackendDoes(t *testing.T) {
	store := func(a, b int) bool { return a == 2 || b == 2 }
	for name, c := range map[string]struct {
		shares func(a, b int) bool
		want   int
	}{
		"all with all":    {nil, 3},
		"through a store": {store, 3},
		"nobody":          {func(int, int) bool { return false }, 1},
	} {
		line := NewTimeline(3, c.shares)
		line.Change(func(m *Moment) { m.Life = []int{1, 1, 1} })
		if got := line.Current().Component(0); len(got) != c.want {
			t.Errorf("%s: %v, want %d", name, got, c.want)
		}
	}
	line := NewTimeline(3, store)
	line.Change(func(m *Moment) { m.Life = []int{1, 1, 0} })
	if got := line.Current().Component(0); len(got) != 1 {
		t.Errorf("without the store: %v", got)
	}
}

func TestJudge_KnowsWhetherATokenWasInReachAllAlong(t *testing.T) {
	get := Op{Node: 1, Key: "short", Begun: 20 * second, Over: 23 * second}
	for name, c := range map[string]struct {
		story func(h *history)
		want  bool
	}{
		"its own":               {func(h *history) { h.grant(1, second) }, true},
		"a peer's":              {func(h *history) { h.grant(0, second) }, true},
		"one after the other":   {func(h *history) { h.grant(0, second).Life = 21 * second; h.grant(2, 20*second) }, true},
		"nobody's":              {func(*history) {}, false},
		"not from the start":    {func(h *history) { h.grant(0, 21*second) }, false},
		"out of reach":          {func(h *history) { h.grant(0, second); h.at(21*second, partition) }, false},
		"its network was lossy": {func(h *history) { h.grant(1, second); h.at(21*second, func(m *Moment) { m.Lossy[1] = 1 }) }, false},
		"it was stopped":        {func(h *history) { h.grant(1, second); h.at(21*second, func(m *Moment) { m.Life[1] = 0 }) }, false},
		"revoked meanwhile":     {func(h *history) { h.grant(1, second).Revoked = 21 * second }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			c.story(h)
			if got := h.j.Lent(get); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
