package redis_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

// grants is a provider whose next acquisition has an id that a test chooses.
func grants(id byte) backend.FillFunc {
	return func(_ context.Context, gen uint64) (backend.Entry, error) {
		return backend.Entry{Stamp: backend.Stamp{Gen: gen, ID: backend.ID{id}}, Value: []byte("sealed"), TTL: life}, nil
	}
}

// paced demands that an acquisition stays in service.
func paced(t *testing.T, m *redis.Redis, id backend.ID) {
	t.Helper()
	if err := m.Revoke(t.Context(), key, id); !errors.Is(err, backend.ErrPaced) {
		t.Fatalf("revoked %v: %v, want ErrPaced", id, err)
	}
}

// revoked demands that an acquisition is revoked.
func revoked(t *testing.T, m *redis.Redis, id backend.ID) {
	t.Helper()
	if err := m.Revoke(t.Context(), key, id); err != nil {
		t.Fatalf("revoke %v: %v", id, err)
	}
}

// found waits until other nodes are given an acquisition.
func found(t *testing.T, s *redistest.Server, id backend.ID) {
	t.Helper()
	m := member(t, on(s))
	eventually(t, func() error {
		e, err := m.Get(t.Context(), key)
		return want(err == nil && e.ID == id, fmt.Sprintf("redis holds %v (%v), want %v", e.Stamp, err, id))
	})
}

// 1. Two nodes hold a live token each, since one of them does without Redis. The
// provider revokes both.
// 2. A revokes its own, the one in Redis, and the pause begins.
// 3. B has Redis again and offers its token, the newer one.
// 4. A adopts it and is refused again: that token must go at once, since its user
// waits and the revocation before has not cost anything yet.
// 5. What is acquired then follows two revocations, and has to wait.
func TestPace_TwoLiveTokensRevokedAtOnceKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var wire link
	cfg := on(s)
	cfg.Options.Dial = wire.dial
	a, b := member(t, on(s)), member(t, cfg)
	wire.down()
	first := must(t, a, backend.Stamp{}, grants(1))
	other := must(t, b, backend.Stamp{}, grants(2))
	<-time.After(2 * backend.PaceMargin)

	revoked(t, a, first.ID)
	wire.up()
	found(t, s, other.ID)
	p := &idp{}
	if e := must(t, a, first.Stamp, p.fill); e.Stamp != other.Stamp {
		t.Fatalf("adopted %v, want %v", e.Stamp, other.Stamp)
	}
	revoked(t, a, other.ID)
	third := must(t, a, other.Stamp, p.fill)
	p.asked(t, 1)
	paced(t, a, third.ID)
	paced(t, b, third.ID)
}

// 1. A's token is revoked, and the pause begins.
// 2. Redis is away from A, which acquires another one for itself. That is what
// the revocation has cost.
// 3. A has Redis again and offers it. Both it and the pause have aged meanwhile.
// 4. It is refused: the 401 means "not allowed", and nobody may go on acquiring.
func TestPace_WhatTheRevocationCostWaitsThoughRedisWasAwayInBetween(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var wire link
	cfg := on(s)
	cfg.Options.Dial = wire.dial
	a, b := member(t, cfg), member(t, on(s))
	first := must(t, a, backend.Stamp{}, grants(1))
	revoked(t, a, first.ID)
	wire.down()
	p := &idp{}
	second := must(t, a, first.Stamp, p.fill)
	<-time.After(2 * backend.PaceMargin)
	wire.up()
	found(t, s, second.ID)
	paced(t, a, second.ID)
	for range 10 {
		e := must(t, b, first.Stamp, p.fill)
		paced(t, b, e.ID)
	}
	p.asked(t, 1)
}

// What counts is what Redis holds: the age when it was stored, and the time
// since. What an earlier build stored says nothing of its age.
func TestPace_AgeIsJudgedByTheHeader(t *testing.T) {
	s := redistest.Start(t)
	m := member(t, on(s))
	id := backend.ID{0xab}
	for _, c := range []struct {
		fields, px string
		older      bool
	}{
		{" px=3600000 age=60000", "3600000", true},
		{" px=3600000 age=60000 later=1", "3600000", true},
		{" px=3600000 later=1 age=60000", "3600000", true},
		{" px=3600000 age=0", "3540000", true}, // in Redis for a minute
		{" px=3600000 age=0", "3600000", false},
		{" px=3600000", "3540000", false},
		{" age=60000", "3600000", false},
		{" px=3600000 age=x", "3540000", false},
		{" px=3600000 age=-60000", "3600000", false},
		{"", "3600000", false},
	} {
		t.Run(c.fields, func(t *testing.T) {
			s.Do("FLUSHALL")
			first := must(t, m, backend.Stamp{}, (&idp{}).fill)
			revoked(t, m, first.ID)
			s.Do("SET", valueKey(), fmt.Sprintf("oo1 %016x %s%s\nsealed", first.Gen+1, id, c.fields), "PX", c.px)
			if !c.older {
				paced(t, m, id)
				return
			}
			revoked(t, m, id)
			if pause := s.Do("GET", valueKey()+":pause"); pause != "30000" {
				t.Errorf("it counted: the pause is %s ms", pause)
			}
		})
	}
}
