package node

import (
	"context"
	"fmt"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/internal/config"
	"orthanc-oauth/internal/proxy"
)

// redisStorage is the backend on Redis.
type redisStorage struct {
	redis *redis.Redis
	keys  []string // configured at the start
}

func (n *Node) newRedis() (*redisStorage, error) {
	conf := n.conf.Redis
	opts, err := redisOptions(conf)
	if err != nil {
		return nil, err
	}
	redis.RedirectDriverLog(n.log)
	r, err := redis.New(redis.Config{
		Options:    opts,
		Prefix:     conf.Prefix,
		Revoked:    func(key string, id backend.ID) { n.tokens.Revoked(key, id) },
		Clock:      n.clock,
		Log:        n.log,
		Registerer: n.registry,
	})
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return &redisStorage{redis: r}, nil
}

// redisOptions maps the configuration's Redis section. The password is asked for
// at every new connection, so a file or a variable may change under it.
func redisOptions(conf config.Redis) (redis.Options, error) {
	opts := redis.Options{
		Mode:             conf.Mode,
		Addrs:            conf.Addrs,
		DB:               conf.DB,
		Username:         conf.Username,
		SSL:              conf.TLS,
		CAFile:           conf.CAFile,
		CertFile:         conf.CertFile,
		KeyFile:          conf.KeyFile,
		ServerName:       conf.ServerName,
		MasterName:       conf.MasterName,
		SentinelUsername: conf.SentinelUsername,
		DialTimeout:      conf.DialTimeout,
		ReadTimeout:      conf.ReadTimeout,
	}
	if conf.SentinelPassword.IsSet() {
		password, err := conf.SentinelPassword.Load()
		if err != nil {
			return opts, err
		}
		opts.SentinelPassword = redis.Secret(password.Reveal())
	}
	if !conf.Password.IsSet() {
		return opts, nil
	}
	if _, err := conf.Password.Load(); err != nil {
		return opts, err // now, and not at the first connection
	}
	opts.Credentials = func(context.Context) (string, string, error) {
		password, err := conf.Password.Load()
		return conf.Username, password.Reveal(), err
	}
	return opts, nil
}

func (s *redisStorage) backend() backend.Backend { return s.redis }

// setKeys matters before the start only: a key that comes later finds the
// connections made.
func (s *redisStorage) setKeys(keys []string) { s.keys = keys }

func (s *redisStorage) start() error {
	s.redis.Prepare(s.keys)
	return nil
}

func (s *redisStorage) status() proxy.BackendStatus {
	ok, reason, since := s.redis.State()
	st := proxy.BackendStatus{Name: config.BackendRedis, State: "ok"}
	if !ok {
		st.State, st.Reason = reason, redis.Hint(reason)
		st.Since = time.Now().Add(-since).UTC().Format(time.RFC3339)
	}
	return st
}

func (s *redisStorage) close(ctx context.Context) error { return s.redis.Close(ctx) }
