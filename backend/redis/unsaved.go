package redis

import (
	"context"
	"sync"

	"orthanc-oauth/backend"
)

// maxUnsaved bounds the keys remembered: as many as a Store holds.
const maxUnsaved = 1024

// unsaved are the keys whose acquisition in the local store Redis has never
// had. Only those are offered to it later: what it once had and has no more was
// deleted, and must not come back.
type unsaved struct {
	mu   sync.Mutex
	keys map[string]struct{}
}

func newUnsaved() *unsaved { return &unsaved{keys: make(map[string]struct{})} }

func (u *unsaved) add(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.keys) < maxUnsaved {
		u.keys[key] = struct{}{}
	}
}

func (u *unsaved) has(key string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.keys[key]
	return ok
}

func (u *unsaved) remove(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.keys, key)
}

func (u *unsaved) all() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make([]string, 0, len(u.keys))
	for key := range u.keys {
		out = append(out, key)
	}
	return out
}

// offer stores what this node acquired without Redis, if it is newer than stale
// and than what Redis holds, and returns it.
func (r *Redis) offer(ctx context.Context, key string, stale backend.Stamp, v view) (backend.Entry, bool) {
	if !r.unsaved.has(key) {
		return backend.Entry{}, false
	}
	e, ok := r.local.Newer(key, newest(stale, v.seen))
	if !ok {
		return backend.Entry{}, false
	}
	stored, err := r.save(ctx, key, "", e, v)
	if err == nil {
		r.unsaved.remove(key)
	}
	e.From = backend.FromLocal
	return e, stored || err != nil
}

// offerAll offers everything after an outage, so that the other nodes find it
// when they refresh.
func (r *Redis) offerAll(ctx context.Context) {
	for _, key := range r.unsaved.all() {
		v, err := r.look(ctx, key)
		if err != nil {
			return // the next recovery tries again
		}
		if _, ok := r.offer(ctx, key, backend.Stamp{}, v); !ok {
			r.unsaved.remove(key)
		}
	}
}
