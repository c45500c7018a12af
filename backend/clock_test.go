package backend

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestClock_CountsSuspendsAndIgnoresStepsBack(t *testing.T) {
	for _, c := range []struct {
		name string
		step time.Duration
		want time.Duration // what 10 s of monotonic time become
	}{
		{"steady", 0, 10 * time.Second},
		{"suspended 5 min", 5 * time.Minute, 5*time.Minute + 10*time.Second},
		{"set back 10 min", -10 * time.Minute, 10 * time.Second},
		{"slewed 100 ms", 100 * time.Millisecond, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var offset atomic.Int64
				clock := NewClock(func() time.Time { return time.Now().Add(time.Duration(offset.Load())) })
				ctx, cancel := context.WithCancel(t.Context())
				var told time.Duration
				done := make(chan struct{})
				go func() { defer close(done); clock.Watch(ctx, func(d time.Duration) { told += d }) }()
				time.Sleep(4500 * time.Millisecond)
				offset.Store(int64(c.step))
				time.Sleep(5500 * time.Millisecond)
				synctest.Wait()
				if got := clock.Now(); got != c.want {
					t.Errorf("clock says %v, want %v", got, c.want)
				}
				if told != c.want-10*time.Second {
					t.Errorf("told of %v, want %v", told, c.want-10*time.Second)
				}
				cancel()
				<-done
			})
		})
	}
}
