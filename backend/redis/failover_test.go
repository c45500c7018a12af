package redis_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

// A load is a fleet that asks all the time.
type load struct {
	members                []*redis.Redis
	idp                    idp
	stop                   chan struct{}
	wg                     sync.WaitGroup
	asked, failed, slowest atomic.Int64
}

// startLoad starts n members with two callers each. Every member has had the
// token once: a fleet at work.
func startLoad(t *testing.T, cfg redis.Config, n int) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	for range n {
		m := member(t, cfg)
		must(t, m, backend.Stamp{}, l.idp.fill)
		l.members = append(l.members, m)
	}
	for _, m := range l.members {
		for range 2 {
			l.wg.Go(func() { l.ask(t, m) })
		}
	}
	return l
}

func (l *load) ask(t *testing.T, m *redis.Redis) {
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(time.Millisecond):
		}
		began := time.Now()
		if _, err := m.Fill(t.Context(), key, backend.Stamp{}, l.idp.fill); err != nil {
			l.failed.Add(1)
		}
		l.asked.Add(1)
		atLeast(&l.slowest, int64(time.Since(began)))
	}
}

// settled waits until every member works with Redis again, and a new one finds
// there what the fleet has.
func (l *load) settled(t *testing.T, cfg redis.Config, began time.Time) {
	t.Helper()
	eventually(t, func() error {
		for _, m := range l.members {
			if ok, reason, _ := m.State(); !ok {
				return want(false, "still "+reason)
			}
		}
		_, err := member(t, cfg).Get(t.Context(), key)
		return err
	})
	took := time.Since(began)
	close(l.stop)
	l.wg.Wait()
	t.Logf("%d gets, %d failed, slowest %v; %d acquisitions; settled after %v",
		l.asked.Load(), l.failed.Load(), time.Duration(l.slowest.Load()), l.idp.calls.Load(), took)
	if l.failed.Load() != 0 || l.idp.calls.Load() > 2 {
		t.Error("want none failed and one extra acquisition at most")
	}
}

// outage waits until a member has noticed.
func (l *load) outage(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		for _, m := range l.members {
			if ok, _, _ := m.State(); !ok {
				return nil
			}
		}
		return want(false, "nobody has noticed")
	})
}

// sentinels starts a master, two replicas and three Sentinels.
func sentinels(t *testing.T) (master *redistest.Server, cfg redis.Config) {
	t.Helper()
	master, addrs := redistest.StartSentinels(t, "main", "canary", "sentinel-canary")
	return master, redis.Config{Prefix: prefix, Options: redis.Options{
		Mode: redis.ModeSentinel, MasterName: "main", Addrs: addrs, Password: "canary", SentinelPassword: "sentinel-canary",
	}}
}

func TestFailover_SentinelUnderLoad(t *testing.T) {
	t.Parallel()
	master, cfg := sentinels(t)
	l := startLoad(t, cfg, 5)
	began := time.Now()
	master.Kill()
	l.outage(t)
	l.settled(t, cfg, began)
}

func TestFailover_ClusterMasterUnderLoad(t *testing.T) {
	t.Parallel()
	nodes := redistest.StartCluster(t, 3, 1)
	cfg := clusterOf(nodes)
	l := startLoad(t, cfg, 5)
	slot, err := strconv.Atoi(nodes[0].Do("CLUSTER", "KEYSLOT", valueKey()))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	nodes[slot*3/16384].Kill()
	l.outage(t)
	l.settled(t, cfg, began)
}
