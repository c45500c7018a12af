package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

var storeCases = []testCase{
	{name: "Get_EmptyIsAMiss", run: emptyIsAMiss},
	{name: "Set_GetReturnsTheVeryBytes", run: setGetReturnsTheVeryBytes},
	{name: "Set_ReplacesByANewerAcquisition", run: setReplaces},
	{name: "Set_RefusesWhatCannotBeKept", run: setRefuses},
	{name: "Get_RemainingTimeOnlyFalls", run: remainingTimeFalls},
	{name: "Get_ExpiredIsAMiss", run: expiredIsAMiss},
	{name: "Get_AgesByTheWholeTime", long: true, run: agesByTheWholeTime},
	{name: "Delete_RevokesWhatIsHeld", run: deleteRevokes},
	{name: "Delete_EndsWhatAFlightIsAboutToReturn", run: deleteEndsAFlight},
	{name: "Clear_RevokesEveryKey", run: clearRevokesEveryKey},
	{name: "Set_IsSeenByOtherMembers", shared: true, run: setIsSeenByOthers},
	{name: "Clear_ReachesOtherMembers", shared: true, run: clearReachesOthers},
}

// held fails the test unless a member holds an entry, and returns it.
func held(t testing.TB, b backend.Backend, key string) backend.Entry {
	t.Helper()
	e, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return e
}

// missing fails the test unless Get is a miss and Exists agrees.
func missing(t testing.TB, b backend.Backend, key string) {
	t.Helper()
	if err := isMissing(t, b, key); err != nil {
		t.Fatal(err)
	}
}

func isMissing(t testing.TB, b backend.Backend, key string) error {
	switch e, err := b.Get(t.Context(), key); {
	case err == nil:
		return fmt.Errorf("get returned %v, want ErrMiss", e.Stamp)
	case !errors.Is(err, backend.ErrMiss):
		return fmt.Errorf("want ErrMiss: %w", err)
	}
	ok, err := b.Exists(t.Context(), key)
	if err == nil && ok {
		err = errors.New("exists is true after a miss")
	}
	return err
}

func set(t testing.TB, b backend.Backend, key string, value []byte, ttl time.Duration) {
	t.Helper()
	if err := b.Set(t.Context(), key, value, ttl); err != nil {
		t.Fatalf("set: %v", err)
	}
}

func emptyIsAMiss(t *testing.T, h Harness) {
	b := h.one(t)
	missing(t, b, key)
	if existed, err := b.Delete(t.Context(), key); existed || err != nil {
		t.Fatalf("delete of nothing returned %v and %v", existed, err)
	}
}

func setGetReturnsTheVeryBytes(t *testing.T, h Harness) {
	b := h.one(t)
	for i, value := range [][]byte{sealed(1), {0}, []byte("\r\n"), bytes.Repeat([]byte{0xff}, backend.MaxValue)} {
		set(t, b, keyOf(i), value, lifetime)
		if e := held(t, b, keyOf(i)); !bytes.Equal(e.Value, value) {
			t.Fatalf("value %d of %d bytes came back as %d other bytes", i, len(value), len(e.Value))
		}
		if ok, err := b.Exists(t.Context(), keyOf(i)); !ok || err != nil {
			t.Fatalf("exists returned %v and %v for what Get returned", ok, err)
		}
	}
}

func setReplaces(t *testing.T, h Harness) {
	b := h.one(t)
	set(t, b, key, sealed(1), lifetime)
	first := held(t, b, key)
	set(t, b, key, sealed(2), lifetime)
	second := held(t, b, key)
	if !second.Newer(first.Stamp) || second.ID == first.ID {
		t.Fatalf("%v does not follow %v", second.Stamp, first.Stamp)
	}
	if !bytes.Equal(second.Value, sealed(2)) {
		t.Fatal("the first value is still served")
	}
}

func setRefuses(t *testing.T, h Harness) {
	b := h.one(t)
	set(t, b, key, sealed(1), lifetime)
	for name, err := range map[string]error{
		"oversized": b.Set(t.Context(), key, make([]byte, backend.MaxValue+1), lifetime),
		"expired":   b.Set(t.Context(), key, sealed(2), 0),
		"immortal":  b.Set(t.Context(), key, sealed(2), backend.MaxTTL+time.Second),
	} {
		if err == nil {
			t.Errorf("%s value was accepted", name)
		}
	}
	if e := held(t, b, key); !bytes.Equal(e.Value, sealed(1)) {
		t.Fatal("a refused value displaced the one held")
	}
}

