package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestScale_TwentyNodesSeeAllWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(20)
		defer l.end()
		start := time.Now()
		within(t, 15*time.Second, func() error { return see(20, nodes...) })
		t.Logf("20 nodes see all after %v", time.Since(start))
	})
}
