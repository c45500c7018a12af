package backend

import (
	"context"
	"sync/atomic"
	"time"
)

// Clock is monotonic time that also counts the time a machine was suspended.
// Linux's monotonic clock stands still during a suspend, so a token would seem
// to live on; Watch compares it with the wall clock once a second and moves the
// Clock forward by what is missing. A step of the wall clock looks the same and
// costs at most one early refresh per key; a step backwards changes nothing.
type Clock struct {
	base time.Time        // monotonic zero
	wall func() time.Time // injected by tests that skew or step it
	leap atomic.Int64     // nanoseconds that the monotonic clock missed
}

// NewClock returns a Clock at zero. Wall is the wall clock, time.Now when nil.
func NewClock(wall func() time.Time) *Clock {
	if wall == nil {
		wall = time.Now
	}
	return &Clock{base: time.Now(), wall: wall}
}

// Now returns the time since the Clock was made, suspends included.
func (c *Clock) Now() time.Duration { return time.Since(c.base) + time.Duration(c.leap.Load()) }

// Wall returns the wall clock's time, for what must be compared across a
// restart or a wire and for nothing else.
func (c *Clock) Wall() time.Time { return c.wall() }

// minLeap is the smallest difference taken for a suspend: slewing by NTP moves
// the wall clock by at most 0.5 ms a second.
const minLeap = time.Second

// Watch looks for suspends once a second until ctx ends, and calls onLeap with
// the length of each.
func (c *Clock) Watch(ctx context.Context, onLeap func(time.Duration)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	// Round strips the monotonic reading, so that Sub below compares walls.
	mono, wall := time.Since(c.base), c.wall().Round(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m, w := time.Since(c.base), c.wall().Round(0)
		if leap := w.Sub(wall) - (m - mono); leap >= minLeap {
			c.leap.Add(int64(leap))
			onLeap(leap)
		}
		mono, wall = m, w
	}
}
