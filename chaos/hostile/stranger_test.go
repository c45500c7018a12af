//go:build chaos

package hostile

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"orthanc-oauth/internal/fleet"
)

// The bounds of row 55.
const (
	maxGrowth = 64 // MiB
	maxCold   = 50 * time.Millisecond
)

// attackTime is how long each attack lasts.
const attackTime = 5 * time.Second

// stranger attacks one port from an address that no node has.
type stranger struct {
	to   string
	junk []byte
}

const strangersAddress = "127.0.0.9"

func (s *stranger) dial(ctx context.Context, network string) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(strangersAddress)}}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(strangersAddress)}
	}
	return d.DialContext(ctx, network, s.to)
}

// attack is one way to be a nuisance. It does at most count things, and returns
// how many it did until ctx ended.
type attack struct {
	name    string
	count   int
	workers int
	once    func(s *stranger, ctx context.Context)
}

var attacks = []attack{
	{"none", 0, 0, nil},
	{"60 x 20 MiB frames, no key", 60, 60, (*stranger).frame},
	{"2,000 idle connections", 2000, 2000, (*stranger).idle},
	{"5,000 short garbage connections", 5000, 16, (*stranger).garbage},
	{"slowloris, 2,000 connections", 2000, 400, (*stranger).drip},
	{"UDP garbage, 100,000 packets", 2000, 2, (*stranger).packets},
}

