package redis_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

// A fault is something an operator can do to Redis, and its end.
type fault struct {
	name   string
	reason string   // or reasons, where it depends on who is faster
	start  []string // directives
	opts   func(*redis.Options)
	begin  func(s *redistest.Server)
	end    func(s *redistest.Server)
}

// hasty gives Redis as long as the product does.
func hasty(o *redis.Options) { o.DialTimeout, o.ReadTimeout = 0, 0 }

var faults = []fault{
	{name: "noauth", reason: "noauth", start: []string{"requirepass secret-canary"}},
	{name: "wrongpass", reason: "wrongpass", start: []string{"requirepass other"}, opts: func(o *redis.Options) { o.Password = "secret-canary" }},
	{name: "wrong user", reason: "wrongpass", opts: func(o *redis.Options) { o.Username, o.Password = "nobody", "secret-canary" }},
	{name: "wrong database", reason: "wrongdb", opts: func(o *redis.Options) { o.DB = 99 }},
	{name: "sentinel is away", reason: "sentinel", opts: func(o *redis.Options) {
		o.URL, o.Mode, o.MasterName, o.Addrs = "", redis.ModeSentinel, "main", []string{"127.0.0.1:1"}
	}},
	{name: "no sentinel but a server", reason: "sentinel", opts: func(o *redis.Options) {
		o.Mode, o.MasterName, o.Addrs = redis.ModeSentinel, "other", []string{strings.TrimPrefix(string(o.URL), "redis://")}
		o.URL = ""
	}},
	{name: "cluster without slots", reason: "clusterdown", start: []string{"cluster-enabled yes", "cluster-port 0"}},
	{name: "renamed command", reason: "denied", start: []string{"rename-command GETRANGE HIDDEN", "rename-command EVALSHA HIDDEN2", "rename-command EVAL HIDDEN3"}},
	{
		name: "hung", reason: "timeout", opts: hasty,
		begin: (*redistest.Server).Hang,
		end:   (*redistest.Server).Resume,
	},
	{
		name: "killed", reason: "unreachable",
		begin: (*redistest.Server).Kill,
		end:   (*redistest.Server).Run,
	},
	{
		name: "misconf", reason: "misconf",
		begin: func(s *redistest.Server) { s.FailSnapshots() },
		end:   func(s *redistest.Server) { s.Do("CONFIG", "SET", "stop-writes-on-bgsave-error", "no") },
	},
	{
		name: "loading", reason: "loading",
		begin: func(s *redistest.Server) {
			s.Do("EVAL", "for i = 1, 2000 do redis.call('SET', 'junk' .. i, string.rep('x', 100)) end", "0")
			s.Do("SAVE")
			s.Kill()
			s.RunLoading("key-load-delay 1000", "loading-process-events-interval-bytes 1024")
		},
		end: func(*redistest.Server) {},
	},
	{
		// The server says so and closes at once, so a client may see only that.
		name: "maxclients", reason: "maxclients unreachable",
		begin: func(s *redistest.Server) { s.Occupy(8) },
		end:   (*redistest.Server).Vacate,
	},
	{name: "tls to a plain port", reason: "timeout", opts: func(o *redis.Options) { hasty(o); o.SSL = true }},
	{
		name: "readonly", reason: "readonly",
		begin: func(s *redistest.Server) { s.Do("REPLICAOF", "127.0.0.1", "1") },
		end:   func(s *redistest.Server) { s.Do("REPLICAOF", "NO", "ONE") },
	},
	{
		name: "oom", reason: "oom",
		begin: func(s *redistest.Server) { s.Do("CONFIG", "SET", "maxmemory", "1") },
		end:   func(s *redistest.Server) { s.Do("CONFIG", "SET", "maxmemory", "0") },
	},
	{
		name: "denied command", reason: "denied",
		begin: func(s *redistest.Server) { s.Do("ACL", "SETUSER", "default", "-set") },
		end:   func(s *redistest.Server) { s.Do("ACL", "SETUSER", "default", "+set") },
	},
	{
		name: "no scripting", reason: "denied",
		begin: func(s *redistest.Server) { s.Do("ACL", "SETUSER", "default", "-@scripting") },
		end:   func(s *redistest.Server) { s.Do("ACL", "SETUSER", "default", "+@scripting") },
	},
	{
		name: "wrong key space", reason: "denied",
		begin: func(s *redistest.Server) { s.Do("ACL", "SETUSER", "default", "resetkeys", "~elsewhere:*") },
		end:   func(s *redistest.Server) { s.Do("ACL", "SETUSER", "default", "resetkeys", "~*") },
	},
}

func TestFault_IsNamedOnceAndCostsNoToken(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			f.run(t)
		})
	}
}

func (f fault) run(t *testing.T) {
	s := redistest.Start(t, f.start...)
	var log sink
	reg := prometheus.NewRegistry()
	cfg := on(s)
	cfg.Log, cfg.Registerer = log.logger(), reg
	if f.opts != nil {
		f.opts(&cfg.Options)
	}
	if f.begin != nil {
		f.begin(s)
	}
	m := member(t, cfg)
	p := &idp{}
	e := must(t, m, backend.Stamp{}, p.fill)
	must(t, m, backend.Stamp{}, p.fill)
	p.asked(t, 1)
	ok, reason, _ := m.State()
	if ok || !slices.Contains(strings.Fields(f.reason), reason) {
		t.Errorf("state %v %q, want %q; log:\n%s", ok, reason, f.reason, log.String())
	}
	if errorsOf(t, reg, reason) == 0 {
		t.Errorf("%s is not counted", reason)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log.String())
	}
	if !strings.Contains(log.String(), "hint=") || redis.Hint(reason) == "" {
		t.Errorf("no hint what to do:\n%s", log.String())
	}
	if strings.Contains(log.String(), "canary") {
		t.Errorf("the password is in the log:\n%s", log.String())
	}
	if f.end == nil {
		return
	}
	f.end(s)
	eventually(t, func() error {
		got, err := member(t, on(s)).Get(t.Context(), key)
		return errors.Join(err, want(got.Stamp == e.Stamp, "what was acquired alone is not offered"))
	})
	if ok, reason, _ := m.State(); !ok {
		t.Errorf("still %s after the end", reason)
	}
}

