package backend

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var testKey = strings.Repeat("0123456789abcdef", 4)

func entry(gen uint64, id byte, ttl time.Duration) Entry {
	return Entry{Stamp: Stamp{Gen: gen, ID: ID{id}}, Value: []byte{id}, TTL: ttl}
}

// A step is one message that can reach a node: an entry or a revocation.
type step struct {
	entry  Entry
	revoke bool
}

func (st step) apply(s *Store) {
	if st.revoke {
		s.Revoke(testKey, st.entry.ID, time.Hour)
		return
	}
	s.Merge(testKey, st.entry)
}

func TestStore_MergeConvergesInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			gen := rapid.Uint64Range(1, 6).Draw(t, "gen")
			id := byte(rapid.IntRange(1, 3).Draw(t, "id"))
			return step{entry: entry(gen, id+byte(gen)*8, time.Hour)}
		}), 1, 12).Draw(t, "steps")
		shuffled := append([]step(nil), steps...)
		shuffled = append(shuffled, steps[0]) // repeated messages change nothing
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })

		clock := NewClock(nil)
		a, b := NewStore(clock), NewStore(clock)
		for _, st := range steps {
			st.apply(a)
		}
		for _, st := range shuffled {
			st.apply(b)
		}
		ea, _ := a.Get(testKey)
		eb, _ := b.Get(testKey)
		if ea.Stamp != eb.Stamp {
			t.Fatalf("one order gives %v, the other %v", ea.Stamp, eb.Stamp)
		}
	})
}

func TestStore_NeverServesWhatIsRevokedInWhateverOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			gen := rapid.Uint64Range(1, 5).Draw(t, "gen")
			return step{entry: entry(gen, byte(gen), time.Hour), revoke: rapid.Bool().Draw(t, "revoke")}
		}), 1, 20).Draw(t, "steps")
		s, revoked := NewStore(NewClock(nil)), map[ID]bool{}
		for _, st := range steps {
			st.apply(s)
			if st.revoke {
				revoked[st.entry.ID] = true
			}
			if e, ok := s.Get(testKey); ok && revoked[e.ID] {
				t.Fatalf("serves revoked id %v", e.ID)
			}
		}
	})
}

func TestStore_EntryAgesAndExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(NewClock(nil))
		s.Merge(testKey, entry(1, 1, time.Minute))
		time.Sleep(20 * time.Second)
		if e, ok := s.Get(testKey); !ok || e.TTL != 40*time.Second {
			t.Fatalf("after 20 s: %v, %v, want 40 s left", e.TTL, ok)
		}
		time.Sleep(40 * time.Second)
		if e, ok := s.Get(testKey); ok {
			t.Fatalf("serves an entry with %v left", e.TTL)
		}
		if got := s.Highest(testKey); got != 1 {
			t.Fatalf("highest generation %d after expiry, want 1", got)
		}
	})
}

func TestStore_DeadWinnerGivesWayToAnOlderLiveEntry(t *testing.T) {
	s := NewStore(NewClock(nil))
	s.Merge(testKey, entry(5, 5, time.Hour))
	s.Revoke(testKey, ID{5}, 0)
	if !s.Merge(testKey, entry(4, 4, time.Hour)) {
		t.Fatal("a revoked entry blocks a live one")
	}
}

func TestStore_SameStampKeepsTheLongestRemaining(t *testing.T) {
	s := NewStore(NewClock(nil))
	s.Merge(testKey, entry(1, 1, time.Hour))
	s.Merge(testKey, entry(1, 1, time.Minute))
	if e, _ := s.Get(testKey); e.TTL < 59*time.Minute {
		t.Fatalf("%v left, an aged copy shortened it", e.TTL)
	}
}

