//go:build chaos

package processes

import (
	"maps"
	"slices"
	"sort"
	"sync"
	"time"
)

// moment is who could do what, and reach whom, from an instant on.
type moment struct {
	at      time.Duration
	life    []int          // incarnation of each node; 0: it does not run, or is stopped
	cut     map[int]int    // nodes without a cable, counted by fault
	blocked map[[2]int]int // from, to: packets are dropped
	lossy   map[int]int    // nodes that lose packets
	idp     int            // faults of the provider
	running map[int]bool   // nodes whose process something is being done to
}

// timeline is the truth of a run: how the world was, instant by instant. A fault
// is noted before it is applied, its end after it is undone.
type timeline struct {
	start time.Time

	mu      sync.Mutex
	moments []moment
}

func newTimeline(nodes int) *timeline {
	return &timeline{start: time.Now(), moments: []moment{{
		life: make([]int, nodes), cut: map[int]int{}, blocked: map[[2]int]int{}, lossy: map[int]int{}, running: map[int]bool{},
	}}}
}

func (t *timeline) now() time.Duration { return time.Since(t.start) }

// change appends a moment that differs from the last one.
func (t *timeline) change(f func(m *moment)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.moments[len(t.moments)-1]
	next := moment{
		at: t.now(), life: slices.Clone(last.life), cut: maps.Clone(last.cut), blocked: maps.Clone(last.blocked),
		lossy: maps.Clone(last.lossy), idp: last.idp, running: maps.Clone(last.running),
	}
	f(&next)
	t.moments = append(t.moments, next)
}

// current returns the latest moment, for reading only.
func (t *timeline) current() moment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.moments[len(t.moments)-1]
}

// during returns the moments that touch a span of time.
func (t *timeline) during(from, to time.Duration) []moment {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := sort.Search(len(t.moments), func(i int) bool { return t.moments[i].at > from })
	last := sort.Search(len(t.moments), func(i int) bool { return t.moments[i].at > to })
	return t.moments[max(first-1, 0):last]
}

// at returns the moment that holds at an instant.
func (t *timeline) at(when time.Duration) moment { return t.during(when, when)[0] }

// linked reports whether two nodes can talk, both ways.
func (m moment) linked(a, b int) bool {
	return m.life[a] != 0 && m.life[b] != 0 && m.cut[a] == 0 && m.cut[b] == 0 &&
		m.blocked[[2]int{a, b}] == 0 && m.blocked[[2]int{b, a}] == 0
}

// component returns the nodes connected with n, itself included, if it runs.
func (m moment) component(n int) map[int]bool {
	if m.life[n] == 0 {
		return nil
	}
	seen, todo := map[int]bool{n: true}, []int{n}
	for len(todo) > 0 {
		a := todo[0]
		todo = todo[1:]
		for b := range m.life {
			if !seen[b] && m.linked(a, b) {
				seen[b] = true
				todo = append(todo, b)
			}
		}
	}
	return seen
}

// disturbed reports whether the node's own network is at fault.
func (m moment) disturbed(n int) bool {
	return m.cut[n] > 0 || m.lossy[n] > 0
}

// calm reports whether nothing at all is wrong.
func (m moment) calm() bool {
	return len(m.cut)+len(m.blocked)+len(m.lossy)+len(m.running)+m.idp == 0 && !slices.Contains(m.life, 0)
}

// count adds to an entry and removes it at zero.
func count[K comparable](m map[K]int, key K, by int) {
	if m[key] += by; m[key] == 0 {
		delete(m, key)
	}
}
