package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"orthanc-oauth/backend"
)

// DefaultPrefix is the prefix of all keys unless configured.
const DefaultPrefix = "orthanc:oauth:"

// maxPrefix bounds a prefix: it is repeated in every key.
const maxPrefix = 128

// Config configures a Redis backend.
type Config struct {
	Options    Options
	Prefix     string // of every key and channel; no braces, which would choose the hash slot
	Clock      *backend.Clock
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil registers nothing

	// Revoked is told of every revocation that this node learns of from others,
	// so that nothing in front of this backend goes on serving the id. May be
	// nil. It must not block.
	Revoked func(key string, id backend.ID)
}

// Redis is a backend.Backend on a Redis server, Sentinel group or Cluster.
type Redis struct {
	prefix  string
	timeout time.Duration
	client  goredis.UniversalClient
	clock   *backend.Clock
	log     *slog.Logger
	health  *health
	keeper  *keeper // nil where credentials never change
	revoked func(key string, id backend.ID)
	local   *backend.Store // all that this node has seen: what Redis loses, it can give back
	flights *backend.Flights
	wakes   *wakes
	peeker  func(ctx context.Context, name string) (raw string, left time.Duration, err error)

	glancing sync.Map // keys that a caller looks up outside of a flight
	flying   sync.Map // keys that a flight looks up

	life   context.Context
	end    context.CancelFunc
	listen sync.Once
	stop   sync.Once
	wg     sync.WaitGroup
}

var _ backend.Backend = (*Redis)(nil)

// New validates cfg and returns a backend. It connects when first used or with
// Prepare, so a Redis that is down does not keep a node from starting.
func New(cfg Config) (*Redis, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if strings.ContainsAny(cfg.Prefix, "{}") || len(cfg.Prefix) > maxPrefix {
		return nil, fmt.Errorf("redis prefix %.128q: at most %d characters and no braces, which choose a cluster's hash slot", cfg.Prefix, maxPrefix)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = backend.NewClock(nil)
	}
	health, err := newHealth(cfg)
	if err != nil {
		return nil, err
	}
	client, keeper, err := cfg.Options.client()
	if err != nil {
		return nil, err
	}
	r := assemble(cfg, client, health)
	r.keeper = keeper
	return r, nil
}

// Prepare does behind what the first request for one of keys would wait for
// otherwise: it subscribes, connects to where the keys lie, and leaves the script
// there. It returns at once, and a Redis that is down is no error: all of this is
// done again when it is needed.
func (r *Redis) Prepare(keys []string) {
	if r.usable(r.life) != nil {
		return
	}
	r.background("prepare", func() {
		for _, key := range keys {
			if r.prepare(key) != nil {
				return // it is away, and would be for the next key
			}
		}
	})
}

// prepare takes both ways of Fill at once, as a crowd of callers does, so that
// each finds a connection.
func (r *Redis) prepare(key string) error {
	peeked := make(chan struct{})
	r.background("prepare", func() {
		defer close(peeked)
		_, _ = r.peek(r.life, key)
	})
	_, err := r.look(r.life, key)
	<-peeked
	return err
}

func assemble(cfg Config, client goredis.UniversalClient, health *health) *Redis {
	life, end := context.WithCancel(context.Background())
	r := &Redis{
		prefix:  cfg.Prefix,
		timeout: max(first(cfg.Options.ReadTimeout, defaultTimeout), first(cfg.Options.DialTimeout, defaultTimeout)),
		client:  client,
		clock:   cfg.Clock,
		log:     cfg.Log,
		health:  health,
		revoked: cfg.Revoked,
		local:   backend.NewStore(cfg.Clock),
		flights: backend.NewFlights(),
		wakes:   newWakes(),
		life:    life,
		end:     end,
	}
	r.peeker = r.peekPipelined
	if cfg.Options.Mode == ModeCluster {
		r.peeker = r.peekScripted
	}
	return r
}

// State reports how Redis is: whether it works, else why not, and for how long
// that has been so.
func (r *Redis) State() (ok bool, reason string, since time.Duration) { return r.health.state() }