func remainingTimeFalls(t *testing.T, h Harness) {
	b := h.one(t)
	set(t, b, key, sealed(1), lifetime)
	last := held(t, b, key).TTL
	if last > lifetime || last < lifetime-patience {
		t.Fatalf("%v left of %v", last, lifetime)
	}
	eventually(t, func() error {
		if ttl := held(t, b, key).TTL; ttl >= last {
			return fmt.Errorf("%v left, as before", ttl)
		}
		return nil
	})
}

func expiredIsAMiss(t *testing.T, h Harness) {
	b := h.one(t)
	set(t, b, key, sealed(1), 300*time.Millisecond)
	set(t, b, keyOf(1), sealed(1), lifetime)
	eventually(t, func() error { return isMissing(t, b, key) })
	held(t, b, keyOf(1))
}

func agesByTheWholeTime(t *testing.T, h Harness) {
	b := h.one(t)
	set(t, b, key, sealed(1), lifetime)
	pause(lifetime - time.Minute)
	if left := held(t, b, key).TTL; left > time.Minute {
		t.Fatalf("%v left a minute before the end", left)
	}
	pause(time.Minute)
	missing(t, b, key)
}

func deleteRevokes(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	first := f.fill(t, 0, backend.Stamp{})
	if existed, err := b.Delete(t.Context(), key); !existed || err != nil {
		t.Fatalf("delete returned %v and %v", existed, err)
	}
	missing(t, b, key)
	if existed, err := b.Delete(t.Context(), key); existed || err != nil {
		t.Fatalf("second delete returned %v and %v", existed, err)
	}
	if e := f.fill(t, 0, backend.Stamp{}); e.ID == first.ID {
		t.Fatal("what was deleted is served again")
	}
	f.calls(t, 2)
}

// Whoever sees an entry first may delete it before the flight that brought it has
// ended. Who fills then must not be given it by that flight.
func deleteEndsAFlight(t *testing.T, h Harness) {
	f := h.fleet(t, 1)
	b := f.members[0]
	for range 300 {
		var flight sync.WaitGroup
		flight.Go(func() { _, _ = b.Fill(t.Context(), key, backend.Stamp{}, f.idp.fillOf(key)) })
		first := firstSight(t, b)
		if _, err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if e := f.fill(t, 0, backend.Stamp{}); e.ID == first.ID {
			t.Fatal("what was deleted is served again")
		}
		flight.Wait()
		if _, err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}

// firstSight returns an entry as soon as a member holds one.
func firstSight(t testing.TB, b backend.Backend) backend.Entry {
	t.Helper()
	for i := 1; ; i++ {
		e, err := b.Get(t.Context(), key)
		switch {
		case err == nil:
			return e
		case !errors.Is(err, backend.ErrMiss):
			t.Fatal(err)
		case i%50 == 0:
			time.Sleep(10 * time.Millisecond) // a bubble's time passes only so
		}
		runtime.Gosched()
	}
}

func clearRevokesEveryKey(t *testing.T, h Harness) {
	b := h.one(t)
	const keys = 20
	for i := range keys {
		set(t, b, keyOf(i), sealed(i), lifetime)
	}
	if err := b.Clear(t.Context()); err != nil {
		t.Fatalf("clear: %v", err)
	}
	for i := range keys {
		missing(t, b, keyOf(i))
	}
	set(t, b, key, sealed(1), lifetime)
	held(t, b, key)
}

func setIsSeenByOthers(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	set(t, f.members[0], key, sealed(0), lifetime)
	first := held(t, f.members[0], key)
	for i := range f.members {
		if e := f.fill(t, i, backend.Stamp{}); e.Stamp != first.Stamp || !bytes.Equal(e.Value, sealed(0)) {
			t.Fatalf("member %d has %v, want %v", i, e.Stamp, first.Stamp)
		}
	}
	f.calls(t, 0)
}

func clearReachesOthers(t *testing.T, h Harness) {
	f := h.fleet(t, 3)
	first := f.fill(t, 0, backend.Stamp{})
	// By Get, since a Fill that is served by a copy on its way leaves a question at
	// another member, which may fill again where it arrives after Clear.
	for i := range f.members {
		held(t, f.members[i], key)
	}
	if err := f.members[1].Clear(t.Context()); err != nil {
		t.Fatalf("clear: %v", err)
	}
	missing(t, f.members[1], key)
	for i := range f.members {
		eventually(t, func() error { return doesNotServe(t, f.members[i], first.ID) })
	}
}

// doesNotServe returns an error while a member serves an id.
func doesNotServe(t testing.TB, b backend.Backend, id backend.ID) error {
	switch e, err := b.Get(t.Context(), key); {
	case err == nil && e.ID == id:
		return fmt.Errorf("revoked id %v is served", id)
	case err != nil && !errors.Is(err, backend.ErrMiss):
		return err
	}
	return nil
}
