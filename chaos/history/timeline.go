package history

import (
	"maps"
	"slices"
	"sort"
	"sync"
	"time"
)

// Moment is who could do what, and reach whom, from an instant on.
type Moment struct {
	At      time.Duration
	Life    []int          // incarnation of each node; 0: it does not run, or is stopped
	Cut     map[int]int    // nodes without a cable, counted by fault
	Blocked map[[2]int]int // from, to: packets are dropped
	Lossy   map[int]int    // nodes that lose packets
	IdP     int            // faults of the provider
	Running map[int]bool   // nodes whose process something is being done to

	shares func(a, b int) bool
}

// Timeline is the truth of a run: how the world was, instant by instant. A fault
// is noted before it is applied, its end after it is undone.
type Timeline struct {
	start time.Time

	mu      sync.Mutex
	moments []Moment
}

// NewTimeline begins a run of so many nodes, of which none runs yet. Two nodes
// that can talk are in one component if shares says so; nil: all are. Nodes that
// share through a Redis count that as one more node, and share with it alone.
func NewTimeline(nodes int, shares func(a, b int) bool) *Timeline {
	if shares == nil {
		shares = func(int, int) bool { return true }
	}
	return &Timeline{start: time.Now(), moments: []Moment{{
		Life: make([]int, nodes), Cut: map[int]int{}, Blocked: map[[2]int]int{}, Lossy: map[int]int{}, Running: map[int]bool{},
		shares: shares,
	}}}
}

// Now is the time since the run began.
func (t *Timeline) Now() time.Duration { return t.When(time.Now()) }

// When is a time of day as one since the run began.
func (t *Timeline) When(at time.Time) time.Duration { return at.Sub(t.start) }

// Change appends a moment that differs from the last one.
func (t *Timeline) Change(f func(m *Moment)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.moments[len(t.moments)-1]
	next := Moment{
		At: t.Now(), Life: slices.Clone(last.Life), Cut: maps.Clone(last.Cut), Blocked: maps.Clone(last.Blocked),
		Lossy: maps.Clone(last.Lossy), IdP: last.IdP, Running: maps.Clone(last.Running), shares: last.shares,
	}
	f(&next)
	t.moments = append(t.moments, next)
}

// Current returns the latest moment, for reading only.
func (t *Timeline) Current() Moment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.moments[len(t.moments)-1]
}

// During returns the moments that touch a span of time.
func (t *Timeline) During(from, to time.Duration) []Moment {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := sort.Search(len(t.moments), func(i int) bool { return t.moments[i].At > from })
	last := sort.Search(len(t.moments), func(i int) bool { return t.moments[i].At > to })
	return t.moments[max(first-1, 0):max(last, 1)]
}

// At returns the moment that holds at an instant.
func (t *Timeline) At(when time.Duration) Moment { return t.During(when, when)[0] }

// Linked reports whether two nodes can talk, both ways.
func (m Moment) Linked(a, b int) bool {
	return m.Life[a] != 0 && m.Life[b] != 0 && m.Cut[a] == 0 && m.Cut[b] == 0 &&
		m.Blocked[[2]int{a, b}] == 0 && m.Blocked[[2]int{b, a}] == 0
}

// Component returns the nodes connected with n, itself included, if it runs.
func (m Moment) Component(n int) map[int]bool {
	if m.Life[n] == 0 {
		return nil
	}
	seen, todo := map[int]bool{n: true}, []int{n}
	for len(todo) > 0 {
		a := todo[0]
		todo = todo[1:]
		for b := range m.Life {
			if !seen[b] && m.shares(a, b) && m.Linked(a, b) {
				seen[b] = true
				todo = append(todo, b)
			}
		}
	}
	return seen
}

// Disturbed reports whether the node's own network is at fault.
func (m Moment) Disturbed(n int) bool {
	return m.Cut[n] > 0 || m.Lossy[n] > 0
}

// Calm reports whether nothing at all is wrong.
func (m Moment) Calm() bool {
	return len(m.Cut)+len(m.Blocked)+len(m.Lossy)+len(m.Running)+m.IdP == 0 && !slices.Contains(m.Life, 0)
}

// Count adds to an entry and removes it at zero.
func Count[K comparable](m map[K]int, key K, by int) {
	if m[key] += by; m[key] == 0 {
		delete(m, key)
	}
}
