package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/golang/groupcache/lru"
)

const (
	// maxKeys bounds a Store: far more credentials than one fleet has.
	maxKeys = 1024
	// maxRevoked bounds the revoked ids kept for a key (protocol.md, Entry).
	maxRevoked = 64
	// maxGenAhead bounds how far a received generation may lie beyond those
	// seen, so that one broken peer cannot use up the generations.
	maxGenAhead = 1 << 20
	// MaxTTL bounds a remaining lifetime: the clamp of a token's life.
	MaxTTL = 24 * time.Hour
)

// Revocation is one revoked id and for how long it must be remembered.
type Revocation struct {
	ID  ID
	TTL time.Duration
}

// Store holds the newest acquisition of each key, its revoked ids, its backoff
// and its pace, in this process. Entries join by merge: the newer stamp wins,
// the revoked ids unite, and what is dead gives way to whatever lives. Merging
// is idempotent, commutative and associative among live entries, so messages
// may be lost, repeated and reordered.
type Store struct {
	clock *Clock

	mu      sync.Mutex
	records map[string]*record
	recent  *lru.Cache // bounds records; holds the same pointers
}

type record struct {
	entry    Entry
	deadline time.Duration
	asked    time.Duration // when the entry was asked for, or later
	highest  uint64        // generation ever seen, dead ones included
	revoked  map[ID]time.Duration
	refused  Stamp // the newest that was revoked while it was held here
	backoff  Backoff
	pace     Pace
}

// NewStore returns an empty Store that ages its entries by clock.
func NewStore(clock *Clock) *Store {
	s := &Store{clock: clock, records: make(map[string]*record), recent: lru.New(maxKeys)}
	s.recent.OnEvicted = func(key lru.Key, _ any) { delete(s.records, key.(string)) }
	return s
}

// with calls f with the record of key, made when missing, and the time.
func (s *Store) with(key string, f func(r *record, now time.Duration)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[key]
	if !ok {
		r = &record{revoked: make(map[ID]time.Duration)}
		s.records[key] = r
	}
	s.recent.Add(key, r)
	now := s.clock.Now()
	r.expire(now)
	f(r, now)
}

func (r *record) expire(now time.Duration) {
	for id, until := range r.revoked {
		if now >= until {
			delete(r.revoked, id)
		}
	}
	if now >= r.deadline {
		r.entry, r.deadline = Entry{}, 0
	}
}

func (r *record) live(now time.Duration) (Entry, bool) {
	if r.entry.IsZero() || r.isRevoked(r.entry.ID) {
		return Entry{}, false
	}
	e := r.entry
	e.TTL, e.Age = r.deadline-now, min(now-r.asked, MaxTTL)
	return e, true
}

func (r *record) isRevoked(id ID) bool {
	_, ok := r.revoked[id]
	return ok
}

// Newer returns the live entry of key if it is newer than stale.
func (s *Store) Newer(key string, stale Stamp) (e Entry, ok bool) {
	s.with(key, func(r *record, now time.Duration) {
		if e, ok = r.live(now); ok && !e.Newer(stale) {
			e, ok = Entry{}, false
		}
	})
	return e, ok
}

// Usable reports whether the result of a flight is newer than stale, which it need
// not be where the flight had begun for an older one, and still not revoked: who
// saw it before the flight has ended may have found it refused.
func (s *Store) Usable(key string, e Entry, stale Stamp) bool {
	return e.Newer(stale) && !s.IsRevoked(key, e.ID)
}

// Get returns the live entry of key.
func (s *Store) Get(key string) (Entry, bool) { return s.Newer(key, Stamp{}) }

// Highest returns the highest generation seen of key, dead ones included.
func (s *Store) Highest(key string) (gen uint64) {
	s.with(key, func(r *record, _ time.Duration) { gen = r.highest })
	return gen
}

// Merge takes an entry in and reports whether it is now the one held. Entries
// that are expired, revoked, oversized or of an absurd generation are refused.
func (s *Store) Merge(key string, e Entry) (held bool) {
	if e.IsZero() || e.TTL <= 0 || e.TTL > MaxTTL || len(e.Value) > MaxValue {
		return false
	}
	s.with(key, func(r *record, now time.Duration) { held = r.merge(e, now) })
	return held
}

func (r *record) merge(e Entry, now time.Duration) bool {
	if e.Gen > r.highest && e.Gen-r.highest > maxGenAhead || r.isRevoked(e.ID) {
		return false
	}
	r.highest = max(r.highest, e.Gen)
	deadline, asked := now+e.TTL, now-e.Age
	cur, alive := r.live(now)
	switch {
	case !alive || e.Newer(cur.Stamp):
		r.entry, r.deadline, r.asked = e, deadline, asked
		if e.Age > 0 { // known
			r.backoff.Granted(asked)
		}
	case e.Stamp == cur.Stamp:
		// A hop only takes from what remains, and adds nothing to the age, so the
		// longest of each is the truest.
		r.deadline, r.asked = max(r.deadline, deadline), min(r.asked, asked)
	default:
		return false
	}
	return true
}

// Revoke makes one id unservable for ttl, or for as long as the entry held
// under it would have lived if that is longer; 0 means MaxTTL.
func (s *Store) Revoke(key string, id ID, ttl time.Duration) {
	s.with(key, func(r *record, now time.Duration) { r.revoke(id, ttl, now) })
}

func (r *record) revoke(id ID, ttl, now time.Duration) {
	if r.entry.ID == id {
		ttl = max(ttl, r.deadline-now)
		if r.entry.Newer(r.refused) {
			r.refused = r.entry.Stamp
		}
	}
	if ttl <= 0 || ttl > MaxTTL {
		ttl = MaxTTL
	}
	r.revoked[id] = max(r.revoked[id], now+ttl)
	for len(r.revoked) > maxRevoked {
		r.forgetSoonest(id)
	}
}

