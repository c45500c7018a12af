package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"orthanc-oauth/backend"
)

const (
	// probeEvery is how often a Redis that does not work is tried.
	probeEvery = 3 * time.Second
	// pingEvery finds a subscription whose server hung or vanished silently.
	pingEvery = 5 * time.Second
	// Between two tries to subscribe. Messages only speed things up: everything
	// they say is found by polling too.
	minResubscribe = 250 * time.Millisecond
	maxResubscribe = 15 * time.Second
)

// startListening starts the goroutines that hear other nodes and that offer
// after an outage what was acquired during it.
func (r *Redis) startListening() {
	r.background("listen", r.listenForEver)
	r.background("recover", r.recoverForEver)
	if r.keeper != nil {
		r.background("credentials", r.keepCredentials)
	}
}

// recoverForEver notices the end of an outage, which nothing else would while
// every token is fresh, and then offers what was acquired during it.
func (r *Redis) recoverForEver() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.life.Done():
			return
		case <-r.health.back:
			r.offerAll(r.life)
		case <-tick.C:
			if key, yes := r.health.ailing(); yes {
				r.probe(r.life, key)
			}
		}
	}
}

// probe tries what a lock needs: a short-lived key, stored where key lies.
func (r *Redis) probe(ctx context.Context, key string) {
	err := r.do(ctx, key, func(ctx context.Context) error {
		return r.client.SetNX(ctx, r.valueKey(key)+":probe", "1", time.Second).Err()
	})
	if err == nil {
		r.health.stored()
	}
}

func (r *Redis) listenForEver() {
	pause := minResubscribe
	for r.life.Err() == nil {
		began := r.clock.Now()
		err := r.listenOnce()
		if r.clock.Now()-began > maxResubscribe {
			pause = minResubscribe // it worked for a while
		}
		if reason := classify(err); reason == reasonDenied {
			r.health.count(reason)
			pause = maxResubscribe
		}
		select {
		case <-r.life.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, maxResubscribe)
	}
}

// listenOnce subscribes and hands messages on until the connection fails.
func (r *Redis) listenOnce() error {
	sub := r.client.Subscribe(r.life)
	defer func() { _ = sub.Close() }()
	// A blocked read ends with its connection only.
	defer context.AfterFunc(r.life, func() { _ = sub.Close() })()
	if err := sub.Subscribe(r.life, r.revokedChannel(), r.filledChannel()); err != nil {
		return err
	}
	for pinged := false; ; {
		msg, err := sub.ReceiveTimeout(r.life, pingEvery)
		switch {
		case err == nil:
			pinged = false
			r.hear(msg)
		case !isTimeout(err) || r.life.Err() != nil:
			return err
		case pinged:
			return errors.New("subscription: no answer to a ping")
		default:
			if err := sub.Ping(r.life); err != nil {
				return fmt.Errorf("subscription: %w", err)
			}
			pinged = true
		}
	}
}

// hear takes one message in. Whoever may publish may write the values as well,
// so a message has no more authority than a look has.
func (r *Redis) hear(msg any) {
	m, ok := msg.(*goredis.Message)
	if !ok {
		return // a subscription or a pong
	}
	switch m.Channel {
	case r.filledChannel():
		r.wakes.wake(m.Payload)
	case r.revokedChannel():
		key, text, _ := strings.Cut(m.Payload, " ")
		if id, err := backend.ParseID(text); err == nil && isKey(key) {
			r.learn(key, id, 0)
		}
	}
}

// learn notes what another node has revoked, and passes it on the first time.
func (r *Redis) learn(key string, id backend.ID, ttl time.Duration) {
	known := r.local.IsRevoked(key, id)
	r.local.Revoke(key, id, ttl)
	if !known && r.revoked != nil {
		r.revoked(key, id)
	}
}
