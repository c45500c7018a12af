package tokens

import (
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
// that it knows a token that comes back: providers that cache repeat theirs.
type history struct {
	mu    sync.Mutex
	seen  []sighting    // oldest first
	until time.Duration // nothing is asked for before, on backend.Clock
}

type sighting struct {
	stamp     backend.Stamp // the newest that the id was seen under; Gen is 0 when only the id is known
	end       time.Duration // of its life, on backend.Clock
	isRevoked bool
	pause     time.Duration // the last one after the provider repeated it
}

// note remembers an acquisition whose token lives until end.
func (h *history) note(stamp backend.Stamp, end time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.of(stamp.ID)
	s.stamp.Gen, s.end = max(s.stamp.Gen, stamp.Gen), max(s.end, end)
}

// revoke remembers that the acquisition id must not be served again.
func (h *history) revoke(id backend.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(id).isRevoked = true
}

// of returns what is known of id, and makes room for it where nothing is.
func (h *history) of(id backend.ID) *sighting {
	if s := h.find(id); s != nil {
		return s
	}
	if len(h.seen) == maxSightings {
		h.seen = slices.Delete(h.seen, 0, 1)
	}
	h.seen = append(h.seen, sighting{stamp: backend.Stamp{ID: id}})
	return &h.seen[len(h.seen)-1]
}

func (h *history) find(id backend.ID) *sighting {
	for i := range h.seen {
		if h.seen[i].stamp.ID == id {
			return &h.seen[i]
		}
	}
	return nil
}

// revoked reports whether this very acquisition has been refused, and not a
// later one that brought the same token.
func (h *history) revoked(stamp backend.Stamp) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.find(stamp.ID)
	return s != nil && s.isRevoked && (s.stamp.Gen == 0 || stamp.Gen <= s.stamp.Gen)
}

// repeated returns an earlier acquisition that brought the same token. When that
// one is revoked it returns instead how long to wait before the next question.
func (h *history) repeated(id backend.ID) (s sighting, pause time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch r := h.find(id); {
	case r == nil:
		return sighting{}, 0, false
	case r.isRevoked:
		r.pause = min(max(2*r.pause, firstRepeatPause), lastRepeatPause)
		return *r, r.pause, true
	default:
		return *r, 0, true
	}
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