// forgetSoonest forgets the revoked id that need be remembered for the shortest
// time, but for the one just revoked and that of the entry held, which would be
// served again.
func (r *record) forgetSoonest(revoked ID) {
	var soonest ID
	until := time.Duration(-1)
	for id, u := range r.revoked {
		if id != revoked && id != r.entry.ID && (until < 0 || u < until) {
			soonest, until = id, u
		}
	}
	delete(r.revoked, soonest)
}

// Revoked returns the revoked ids of key, ordered by id.
func (s *Store) Revoked(key string) (out []Revocation) {
	s.with(key, func(r *record, now time.Duration) {
		for id, until := range r.revoked {
			out = append(out, Revocation{ID: id, TTL: until - now})
		}
	})
	slices.SortFunc(out, func(a, b Revocation) int { return bytesCompare(a.ID, b.ID) })
	return out
}

// IsRevoked reports whether id is known to be revoked.
func (s *Store) IsRevoked(key string, id ID) (yes bool) {
	s.with(key, func(r *record, _ time.Duration) { yes = r.isRevoked(id) })
	return yes
}

// Keys returns the keys that a live entry is held for, in order.
func (s *Store) Keys() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	for key, r := range s.records {
		r.expire(now)
		if _, ok := r.live(now); ok {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// Confirm ends the pause between revocations of key.
func (s *Store) Confirm(key string) {
	s.with(key, func(r *record, _ time.Duration) { r.pace.Confirmed() })
}

// Refused notes a refusal of this node's own fill and returns it with the pause
// that follows.
func (s *Store) Refused(key string, why *Refusal) (out *Refusal) {
	s.with(key, func(r *record, now time.Duration) { out = r.backoff.Refused(now, why) })
	return out
}

// AdoptRefusal notes a refusal that another node has met.
func (s *Store) AdoptRefusal(key string, why *Refusal) {
	s.with(key, func(r *record, now time.Duration) { r.backoff.Adopt(now, why) })
}

// Backoff returns what is left of the pause of key, or nil.
func (s *Store) Backoff(key string) (out *Refusal) {
	s.with(key, func(r *record, now time.Duration) { out = r.backoff.Left(now) })
	return out
}

// Acquire runs fill for the next generation of key and merges what it returns.
// A refusal is noted as backoff. A backoff that is already running is returned
// instead of running fill.
func (s *Store) Acquire(ctx context.Context, key string, stale Stamp, fill FillFunc) (Entry, error) {
	if r := s.Backoff(key); r != nil {
		return Entry{}, r
	}
	asked := s.clock.Now()
	e, err := fill(ctx, max(s.Highest(key), stale.Gen)+1)
	switch {
	case err == nil:
	case isShutdown(err):
		return Entry{}, err
	default:
		return Entry{}, s.Refused(key, AsRefusal(err))
	}
	e.From = FromIdP
	revoked := false
	s.with(key, func(r *record, now time.Duration) {
		r.backoff.Succeeded()
		e.Age = now - asked
		r.merge(e, now)
		revoked = r.isRevoked(e.ID)
	})
	if w := s.Winner(key, e); w.ID != e.ID || !revoked {
		return w, nil
	}
	return Entry{}, s.Refused(key, &Refusal{Code: codeRepeated, RetryAfter: MinPace, Err: errRepeated})
}

// codeRepeated is TOK-004 of compatibility.md: what came back is not usable.
const codeRepeated = "TOK-004"

// errRepeated is a fill that keeps the id of a token whose bytes the provider
// repeated, which has been revoked meanwhile.
var errRepeated = errors.New("the provider repeats a revoked token")

// Winner returns the live entry of key if it is newer than e, else e itself: an
// acquirer that was overtaken while it waited serves the newer acquisition.
func (s *Store) Winner(key string, e Entry) Entry {
	if w, ok := s.Newer(key, e.Stamp); ok {
		return w
	}
	return e
}

// Set stores value as the acquisition that follows every one seen.
func (s *Store) Set(key string, value []byte, ttl time.Duration) error {
	e := Entry{Stamp: Stamp{Gen: s.Highest(key) + 1, ID: NewID()}, Value: value, TTL: ttl}
	if !s.Merge(key, e) {
		return fmt.Errorf("set %d bytes for %v: a value has at most %d bytes and lives between 0 and %v", len(value), ttl, MaxValue, MaxTTL)
	}
	return nil
}

// Delete revokes the acquisition now held and reports whether there was one.
func (s *Store) Delete(key string) bool {
	e, ok := s.Get(key)
	if ok {
		s.Revoke(key, e.ID, e.TTL)
	}
	return ok
}

// RevokePaced revokes id, or returns ErrPaced when id is in service and the
// previous revocation of key was too recent. An id that is revoked already, has
// been replaced, or is older than what was revoked last, by its stamp or by its
// age, costs no acquisition of its own, so it neither waits nor makes others wait.
func (s *Store) RevokePaced(key string, id ID) (err error) {
	s.with(key, func(r *record, now time.Duration) {
		// The entry last held counts even when it has been revoked itself: a
		// complaint about an older one then waits for what replaces both.
		older := r.refused.Newer(r.entry.Stamp) || r.pace.Predates(r.asked)
		spared := !r.entry.IsZero() && (r.entry.ID != id || older)
		if !spared && !r.isRevoked(id) && !r.pace.Revoking(now) {
			err = ErrPaced
			return
		}
		r.revoke(id, 0, now)
	})
	return err
}
