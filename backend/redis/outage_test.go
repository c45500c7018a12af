package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

func TestOutage_DownAtStartThenOfferedToTheFleet(t *testing.T) {
	t.Parallel()
	s := redistest.Prepare(t)
	a := member(t, on(s))
	p := &idp{}
	first := must(t, a, backend.Stamp{}, p.fill)
	if ok, reason, _ := a.State(); ok || reason != "unreachable" {
		t.Fatalf("state %v %s without a server", ok, reason)
	}
	s.Run()
	b := member(t, on(s))
	eventually(t, func() error {
		e, err := b.Get(t.Context(), key)
		if err == nil && e.Stamp != first.Stamp {
			return fmt.Errorf("found %v, want %v", e.Stamp, first.Stamp)
		}
		return err
	})
	if ok, reason, _ := a.State(); !ok {
		t.Errorf("still %s", reason)
	}
	p.asked(t, 1)
}

func TestOutage_HungServerServesWhatIsHeldAndAcquiresWhatIsNot(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	m := member(t, asShipped(s))
	p := &idp{}
	first := must(t, m, backend.Stamp{}, p.fill)
	s.Hang()
	defer s.Resume()

	if e := must(t, m, backend.Stamp{}, p.fill); e.Stamp != first.Stamp {
		t.Fatalf("serves %v, want what it has seen, %v", e.Stamp, first.Stamp)
	}
	p.asked(t, 1)
	second := must(t, m, first.Stamp, p.fill)
	p.asked(t, 2)
	if ok, reason, _ := m.State(); ok || reason != "timeout" {
		t.Errorf("state %v %s", ok, reason)
	}
	s.Resume()
	eventually(t, func() error {
		e, err := member(t, on(s)).Get(t.Context(), key)
		if err == nil && e.Stamp != second.Stamp {
			return fmt.Errorf("redis holds %v, want %v", e.Stamp, second.Stamp)
		}
		return err
	})
}

// 1. The holder acquires something that lives 1 s, and stores it.
// 2. The server hangs before that command, and carries it out after 1.2 s.
// 3. Nobody must then be given what has died meanwhile.
func TestOutage_CommandCarriedOutLateStoresNothingDead(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	m := member(t, asShipped(s))
	var acquired time.Time
	must(t, m, backend.Stamp{}, func(_ context.Context, gen uint64) (backend.Entry, error) {
		s.Hang()
		acquired = time.Now()
		return backend.Entry{Stamp: backend.Stamp{Gen: gen, ID: backend.NewID()}, Value: []byte("x"), TTL: time.Second}, nil
	})
	<-time.After(time.Until(acquired.Add(1200 * time.Millisecond)))
	s.Resume()
	for range 5 {
		if n := s.Do("EXISTS", valueKey()); n != "0" {
			t.Fatalf("a dead acquisition has %s ms left", s.Do("PTTL", valueKey()))
		}
	}
}

// A host that is off is silent, then unreachable as soon as the network has found
// out, and silent again.
func TestOutage_ReasonsThatAlternateAreSaidOnceEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log sink
		var dials atomic.Int32
		dial := func(context.Context, string, string) (net.Conn, error) {
			if dials.Add(1)%2 == 1 {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
			}
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EHOSTUNREACH}
		}
		t.Cleanup(func() { time.Sleep(2 * time.Second) }) // the library sees once a second that its pool is closed
		m := member(t, redis.Config{Prefix: prefix, Log: log.logger(), Options: redis.Options{Dial: dial}})
		seen := map[string]bool{}
		for range 100 {
			_, _ = m.Get(t.Context(), key)
			_, reason, _ := m.State()
			seen[reason] = true
			time.Sleep(time.Second)
		}
		if len(seen) != 2 {
			t.Errorf("state was %v, want timeout and unreachable by turns", seen)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 2 {
			t.Errorf("%d warnings, want one of each reason:\n%s", n, log.String())
		}
	})
}

