package redis

import (
	"context"
	"fmt"
	"strings"
	"sync"

	goredis "github.com/redis/go-redis/v9"

	"orthanc-oauth/backend"
)

// keepPause is how long a pause is remembered after it is over, so that the next
// one doubles. All nodes on one Redis must agree on it: it tells when a pause
// began.
const keepPause = backend.MaxTTL

// Verdicts of the revoke script.
const (
	verdictPaced  = "paced"
	verdictBuried = "buried"
	verdictAbsent = "absent"
)

// Revoke implements backend.Backend. With Redis away it holds on this node, and
// reaches Redis with this node's next Fill, which will not adopt the id.
func (r *Redis) Revoke(ctx context.Context, key string, id backend.ID) error {
	if err := r.usable(ctx); err != nil {
		return err
	}
	verdict, err := r.bury(ctx, key, id, true)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return r.local.RevokePaced(key, id)
	case verdict == verdictPaced:
		return backend.ErrPaced
	case verdict == verdictAbsent && r.holds(key, id):
		return r.local.RevokePaced(key, id) // acquired without Redis
	}
	r.local.Revoke(key, id, 0)
	return nil
}

func (r *Redis) holds(key string, id backend.ID) bool {
	e, ok := r.local.Get(key)
	return ok && e.ID == id
}

// bury makes one id unservable in Redis.
func (r *Redis) bury(ctx context.Context, key string, id backend.ID, paced bool) (verdict string, err error) {
	minPause := int64(0)
	if paced {
		minPause = backend.MinPace.Milliseconds()
	}
	err = r.do(ctx, key, func(ctx context.Context) (err error) {
		verdict, err = revoke.Run(ctx, r.client, []string{r.valueKey(key), r.pauseKey(key)},
			id.String(), r.revokedChannel(), key+" "+id.String(),
			minPause, backend.MaxPace.Milliseconds(), keepPause.Milliseconds(), backend.PaceMargin.Milliseconds()).Text()
		return err
	})
	return verdict, err
}

// Confirm implements backend.Backend.
func (r *Redis) Confirm(ctx context.Context, key string, _ backend.ID) error {
	if err := r.usable(ctx); err != nil {
		return err
	}
	r.local.Confirm(key)
	// Best effort: a pause that stays delays one revocation.
	_ = r.do(ctx, key, func(ctx context.Context) error { return r.client.Del(ctx, r.pauseKey(key)).Err() })
	return ctx.Err()
}

// Delete implements backend.Backend. It fails where Redis could not be told:
// the entry is then gone on this node only.
func (r *Redis) Delete(ctx context.Context, key string) (existed bool, err error) {
	if err := r.usable(ctx); err != nil {
		return false, err
	}
	v, err := r.look(ctx, key)
	kept := r.local.Delete(key)
	if err == nil && v.seen.IsZero() {
		return kept, nil
	}
	verdict := ""
	if err == nil {
		verdict, err = r.bury(ctx, key, v.seen.ID, false)
	}
	if err != nil {
		return kept, fmt.Errorf("delete in redis: %w", err)
	}
	r.local.Revoke(key, v.seen.ID, 0)
	return kept || v.live && verdict == verdictBuried, nil
}

// scanCount is how many keys one SCAN step looks at: some 100 us of Redis's time.
const scanCount = 500

// Clear implements backend.Backend: on every master it finds the values of this
// prefix and buries them, as Delete does. Locks, backoffs and pauses stay: a
// running acquisition is not doubled, and the provider's Retry-After goes on.
func (r *Redis) Clear(ctx context.Context) error {
	if err := r.usable(ctx); err != nil {
		return err
	}
	for _, key := range r.local.Keys() {
		r.local.Delete(key)
	}
	var err error
	if cluster, ok := r.client.(*goredis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *goredis.Client) error { return r.clearOn(ctx, c) })
	} else {
		err = r.clearOn(ctx, r.client)
	}
	if err != nil {
		return fmt.Errorf("clear redis: %w", err)
	}
	return nil
}

func (r *Redis) clearOn(ctx context.Context, server goredis.Cmdable) error {
	cursor := uint64(0)
	for {
		var keys []string
		err := r.do(ctx, "", func(ctx context.Context) (err error) {
			keys, cursor, err = server.Scan(ctx, cursor, escapeGlob(r.prefix)+"{*}", scanCount).Result()
			return err
		})
		if err != nil {
			return err
		}
		if err := r.buryAll(ctx, server, keys); err != nil || cursor == 0 {
			return err
		}
	}
}

// buryAll buries the values among the names found. What stands under a key of
// ours and is no value is unlinked.
func (r *Redis) buryAll(ctx context.Context, server goredis.Cmdable, found []string) error {
	for _, name := range found {
		key, ours := r.keyOf(name)
		if !ours {
			continue
		}
		var header string
		err := r.do(ctx, key, func(ctx context.Context) (err error) {
			header, err = server.GetRange(ctx, name, 0, maxHeader).Result()
			if goredis.HasErrorPrefix(err, wrongType) {
				err = nil
			}
			return err
		})
		if err == nil {
			err = r.buryFound(ctx, server, key, header)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Redis) buryFound(ctx context.Context, server goredis.Cmdable, key, header string) error {
	e, err := decode([]byte(header))
	if err != nil {
		return r.do(ctx, key, func(ctx context.Context) error { return server.Unlink(ctx, r.valueKey(key)).Err() })
	}
	r.local.Revoke(key, e.ID, 0)
	_, err = r.bury(ctx, key, e.ID, false)
	return err
}

// keyOf returns the key that a value's name in Redis stands for.
func (r *Redis) keyOf(name string) (key string, ours bool) {
	rest, ok := strings.CutPrefix(name, r.prefix+"{")
	key, closed := strings.CutSuffix(rest, "}")
	return key, ok && closed && isKey(key)
}

// isKey reports whether key is 64 lower-case hexadecimal digits.
func isKey(key string) bool {
	return len(key) == 64 && strings.Trim(key, "0123456789abcdef") == ""
}

// escapeGlob makes a prefix match itself only.
func escapeGlob(prefix string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(prefix)
}

// wakes lets flights sleep until somebody says that their key was filled.
type wakes struct {
	mu      sync.Mutex
	waiting map[string]chan struct{}
}

func newWakes() *wakes { return &wakes{waiting: make(map[string]chan struct{})} }

// wait returns a channel that is closed by the next wake of key. There is at
// most one flight a key, so at most one channel a key that somebody waits for.
func (w *wakes) wait(key string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch, ok := w.waiting[key]
	if !ok {
		ch = make(chan struct{})
		w.waiting[key] = ch
	}
	return ch
}

func (w *wakes) wake(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch, ok := w.waiting[key]; ok {
		close(ch)
		delete(w.waiting, key)
	}
}