func (r *Redis) valueKey(key string) string   { return r.prefix + "{" + key + "}" }
func (r *Redis) lockKey(key string) string    { return r.valueKey(key) + ":lock" }
func (r *Redis) backoffKey(key string) string { return r.valueKey(key) + ":backoff" }
func (r *Redis) pauseKey(key string) string   { return r.valueKey(key) + ":pause" }
func (r *Redis) revokedChannel() string       { return r.prefix + "revoked" }
func (r *Redis) filledChannel() string        { return r.prefix + "filled" }

// usable reports why a method must not go on, and starts listening for what
// other nodes revoke when the first one may.
func (r *Redis) usable(ctx context.Context) error {
	if r.flights.Closed() {
		return backend.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.listen.Do(r.startListening)
	return nil
}

// do runs one operation on key within its timeout, through breaker and health.
func (r *Redis) do(ctx context.Context, key string, op func(ctx context.Context) error) error {
	return r.health.try(key, func() error {
		bounded, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		err := op(bounded)
		if err != nil && ctx.Err() != nil {
			return context.Canceled // the caller's doing, not Redis's
		}
		if cluster, ok := r.client.(*goredis.ClusterClient); ok && err != nil {
			// The library asks a dead master for up to a minute before it looks
			// who has taken its slots. This starts a look, at most five a second.
			cluster.ReloadState(ctx)
		}
		return err
	})
}

// Get implements backend.Backend. Where Redis is away or has lost its data it
// answers from what this node has seen.
func (r *Redis) Get(ctx context.Context, key string) (backend.Entry, error) {
	if err := r.usable(ctx); err != nil {
		return backend.Entry{}, err
	}
	v, err := r.peek(ctx, key)
	switch {
	case ctx.Err() != nil:
		return backend.Entry{}, ctx.Err()
	case err == nil && v.live:
		return v.entry, nil
	}
	// Redis is away, or has lost what it had: what it deleted, it would name.
	if e, ok := r.local.Newer(key, v.seen); ok {
		e.From = backend.FromLocal
		return e, nil
	}
	if err != nil {
		return backend.Entry{}, fmt.Errorf("%w: %w", backend.ErrMiss, err)
	}
	return backend.Entry{}, backend.ErrMiss
}

// Exists implements backend.Backend.
func (r *Redis) Exists(ctx context.Context, key string) (bool, error) {
	_, err := r.Get(ctx, key)
	if errors.Is(err, backend.ErrMiss) {
		return false, nil
	}
	return err == nil, err
}

// setTries bounds how often Set starts again because another node stored a newer
// value between its look and its store.
const setTries = 3

// Set implements backend.Backend. With Redis away the value is kept here and
// offered later.
func (r *Redis) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := r.usable(ctx); err != nil {
		return err
	}
	if len(value) > backend.MaxValue || ttl <= 0 || ttl > backend.MaxTTL {
		return fmt.Errorf("set %d bytes for %v: a value has at most %d bytes and lives between 0 and %v", len(value), ttl, backend.MaxValue, backend.MaxTTL)
	}
	for range setTries {
		sent := r.clock.Now()
		v, err := r.look(ctx, key)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return r.local.Set(key, value, ttl)
		}
		gen := max(r.local.Highest(key), v.seen.Gen) + 1
		e := backend.Entry{Stamp: backend.Stamp{Gen: gen, ID: backend.NewID()}, Value: value, TTL: ttl - (r.clock.Now() - sent)}
		stored, err := r.save(ctx, key, "", e, v)
		if err != nil {
			return r.local.Set(key, value, ttl)
		}
		if stored {
			r.local.Merge(key, e)
			return nil
		}
	}
	return fmt.Errorf("set: another node was first %d times", setTries)
}

// Close implements backend.Backend.
func (r *Redis) Close(ctx context.Context) error {
	// Flights first: they give up their locks through the client.
	err := r.flights.Close(ctx)
	r.stop.Do(func() {
		// From here on nothing starts listening.
		r.listen.Do(func() {})
		r.end()
		err = errors.Join(err, r.client.Close())
	})
	done := make(chan struct{})
	go func() { defer close(done); r.wg.Wait() }()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("wait for redis to close: %w", ctx.Err()))
	}
}