func TestStore_RefusesWhatNoHonestPeerSends(t *testing.T) {
	for name, e := range map[string]Entry{
		"expired":        entry(1, 1, 0),
		"immortal":       entry(1, 1, MaxTTL+1),
		"no stamp":       {Value: []byte("x"), TTL: time.Hour},
		"far generation": entry(maxGenAhead+1, 1, time.Hour),
		"oversized":      {Stamp: Stamp{Gen: 1}, Value: make([]byte, MaxValue+1), TTL: time.Hour},
	} {
		if NewStore(NewClock(nil)).Merge(testKey, e) {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestStore_BoundsKeysAndRevokedIDs(t *testing.T) {
	s := NewStore(NewClock(nil))
	for i := range maxKeys + 10 {
		s.Merge(testKey[:60]+string([]byte{byte(i >> 12), byte(i >> 8), byte(i), 'x'}), entry(1, 1, time.Hour))
	}
	if n := len(s.Keys()); n != maxKeys {
		t.Fatalf("%d keys held, want %d", n, maxKeys)
	}
	for i := range maxRevoked + 10 {
		s.Revoke(testKey, ID{byte(i), 1}, time.Duration(i+1)*time.Minute)
	}
	revoked := s.Revoked(testKey)
	if len(revoked) != maxRevoked {
		t.Fatalf("%d revoked ids, want %d", len(revoked), maxRevoked)
	}
	if revoked[0].ID[0] < 10 {
		t.Fatalf("kept %v, which expires sooner than those forgotten", revoked[0])
	}
}

// Each of those revoked before lives longer than the entry that is held.
func TestStore_FullListForgetsNeitherWhatIsHeldNorWhatIsRevokedNow(t *testing.T) {
	s := NewStore(NewClock(nil))
	fill := func(from byte) {
		for i := range byte(maxRevoked) {
			s.Revoke(testKey, ID{i, from}, 0)
		}
	}
	fill(1)
	s.Merge(testKey, entry(1, 1, time.Minute))
	s.Revoke(testKey, ID{1}, 0)
	if e, ok := s.Get(testKey); ok {
		t.Errorf("serves %v, which has just been revoked", e.Stamp)
	}
	fill(2)
	if e, ok := s.Get(testKey); ok {
		t.Errorf("serves %v again, once more have been revoked", e.Stamp)
	}
	s.Revoke(testKey, ID{3}, time.Second)
	if !s.IsRevoked(testKey, ID{3}) {
		t.Error("what was revoked last is forgotten first")
	}
	if n := len(s.Revoked(testKey)); n != maxRevoked {
		t.Errorf("%d revoked ids, want %d", n, maxRevoked)
	}
}

func TestStore_ComplaintAboutAReplacedEntryIsNotPacedAfterTheReplacementIsRevoked(t *testing.T) {
	s := NewStore(NewClock(nil))
	s.Merge(testKey, entry(1, 1, time.Hour))
	s.Merge(testKey, entry(2, 2, time.Hour))
	for _, id := range []byte{2, 1} {
		if err := s.RevokePaced(testKey, ID{id}); err != nil {
			t.Errorf("revoke %d: %v", id, err)
		}
	}
}

// After a partition two tokens of one key live, and a provider that ends all of
// a client's ends both. The older one comes back when the newer is revoked.
func TestStore_ComplaintAboutAnOlderEntryThatCameBackIsNotPaced(t *testing.T) {
	s := NewStore(NewClock(time.Now))
	s.Merge(testKey, entry(2, 9, time.Hour))
	if err := s.RevokePaced(testKey, ID{9}); err != nil {
		t.Fatal(err)
	}
	s.Merge(testKey, entry(2, 1, time.Hour))
	if err := s.RevokePaced(testKey, ID{1}); err != nil {
		t.Errorf("the older one: %v", err)
	}
	s.Merge(testKey, entry(3, 1, time.Hour))
	s.Merge(testKey, entry(3, 5, time.Hour))
	if err := s.RevokePaced(testKey, ID{5}); !errors.Is(err, ErrPaced) {
		t.Errorf("one that was acquired since: %v", err)
	}
}

func aged(e Entry, age time.Duration) Entry {
	e.Age = age
	return e
}

// A revocation has not cost what was asked for before it.
func TestStore_EntryFromBeforeTheLastRevocationNeitherWaitsNorCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(NewClock(nil))
		revoke := func(e Entry) error {
			s.Merge(testKey, e)
			return s.RevokePaced(testKey, e.ID)
		}
		must := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		time.Sleep(time.Minute)
		must("the first", revoke(entry(1, 1, time.Hour)))
		must("one from before", revoke(aged(entry(2, 2, time.Hour), 2*PaceMargin)))
		must("another one", revoke(aged(entry(3, 3, time.Hour), 2*PaceMargin)))
		for name, age := range map[string]time.Duration{"of the same time": 0, "hardly older": PaceMargin} {
			if err := revoke(aged(entry(4, 4, time.Hour), age)); !errors.Is(err, ErrPaced) {
				t.Fatalf("%s: %v, want ErrPaced", name, err)
			}
		}
		time.Sleep(MinPace)
		must("when the pause is over", s.RevokePaced(testKey, ID{4}))
		must("one from before that", revoke(aged(entry(5, 5, time.Hour), 2*PaceMargin)))
		time.Sleep(2 * MinPace)
		must("another one, when that pause is over", revoke(aged(entry(6, 6, time.Hour), 3*MinPace)))
		must("after twice the pause, not four times", revoke(entry(7, 7, time.Hour)))
	})
}

