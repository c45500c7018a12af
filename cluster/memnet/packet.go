package memnet

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// packet is a datagram on its way.
type packet struct {
	data []byte
	from *net.UDPAddr
}

// packetConn is a packet socket: sends never block, what does not fit into the
// receiver's inbox is lost.
type packetConn struct {
	host   *Host
	port   uint16
	cond   *sync.Cond
	queue  []packet
	readBy time.Time
	closed bool
}

func newPacketConn(h *Host, port uint16) *packetConn {
	return &packetConn{host: h, port: port, cond: sync.NewCond(&h.net.mu)}
}

// ReadFrom implements net.PacketConn.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	for {
		if p.closed {
			return 0, nil, opError("read", "udp", p.at(), net.ErrClosed)
		}
		if len(p.queue) > 0 {
			next := p.queue[0]
			p.queue = p.queue[1:]
			return copy(b, next.data), next.from, nil
		}
		if expired(p.readBy) {
			return 0, nil, opError("read", "udp", p.at(), os.ErrDeadlineExceeded)
		}
		p.wait()
	}
}

func (p *packetConn) wait() {
	if !p.readBy.IsZero() {
		t := time.AfterFunc(time.Until(p.readBy), p.cond.Broadcast)
		defer t.Stop()
	}
	p.cond.Wait()
}

// WriteTo implements net.PacketConn.
func (p *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, opError("write", "udp", addr, syscall.EAFNOSUPPORT)
	}
	dst := to.AddrPort()
	n := p.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.closed {
		return 0, opError("write", "udp", addr, net.ErrClosed)
	}
	ip := dst.Addr().Unmap()
	l := n.links[pair{p.host.addr, ip}]
	if n.blocked(p.host.addr, ip) || n.lose(l) {
		return len(b), nil
	}
	pkt := packet{append([]byte(nil), b...), p.at()}
	if l.delay <= 0 {
		n.deliver(ip, dst.Port(), pkt)
		return len(b), nil
	}
	time.AfterFunc(l.delay, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.deliver(ip, dst.Port(), pkt)
	})
	return len(b), nil
}

func (n *Net) deliver(to netip.Addr, port uint16, pkt packet) {
	h := n.hosts[to]
	if h == nil || h.paused {
		return
	}
	if s := h.sockets[port]; s != nil && len(s.queue) < inbox {
		s.queue = append(s.queue, pkt)
		s.cond.Broadcast()
	}
}

// Close implements net.PacketConn.
func (p *packetConn) Close() error {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	p.close()
	return nil
}

func (p *packetConn) close() {
	p.closed = true
	if p.host.sockets[p.port] == p {
		delete(p.host.sockets, p.port)
	}
	p.cond.Broadcast()
}

// LocalAddr implements net.PacketConn.
func (p *packetConn) LocalAddr() net.Addr {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	return p.at()
}

func (p *packetConn) at() *net.UDPAddr {
	return &net.UDPAddr{IP: p.host.addr.AsSlice(), Port: int(p.port)}
}

// SetDeadline implements net.PacketConn; writes never wait.
func (p *packetConn) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// SetReadDeadline implements net.PacketConn.
func (p *packetConn) SetReadDeadline(t time.Time) error {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	p.readBy = t
	p.cond.Broadcast()
	return nil
}

// SetWriteDeadline implements net.PacketConn; writes never wait.
func (p *packetConn) SetWriteDeadline(time.Time) error { return nil }
