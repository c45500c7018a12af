package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// The first test of all: memberlist never heals a partition by itself.
func TestCluster_HalvesSplitForMinutesAreOneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(5)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(5, nodes...) })
		for range 2 {
			l.net.Partition(ips(0, 2), ips(2, 5))
			within(t, time.Minute, func() error { return see(2, nodes[:2]...) })
			within(t, time.Minute, func() error { return see(3, nodes[2:]...) })
			time.Sleep(2 * time.Minute)
			l.net.Heal(ips(0, 2), ips(2, 5))
			within(t, 30*time.Second, func() error { return see(5, nodes...) })
		}
	})
}

func TestDo_EveryMemberAnswersEveryOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(3)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(3, nodes...) })
		for _, from := range nodes {
			<-from.Joined()
			for _, to := range nodes {
				if from == to {
					continue
				}
				if err := ask(t.Context(), from, to, "hello"); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
