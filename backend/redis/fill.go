package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"orthanc-oauth/backend"
)

const (
	// awayAfter is how many operations of a flight may fail before the node
	// acquires for itself: with the timeout of each, 0.5 s.
	awayAfter = 2
	// settleTime bounds the way back of an acquisition: it is served all the same.
	settleTime = 500 * time.Millisecond
	// Waiters poll fast while a healthy provider would answer, then slowly.
	fastPoll = 20 * time.Millisecond
	fastFor  = time.Second
	slowPoll = 200 * time.Millisecond
	// maxRounds bounds how often a caller joins flights that end with what it
	// holds as stale. Two are honest: one that was under way, and its own.
	maxRounds = 4
)

// Fill implements backend.Backend.
func (r *Redis) Fill(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc) (backend.Entry, error) {
	e, failures, err := r.glance(ctx, key, stale)
	if err != nil || !e.IsZero() {
		return e, err
	}
	for range maxRounds {
		if err := r.usable(ctx); err != nil {
			return backend.Entry{}, err
		}
		e, err := r.flights.Do(ctx, key, func(ctx context.Context) (backend.Entry, error) {
			f := flight{Redis: r, key: key, stale: stale, fill: fill, nonce: backend.NewID().String()}
			return f.run(ctx, failures)
		})
		if err != nil || r.local.Usable(key, e, stale) {
			return e, err
		}
	}
	return backend.Entry{}, fmt.Errorf("fill: nothing usable and newer than generation %d after %d flights", stale.Gen, maxRounds)
}

// glance is the short way of a caller who holds nothing: what others acquired is
// most likely there, and then neither a flight nor a lock is needed. One caller a
// key takes it at a time, and none while a flight looks, so that a crowd costs
// one look; the others fly.
// Failures is how many operations it leaves a flight less before Redis counts as
// away.
func (r *Redis) glance(ctx context.Context, key string, stale backend.Stamp) (e backend.Entry, failures int, err error) {
	if err := r.usable(ctx); err != nil {
		return backend.Entry{}, 0, err
	}
	if !stale.IsZero() {
		return backend.Entry{}, 0, nil
	}
	if _, busy := r.flying.Load(key); busy {
		return backend.Entry{}, 0, nil
	}
	if _, busy := r.glancing.LoadOrStore(key, struct{}{}); busy {
		return backend.Entry{}, 0, nil
	}
	defer r.glancing.Delete(key)
	v, err := r.peek(ctx, key)
	switch {
	case ctx.Err() != nil:
		return backend.Entry{}, 0, ctx.Err()
	case err != nil:
		return backend.Entry{}, 1, nil
	case v.live:
		return v.entry, 0, nil
	}
	return backend.Entry{}, 0, nil
}

// A flight is one node's way to an acquisition newer than stale.
type flight struct {
	*Redis
	key   string
	stale backend.Stamp
	fill  backend.FillFunc
	nonce string // names this flight as the holder of the lock
}

// run looks, competes for the lock, and waits while another node holds it.
// Failures is how many operations have failed before it.
func (f *flight) run(ctx context.Context, failures int) (backend.Entry, error) {
	f.flying.Store(f.key, struct{}{})
	defer f.flying.Delete(f.key)
	began, low := f.clock.Now(), floor{stamp: f.stale}
	for {
		wake := f.wakes.wait(f.key) // before the look, so that no message is missed
		v, err := f.enter(ctx, f.key, low, f.askLock())
		switch {
		case ctx.Err() != nil:
			return backend.Entry{}, ctx.Err()
		case errors.Is(err, errAway), err != nil && failures+1 >= awayAfter:
			return f.alone(ctx)
		case err != nil:
			failures++
			continue
		}
		failures = 0
		if e, done, err := f.decide(ctx, v); done {
			return e, err
		}
		low.judged, low.stamp = v.judged, newest(low.stamp, v.seen)
		f.pause(ctx, wake, began)
	}
}

// askLock returns the nonce, or nothing while this node itself was refused: it
// may then adopt what others acquire and must not acquire.
func (f *flight) askLock() string {
	if f.local.Backoff(f.key) != nil {
		return ""
	}
	return f.nonce
}

// decide ends the flight on what Redis said, if it can.
func (f *flight) decide(ctx context.Context, v view) (_ backend.Entry, done bool, _ error) {
	e, err := f.answer(ctx, v)
	if err != nil || !e.IsZero() {
		if v.locked {
			f.release(ctx, v, nil)
		}
		return e, true, err
	}
	switch {
	case v.locked:
		e, err := f.lead(ctx, v)
		return e, true, err
	case v.denied != nil:
		e, err := f.alone(ctx)
		return e, true, err
	}
	return backend.Entry{}, false, nil
}

// answer returns what can be had without asking the provider: an entry newer
// than stale, or why the provider must not be asked; neither when it must.
func (f *flight) answer(ctx context.Context, v view) (backend.Entry, error) {
	if v.live && v.entry.Newer(f.stale) {
		return v.entry, nil
	}
	if e, ok := f.offer(ctx, f.key, f.stale, v); ok {
		return e, nil
	}
	return backend.Entry{}, f.refused(v)
}