func TestStore_AgeIsTheLongestKnownAndGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(NewClock(nil))
		s.Merge(testKey, aged(entry(1, 1, time.Hour), time.Minute))
		time.Sleep(time.Second)
		s.Merge(testKey, entry(1, 1, time.Hour)) // from a node that does not know
		if e, _ := s.Get(testKey); e.Age != time.Minute+time.Second {
			t.Fatalf("%v old, want 61 s", e.Age)
		}
		s.Merge(testKey, entry(2, 2, time.Hour))
		if e, _ := s.Get(testKey); e.Age != 0 {
			t.Fatalf("its successor is %v old", e.Age)
		}
	})
}

// A process that has just started hears of entries older than itself.
func TestStore_AgeCountsForNothingWithoutAPause(t *testing.T) {
	s := NewStore(NewClock(nil))
	s.Merge(testKey, aged(entry(1, 1, time.Hour), time.Hour))
	if err := s.RevokePaced(testKey, ID{1}); err != nil {
		t.Fatal(err)
	}
	s.Merge(testKey, entry(2, 2, time.Hour))
	if err := s.RevokePaced(testKey, ID{2}); !errors.Is(err, ErrPaced) {
		t.Fatalf("the first one has begun no pause: %v", err)
	}
}

func TestStore_RevocationsArePacedUntilOneIsConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(NewClock(nil))
		next := uint64(0)
		revoke := func() error {
			next++
			s.Merge(testKey, entry(next, byte(next), time.Hour))
			return s.RevokePaced(testKey, ID{byte(next)})
		}
		if err := revoke(); err != nil {
			t.Fatalf("first revocation: %v", err)
		}
		if err := revoke(); !errors.Is(err, ErrPaced) {
			t.Fatalf("second at once: %v, want ErrPaced", err)
		}
		if err := s.RevokePaced(testKey, ID{1}); err != nil {
			t.Fatalf("late complaint about a replaced id: %v", err)
		}
		time.Sleep(MinPace)
		if err := revoke(); err != nil {
			t.Fatalf("after %v: %v", MinPace, err)
		}
		time.Sleep(MinPace)
		if err := revoke(); !errors.Is(err, ErrPaced) {
			t.Fatalf("the pause did not double: %v", err)
		}
		s.Confirm(testKey)
		if err := revoke(); err != nil {
			t.Fatalf("after an accepted replay: %v", err)
		}
	})
}

func TestBackoff_RetryAfterWinsAndTheLongestHolds(t *testing.T) {
	var b Backoff
	if r := b.Refused(0, &Refusal{Code: "AUTH-003", RetryAfter: time.Hour}); r.RetryAfter != MaxRetryAfter {
		t.Errorf("pause %v, want it clamped to %v", r.RetryAfter, MaxRetryAfter)
	}
	b.Adopt(0, &Refusal{Code: "NET-001", RetryAfter: time.Second})
	if r := b.Left(time.Minute); r == nil || r.Code != "AUTH-003" {
		t.Errorf("a shorter refusal replaced the longer: %v", r)
	}
	if r := b.Left(MaxRetryAfter); r != nil {
		t.Errorf("still %v after the pause", r.RetryAfter)
	}
}

// longestAfter returns the longest of 50 pauses that follow many before them and an
// entry of another node that was asked for that long ago.
func longestAfter(age time.Duration) (longest time.Duration) {
	for range 50 {
		s := NewStore(NewClock(nil))
		for range 10 {
			time.Sleep(s.Refused(testKey, &Refusal{Code: "NET-002", Way: true}).RetryAfter)
		}
		peers := entry(1, 1, time.Hour)
		peers.Age = age
		s.Merge(testKey, peers)
		longest = max(longest, s.Refused(testKey, &Refusal{Code: "AUTH-003"}).RetryAfter)
	}
	return longest
}

func TestStore_BackoffGrowsNoFurtherOnceAnotherNodeHasBeenGrantedAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if longest := longestAfter(time.Millisecond); longest > 3*MinBackoff {
			t.Errorf("a pause of %v, as if nobody had been granted anything since the last", longest)
		}
		if longest := longestAfter(time.Hour); longest <= 3*MinBackoff {
			t.Errorf("at most %v, though what was granted was asked for before all refusals", longest)
		}
	})
}

func TestBackoff_GrowsWithinItsBounds(t *testing.T) {
	for range 200 {
		var b Backoff
		now := time.Duration(0)
		for range 10 {
			r := b.Refused(now, &Refusal{Code: "AUTH-003"})
			if r.RetryAfter < MinBackoff || r.RetryAfter > MaxBackoff {
				t.Fatalf("pause %v is out of bounds", r.RetryAfter)
			}
			now += r.RetryAfter
		}
	}
}
