package cluster

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// The first test of all: memberlist never heals a partition by itself.
func TestCluster_HalvesSplitForMinutesAreOneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(5)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(5, nodes...) })
		for range 2 {
			l.net.Partition(ips(0, 2), ips(2, 5))
			within(t, time.Minute, func() error { return see(2, nodes[:2]...) })
			within(t, time.Minute, func() error { return see(3, nodes[2:]...) })
			time.Sleep(2 * time.Minute)
			l.net.Heal(ips(0, 2), ips(2, 5))
			within(t, 30*time.Second, func() error { return see(5, nodes...) })
		}
	})
}

func TestDo_EveryMemberAnswersEveryOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(3)
		defer l.end()
		within(t, 5*time.Second, func() error { return see(3, nodes...) })
		for _, from := range nodes {
			<-from.Joined()
			for _, to := range nodes {
				if from == to {
					continue
				}
				if err := ask(t.Context(), from, to, "hello"); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestHandler_PanicIsAnErrorOfOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(2, func(c *Config) {
			c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/x" {
					panic("a bug")
				}
				panic(http.ErrAbortHandler)
			})
		})
		defer l.end()
		within(t, 5*time.Second, func() error { return see(2, nodes...) })
		status := func(path string) (int, error) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := nodes[0].Do(req, nodes[1].Self())
			if err != nil {
				return 0, err
			}
			return resp.StatusCode, resp.Body.Close()
		}
		if code, err := status("/x"); code != http.StatusInternalServerError || err != nil {
			t.Errorf("a panic: %d, %v", code, err)
		}
		if code, err := status("/abort"); err == nil {
			t.Errorf("an answer broken off: %d", code)
		}
		if err := nodes[0].Ping(t.Context(), nodes[1].Self()); err != nil {
			t.Error(err)
		}
	})
}

func TestDo_BodiesAreBoundedBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		nodes := l.fleet(2, func(c *Config) {
			c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					w.WriteHeader(http.StatusRequestEntityTooLarge)
					return
				}
				_, _ = w.Write(make([]byte, MaxBody+1))
			})
		})
		defer l.end()
		within(t, 5*time.Second, func() error { return see(2, nodes...) })
		send := func(n int) (status int, got int64, _ error) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/x", bytes.NewReader(make([]byte, n)))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := nodes[0].Do(req, nodes[1].Self())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			got, err = io.Copy(io.Discard, resp.Body)
			return resp.StatusCode, got, err
		}
		if code, _, _ := send(MaxBody + 1); code != http.StatusRequestEntityTooLarge {
			t.Errorf("a body too long: %d", code)
		}
		if code, n, err := send(MaxBody); code != http.StatusOK || !errors.Is(err, errBody) || n > MaxBody {
			t.Errorf("an answer too long: %d, %d bytes, %v", code, n, err)
		}
	})
}
