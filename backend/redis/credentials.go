package redis

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9/auth"
)

// defaultCredentialsEvery is how often credentials are asked for again. What a
// cloud issues is renewed minutes before its end.
const defaultCredentialsEvery = 10 * time.Second

// Credentials names a user and a password as they are now. It is asked at every
// new connection and every Options.CredentialsEvery; where the answer has
// changed, the live connections authenticate again; behind Sentinels, where the
// library cannot, no connection lives longer than four minutes. So it suits
// passwords that live shortly and those that stand in a file.
type Credentials func(ctx context.Context) (username, password string, err error)

type login struct{ username, password string }

// A keeper keeps connections authenticated with what its source says now.
type keeper struct {
	source  Credentials
	timeout time.Duration // of asking it
	every   time.Duration

	mu     sync.Mutex
	logins map[auth.CredentialsListener]login // what each connection has been told
}

func newKeeper(o Options) *keeper {
	return &keeper{
		source:  o.Credentials,
		timeout: o.DialTimeout,
		every:   first(o.CredentialsEvery, defaultCredentialsEvery),
		logins:  make(map[auth.CredentialsListener]login),
	}
}

// ask asks the source, no longer than a connection may take.
func (k *keeper) ask(ctx context.Context) (login, error) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	username, password, err := k.source(ctx)
	return login{username, password}, err
}

// Subscribe implements auth.StreamingCredentialsProvider: the library calls it
// for every new connection.
func (k *keeper) Subscribe(listener auth.CredentialsListener) (auth.Credentials, auth.UnsubscribeFunc, error) {
	now, err := k.ask(context.Background()) // the library hands on no context
	if err != nil {
		return nil, nil, err
	}
	k.mu.Lock()
	k.logins[listener] = now
	k.mu.Unlock()
	leave := func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.logins, listener)
		return nil
	}
	return auth.NewBasicCredentials(now.username, now.password), leave, nil
}

// renew tells the connections that were told something else than what the
// source says now. A source that fails changes nothing: the connections are
// still authenticated.
func (k *keeper) renew(ctx context.Context) error {
	now, err := k.ask(ctx)
	if err != nil {
		return err
	}
	var outdated []auth.CredentialsListener
	k.mu.Lock()
	for listener, told := range k.logins {
		if told != now {
			k.logins[listener] = now
			outdated = append(outdated, listener)
		}
	}
	k.mu.Unlock()
	for _, listener := range outdated {
		listener.OnNext(auth.NewBasicCredentials(now.username, now.password))
	}
	return nil
}

// keepCredentials renews until the backend closes.
func (r *Redis) keepCredentials() {
	tick := time.NewTicker(r.keeper.every)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-r.life.Done():
			return
		case <-tick.C:
		}
		err := r.keeper.renew(r.life)
		if err != nil && !failing {
			r.log.Warn("redis credentials are not to be had, connections keep those they have", "error", err)
		}
		failing = err != nil
	}
}