// A proxy's faults are those of the way to a server that itself is well.
func TestFault_SlowWay(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	way := redistest.StartProxy(t, s.Addr)
	cfg := on(s)
	cfg.Options.URL = redis.Secret("redis://" + way.Addr)
	cfg.Options.DialTimeout, cfg.Options.ReadTimeout = time.Second, time.Second
	m := member(t, cfg)
	p := &idp{}

	way.Delay(60 * time.Millisecond)
	first := must(t, m, backend.Stamp{}, p.fill)
	if ok, reason, _ := m.State(); !ok {
		t.Errorf("slow, but within the limit: %s", reason)
	}
	way.Delay(3 * time.Second)
	if e := must(t, m, backend.Stamp{}, p.fill); e.Stamp != first.Stamp {
		t.Errorf("serves %v, want %v", e.Stamp, first.Stamp)
	}
	if ok, reason, _ := m.State(); ok || reason != "timeout" {
		t.Errorf("state %v %s", ok, reason)
	}
	way.Delay(0)
	eventually(t, func() error {
		ok, reason, _ := m.State()
		return want(ok, "still "+reason)
	})
	p.asked(t, 1)
}

// 1. Connections are kept, the way swallows what comes back, for ever.
// 2. With no token the node asks for itself; TestHung says after how long.
// 3. The way is well again, and so is the node, and the fleet finds the token.
func TestFault_SwallowedAnswers(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	way := redistest.StartProxy(t, s.Addr)
	cfg := asShipped(s)
	cfg.Options.URL = redis.Secret("redis://" + way.Addr)
	m := member(t, cfg)
	if _, err := m.Get(t.Context(), key); !errors.Is(err, backend.ErrMiss) {
		t.Fatal(err)
	}
	way.Swallow(true)
	p := &idp{}
	e := must(t, m, backend.Stamp{}, p.fill)
	way.Swallow(false)
	eventually(t, func() error {
		got, err := member(t, on(s)).Get(t.Context(), key)
		return errors.Join(err, want(got.Stamp == e.Stamp, "not offered"))
	})
	p.asked(t, 1)
}

// A connection that the other side closed is found out by using it only.
func TestFault_BrokenConnectionsAreReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	way := redistest.StartProxy(t, s.Addr)
	var log sink
	cfg := on(s)
	cfg.Options.URL, cfg.Log = redis.Secret("redis://"+way.Addr), log.logger()
	m := member(t, cfg)
	p := &idp{}
	must(t, m, backend.Stamp{}, p.fill)
	for range 20 {
		way.Break()
		if _, err := m.Get(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if ok, reason, _ := m.State(); !ok || strings.Contains(log.String(), "WARN") {
		t.Errorf("state %s, log:\n%s", reason, log.String())
	}
}

// 200 requests of different keys meet a hung Redis through a pool of 20.
func TestFault_FullPoolIsNoOtherFault(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var log sink
	reg := prometheus.NewRegistry()
	cfg := asShipped(s)
	cfg.Log, cfg.Registerer = log.logger(), reg
	m := member(t, cfg)
	if _, err := m.Get(t.Context(), key); !errors.Is(err, backend.ErrMiss) {
		t.Fatal(err)
	}
	s.Hang()
	defer s.Resume()
	p := &idp{}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if _, err := m.Fill(t.Context(), keyOf(i), backend.Stamp{}, p.fill); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p.asked(t, 200)
	if n := strings.Count(log.String(), "level=WARN"); n > 2 {
		t.Errorf("%d warnings of one fault:\n%s", n, log.String())
	}
	if errorsOf(t, reg, "pool") == 0 {
		t.Error("a full pool is not counted")
	}
}

// The server evicts what it has no room for; the nodes that hold it give it back.
func TestFault_EvictedValueCostsNoAcquisition(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "maxmemory-policy allkeys-random")
	a, b := member(t, on(s)), member(t, on(s))
	p := &idp{}
	first := must(t, a, backend.Stamp{}, p.fill)
	s.Do("CONFIG", "SET", "maxmemory", "2mb")
	for i := 0; s.Do("EXISTS", valueKey()) == "1"; i++ {
		s.Do("SET", "junk"+strconv.Itoa(i), strings.Repeat("x", 64<<10))
	}
	s.Do("FLUSHALL")
	for _, m := range []*redis.Redis{a, b} {
		if e := must(t, m, backend.Stamp{}, p.fill); e.Stamp != first.Stamp {
			t.Errorf("serves %v, want %v", e.Stamp, first.Stamp)
		}
	}
	p.asked(t, 1)
}

// A client that knows no clusters is told where a key has gone, by the node that
// it asks.
func TestFault_NodeOfAClusterIsNamed(t *testing.T) {
	t.Parallel()
	nodes := redistest.StartCluster(t, 3, 0)
	var named bool
	for _, n := range nodes {
		m := member(t, on(n))
		must(t, m, backend.Stamp{}, (&idp{}).fill)
		ok, reason, _ := m.State()
		named = named || !ok && reason == "moved"
	}
	if !named {
		t.Error("no node says that it is one of a cluster")
	}
}
