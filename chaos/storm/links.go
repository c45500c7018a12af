package storm

import (
	"context"
	"maps"
	"sync"
	"time"

	"orthanc-oauth/chaos/history"
)

// Wanted is what the packet filters of the nodes are to do.
type Wanted struct {
	Blocked map[[2]int]bool // from, to
	Lost    map[int]int     // percent of a node's packets, both ways
}

// Links is the network between the nodes of a run. Its methods are safe for
// concurrent use.
type Links struct {
	time  *history.Timeline
	apply func(ctx context.Context, w Wanted) error

	mu     sync.Mutex // held while filters are changed
	lost   map[int]int
	ending map[[2]int]int
}

// NewLinks returns a whole network. Apply brings the nodes' filters in line with
// what is wanted.
func NewLinks(t *history.Timeline, apply func(ctx context.Context, w Wanted) error) *Links {
	return &Links{time: t, apply: apply, lost: map[int]int{}, ending: map[[2]int]int{}}
}

// Apply gives every node the filter that the present faults want, but for those
// that are ending.
func (l *Links) Apply(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := Wanted{Blocked: map[[2]int]bool{}, Lost: maps.Clone(l.lost)}
	for pair, n := range l.time.Current().Blocked {
		if n > l.ending[pair] {
			w.Blocked[pair] = true
		}
	}
	return l.apply(ctx, w)
}

// Drop lets no packet pass from the first to the second of each pair.
func (l *Links) Drop(ctx context.Context, d time.Duration, pairs ...[2]int) error {
	truth := func(by int) {
		l.time.Change(func(m *history.Moment) {
			for _, pair := range pairs {
				history.Count(m.Blocked, pair, by)
			}
		})
	}
	truth(1)
	if err := l.Apply(ctx); err != nil {
		return err
	}
	Pause(ctx, d)
	// Packets pass before the truth says so: what it calls one component is one.
	l.mu.Lock()
	l.end(pairs, 1)
	l.mu.Unlock()
	err := l.Apply(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	truth(-1)
	l.end(pairs, -1)
	return err
}

// end counts pairs that are ending, with mu held.
func (l *Links) end(pairs [][2]int, by int) {
	for _, pair := range pairs {
		history.Count(l.ending, pair, by)
	}
}

// Lose adds to the packets that a node loses, in percent.
func (l *Links) Lose(ctx context.Context, node, by int) error {
	l.mu.Lock()
	history.Count(l.lost, node, by)
	l.mu.Unlock()
	return l.Apply(ctx)
}

// Loss lets a node lose packets for a while.
func (l *Links) Loss(ctx context.Context, d time.Duration, node, percent int) error {
	l.time.Change(func(m *history.Moment) { history.Count(m.Lossy, node, 1) })
	defer l.time.Change(func(m *history.Moment) { history.Count(m.Lossy, node, -1) })
	if err := l.Lose(ctx, node, percent); err != nil {
		return err
	}
	Pause(ctx, d)
	return l.Lose(ctx, node, -percent)
}

// Cut takes a node off the network for a while: off does it, on undoes it.
func (l *Links) Cut(ctx context.Context, d time.Duration, node int, off, on func() error) error {
	l.time.Change(func(m *history.Moment) { history.Count(m.Cut, node, 1) })
	defer l.time.Change(func(m *history.Moment) { history.Count(m.Cut, node, -1) })
	if err := off(); err != nil {
		return err
	}
	Pause(ctx, d)
	return on()
}

// Flap takes a node off the network for every other beat of two seconds.
func (l *Links) Flap(ctx context.Context, d time.Duration, node int, off, on func() error) error {
	const beat = 2 * time.Second
	for spent := time.Duration(0); spent < d; spent += 2 * beat {
		if err := l.Cut(ctx, beat, node, off, on); err != nil {
			return err
		}
		Pause(ctx, beat)
	}
	return nil
}
