package tokens

import (
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"orthanc-oauth/backend"
)

const (
	// maxSightings bounds a history. Revocations are paced to one per 30 s, so
	// these reach back minutes even while every token is refused.
	maxSightings = 32
	// firstRepeatPause doubles to lastRepeatPause while a provider repeats the
	// bytes of a revoked token (protocol.md, 401).
	firstRepeatPause = 30 * time.Second
	lastRepeatPause  = 4 * time.Minute
)

// history remembers the acquisitions of one key that this process has seen, so
// that it knows a token that comes back: providers that cache repeat theirs. It
// holds digests, no tokens.
type history struct {
	mu    sync.Mutex
	seen  []sighting    // oldest first
	until time.Duration // nothing is asked for before, on backend.Clock
}

type sighting struct {
	sum     [sha256.Size]byte // of the token; zero when only the id is known
	id      backend.ID
	end     time.Duration // of its life, on backend.Clock
	revoked bool
	pause   time.Duration // the last one after the provider repeated it
}

// note remembers that the acquisition id brought token, which lives until end.
func (h *history) note(token string, id backend.ID, end time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sum := sha256.Sum256([]byte(token))
	if s := h.find(func(s *sighting) bool { return s.sum == sum && s.id == id }); s != nil {
		s.end = max(s.end, end)
		return
	}
	h.add(sighting{sum: sum, id: id, end: end})
}

// revoke remembers that the acquisition id must not be served again.
func (h *history) revoke(id backend.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.find(func(s *sighting) bool { return s.id == id }); s != nil {
		s.revoked = true
		return
	}
	h.add(sighting{id: id, revoked: true})
}

func (h *history) add(s sighting) {
	if len(h.seen) == maxSightings {
		h.seen = slices.Delete(h.seen, 0, 1)
	}
	h.seen = append(h.seen, s)
}

// find returns the newest match.
func (h *history) find(match func(*sighting) bool) *sighting {
	for i := range slices.Backward(h.seen) {
		if match(&h.seen[i]) {
			return &h.seen[i]
		}
	}
	return nil
}

// revokedID reports whether an acquisition has been refused.
func (h *history) revokedID(id backend.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.find(func(s *sighting) bool { return s.revoked && s.id == id }) != nil
}

// repeated returns the acquisition that brought these bytes before. When that
// one is revoked it returns instead how long to wait before the next question.
func (h *history) repeated(token string) (s sighting, pause time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sum := sha256.Sum256([]byte(token))
	if r := h.find(func(s *sighting) bool { return s.sum == sum && s.revoked }); r != nil {
		r.pause = min(max(2*r.pause, firstRepeatPause), lastRepeatPause)
		return *r, r.pause, true
	}
	if r := h.find(func(s *sighting) bool { return s.sum == sum }); r != nil {
		return *r, 0, true
	}
	return sighting{}, 0, false
}

// bar lets nothing be asked for before until.
func (h *history) bar(until time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = until
}

// barred returns how long nothing may be asked for.
func (h *history) barred(now time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(0, h.until-now)
}
