package gossip_test

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"orthanc-oauth/cluster"
)

// meter is the machine's network, and counts what is sent.
type meter struct{ sent atomic.Int64 }

var _ cluster.Network = (*meter)(nil)

// Listen implements cluster.Network.
func (m *meter) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr.String())
	return meteredListener{l, m}, err
}

// ListenPacket implements cluster.Network.
func (m *meter) ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	var lc net.ListenConfig
	p, err := lc.ListenPacket(ctx, "udp", addr.String())
	return meteredPackets{p, m}, err
}

// Dial implements cluster.Network.
func (m *meter) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return meteredConn{c, m}, nil
}

// LookupNetIP implements cluster.Network.
func (m *meter) LookupNetIP(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// LocalAddrs implements cluster.Network.
func (m *meter) LocalAddrs() ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

type meteredListener struct {
	net.Listener
	m *meter
}

// Accept implements net.Listener.
func (l meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return meteredConn{c, l.m}, nil
}

type meteredConn struct {
	net.Conn
	m *meter
}

// Write implements net.Conn.
func (c meteredConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.m.sent.Add(int64(n))
	return n, err
}

type meteredPackets struct {
	net.PacketConn
	m *meter
}

// WriteTo implements net.PacketConn.
func (p meteredPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	n, err := p.PacketConn.WriteTo(b, to)
	p.m.sent.Add(int64(n))
	return n, err
}

// processor is the processor time that this process has used.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkQuiet is what a node of a fleet of fifty costs while nothing happens
// but that all have and use a token: bytes sent (without IP, TCP and UDP headers)
// and processor time, for half a minute, which is longer than any period of the
// protocol at this size.
func BenchmarkQuiet(b *testing.B) {
	const nodes, period = 50, 30 * time.Second
	m := new(meter)
	fleet := startFleet(b, nodes, 1, new(countingIdP), m)
	coldRound(b, fleet, "server-0", 1)
	time.Sleep(10 * time.Second) // what joining sets off is over
	for b.Loop() {
		sent, used := m.sent.Load(), processor(b)
		time.Sleep(period)
		b.ReportMetric(float64(m.sent.Load()-sent)/period.Seconds()/nodes, "bytes/s/node")
		b.ReportMetric(100*(processor(b)-used).Seconds()/period.Seconds()/nodes, "%cpu/node")
	}
}