// refused returns the refusal that keeps this node from asking the provider:
// its own, or one that the fleet shares.
func (f *flight) refused(v view) error {
	if why := f.local.Backoff(f.key); why != nil {
		return why
	}
	if v.refusal == nil || !v.refusal.binding() {
		return nil
	}
	// Noted here too, so that it holds if Redis goes away.
	f.local.AdoptRefusal(f.key, &v.refusal.Refusal)
	return &v.refusal.Refusal
}

// pause waits for the next look.
func (f *flight) pause(ctx context.Context, wake <-chan struct{}, began time.Duration) {
	poll := fastPoll
	if f.clock.Now()-began > fastFor {
		poll = slowPoll
	}
	t := time.NewTimer(poll)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}

// lead acquires under the lock, and tells the fleet what came of it.
func (f *flight) lead(ctx context.Context, v view) (backend.Entry, error) {
	settled := false
	defer func() {
		if !settled { // the fill panicked
			f.release(ctx, v, nil)
		}
	}()
	stop := f.keepLock(ctx)
	defer stop()
	e, err := f.local.Acquire(ctx, f.key, newest(f.stale, v.seen), f.fill)
	settled = true
	if err != nil {
		f.release(ctx, v, err)
		return backend.Entry{}, err
	}
	return f.settle(ctx, e, v), nil
}

func newest(a, b backend.Stamp) backend.Stamp {
	if b.Newer(a) {
		return b
	}
	return a
}

// settle stores an acquisition. Whatever comes of that, it is served: a lost
// lock or a lost Redis does not make it worse, and something newer is better.
func (f *flight) settle(ctx context.Context, e backend.Entry, v view) backend.Entry {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	stored, err := f.save(ctx, f.key, f.nonce, e, v)
	if err == nil && !stored {
		// Whoever was first is merged by the look; an error changes nothing.
		_, _ = f.look(ctx, f.key)
	}
	return f.local.Winner(f.key, e)
}

// release gives up the lock, and shares why the provider refused.
func (f *flight) release(ctx context.Context, v view, cause error) {
	shared, px, pxat := "", int64(0), int64(0)
	if cause != nil && !isShutdown(cause) {
		why := backend.AsRefusal(cause)
		s := sharedRefusal{Refusal: *why, tries: 1}
		if v.refusal != nil && v.refusal.Way && why.Way {
			s.tries = v.refusal.tries + 1
		}
		shared = s.encode()
		px, pxat = f.expiry(v, why.RetryAfter)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	// An error is counted and logged by health; the lock then ends by itself.
	_ = f.do(ctx, f.key, func(ctx context.Context) error {
		return release.Run(ctx, f.client, []string{f.backoffKey(f.key), f.lockKey(f.key)},
			f.nonce, shared, px, pxat, f.filledChannel(), f.key).Err()
	})
}

// keepLock renews the lock until stop is called, so that a slow provider is told
// from a dead holder. A lost lock is not taken back: what is acquired without it
// is not stored over anything newer.
func (f *flight) keepLock(ctx context.Context) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	f.background("renew lock", func() {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			var held int
			err := f.do(ctx, f.key, func(ctx context.Context) (err error) {
				held, err = renew.Run(ctx, f.client, []string{f.lockKey(f.key)}, f.nonce, lockTTL.Milliseconds()).Int()
				return err
			})
			if err == nil && held == 0 {
				return
			}
		}
	})
	return stop
}

// alone acquires without Redis, under this node's own flight and backoff.
func (f *flight) alone(ctx context.Context) (backend.Entry, error) {
	if e, ok := f.local.Newer(f.key, f.stale); ok {
		e.From = backend.FromLocal
		return e, nil
	}
	return f.local.Acquire(ctx, f.key, f.stale, f.fill)
}

// offer stores what this node holds if it is newer than stale and than what
// Redis holds, and returns it. That is what was acquired without Redis, and what
// a restart, a failover or an eviction lost. It never brings back what was
// deleted: a buried value keeps its stamp.
func (r *Redis) offer(ctx context.Context, key string, stale backend.Stamp, v view) (backend.Entry, bool) {
	e, ok := r.local.Newer(key, newest(stale, v.seen))
	if !ok {
		return backend.Entry{}, false
	}
	stored, err := r.save(ctx, key, "", e, v)
	if err == nil && !stored {
		// Somebody has stored this one or a newer one since the look.
		now, err := r.look(ctx, key)
		return now.entry, err == nil && now.live && now.entry.Newer(stale)
	}
	e.From = backend.FromLocal
	return e, true
}

// offerAll offers everything after an outage, so that the other nodes find it
// when they refresh.
func (r *Redis) offerAll(ctx context.Context) {
	for _, key := range r.local.Keys() {
		v, err := r.look(ctx, key)
		if err != nil {
			return // the next recovery tries again
		}
		r.offer(ctx, key, backend.Stamp{}, v)
	}
}

// background runs f in a goroutine that Close waits for. A panic in it must not
// take the host down.
func (r *Redis) background(what string, f func()) {
	r.wg.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				r.log.Error("panic in a background task", "task", what, "panic", v)
			}
		}()
		f()
	})
}
