package redis_test

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

// missLimit is how much more than a bare GET of the same value a near-cache miss
// may cost that Redis answers, at p50. The race detector slows our own code
// more than the system calls that a GET consists of.
func missLimit() float64 {
	if raceEnabled {
		return 3
	}
	return 1.5
}

func TestMiss_CostsHardlyMoreThanAGet(t *testing.T) {
	a := redistest.NewAuthority(t)
	port := redistest.FreePort(t)
	s := redistest.Start(t, "tls-port "+port, "tls-cert-file "+a.Cert, "tls-key-file "+a.Key, "tls-ca-cert-file "+a.CA, "tls-auth-clients no")
	secure := net.JoinHostPort("127.0.0.1", port)
	overTLS := redis.Config{Prefix: prefix, Options: redis.Options{
		URL: redis.Secret("rediss://" + secure), CAFile: a.CA, ServerName: "redis.test",
	}}
	t.Run("tcp", func(t *testing.T) { compareMiss(t, on(s), &goredis.Options{Addr: s.Addr}) })
	t.Run("tls", func(t *testing.T) {
		compareMiss(t, overTLS, &goredis.Options{Addr: secure, TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	})
}

// compareMiss takes turns, so that whatever else the machine does meets both.
func compareMiss(t *testing.T, cfg redis.Config, bare *goredis.Options) {
	m := member(t, cfg)
	if err := m.Set(t.Context(), key, make([]byte, 2<<10), life); err != nil {
		t.Fatal(err)
	}
	c := goredis.NewClient(bare)
	defer func() { _ = c.Close() }()
	ways := []func() error{
		func() error { return c.Get(t.Context(), valueKey()).Err() },
		func() error { _, err := m.Get(t.Context(), key); return err },
		func() error { _, err := m.Fill(t.Context(), key, backend.Stamp{}, nil); return err },
	}
	took := make([][]time.Duration, len(ways))
	for range 1500 {
		for i, way := range ways {
			began := time.Now()
			if err := way(); err != nil {
				t.Fatal(err)
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	p50 := make([]float64, len(ways))
	for i := range took {
		slices.Sort(took[i])
		p50[i] = took[i][len(took[i])/2].Seconds()
	}
	t.Logf("p50: GET %.1f us; Get %.2f x, Fill %.2f x", p50[0]*1e6, p50[1]/p50[0], p50[2]/p50[0])
	if limit := missLimit(); max(p50[1], p50[2]) > limit*p50[0] {
		t.Errorf("more than %.1f x", limit)
	}
}
