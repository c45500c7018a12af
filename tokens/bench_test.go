package tokens

import (
	"bytes"
	"context"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"orthanc-oauth/backend"
)

// benchWorld is newWorld for benchmarks.
func benchSource(b *testing.B) *Source {
	b.Helper()
	clock := backend.NewClock(nil)
	store := backend.NewMemory(clock)
	m, err := New(Config{Backend: store, Clock: clock})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = m.Close(context.Background())
		_ = store.Close(context.Background())
	})
	s, err := m.Set(SourceConfig{Name: "pacs", Credential: credentialOf("s"), Provider: fresh(time.Hour)})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Token(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s
}

// reuse is what a Go program has without this package: a held token behind a
// mutex.
func reuse() oauth2.TokenSource {
	return oauth2.ReuseTokenSource(&oauth2.Token{AccessToken: "tok", Expiry: time.Now().Add(time.Hour)}, nil)
}

// BenchmarkFresh compares a fresh token with oauth2.ReuseTokenSource, in one run:
//
//	go test -bench Fresh -cpu 2 ./tokens
func BenchmarkFresh(b *testing.B) {
	s, ts := benchSource(b), reuse()
	ctx := b.Context()
	b.Run("serial/Source", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Token(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("serial/ReuseTokenSource", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ts.Token(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel/Source", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Token(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("parallel/ReuseTokenSource", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := ts.Token(); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// BenchmarkUse adds what is counted for a request.
func BenchmarkUse(b *testing.B) {
	s := benchSource(b)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Use(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSeal is what one acquisition and one adoption cost.
func BenchmarkSeal(b *testing.B) {
	s, err := newSealer(credentialOf("s"))
	if err != nil {
		b.Fatal(err)
	}
	v := someValue
	v.token = string(bytes.Repeat([]byte("x"), 2048))
	someStamp := stampOf(s, v)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.open(backend.Entry{Stamp: someStamp, Value: s.seal(someStamp, v)}); err != nil {
			b.Fatal(err)
		}
	}
}
