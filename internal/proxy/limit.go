package proxy

import (
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBuckets bounds the addresses a Limit remembers; beyond that all are
// forgotten, which a caller with that many addresses could have had anyway.
const maxBuckets = 4096

// NewLimit returns a check that lets a number of requests through per window:
// all together, or each remote address for itself. X-Forwarded-For does not
// count: it is the caller's own word.
func NewLimit(requests int, window time.Duration, perAddress bool) func(*http.Request) bool {
	every := rate.Every(window / time.Duration(max(requests, 1)))
	if !perAddress {
		bucket := rate.NewLimiter(every, requests)
		return func(*http.Request) bool { return bucket.Allow() }
	}
	var mu sync.Mutex
	buckets := map[string]*rate.Limiter{}
	return func(r *http.Request) bool {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		mu.Lock()
		defer mu.Unlock()
		if buckets[host] == nil {
			if len(buckets) >= maxBuckets {
				clear(buckets)
			}
			buckets[host] = rate.NewLimiter(every, requests)
		}
		return buckets[host].Allow()
	}
}
