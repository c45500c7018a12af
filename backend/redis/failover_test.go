package redis_test

import (
	"net"
	"strconv"
	"strings"
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

// startSentinels starts a master, two replicas and three Sentinels.
func startSentinels(t *testing.T) (master *redistest.Server, cfg redis.Config) {
	t.Helper()
	master = redistest.Start(t, "requirepass canary", "masterauth canary")
	host, port, _ := net.SplitHostPort(master.Addr)
	for range 2 {
		redistest.Start(t, "requirepass canary", "masterauth canary", "replicaof "+host+" "+port)
	}
	cfg = redis.Config{Prefix: prefix, Options: redis.Options{
		Mode: redis.ModeSentinel, MasterName: "main", Password: "canary", SentinelPassword: "sentinel-canary",
	}}
	var sentinels []*redistest.Server
	for range 3 {
		s := redistest.StartSentinel(t,
			"requirepass sentinel-canary",
			"sentinel sentinel-pass sentinel-canary",
			"sentinel monitor main "+host+" "+port+" 2",
			"sentinel auth-pass main canary",
			"sentinel down-after-milliseconds main 500",
			"sentinel failover-timeout main 2000")
		sentinels = append(sentinels, s)
		cfg.Options.Addrs = append(cfg.Options.Addrs, s.Addr)
	}
	for _, s := range sentinels {
		eventually(t, func() error {
			info := s.DoAs("sentinel-canary", "INFO", "sentinel")
			return want(strings.Contains(info, "slaves=2,sentinels=3"), info)
		})
	}
	return master, cfg
}

func TestFailover_SentinelUnderLoad(t *testing.T) {
	t.Parallel()
	master, cfg := startSentinels(t)
	l := startLoad(t, cfg, 5)
	began := time.Now()
	master.Kill()
	l.outage(t)
	l.settled(t, cfg, began)
}

func TestFailover_ClusterMasterUnderLoad(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3, 1)
	for _, replica := range nodes[3:] {
		eventually(t, func() error {
			info := replica.Do("INFO", "replication")
			return want(strings.Contains(info, "master_link_status:up"), info)
		})
	}
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
