package memnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Bounds of a host's queues, of the size Linux uses.
const (
	backlog = 128  // streams not yet accepted
	inbox   = 1024 // packets not yet read
)

// Host is one machine. Its methods are those a transport needs of a network
// (cluster.Network), and the faults of a machine.
type Host struct {
	net       *Net
	addr      netip.Addr
	paused    bool
	dead      bool // its own operations fail
	silent    bool // it does not even refuse
	listeners map[uint16]*listener
	sockets   map[uint16]*packetConn
	conns     map[*conn]struct{}
}

// Addr returns the host's address.
func (h *Host) Addr() netip.Addr {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.addr
}

// Move gives the host another address. Its sockets stay open; its streams are
// of the old address and stay silent.
func (h *Host) Move(ip string) {
	to := netip.MustParseAddr(ip)
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for c := range h.conns {
		c.abort(false)
	}
	clear(h.conns)
	delete(h.net.hosts, h.addr)
	h.addr = to
	h.net.hosts[to] = h
}

// LocalAddrs returns the host's address, as the addresses of its interfaces.
func (h *Host) LocalAddrs() ([]netip.Addr, error) { return []netip.Addr{h.Addr()}, nil }

// LookupNetIP resolves a name set by SetDNS, or an address.
func (h *Host) LookupNetIP(ctx context.Context, host string) ([]netip.Addr, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if addrs := h.net.names[host]; len(addrs) > 0 {
		return append([]netip.Addr(nil), addrs...), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Listen listens for streams on the port of addr, or on a free one if that is 0.
func (h *Host) Listen(_ context.Context, addr netip.AddrPort) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	port := addr.Port()
	if port == 0 {
		port = h.net.nextPort()
	}
	if h.dead || h.listeners[port] != nil {
		return nil, opError("listen", "tcp", h.at(port), syscall.EADDRINUSE)
	}
	l := &listener{host: h, addr: addr.Addr(), port: port, queue: make(chan *conn, backlog), done: make(chan struct{})}
	h.listeners[port] = l
	return l, nil
}

// ListenPacket opens a packet socket on the port of addr, or on a free one if
// that is 0.
func (h *Host) ListenPacket(_ context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	port := addr.Port()
	if port == 0 {
		port = h.net.nextPort()
	}
	if h.dead || h.sockets[port] != nil {
		return nil, opError("listen", "udp", h.at(port), syscall.EADDRINUSE)
	}
	p := newPacketConn(h, port)
	h.sockets[port] = p
	return p, nil
}

// Dial opens a stream. It waits for ctx while the other host cannot be reached,
// fails at once where nobody listens, and takes one round trip.
func (h *Host) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	remote := &net.TCPAddr{IP: addr.Addr().AsSlice(), Port: int(addr.Port())}
	if err := h.reach(ctx, addr.Addr()); err != nil {
		return nil, opError("dial", "tcp", remote, err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.dead {
		return nil, opError("dial", "tcp", remote, syscall.ENETDOWN)
	}
	peer := h.net.hosts[addr.Addr()]
	l := peer.listeners[addr.Port()]
	if l == nil {
		return nil, opError("dial", "tcp", remote, syscall.ECONNREFUSED)
	}
	ours, theirs := newStream(h, peer, h.net.nextPort(), addr.Port())
	select {
	case l.queue <- theirs:
		return ours, nil
	default:
		ours.abort(true)
		delete(h.conns, ours)
		delete(peer.conns, theirs)
		return nil, opError("dial", "tcp", remote, syscall.ECONNREFUSED)
	}
}

// reach waits one round trip, or for as long as a direction is cut. Like TCP it
// tries again after one second, so healing is noticed late.
func (h *Host) reach(ctx context.Context, to netip.Addr) error {
	for {
		h.net.mu.Lock()
		there, back := h.net.links[pair{h.addr, to}], h.net.links[pair{to, h.addr}]
		peer := h.net.hosts[to]
		lost := peer == nil || peer.silent || h.net.blocked(h.addr, to) || h.net.blocked(to, h.addr) ||
			h.net.lose(there) || h.net.lose(back)
		h.net.mu.Unlock()
		wait := there.delay + back.delay
		if lost {
			wait = time.Second
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		if !lost {
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Pause stops everything to and from the host, like SIGSTOP seen from outside:
// streams stay open and their bytes wait, packets are lost. The host's own
// goroutines run on.
func (h *Host) Pause() { h.setPaused(true) }

// Resume undoes Pause.
func (h *Host) Resume() { h.setPaused(false) }

func (h *Host) setPaused(v bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.paused = v
	h.net.wakeAll()
}

// Crash is kill -9 with the power: the host answers nothing any more, not even
// with a refusal, its streams stay silent, and its own operations fail. Reset
// peers' streams with Kill instead.
func (h *Host) Crash() { h.stop(false) }

// Kill is kill -9 of the only process: its streams are reset, its ports refuse.
// What is left of the process in this test fails in all it tries.
func (h *Host) Kill() { h.stop(true) }

func (h *Host) stop(reset bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.dead, h.silent = true, !reset
	for _, l := range h.listeners {
		l.close()
	}
	for _, p := range h.sockets {
		p.close()
	}
	for c := range h.conns {
		c.abort(reset)
	}
	clear(h.conns)
}

func (h *Host) at(port uint16) *net.TCPAddr {
	return &net.TCPAddr{IP: h.addr.AsSlice(), Port: int(port)}
}

func opError(op, network string, addr net.Addr, err error) error {
	if sys, ok := err.(syscall.Errno); ok { //nolint:errorlint // made here, never wrapped
		err = fmt.Errorf("memnet: %w", sys)
	}
	return &net.OpError{Op: op, Net: network, Addr: addr, Err: err}
}