// run does the attack with its workers and returns how much of it was done.
func (a attack) run(ctx context.Context, s *stranger) (done int) {
	work := make(chan struct{}, a.count)
	for range a.count {
		work <- struct{}{}
	}
	close(work)
	var all sync.WaitGroup
	var mu sync.Mutex
	for range a.workers {
		all.Go(func() {
			for range work {
				if ctx.Err() != nil {
					return
				}
				a.once(s, ctx)
				mu.Lock()
				done++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	<-ctx.Done() // what is measured meanwhile goes on as long for a quick attack
	return done
}

// open calls f with a connection that ends with ctx.
func (s *stranger) open(ctx context.Context, f func(c net.Conn)) {
	c, err := s.dial(ctx, "tcp")
	if err != nil {
		return // refused or evicted, as it should be
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer func() { _ = c.Close() }()
	f(c)
}

// frame says that 20 MiB follow, as memberlist's plain protocol would, and sends
// them.
func (s *stranger) frame(ctx context.Context) {
	s.open(ctx, func(c net.Conn) {
		_, _ = c.Write([]byte{10, 0x01, 0x40, 0x00, 0x00}) // an encrypted message of 20 MiB
		for range 20 {
			if _, err := c.Write(s.junk); err != nil {
				return
			}
		}
	})
}

// idle holds a connection until the other side or the attack ends it.
func (s *stranger) idle(ctx context.Context) {
	s.open(ctx, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

func (s *stranger) garbage(ctx context.Context) {
	s.open(ctx, func(c net.Conn) {
		_, _ = c.Write(s.junk[:512])
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c)
	})
}

// drip sends a TLS handshake one byte at a time.
func (s *stranger) drip(ctx context.Context) {
	s.open(ctx, func(c net.Conn) {
		for _, b := range append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, s.junk[:200]...) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			rest(ctx, 100*time.Millisecond)
		}
	})
}

// packets sends fifty of many sizes.
func (s *stranger) packets(ctx context.Context) {
	c, err := s.dial(ctx, "udp")
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	for i := range 50 {
		_, _ = c.Write(s.junk[:1+i*29])
	}
}

// result is what an attack cost.
type result struct {
	attack    string
	done      int
	rest, top float64 // MiB of the attacked node
	cold      []time.Duration
	warm      []time.Duration // of gets that need no other node, between them: how busy the machine is
	failed    []error
}

func TestStranger_CostsLittleMemoryAndDelaysNobody(t *testing.T) {
	tg := newTarget(t, options{keys: 24})
	tg.warm(t)
	attacked, asker := tg.nodes[0], tg.nodes[2]
	s := &stranger{to: "127.0.0.1:" + strconv.Itoa(tg.port[0]), junk: make([]byte, 1<<20)}
	rand.Read(s.junk)
	load := tg.send(t, tg.nodes[1], tg.nodes[2])
	var results []result
	for _, a := range attacks {
		results = append(results, tg.measure(t, a, s, attacked, asker))
	}
	sends := load.ended(t)
	silent := 0.0
	for _, n := range tg.nodes {
		lost, err := metric(t.Context(), n, "orthanc_oauth_gossip_peer_requests_total", `"silent"`)
		must(t, err)
		silent += lost
	}
	show(t, results)
	t.Logf("%d requests on established connections, 0 failed; %.0f requests between peers went unanswered", sends, silent)
	if silent > 0 {
		t.Errorf("%.0f requests between peers went unanswered", silent)
	}
	tg.together(t)
}

// measure attacks one node while another makes cold gets for keys that it does
// not lead itself.
func (tg *target) measure(t *testing.T, a attack, s *stranger, attacked, asker *fleet.Sidecar) result {
	t.Helper()
	before, err := memoryOf(attacked)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), attackTime)
	defer cancel()
	r := result{attack: a.name, rest: before.now, top: before.now}
	var attacking sync.WaitGroup
	if a.workers > 0 {
		attacking.Go(func() { r.done = a.run(ctx, s) })
	}
	keys := tg.notLedBy(t, asker)
	for _, key := range keys {
		// Spread over the attack. Each key has its turn once in each attack: a node
		// asks the provider for one key no more than once in 5 s.
		rest(ctx, attackTime/time.Duration(len(keys)+5))
		r.get(ctx, asker, key)
		if m, err := memoryOf(attacked); err == nil {
			r.top = max(r.top, m.now)
		}
	}
	attacking.Wait()
	return r
}

// get has a node revoke its token of a key and get another from the key's leader,
// who looks at the other nodes and goes to the provider: more than a cold get.
func (r *result) get(ctx context.Context, asker *fleet.Sidecar, key string) {
	began := time.Now()
	_, err := asker.Do(ctx, http.MethodPost, "/dicomweb-oauth/servers/"+key+"/invalidate", "", nil)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.failed = append(r.failed, err)
	default:
		r.cold = append(r.cold, time.Since(began))
	}
	began = time.Now()
	if get(ctx, asker, loadKey) == nil {
		r.warm = append(r.warm, time.Since(began))
	}
}

// busier is how much later than a warm get a cold one may come where the machine
// is so busy that even warm ones, which no attack can reach, come late: it passes
// through the scheduler a few times more.
const busier = 4

// show prints the table and asserts the bounds.
func show(t *testing.T, results []result) {
	t.Helper()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { _, _ = io.WriteString(w, strings.Join(cells, "\t")+"\n") }
	row("attack", "done", "RSS at rest", "peak", "cold gets", "p50", "p99", "failed", "warm p99")
	for _, r := range results {
		p99 := percentile(r.cold, 99)
		row(r.attack, strconv.Itoa(r.done), mib(r.rest), mib(r.top), strconv.Itoa(len(r.cold)),
			percentile(r.cold, 50).Round(100*time.Microsecond).String(), p99.Round(100*time.Microsecond).String(), strconv.Itoa(len(r.failed)),
			percentile(r.warm, 99).Round(100*time.Microsecond).String())
		if r.top-r.rest > maxGrowth {
			t.Errorf("%s: memory grew by %.0f MiB", r.attack, r.top-r.rest)
		}
		if len(r.cold) == 0 || len(r.failed) > 0 || p99 > max(maxCold, busier*percentile(r.warm, 99)) {
			t.Errorf("%s: %d cold gets, %d failed, p99 %v: %v", r.attack, len(r.cold), len(r.failed), p99, errors.Join(r.failed...))
		}
	}
	_ = w.Flush() // to memory
	t.Log("\n" + text.String())
}

func mib(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) + " MiB" }
