package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"orthanc-oauth/backend"
)

// lockTTL is how long a lock outlives its holder; renewEvery leaves room for one
// lost renewal.
const (
	lockTTL    = 3 * time.Second
	renewEvery = time.Second
)

// noExpiry is what PTTL answers for a key that lives for ever; none of ours does.
const noExpiry = -1

// A view is what Redis said about a key at one moment.
type view struct {
	entry   backend.Entry // servable when live
	live    bool
	seen    backend.Stamp // what is held, servable or not; zero when nothing or foreign
	judged  string        // how a foreign value begins, so that it can be overwritten
	refusal *sharedRefusal
	locked  bool  // the lock is ours
	denied  error // the lock could not be taken, though Redis answers
	now     int64 // milliseconds on Redis's clock when it answered
	at      time.Duration
}

// look reads a key.
func (r *Redis) look(ctx context.Context, key string) (view, error) {
	return r.enter(ctx, key, floor{}, "")
}

// A floor is what a flight has seen and cannot serve.
type floor struct {
	stamp  backend.Stamp // stale, or revoked, or expired
	judged string        // how a foreign value begins
}

// enter reads a key and, where nonce is set and the value does not lie above
// floor, competes for its lock.
func (r *Redis) enter(ctx context.Context, key string, low floor, nonce string) (view, error) {
	var reply []any
	sent := r.clock.Now()
	err := r.do(ctx, key, func(ctx context.Context) (err error) {
		reply, err = enter.Run(ctx, r.client,
			[]string{r.valueKey(key), r.backoffKey(key), r.lockKey(key)},
			stampText(low.stamp), nonce, lockTTL.Milliseconds(), maxRaw, low.judged).Slice()
		return err
	})
	if err != nil {
		return view{}, err
	}
	return r.parse(key, reply, r.clock.Now()-sent)
}

// parse turns a reply into a view. What remains is aged by the whole round trip.
func (r *Redis) parse(key string, reply []any, trip time.Duration) (view, error) {
	if len(reply) != 7 {
		return view{}, fmt.Errorf("%w: %d fields", errForeign, len(reply))
	}
	text := func(i int) string { s, _ := reply[i].(string); return s }
	number := func(i int) int64 { n, _ := reply[i].(int64); return n }
	left := func(i int) time.Duration { return time.Duration(number(i))*time.Millisecond - trip }

	v := view{locked: number(4) == 1, now: number(6), at: r.clock.Now()}
	r.takeValue(key, &v, text(0), left(1), number(1) != noExpiry)
	if text(2) != "" {
		v.refusal = r.takeRefusal(text(2), left(3))
	}
	switch {
	case v.locked:
		r.health.stored()
	case number(4) < 0:
		v.denied = replyError(text(5))
		r.health.failed(key, v.denied, true)
	}
	return v, nil
}

// takeValue reads what is held into v. What is foreign or corrupt is a miss.
func (r *Redis) takeValue(key string, v *view, raw string, ttl time.Duration, expires bool) {
	if raw == "" {
		return
	}
	e, err := decode([]byte(raw))
	if err == nil && (ttl > backend.MaxTTL || !expires) {
		err = errForeign // no acquisition lives that long
	}
	if err != nil {
		r.health.count(reasonForeign)
		v.judged = raw[:min(len(raw), stampAt+stampLen)]
		return
	}
	v.seen, e.TTL = e.Stamp, ttl
	switch {
	case len(e.Value) == 0:
		r.learn(key, e.ID, ttl)
	case ttl > 0 && !r.local.IsRevoked(key, e.ID):
		r.local.Merge(key, e)
		v.entry, v.live = e, true
	}
}

func (r *Redis) takeRefusal(raw string, left time.Duration) *sharedRefusal {
	s, err := decodeRefusal(raw)
	if err != nil {
		r.health.count(reasonForeign)
		return nil
	}
	if left <= 0 {
		return nil
	}
	s.RetryAfter = min(left, backend.MaxRetryAfter)
	return &s
}

// replyError is an error that a script caught and returned as text.
type replyError string

func (e replyError) Error() string { return string(e) }

// RedisError makes it one of go-redis's errors.
func (replyError) RedisError() {}

var _ goredis.Error = replyError("")

// expiry returns what is left of ttl now, and the instant on Redis's clock at
// which it will be over, both in milliseconds.
func (r *Redis) expiry(v view, ttl time.Duration) (px, pxat int64) {
	return ttl.Milliseconds(), v.now + (r.clock.Now() - v.at + ttl).Milliseconds()
}

// save stores e if nothing newer is held, and gives up the lock of nonce.
func (r *Redis) save(ctx context.Context, key, nonce string, e backend.Entry, v view) (stored bool, err error) {
	px, pxat := r.expiry(v, e.TTL)
	err = r.do(ctx, key, func(ctx context.Context) error {
		n, err := store.Run(ctx, r.client,
			[]string{r.valueKey(key), r.backoffKey(key), r.lockKey(key)},
			nonce, encode(e), px, pxat, v.judged, r.filledChannel(), key).Int()
		stored = n == 1
		return err
	})
	if stored {
		r.health.stored()
	}
	return stored, err
}

// isShutdown reports whether an error says that this node stops.
func isShutdown(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, backend.ErrClosed)
}
