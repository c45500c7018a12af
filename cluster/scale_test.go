package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestScale_FiftyNodesSeeAllWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(50)
		defer l.end()
		start := time.Now()
		within(t, 15*time.Second, func() error { return see(50, nodes...) })
		t.Logf("50 nodes see all after %v", time.Since(start))
	})
}
