//go:build chaos

package hostile

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// tap stands in front of a node's gossip port: what others send there passes
// through, and is written down.
type tap struct {
	to    string
	tcp   net.Listener
	udp   net.PacketConn
	wait  sync.WaitGroup
	close func()

	mu      sync.Mutex
	packets [][]byte
	streams []*record
}

// The most that is written down.
const (
	maxPackets = 2000
	maxStreams = 200
	maxStream  = 64 << 10
)

func newTap(t *testing.T, port, to int) *tap {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p := &tap{to: "127.0.0.1:" + strconv.Itoa(to)}
	addr := "127.0.0.1:" + strconv.Itoa(port)
	var err error
	p.tcp, err = new(net.ListenConfig).Listen(ctx, "tcp", addr)
	must(t, err)
	p.udp, err = new(net.ListenConfig).ListenPacket(ctx, "udp", addr)
	must(t, err)
	p.close = func() {
		cancel()
		_ = p.tcp.Close()
		_ = p.udp.Close()
		p.wait.Wait()
	}
	t.Cleanup(p.close)
	p.wait.Go(func() { p.accept(ctx) })
	p.wait.Go(func() { p.receive(ctx) })
	return p
}

func (p *tap) accept(ctx context.Context) {
	for {
		c, err := p.tcp.Accept()
		if err != nil {
			return // closed
		}
		p.wait.Go(func() { p.relay(ctx, c) })
	}
}

func (p *tap) relay(ctx context.Context, c net.Conn) {
	up, err := new(net.Dialer).DialContext(ctx, "tcp", p.to)
	if err != nil {
		_ = c.Close()
		return
	}
	done := context.AfterFunc(ctx, func() { _ = c.Close(); _ = up.Close() })
	defer done()
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(c, up); _ = c.Close() })
	heard := &record{mu: &p.mu}
	p.mu.Lock()
	if len(p.streams) < maxStreams {
		p.streams = append(p.streams, heard)
	}
	p.mu.Unlock()
	_, _ = io.Copy(up, io.TeeReader(c, heard))
	_ = up.Close()
	back.Wait()
}

// record keeps the beginning of a stream.
type record struct {
	mu    *sync.Mutex // the tap's
	bytes []byte
}

// Write implements io.Writer.
func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes = append(r.bytes, b[:min(len(b), maxStream-len(r.bytes))]...)
	return len(b), nil
}

func (p *tap) receive(ctx context.Context) {
	up, err := new(net.Dialer).DialContext(ctx, "udp", p.to)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, _, err := p.udp.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		_, _ = up.Write(buf[:n])
		p.mu.Lock()
		if len(p.packets) < maxPackets {
			p.packets = append(p.packets, append([]byte(nil), buf[:n]...))
		}
		p.mu.Unlock()
	}
}

// again sends everything that was written down to a node, from the stranger's
// address.
func (p *tap) again(ctx context.Context) (packets, streams int) {
	s := &stranger{to: p.to}
	recorded, opened := p.recorded()
	if c, err := s.dial(ctx, "udp"); err == nil {
		for _, b := range recorded {
			_, _ = c.Write(b)
			packets++
		}
		_ = c.Close()
	}
	for _, b := range opened {
		s.open(ctx, func(c net.Conn) {
			_, _ = c.Write(b)
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, _ = io.Copy(io.Discard, c)
			streams++
		})
	}
	return packets, streams
}

// recorded returns what has been written down so far.
func (p *tap) recorded() (packets, streams [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.streams {
		streams = append(streams, bytes.Clone(r.bytes))
	}
	return slices.Clone(p.packets), streams
}

func TestReplay_OfRecordedGossipHasNoAuthority(t *testing.T) {
	t.Parallel()
	var p *tap
	tg := newTarget(t, options{keys: 3, advertise: func(i, port int) int {
		if i != 0 {
			return port
		}
		p = newTap(t, port-15000, port) // below the ports that a fleet hands out
		return port - 15000
	}})
	tg.warm(t)
	// Recorded: acquisitions, digests and revocations, which are old by the time
	// they come again.
	for range 2 {
		for _, key := range tg.keys {
			_, err := tg.nodes[1].Do(t.Context(), http.MethodPost, "/dicomweb-oauth/servers/"+key+"/invalidate", "", nil)
			must(t, err)
		}
		rest(t.Context(), 2*time.Second)
	}
	tg.warm(t)
	pulls := func() float64 {
		n, err := metric(t.Context(), tg.nodes[0], "orthanc_oauth_gossip_peer_requests_total", `"peek"`)
		must(t, err)
		return n
	}
	count, before := tg.idp.Counts().Total, pulls()
	load := tg.send(t, tg.nodes...)
	packets, streams := 0, 0
	for range 3 {
		n, m := p.again(t.Context())
		packets, streams = packets+n, streams+m
		rest(t.Context(), time.Second)
	}
	sends := load.ended(t)
	asked := pulls() - before
	t.Logf("%d packets and %d streams sent again: %d gets, 0 failed; %d acquisitions caused, %.0f pulls", packets, streams, sends, tg.idp.Counts().Total-count, asked)
	if packets == 0 || streams == 0 {
		t.Error("nothing was recorded: the test shows nothing")
	}
	if n := tg.idp.Counts().Total; n != count {
		t.Errorf("%d acquisitions caused", n-count)
	}
	if asked > float64(len(tg.keys)*len(tg.nodes)) {
		t.Errorf("%.0f pulls caused, want at most one for each key and node", asked)
	}
	tg.together(t)
	tg.alive(t)
}
