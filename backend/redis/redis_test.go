package redis_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/backendtest"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

func TestMain(m *testing.M) {
	redis.RedirectDriverLog(slog.New(slog.DiscardHandler))
	if status, isMember := memberMain(); isMember {
		os.Exit(status)
	}
	// Parallel tests wait for servers, they hardly compute.
	flag.Parse()
	_ = flag.Set("test.parallel", "8")
	// The library looks once a second whether a pool that could not dial has been
	// closed meanwhile.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// member returns a backend on a server, closed with the test.
func member(t testing.TB, cfg redis.Config) *redis.Redis {
	t.Helper()
	r, err := redis.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

func TestRedis_KeepsTheContract(t *testing.T) {
	s := redistest.Start(t)
	stores := 0
	backendtest.Run(t, backendtest.Harness{
		Shared: true,
		Fleet: func(t testing.TB, n int, _ func(int) backend.Resolver) []backend.Backend {
			stores++
			cfg := on(s)
			cfg.Options.URL, cfg.Prefix = redis.Secret("unix://"+s.Socket), fmt.Sprintf("suite%d:", stores)
			members := make([]backend.Backend, n)
			for i := range members {
				members[i] = member(t, cfg)
			}
			return members
		},
	})
}
