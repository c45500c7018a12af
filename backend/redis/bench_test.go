package redis_test

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

// BenchmarkMiss compares a near-cache miss that Redis answers with a bare GET of
// the same value, at p50 within one run. Get and Fill are the two ways to it.
func BenchmarkMiss(b *testing.B) {
	a, port := redistest.NewAuthority(b), redistest.FreePort(b)
	s := redistest.Start(b, "tls-port "+port, "tls-cert-file "+a.Cert, "tls-key-file "+a.Key, "tls-ca-cert-file "+a.CA, "tls-auth-clients no")
	secure := net.JoinHostPort("127.0.0.1", port)
	overTLS := redis.Config{Prefix: prefix, Options: redis.Options{
		URL: redis.Secret("rediss://" + secure), CAFile: a.CA, ServerName: "redis.test",
	}}
	b.Run("tcp", func(b *testing.B) { compareMiss(b, on(s), &goredis.Options{Addr: s.Addr}) })
	b.Run("tls", func(b *testing.B) {
		compareMiss(b, overTLS, &goredis.Options{Addr: secure, TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	})
}

// compareMiss takes turns, so that whatever else the machine does meets all.
func compareMiss(b *testing.B, cfg redis.Config, bare *goredis.Options) {
	m := member(b, cfg)
	if err := m.Set(b.Context(), key, make([]byte, 2<<10), life); err != nil {
		b.Fatal(err)
	}
	c := goredis.NewClient(bare)
	defer func() { _ = c.Close() }()
	ways := []func() error{
		func() error { return c.Get(b.Context(), valueKey()).Err() },
		func() error { _, err := m.Get(b.Context(), key); return err },
		func() error { _, err := m.Fill(b.Context(), key, backend.Stamp{}, nil); return err },
	}
	took := make([][]time.Duration, len(ways))
	for b.Loop() {
		for i, way := range ways {
			began := time.Now()
			if err := way(); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	get := quantile(took[0], 0.5)
	b.ReportMetric(float64(get.Nanoseconds())/1000, "p50-us-bare-GET")
	b.ReportMetric(quantile(took[1], 0.5).Seconds()/get.Seconds(), "x-Get")
	b.ReportMetric(quantile(took[2], 0.5).Seconds()/get.Seconds(), "x-Fill")
}

func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[int(q*float64(len(all)-1))]
}

const (
	// idpLatency is that of the figure.
	idpLatency = 100 * time.Millisecond
	// allowed is what all callers of a cold fleet may take beyond it.
	allowed = 30 * time.Millisecond
)

// BenchmarkColdFleet asks ten processes, 200 callers each at once, for a key that
// nobody has, and reports how much longer than the provider's own latency the
// last caller waited. Each round also lets the same callers wait that long for a
// timer of their own process: what the machine takes without Redis and provider.
//
// In "started" every round has processes that have just started, in "up" they
// have served a crowd before, and only the key is cold.
func BenchmarkColdFleet(b *testing.B) {
	b.Run("started", func(b *testing.B) {
		c := newCold(b)
		for b.Loop() {
			asking, waiting := c.start(b), c.start(b)
			c.round(b, asking, waiting)
			c.end(asking, waiting)
		}
		c.report(b)
	})
	b.Run("up", func(b *testing.B) {
		c := newCold(b)
		fleet := c.start(b)
		const crowds = 10
		for range crowds {
			c.round(b, fleet, fleet)
		}
		*c = cold{server: c.server, idp: c.idp, rounds: c.rounds}
		for b.Loop() {
			c.round(b, fleet, fleet)
		}
		c.report(b)
	})
}

// cold is what BenchmarkColdFleet measures.
type cold struct {
	server      *redistest.Server
	idp         *httpProvider
	listening   int
	rounds      int
	over, floor []time.Duration
	cpu, idle   time.Duration // of all processes and rounds: asking, waiting
	faults      int64
}

func newCold(b *testing.B) *cold {
	return &cold{server: redistest.Start(b), idp: startProvider(b, idpLatency)}
}

// start starts ten processes that are prepared, as nodes are from their start on.
func (c *cold) start(b *testing.B) []*process {
	fleet := fleetOf(b, 10, c.server, c.idp)
	all(b, fleet, order{Key: key, Prepare: true})
	c.listening += len(fleet)
	eventually(b, func() error {
		n, err := strconv.Atoi(c.server.Do("PUBLISH", prefix+"filled", "anybody?"))
		return errors.Join(err, want(n >= c.listening, "not all listen"))
	})
	for _, p := range fleet {
		all(b, []*process{p}, order{Key: keyOf(0), Callers: 1}) // and have their connections
	}
	return fleet
}

func (c *cold) end(fleets ...[]*process) {
	for _, p := range slices.Concat(fleets...) {
		p.end()
		c.listening--
	}
}

func (c *cold) round(b *testing.B, asking, waiting []*process) {
	c.rounds++
	before := c.idp.calls.Load()
	r := all(b, asking, order{Key: keyOf(c.rounds), Callers: 200})
	if n := c.idp.calls.Load() - before; n != 1 || r.Failed != 0 {
		b.Fatalf("%d acquisitions, %d callers failed: %s", n, r.Failed, r.Error)
	}
	alone := all(b, waiting, order{Callers: 200, Wait: idpLatency})
	c.cpu, c.faults, c.idle = c.cpu+r.CPU, c.faults+r.Faults, c.idle+alone.CPU
	c.over = append(c.over, r.Slowest-idpLatency)
	c.floor = append(c.floor, alone.Slowest-idpLatency)
}

func (c *cold) report(b *testing.B) {
	within := 0
	for _, d := range c.over {
		if d <= allowed {
			within++
		}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(quantile(c.over, 0.5)), "p50-ms-over-idp")
	b.ReportMetric(ms(quantile(c.over, 0.9)), "p90-ms-over-idp")
	b.ReportMetric(ms(quantile(c.over, 1)), "worst-ms-over-idp")
	b.ReportMetric(ms(quantile(c.floor, 0.5)), "p50-ms-over-timer")
	per := 10 * float64(len(c.over))
	b.ReportMetric(ms(c.cpu)/per, "cpu-ms/process")
	b.ReportMetric(ms(c.idle)/per, "cpu-ms/process-timer")
	b.ReportMetric(float64(c.faults)/per, "faults/process")
	b.ReportMetric(100*float64(within)/float64(len(c.over)), "%-within-30-ms")
}

// BenchmarkTakeOver kills the holder of a lock while it acquires, and reports how
// long the callers of the next one wait.
func BenchmarkTakeOver(b *testing.B) {
	s, p := redistest.Start(b), startProvider(b, time.Minute)
	var took []time.Duration
	for b.Loop() {
		p.delay.Store(int64(time.Minute))
		fleet := fleetOf(b, 3, s, p)
		took = append(took, takeOver(b, s, p, fleet, keyOf(len(took))))
		for _, p := range fleet {
			p.end()
		}
	}
	b.ReportMetric(quantile(took, 0.5).Seconds(), "p50-s")
	b.ReportMetric(quantile(took, 1).Seconds(), "worst-s")
}
