//go:build chaos

package containers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/storm"
	"orthanc-oauth/internal/fleet"
)

// storeFault holds Redis for one fault at a time. The nodes count as parted from
// it until a primary answers again.
func (s *breaker) storeFault(ctx context.Context, f func(primary *container) error) error {
	if !s.redis.TryLock() {
		return storm.ErrBusy
	}
	defer s.redis.Unlock()
	var primary *container
	err := fleet.Eventually(ctx, redisPatience, func(ctx context.Context) (err error) {
		primary, err = s.w.primary(ctx)
		return err
	})
	if err != nil {
		return err
	}
	s.w.time.Change(func(m *history.Moment) { m.Life[store] = 0 })
	if err := f(primary); err != nil {
		return err
	}
	err = fleet.Eventually(ctx, redisPatience, func(ctx context.Context) error {
		_, err := s.w.primary(ctx)
		return err
	})
	s.lives++
	s.w.time.Change(func(m *history.Moment) { m.Life[store] = 1 + s.lives })
	return err
}

// redisPatience is how long three Sentinels may take to agree on a primary: the
// failover itself, and its timeout if the first try came to nothing.
const redisPatience = 60 * time.Second

// primary returns the Redis that the Sentinels name, if it has that role and the
// other one follows it.
func (w *world) primary(ctx context.Context) (*container, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	sentinel := w.sentinel.sentinel()
	defer func() { _ = sentinel.Close() }()
	named, err := sentinel.GetMasterAddrByName(ctx, "tokens").Result()
	if err != nil || len(named) == 0 {
		return nil, fmt.Errorf("the Sentinels name %v: %w", named, err)
	}
	var primary *container
	for _, c := range w.redis {
		addr, _ := c.at()
		is := named[0] == c.service || named[0] == addr
		if err := w.plays(ctx, c, is); err != nil {
			return nil, err
		}
		if is {
			primary = c
		}
	}
	if primary == nil {
		return nil, fmt.Errorf("the Sentinels name %q, which is nobody", named[0])
	}
	return primary, nil
}

// plays returns an error unless a Redis is the primary, or a replica that has
// caught up.
func (w *world) plays(ctx context.Context, c *container, primary bool) error {
	role, err := w.tell(ctx, c, "role")
	if err != nil {
		return err
	}
	said, _ := role.([]any)
	if primary && len(said) > 0 && said[0] == "master" || !primary && len(said) > 3 && said[0] == "slave" && said[3] == "connected" {
		return nil
	}
	return fmt.Errorf("%s says of its role: %v", c.service, said)
}

// tell gives a Redis one command.
func (w *world) tell(ctx context.Context, c *container, args ...any) (any, error) {
	client := w.redisClient(c)
	defer func() { _ = client.Close() }()
	out, err := client.Do(ctx, args...).Result()
	if err != nil {
		err = fmt.Errorf("%s: %v: %w", c.service, args[0], err)
	}
	return out, err
}

func (w *world) redisClient(c *container) *goredis.Client {
	addr, _ := c.at()
	return goredis.NewClient(&goredis.Options{Addr: addr + ":6379", Password: w.secret("redis.password"), MaxRetries: -1})
}

// sentinel asks the container as a Sentinel.
func (c *container) sentinel() *goredis.SentinelClient {
	addr, _ := c.at()
	return goredis.NewSentinelClient(&goredis.Options{Addr: addr + ":26379", MaxRetries: -1})
}

func (s *breaker) revive(ctx context.Context, c *container) error {
	return errors.Join(c.do(ctx, "start"), c.refresh(ctx), s.w.links.Apply(ctx))
}

func (s *breaker) killRedis(ctx context.Context, p plan) error {
	return s.storeFault(ctx, func(primary *container) error {
		if err := primary.do(ctx, "kill"); err != nil {
			return err
		}
		storm.Pause(ctx, p.duration)
		return s.revive(ctx, primary)
	})
}

func (s *breaker) killAllRedis(ctx context.Context, p plan) error {
	return s.storeFault(ctx, func(*container) error {
		for _, c := range s.w.redis {
			if err := c.do(ctx, "kill"); err != nil {
				return err
			}
		}
		storm.Pause(ctx, p.duration)
		return errors.Join(s.revive(ctx, s.w.redis[0]), s.revive(ctx, s.w.redis[1]))
	})
}

func (s *breaker) pauseRedis(ctx context.Context, p plan) error {
	return s.storeFault(ctx, func(primary *container) error {
		if err := primary.do(ctx, "pause"); err != nil {
			return err
		}
		storm.Pause(ctx, p.duration)
		return primary.do(ctx, "unpause")
	})
}

