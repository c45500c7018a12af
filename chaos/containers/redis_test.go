//go:build chaos

package containers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/internal/fleet"
)

// storeFault holds Redis for one fault at a time. The nodes count as parted from
// it until a primary answers again.
func (s *storm) storeFault(ctx context.Context, f func(primary *container) error) error {
	if !s.redis.TryLock() {
		return errBusy
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
	id, err := w.engine.container(ctx, "sentinel-1")
	if err != nil {
		return nil, err
	}
	out, err := w.engine.do(ctx, "exec", id, "redis-cli", "-p", "26379", "sentinel", "get-master-addr-by-name", "tokens")
	if err != nil {
		return nil, err
	}
	var primary *container
	for _, c := range w.redis {
		addr, _ := c.at()
		want := "slave"
		if name, _, _ := strings.Cut(out, "\n"); name == c.service || name == addr {
			primary, want = c, "master"
		}
		role, err := c.exec(ctx, "sh", "-c", "REDISCLI_AUTH=$(cat /run/oauth/redis.password) timeout 2 redis-cli role")
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(role, want) || want == "slave" && !strings.Contains(role, "connected") {
			return nil, fmt.Errorf("%s is no %s", c.service, want)
		}
	}
	if primary == nil {
		return nil, fmt.Errorf("the Sentinels name %q, which is nobody", out)
	}
	return primary, nil
}

func (s *storm) revive(ctx context.Context, c *container) error {
	return errors.Join(c.do(ctx, "start"), c.refresh(ctx), s.w.rules(ctx))
}

func (s *storm) killRedis(ctx context.Context, p plan) error {
	return s.storeFault(ctx, func(primary *container) error {
		if err := primary.do(ctx, "kill"); err != nil {
			return err
		}
		pause(ctx, p.duration)
		return s.revive(ctx, primary)
	})
}

func (s *storm) killAllRedis(ctx context.Context, p plan) error {
	return s.storeFault(ctx, func(*container) error {
		for _, c := range s.w.redis {
			if err := c.do(ctx, "kill"); err != nil {
				return err
			}
		}
		pause(ctx, p.duration)
		return errors.Join(s.revive(ctx, s.w.redis[0]), s.revive(ctx, s.w.redis[1]))
	})
}

func (s *storm) pauseRedis(ctx context.Context, p plan) error {
	return s.storeFault(ctx, func(primary *container) error {
		if err := primary.do(ctx, "pause"); err != nil {
			return err
		}
		pause(ctx, p.duration)
		return primary.do(ctx, "unpause")
	})
}

func (s *storm) failover(ctx context.Context, _ plan) error {
	return s.storeFault(ctx, func(before *container) error {
		id, err := s.w.engine.container(ctx, "sentinel-2")
		if err != nil {
			return err
		}
		// Refused while the last failover is not long past; asked once more then, and
		// never again after a yes, which would turn it back.
		err = fleet.Eventually(ctx, redisPatience, func(ctx context.Context) error {
			out, err := s.w.engine.do(ctx, "exec", id, "redis-cli", "-p", "26379", "sentinel", "failover", "tokens")
			if err == nil && out != "OK" {
				err = errors.New("the Sentinels say " + out)
			}
			return err
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
