package idptest

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// MarkHeader names a request, so that who sent it can find it in the book.
const MarkHeader = "Oauth-Test-Mark"

// Marked is a named request that came to the archive's door.
type Marked struct {
	Mark    string    `json:"mark"`
	Arrived time.Time `json:"arrived"`
	Over    time.Time `json:"over"` // when its answer was sent
}

// Marks is the book of named requests. It is safe for concurrent use.
type Marks struct {
	mu   sync.Mutex
	seen []Marked
}

// Watch notes the named requests that pass through next.
func (m *Marks) Watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mark, arrived := r.Header.Get(MarkHeader), time.Now()
		next.ServeHTTP(w, r)
		m.mu.Lock()
		defer m.mu.Unlock()
		if mark != "" && len(m.seen) < maxUses {
			m.seen = append(m.seen, Marked{mark, arrived, time.Now()})
		}
	})
}

// All returns the named requests whose answers were sent, in that order.
func (m *Marks) All() []Marked {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Marked{}, m.seen...)
}

// Marks returns the named requests that came to the archive so far.
func (r Remote) Marks(ctx context.Context) ([]Marked, error) {
	var out []Marked
	err := call(ctx, r.client(), r.URL+"/marks", "", "", &out)
	return out, err
}