func (s *breaker) failover(ctx context.Context, _ plan) error {
	return s.storeFault(ctx, func(before *container) error {
		// Refused while the last failover is not long past; asked once more then, and
		// never again after a yes, which would turn it back.
		err := fleet.Eventually(ctx, redisPatience, func(ctx context.Context) error {
			sentinel := s.w.sentinel.sentinel()
			defer func() { _ = sentinel.Close() }()
			return sentinel.Failover(ctx, "tokens").Err()
		})
		if err != nil {
			return err
		}
		return fleet.Eventually(ctx, redisPatience, func(ctx context.Context) error {
			now, err := s.w.primary(ctx)
			if err == nil && now == before {
				err = errors.New("the Sentinels have not changed the primary yet")
			}
			return err
		})
	})
}

// changed is a fault in which the primary is told something, and told otherwise
// at the end.
func (s *breaker) changed(ctx context.Context, p plan, begin, end func(primary *container) error) error {
	return s.storeFault(ctx, func(primary *container) error {
		if err := begin(primary); err != nil {
			return err
		}
		storm.Pause(ctx, p.duration)
		return end(primary)
	})
}

// tells returns what gives a Redis commands.
func (s *breaker) tells(ctx context.Context, commands ...[]any) func(c *container) error {
	return func(c *container) (err error) {
		for _, args := range commands {
			if err == nil {
				_, err = s.w.tell(ctx, c, args...)
			}
		}
		return err
	}
}

// settings returns a fault in which the primary has another setting.
func settings(name, bad, good string) func(s *breaker, ctx context.Context, p plan) error {
	return func(s *breaker, ctx context.Context, p plan) error {
		set := func(value string) func(c *container) error { return s.tells(ctx, []any{"config", "set", name, value}) }
		return s.changed(ctx, p, set(bad), set(good))
	}
}

// evict lets Redis drop all that it holds, for want of memory.
func (s *breaker) evict(ctx context.Context, p plan) error {
	config := func(name, value string) []any { return []any{"config", "set", name, value} }
	return s.changed(ctx, p, func(c *container) error {
		if err := s.tells(ctx, config("maxmemory-policy", "allkeys-random"), config("maxmemory", "1"))(c); err != nil {
			return err
		}
		return fleet.Eventually(ctx, redisPatience, func(ctx context.Context) error {
			left, err := s.w.tell(ctx, c, "dbsize")
			if err == nil && left != int64(0) {
				err = fmt.Errorf("%v keys are left", left)
			}
			return err
		})
	}, s.tells(ctx, config("maxmemory", "0"), config("maxmemory-policy", "noeviction")))
}

// shutOut lets Redis want a password that no node has, and ends the nodes'
// connections, which would live on. The Sentinels keep theirs.
func (s *breaker) shutOut(ctx context.Context, p plan) error {
	password := func(word string) []any { return []any{"acl", "setuser", "default", "resetpass", ">" + word} }
	return s.storeFault(ctx, func(primary *container) error {
		keeper := s.w.redisClient(primary)
		defer func() { _ = keeper.Close() }()
		conn := keeper.Conn() // it stays when the password changes
		defer func() { _ = conn.Close() }()
		if err := conn.Do(ctx, password(rand.Text())...).Err(); err != nil {
			return fmt.Errorf("change the password: %w", err)
		}
		err := s.hangUp(ctx, conn)
		storm.Pause(ctx, p.duration)
		return errors.Join(err, conn.Do(ctx, password(s.w.secret("redis.password"))...).Err())
	})
}

// hangUp ends the connections of all nodes.
func (s *breaker) hangUp(ctx context.Context, conn *goredis.Conn) error {
	list, err := conn.Do(ctx, "client", "list").Text()
	for _, addr := range regexp.MustCompile(` addr=(\S+)`).FindAllStringSubmatch(list, -1) {
		host, _, _ := strings.Cut(addr[1], ":")
		if err == nil && s.w.nodeAt(host, s.w.time.Now()) >= 0 {
			err = conn.Do(ctx, "client", "kill", "addr", addr[1]).Err()
			if goredis.HasErrorPrefix(err, "ERR No such client") {
				err = nil
			}
		}
	}
	if err != nil {
		return fmt.Errorf("end the nodes' connections: %w", err)
	}
	return nil
}

// deny takes from Redis's users what the nodes need.
func (s *breaker) deny(ctx context.Context, p plan) error {
	return s.changed(ctx, p,
		s.tells(ctx, []any{"acl", "setuser", "default", "-eval", "-evalsha", "-get", "-getrange", "-set"}),
		s.tells(ctx, []any{"acl", "setuser", "default", "+@all"}))
}

// swap shows the nodes another, empty database, and later the old one again.
func (s *breaker) swap(ctx context.Context, p plan) error {
	swap := s.tells(ctx, []any{"swapdb", "0", "1"})
	return s.changed(ctx, p, swap, func(c *container) error {
		if err := swap(c); err != nil {
			return err
		}
		_, err := s.w.tell(ctx, c, "flushdb")
		return err
	})
}
