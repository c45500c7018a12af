package redis_test

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"orthanc-oauth/backend/redis/redistest"
)

// What a near-cache miss costs, beside a bare GET of the same value over the
// same kind of connection.
func BenchmarkGet(b *testing.B) {
	s := redistest.Start(b)
	m := member(b, on(s))
	if err := m.Set(b.Context(), key, make([]byte, 2<<10), life); err != nil {
		b.Fatal(err)
	}
	b.Run("backend", func(b *testing.B) {
		for b.Loop() {
			if _, err := m.Get(b.Context(), key); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bare", func(b *testing.B) {
		c := goredis.NewClient(&goredis.Options{Addr: s.Addr})
		b.Cleanup(func() { _ = c.Close() })
		for b.Loop() {
			if err := c.Get(b.Context(), valueKey()).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
