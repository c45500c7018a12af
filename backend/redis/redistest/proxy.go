package redistest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a way to a server that a test can spoil: what a network does and
// signals to a process cannot. It is all that the tests would use of toxiproxy.
type Proxy struct {
	Addr string // host:port

	target   string
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	delay time.Duration
	mute  bool
	cut   bool
	conns map[net.Conn]bool
}

// StartProxy starts a proxy before a server at host:port. It ends with its test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, listener: l, conns: make(map[net.Conn]bool)}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Delay makes every answer late.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Swallow loses every answer while on, as a firewall that drops packets does:
// connections stay open.
func (p *Proxy) Swallow(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = on
}

// Cut breaks every connection, and every new one as soon as it is there.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.breakAll()
}

// Mend ends a Cut.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// Break breaks the connections that there are.
func (p *Proxy) Break() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breakAll()
}

func (p *Proxy) breakAll() {
	for c := range p.conns {
		_ = c.Close()
	}
}

// keep notes a connection, or closes it when there must be none.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.keep(c) {
			p.wg.Go(func() { p.relay(c) })
		}
	}
}

func (p *Proxy) relay(client net.Conn) {
	defer p.drop(client)
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.target)
	if err != nil || !p.keep(server) {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	p.answer(client, server)
	_ = client.Close()
	p.drop(server)
	up.Wait()
}

// answer hands on what the server says, as spoilt as it is to be.
func (p *Proxy) answer(client io.Writer, server io.Reader) {
	chunk := make([]byte, 64<<10)
	for {
		n, err := server.Read(chunk)
		if err != nil {
			return
		}
		p.mu.Lock()
		delay, mute := p.delay, p.mute
		p.mu.Unlock()
		if mute {
			continue
		}
		<-time.After(delay)
		if _, err := client.Write(chunk[:n]); err != nil {
			return
		}
	}
}
