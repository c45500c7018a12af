package redis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

func TestFleet_TenNodesOfTwoHundredCallersOneAcquisition(t *testing.T) {
	s := redistest.Start(t)
	p := &idp{delay: 100 * time.Millisecond}
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 10 {
		m := member(t, on(s))
		for range 200 {
			wg.Go(func() {
				if _, err := m.Fill(t.Context(), key, backend.Stamp{}, p.fill); err != nil {
					failed.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if n := failed.Load(); n != 0 {
		t.Fatalf("%d callers failed", n)
	}
	p.asked(t, 1)
}

func atLeast(a *atomic.Int64, n int64) {
	for {
		old := a.Load()
		if old >= n || a.CompareAndSwap(old, n) {
			return
		}
	}
}

// Who comes while a flight looks waits for that, and costs Redis nothing.
func TestFleet_CallersOfARunningFlightDoNotLookThemselves(t *testing.T) {
	s := redistest.Start(t)
	m := member(t, on(s))
	entered, release := make(chan struct{}), make(chan struct{})
	p := &idp{}
	var wg sync.WaitGroup
	ask := func(fill backend.FillFunc) {
		if _, err := m.Fill(t.Context(), key, backend.Stamp{}, fill); err != nil {
			t.Error(err)
		}
	}
	wg.Go(func() {
		ask(func(ctx context.Context, gen uint64) (backend.Entry, error) {
			close(entered)
			<-release
			return p.fill(ctx, gen)
		})
	})
	<-entered
	for range 3 {
		ctx, leave := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := m.Fill(ctx, key, backend.Stamp{}, p.fill); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an impatient caller got %v", err)
		}
		leave()
	}
	if stats := s.Do("INFO", "commandstats"); !strings.Contains(stats, "cmdstat_getrange:calls=1,") {
		t.Errorf("want the one look of the first caller:\n%s", stats)
	}
	close(release)
	wg.Wait()
	p.asked(t, 1)
}

// What Prepare leaves there: a subscription, the script, and the connections
// that a crowd of callers uses.
func TestPrepare_LeavesNothingToConnectFor(t *testing.T) {
	s := redistest.Start(t)
	m := member(t, on(s))
	if n := s.Do("INFO", "clients"); !strings.Contains(n, "connected_clients:1\r") {
		t.Errorf("New has connected:\n%s", n)
	}
	m.Prepare([]string{key})
	eventually(t, func() error {
		return want(s.Do("PUBLISH", prefix+"filled", "x") == "1" && strings.Contains(s.Do("INFO", "memory"), "number_of_cached_scripts:1\r") &&
			strings.Contains(s.Do("INFO", "clients"), "connected_clients:4\r"), s.Do("INFO", "clients"))
	})
	must(t, m, backend.Stamp{}, (&idp{}).fill)
	if n := s.Do("INFO", "clients"); !strings.Contains(n, "connected_clients:4\r") {
		t.Errorf("the first fill has connected again:\n%s", n)
	}
}

func TestPrepare_AwayIsSaidAndNoError(t *testing.T) {
	t.Parallel()
	s := redistest.Prepare(t)
	var log sink
	cfg := on(s)
	cfg.Log = log.logger()
	m := member(t, cfg)
	m.Prepare([]string{key, keyOf(1)})
	eventually(t, func() error {
		ok, reason, _ := m.State()
		return want(!ok && reason == "unreachable", "state "+reason)
	})
	s.Run()
	eventually(t, func() error {
		ok, reason, _ := m.State()
		return want(ok, "still "+reason)
	})
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log.String())
	}
}

func TestFleet_SlowProviderIsToldFromADeadHolder(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := &idp{delay: 4500 * time.Millisecond} // longer than a lock that nobody renews
	var wg sync.WaitGroup
	for range 3 {
		m := member(t, on(s))
		wg.Go(func() {
			if _, err := m.Fill(t.Context(), key, backend.Stamp{}, p.fill); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p.asked(t, 1)
}

// 1. A holds the lock and waits for the provider.
// 2. A's link breaks: it can neither renew nor store.
// 3. B waits until the lock ends by itself, and acquires.
func TestFleet_NextTakesOverFromADeadHolder(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var wire link
	cfg := on(s)
	cfg.Options.Dial = wire.dial
	a, b := member(t, cfg), member(t, on(s))

	slow, quick := &idp{delay: time.Minute}, &idp{}
	go func() { _, _ = a.Fill(t.Context(), key, backend.Stamp{}, slow.fill) }()
	eventually(t, func() error { return want(slow.calls.Load() == 1, "the holder has not begun") })
	wire.down()
	if left, err := strconv.Atoi(s.Do("PTTL", valueKey()+":lock")); err != nil || left <= 0 || left > 3000 {
		t.Fatalf("the dead holder's lock has %d ms left (%v), want 1 to 3000", left, err)
	}
	must(t, b, backend.Stamp{}, quick.fill)
	quick.asked(t, 1)
}

func TestFleet_LostLockServesLocallyAndDisplacesNothingNewer(t *testing.T) {
	s := redistest.Start(t)
	a, b := member(t, on(s)), member(t, on(s))
	entered, release := make(chan struct{}), make(chan struct{})
	got := make(chan backend.Entry, 1)
	go func() {
		e, _ := a.Fill(t.Context(), key, backend.Stamp{}, func(_ context.Context, gen uint64) (backend.Entry, error) {
			close(entered)
			<-release
			return backend.Entry{Stamp: backend.Stamp{Gen: gen, ID: backend.NewID()}, Value: []byte("late"), TTL: life}, nil
		})
		got <- e
	}()
	<-entered
	s.Do("DEL", valueKey()+":lock")
	p := &idp{}
	first := must(t, b, backend.Stamp{}, p.fill)
	second := must(t, b, first.Stamp, p.fill)
	close(release)
	if e := <-got; e.Stamp != second.Stamp {
		t.Errorf("the late acquirer serves %v, want the newer %v", e.Stamp, second.Stamp)
	}
	if e, err := b.Get(t.Context(), key); err != nil || e.Stamp != second.Stamp {
		t.Errorf("redis holds %v (%v), want %v", e.Stamp, err, second.Stamp)
	}
}

func TestFleet_WaitersAreWokenWithoutPubSubToo(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "mute", "on", ">pw", "~*", "resetchannels", "+@all")
	cfg := on(s)
	cfg.Options.Username, cfg.Options.Password = "mute", "pw"
	a, b := member(t, cfg), member(t, cfg)
	p := &idp{delay: 50 * time.Millisecond}
	var wg sync.WaitGroup
	for _, m := range []*redis.Redis{a, b} {
		wg.Go(func() {
			if _, err := m.Fill(t.Context(), key, backend.Stamp{}, p.fill); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p.asked(t, 1)
	if ok, reason, _ := a.State(); !ok {
		t.Errorf("without channels redis counts as %s", reason)
	}
}

func TestRevoke_ReachesANodeThatOnlyListens(t *testing.T) {
	s := redistest.Start(t)
	told := make(chan backend.ID, 8)
	cfg := asShipped(s)
	cfg.Revoked = func(_ string, id backend.ID) { told <- id }
	a, b := member(t, on(s)), member(t, cfg)
	p := &idp{}
	first := must(t, a, backend.Stamp{}, p.fill)
	must(t, b, backend.Stamp{}, p.fill)
	eventually(t, func() error {
		return want(s.Do("PUBLISH", prefix+"revoked", "junk") == "2", "not both listen")
	})
	if err := a.Revoke(t.Context(), key, first.ID); err != nil {
		t.Fatal(err)
	}
	if id := <-told; id != first.ID {
		t.Fatalf("told of %v, want %v", id, first.ID)
	}
	// Without Redis, b knows only what it was told.
	eventually(t, func() error {
		s.Hang()
		defer s.Resume()
		e, err := b.Get(t.Context(), key)
		return want(err != nil, fmt.Sprintf("still serves %v", e.Stamp))
	})
}

// foreign are values that no version of ours wrote.
var foreign = map[string][]string{
	"text":           {"SET", valueKey(), "a token of another program", "PX", "3600000"},
	"empty":          {"SET", valueKey(), ""},
	"binary":         {"SET", valueKey(), "\x00\xff\n\n", "PX", "3600000"},
	"no newline":     {"SET", valueKey(), "oo1 " + strings.Repeat("f", 60), "PX", "3600000"},
	"no hex":         {"SET", valueKey(), "oo1 zzzzzzzzzzzzzzzz " + strings.Repeat("z", 32) + "\nx", "PX", "3600000"},
	"generation max": {"SET", valueKey(), "oo1 ffffffffffffffff " + strings.Repeat("f", 32) + "\nx", "PX", "3600000"},
	"oversized":      {"SET", valueKey(), strings.Repeat("x", 1<<20), "PX", "3600000"},
	"no end":         {"SET", valueKey(), "oo1 0000000000000001 " + strings.Repeat("a", 32) + "\nx"},
	"outlives all":   {"SET", valueKey(), "oo1 0000000000000001 " + strings.Repeat("a", 32) + "\nx", "PX", "360000000"},
	"a list":         {"RPUSH", valueKey(), "x"},
	"lock is a list": {"RPUSH", valueKey() + ":lock", "x"},
	"bad backoff":    {"SET", valueKey() + ":backoff", "garbage", "PX", "3600000"},
}

func TestForeignValue_IsAMissAndOverwritten(t *testing.T) {
	s := redistest.Start(t)
	for name, put := range foreign {
		t.Run(name, func(t *testing.T) {
			s.Do("FLUSHALL")
			s.Do(put...)
			if name == "lock is a list" {
				s.Do("PEXPIRE", valueKey()+":lock", "100") // as every lock, it ends
			}
			reg := prometheus.NewRegistry()
			cfg := on(s)
			cfg.Registerer = reg
			m := member(t, cfg)
			if e, err := m.Get(t.Context(), key); err == nil {
				t.Fatalf("served %v", e.Stamp)
			}
			p := &idp{}
			e := must(t, m, backend.Stamp{}, p.fill)
			p.asked(t, 1)
			if got, err := member(t, on(s)).Get(t.Context(), key); err != nil || got.Stamp != e.Stamp {
				t.Fatalf("another node finds %v (%v), want %v", got.Stamp, err, e.Stamp)
			}
			counted := name != "lock is a list"
			if n := errorsOf(t, reg, "foreign"); counted && n == 0 {
				t.Error("not counted")
			}
		})
	}
}

// What PTTL says may be about the value before, which lived longer.
func TestGet_NoLongerThanTheLifeInTheHeader(t *testing.T) {
	s := redistest.Start(t)
	s.Do("SET", valueKey(), "oo1 0000000000000007 "+strings.Repeat("ab", 16)+" px=60000\nsealed", "PX", "3600000")
	m := member(t, on(s))
	for _, get := range []func() (backend.Entry, error){
		func() (backend.Entry, error) { return m.Get(t.Context(), key) },
		func() (backend.Entry, error) { return m.Fill(t.Context(), key, backend.Stamp{}, nil) },
	} {
		if e, err := get(); err != nil || e.TTL > time.Minute {
			t.Errorf("%v left (%v), want less than the minute it was stored for", e.TTL, err)
		}
	}
}

func TestMixedVersions_UnknownHeaderFieldsAreIgnored(t *testing.T) {
	s := redistest.Start(t)
	id := strings.Repeat("ab", 16)
	s.Do("SET", valueKey(), "oo1 0000000000000007 "+id+" region=eu v=9\nsealed by a later version", "PX", "3600000")
	m := member(t, on(s))
	p := &idp{}
	e := must(t, m, backend.Stamp{}, p.fill)
	p.asked(t, 0)
	if e.Gen != 7 || e.ID.String() != id || string(e.Value) != "sealed by a later version" {
		t.Fatalf("read %v %q", e.Stamp, e.Value)
	}
	if err := m.Revoke(t.Context(), key, e.ID); err != nil {
		t.Fatal(err)
	}
	if next := must(t, m, backend.Stamp{}, p.fill); next.Gen != 8 {
		t.Fatalf("generation %d follows 7", next.Gen)
	}
}

func TestValue_IsStoredAsSealed(t *testing.T) {
	s := redistest.Start(t)
	e := must(t, member(t, on(s)), backend.Stamp{}, (&idp{}).fill)
	raw := s.Do("GET", valueKey())
	header, sealed, _ := strings.Cut(raw, "\n")
	stamp, fields, _ := strings.Cut(header, " px=")
	px, age, _ := strings.Cut(fields, " age=")
	ms, err := strconv.Atoi(px)
	if _, err := strconv.ParseUint(age, 10, 32); err != nil {
		t.Errorf("age: %v", err)
	}
	if stamp != fmt.Sprintf("oo1 %016x %s", e.Gen, e.ID) || err != nil || ms > int(life.Milliseconds()) || !bytes.Equal([]byte(sealed), e.Value) {
		t.Fatalf("redis holds %q", raw)
	}
}

func TestClear_TouchesOnlyItsOwnValues(t *testing.T) {
	s := redistest.Start(t)
	neighbours := []string{"other", "t", prefix + "foreign", prefix + "{short}", "t:x:{" + key + "}", "tt:{" + key + "}", valueKey() + ":lock", valueKey() + ":backoff"}
	for _, k := range neighbours {
		s.Do("SET", k, "kept")
	}
	for _, p := range []string{prefix, "[t]:", "t*:", "?:"} {
		cfg := on(s)
		cfg.Prefix = p
		m := member(t, cfg)
		for i := range 3 {
			if err := m.Set(t.Context(), fmt.Sprintf("%064x", i), []byte("x"), life); err != nil {
				t.Fatal(err)
			}
		}
		if p == prefix {
			continue // the others' patterns must not reach these
		}
		if err := m.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		if raw := s.Do("GET", fmt.Sprintf("%s{%064x}", prefix, i)); !strings.HasSuffix(raw, "x") {
			t.Fatalf("a prefix that looks like a pattern has cleared another's: %q", raw)
		}
	}
	m := member(t, on(s))
	s.Do("RPUSH", valueKey(), "no value of ours, under our key")
	if err := m.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		k := fmt.Sprintf("%064x", i)
		if ok, err := m.Exists(t.Context(), k); ok || err != nil {
			t.Errorf("%s is still served (%v)", k, err)
		}
		if raw := s.Do("GET", prefix+"{"+k+"}"); !strings.HasSuffix(raw, "\n") {
			t.Errorf("the sealed value is still there: %q", raw)
		}
	}
	for _, k := range neighbours {
		if s.Do("GET", k) != "kept" {
			t.Errorf("%s is gone", k)
		}
	}
	if n := s.Do("EXISTS", valueKey()); n != "0" {
		t.Error("what is no value of ours is still under our key")
	}
}
