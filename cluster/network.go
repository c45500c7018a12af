package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// Network is what a Cluster needs of the machine's network. Tests give one in
// memory (package memnet); nil in Config means the real one.
type Network interface {
	// Listen listens for streams.
	Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
	// ListenPacket opens a packet socket.
	ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error)
	// Dial opens a stream.
	Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// LookupNetIP resolves a host name.
	LookupNetIP(ctx context.Context, host string) ([]netip.Addr, error)
	// LocalAddrs returns the addresses of the machine's interfaces.
	LocalAddrs() ([]netip.Addr, error)
}

// machine is the real network.
type machine struct{}

// packetBuffer is how much the kernel is asked to queue for us: what 1,000
// packets of a burst take while the process is descheduled.
const packetBuffer = 2 << 20

func (machine) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr.String())
}

func (machine) ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	var lc net.ListenConfig
	p, err := lc.ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		return nil, err
	}
	if u, ok := p.(*net.UDPConn); ok {
		_ = u.SetReadBuffer(packetBuffer) // the kernel may allow less, which only loses more of a burst
	}
	return p, nil
}

func (machine) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr.String())
}

func (machine) LookupNetIP(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func (machine) LocalAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("interface addresses: %w", err)
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs, nil
}

// addrPort returns the address of a stream's or packet's end, without the
// IPv4-in-IPv6 form that dual-stack sockets report.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