func TestOutage_NextOneIsSaidAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var log sink
	var wire link
	cfg := on(s)
	cfg.Log, cfg.Options.Dial = log.logger(), wire.dial
	m := member(t, cfg)
	for range 2 {
		wire.down()
		_, _ = m.Get(t.Context(), key)
		if ok, reason, _ := m.State(); ok || reason != "unreachable" {
			t.Fatalf("state %v %s", ok, reason)
		}
		wire.up()
		eventually(t, func() error {
			ok, reason, _ := m.State()
			return want(ok, "still "+reason)
		})
	}
	if n := strings.Count(log.String(), "reason=unreachable"); n != 2 {
		t.Errorf("%d warnings of two outages:\n%s", n, log.String())
	}
}

func TestOutage_KilledMidRunFailsNoGet(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	m := member(t, on(s))
	p := &idp{}
	must(t, m, backend.Stamp{}, p.fill)
	for i := range 1000 {
		if i == 300 {
			s.Kill()
		}
		must(t, m, backend.Stamp{}, p.fill)
	}
	p.asked(t, 1)
}

// 1. A token is revoked.
// 2. Redis fails over to a replica that has not got that yet: the entry is back.
func TestOutage_RevocationThatRedisLostIsRememberedHere(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := member(t, on(s))
	p := &idp{}
	first := must(t, a, backend.Stamp{}, p.fill)
	s.Do("COPY", valueKey(), "kept")
	if err := a.Revoke(t.Context(), key, first.ID); err != nil {
		t.Fatal(err)
	}
	s.Do("COPY", "kept", valueKey(), "REPLACE")
	if e, err := a.Get(t.Context(), key); err == nil && e.ID == first.ID {
		t.Error("get serves what was revoked")
	}
	for range 3 {
		if e := must(t, a, backend.Stamp{}, p.fill); e.ID == first.ID {
			t.Error("fill serves what was revoked")
		}
	}
	p.asked(t, 2)
	b := member(t, on(s))
	if e := must(t, b, backend.Stamp{}, p.fill); e.ID == first.ID {
		t.Error("another node is given what was revoked")
	}
	p.asked(t, 2)
}

func TestOutage_RestartWithoutDataIsFilledAgainFromTheNodes(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := member(t, on(s)), member(t, on(s))
	p := &idp{}
	first := must(t, a, backend.Stamp{}, p.fill)
	s.Do("FLUSHALL")
	if e := must(t, a, backend.Stamp{}, p.fill); e.Stamp != first.Stamp {
		t.Fatalf("a serves %v, want %v", e.Stamp, first.Stamp)
	}
	if e := must(t, b, backend.Stamp{}, p.fill); e.Stamp != first.Stamp {
		t.Fatalf("b finds %v, want %v", e.Stamp, first.Stamp)
	}
	p.asked(t, 1)
}

func TestOutage_RefusalIsHonouredWithoutRedis(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := member(t, on(s)), member(t, on(s))
	no := func(context.Context, uint64) (backend.Entry, error) {
		return backend.Entry{}, &backend.Refusal{Code: "AUTH-003", RetryAfter: time.Minute}
	}
	p := &idp{}
	if _, err := a.Fill(t.Context(), key, backend.Stamp{}, no); err == nil {
		t.Fatal("not refused")
	}
	if _, err := b.Fill(t.Context(), key, backend.Stamp{}, p.fill); err == nil {
		t.Fatal("the fleet was not told")
	}
	s.Kill()
	for _, m := range []*redis.Redis{a, b} {
		_, err := m.Fill(t.Context(), key, backend.Stamp{}, p.fill)
		if r, ok := errors.AsType[*backend.Refusal](err); !ok || r.Code != "AUTH-003" {
			t.Errorf("without redis: %v", err)
		}
	}
	p.asked(t, 0)
}

func TestWay_ThreeNodesTryTheirOwnThenAllKeepStill(t *testing.T) {
	s := redistest.Start(t)
	calls := 0
	no := func(context.Context, uint64) (backend.Entry, error) {
		calls++
		return backend.Entry{}, &backend.Refusal{Code: "NET-002", Way: true, RetryAfter: time.Minute}
	}
	for range 6 {
		m := member(t, on(s))
		for range 2 {
			_, err := m.Fill(t.Context(), key, backend.Stamp{}, no)
			if r, ok := errors.AsType[*backend.Refusal](err); !ok || r.Code != "NET-002" {
				t.Fatalf("got %v", err)
			}
		}
	}
	if calls != 3 {
		t.Fatalf("%d nodes tried, want 3", calls)
	}
}
