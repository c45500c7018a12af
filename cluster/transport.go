package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is the one port: sealed packets and, behind one TLS listener,
// memberlist's streams and the peers' requests. It implements
// memberlist.NodeAwareTransport.
type transport struct {
	network Network
	self    func() Member // this instance
	allowed []netip.Prefix
	log     *slog.Logger
	quiet   *throttle
	metrics *metrics

	sec       atomic.Pointer[security]
	stream    net.Listener
	packet    net.PacketConn
	strangers strangers
	gossips   holders // memberlist's streams, and
	requests  holders // the peers' requests, so that neither starves the other

	packetCh  chan *memberlist.Packet
	streamCh  chan net.Conn
	requestCh chan net.Conn

	ctx  context.Context // ends at Shutdown
	stop context.CancelFunc
	wg   sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// packetQueue is how many packets wait between the socket and memberlist; more
// wait in the kernel, and what it drops is gossip that comes again.
const packetQueue = 256

// bind opens both sockets on one port number. With port 0 the kernel picks one
// for TCP, which another process may have for UDP, so it is tried a few times.
func (t *transport) bind(addr netip.AddrPort) error {
	tries := 1
	if addr.Port() == 0 {
		tries = 10
	}
	var err error
	for range tries {
		if err = t.bindOnce(addr); err == nil {
			return nil
		}
	}
	return fmt.Errorf("bind %s: %w", addr, err)
}

func (t *transport) bindOnce(addr netip.AddrPort) error {
	stream, err := t.network.Listen(t.ctx, addr)
	if err != nil {
		return err
	}
	packet, err := t.network.ListenPacket(t.ctx, netip.AddrPortFrom(addr.Addr(), addrPort(stream.Addr()).Port()))
	if err != nil {
		return errors.Join(err, stream.Close())
	}
	t.stream, t.packet = stream, packet
	return nil
}

// port returns the port number of both sockets.
func (t *transport) port() uint16 { return addrPort(t.stream.Addr()).Port() }

// run starts serving both sockets.
func (t *transport) run() {
	t.goes("accept", t.accept)
	t.goes("packets", t.receive)
}

// goes runs f on a goroutine that Shutdown waits for. A panic in it must not
// take the host process down.
func (t *transport) goes(name string, f func()) {
	t.wg.Go(func() {
		defer recovered(t.log, name)
		f()
	})
}

// accept is the loop of the listener.
func (t *transport) accept() {
	for {
		c, err := t.stream.Accept()
		if err == nil {
			t.welcome(c)
			continue
		}
		if t.ctx.Err() != nil {
			return
		}
		// Out of descriptors, or a connection that died in the queue: spinning
		// would make the first worse.
		if pause(t.ctx, 50*time.Millisecond) != nil {
			return
		}
	}
}

// welcome books a connection among the strangers and lets it shake hands.
func (t *transport) welcome(c net.Conn) {
	from := addrPort(c.RemoteAddr()).Addr()
	if !t.allows(from) {
		_ = c.Close()
		t.refuseAddr(from)
		return
	}
	w := &wire{Conn: c, from: from, epoch: t.sec.Load().epoch, onDone: t.strangers.release}
	if old := t.strangers.admit(w); old != nil {
		_ = old.Conn.Close()
	}
	t.goes("handshake", func() { t.authenticate(w) })
}

// allows reports whether AllowedCIDRs let an address in; nil lets all in.
func (t *transport) allows(addr netip.Addr) bool {
	return t.allowed == nil || slices.ContainsFunc(t.allowed, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (t *transport) refuseAddr(from netip.Addr) {
	t.metrics.refuse(sideServer, refusedAddress)
	t.quiet.warn("address", "connection from an address that is not allowed", "address", from, "setting", "AllowedCIDRs")
}

// authenticate shakes hands and hands the connection to whom it is for.
func (t *transport) authenticate(w *wire) {
	sec := t.sec.Load()
	c := tls.Server(w, serverTLS(t.sec.Load))
	if err := handshake(t.ctx, c); err != nil {
		t.refused(sideServer, w.from.String(), err, w.evicted.Load())
		return
	}
	t.strangers.release(w)
	books, to, limit := &t.requests, t.requestCh, maxHeld
	if c.ConnectionState().NegotiatedProtocol == alpnGossip {
		books, to = &t.gossips, t.streamCh
	}
	if !sec.derived {
		limit = maxHeldPKI
	}
	// Nothing else reads w.onDone yet: the handshake is over and nobody has c.
	w.once, w.onDone = sync.Once{}, books.release
	if !books.admit(w, sec.holder(c), limit) {
		t.metrics.refuse(sideServer, refusedLimit)
		_ = w.Conn.Close()
		return
	}
	if to == t.streamCh {
		t.handOver(t.inbound(c), to)
		return
	}
	t.handOver(c, to)
}

// handOver gives a connection to its reader, or closes it if nobody takes it.
func (t *transport) handOver(c net.Conn, to chan net.Conn) {
	if c == nil {
		return
	}
	patience := time.NewTimer(handshakeTimeout)
	defer patience.Stop()
	select {
	case to <- c:
	case <-t.ctx.Done():
		_ = c.Close()
	case <-patience.C:
		_ = c.Close()
	}
}

// inbound reads a memberlist stream's preface and vets what follows. It returns
// nil for a stream of our own: every node of a shared peer list dials itself.
func (t *transport) inbound(c *tls.Conn) net.Conn {
	id := make([]byte, idSize)
	_ = c.SetDeadline(time.Now().Add(handshakeTimeout))
	if _, err := io.ReadFull(c, id); err != nil || string(id) == t.self().ID || !validID(string(id)) {
		_ = c.NetConn().Close()
		return nil
	}
	_ = c.SetDeadline(time.Time{})
	return &vetConn{Conn: c, refused: t.refusedStream}
}

func (t *transport) refusedStream(err error) {
	t.metrics.refuse(sideStream, refusedProtocol)
	t.quiet.warn("stream", "implausible membership message", "err", err)
}

// refused counts a connection that came to nothing, and says once in a while
// that somebody has another key.
func (t *transport) refused(side, addr string, err error, evicted bool) {
	if t.ctx.Err() != nil {
		return
	}
	reason := refusal(err)
	if evicted {
		reason = refusedLimit
	}
	t.metrics.refuse(side, reason)
	if reason == refusedKey {
		t.quiet.warn("key "+side, "peer has another secret key or cluster name", "address", addr, "err", err)
	}
}

// receive is the loop of the packet socket.
func (t *transport) receive() {
	buf, scratch := make([]byte, 64<<10), make([]byte, 0, 64<<10)
	for {
		n, from, err := t.packet.ReadFrom(buf)
		now := time.Now()
		if t.ctx.Err() != nil {
			return
		}
		if err != nil {
			if pause(t.ctx, 10*time.Millisecond) != nil {
				return
			}
			continue
		}
		if p := t.unseal(scratch, buf[:n], from); p != nil {
			select {
			case t.packetCh <- &memberlist.Packet{Buf: p, From: from, Timestamp: now}:
			case <-t.ctx.Done():
				return
			}
		}
	}
}

// unseal opens and vets a packet and returns its content in a slice of its own,
// or counts it and returns nil: a flood must cost neither memory nor log.
func (t *transport) unseal(scratch, sealed []byte, from net.Addr) []byte {
	if addr := addrPort(from).Addr(); !t.allows(addr) {
		t.metrics.drop(dropAddress)
		t.quiet.warn("address", "packet from an address that is not allowed", "address", addr, "setting", "AllowedCIDRs")
		return nil
	}
	plain, err := t.sec.Load().openPacket(scratch, sealed)
	if err != nil {
		t.metrics.drop(dropSeal)
		return nil
	}
	if err := vetPacket(plain); err != nil {
		t.metrics.drop(dropMessage)
		return nil
	}
	return slices.Clone(plain)
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	addr := t.self().Addr
	return addr.Addr().AsSlice(), int(addr.Port()), nil
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport. memberlist takes a
// node for unreachable only at a bare *net.OpError of exactly this kind; at any
// other error it never suspects the node.
func (t *transport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	now := time.Now()
	// Parsed, never resolved: the address is bytes of a peer's.
	addr, err := netip.ParseAddrPort(to.Addr)
	if err == nil && !t.allows(addr.Addr().Unmap()) {
		err = errors.New("address not in AllowedCIDRs")
	}
	if err == nil {
		_, err = t.packet.WriteTo(t.sec.Load().sealPacket(b), net.UDPAddrFromAddrPort(addr))
	}
	if err != nil {
		return now, &net.OpError{Op: "write", Net: "udp", Err: err}
	}
	return now, nil
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streamCh }

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport. The name, where
// memberlist knows it, must be that of the instance that answers.
func (t *transport) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(to.Addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	ctx, cancel := context.WithTimeout(t.ctx, min(timeout, dialTimeout))
	defer cancel()
	c, err := t.dial(ctx, addr, alpnGossip, to.Name)
	if err != nil {
		return nil, err
	}
	_ = c.SetWriteDeadline(time.Now().Add(handshakeTimeout))
	if _, err := io.WriteString(c, t.self().ID); err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = c.SetWriteDeadline(time.Time{})
	// memberlist waits for an answer up to its own timeout, Shutdown or not.
	forget := context.AfterFunc(t.ctx, func() { _ = c.NetConn().Close() })
	return &vetConn{Conn: &asked{c, t, forget}, dialled: true, refused: t.refusedStream}, nil
}

// dial opens a stream of one protocol to an address, and shakes hands.
func (t *transport) dial(ctx context.Context, addr netip.AddrPort, protocol, want string) (*tls.Conn, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if !t.allows(addr.Addr()) {
		return nil, fmt.Errorf("dial %s: address not in AllowedCIDRs", addr)
	}
	raw, err := t.network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	sec := t.sec.Load()
	c := tls.Client(raw, clientTLS(sec, protocol))
	err = handshake(ctx, c)
	if err == nil {
		if err = sec.expect(c.ConnectionState().PeerCertificates[0], want, t.self().ID); err != nil {
			_ = raw.Close()
		}
	}
	if err != nil {
		if !errors.Is(err, errSelf) {
			t.refused(sideClient, addr.String(), err, false)
		}
		return nil, err
	}
	return c, nil
}

// asked counts the refusals that a TLS 1.3 client learns of only when it reads.
type asked struct {
	*tls.Conn
	t      *transport
	forget func() bool
}

// Close implements net.Conn.
func (a *asked) Close() error {
	a.forget()
	return a.Conn.Close()
}

// Read implements net.Conn.
func (a *asked) Read(b []byte) (int, error) {
	n, err := a.Conn.Read(b)
	if err != nil && err != io.EOF && refusal(err) == refusedKey { //nolint:errorlint // tls returns io.EOF bare
		a.t.refused(sideClient, a.RemoteAddr().String(), err, false)
	}
	return n, err
}

// lease is the transport as one memberlist has it: the sockets outlive it.
type lease struct{ *transport }

// Shutdown implements memberlist.Transport.
func (lease) Shutdown() error { return nil }

// Shutdown implements memberlist.Transport. It closes both sockets and every
// connection, and waits for the goroutines that served them.
func (t *transport) Shutdown() error {
	t.stop()
	err := errors.Join(t.stream.Close(), t.packet.Close())
	t.hangUp(^uint64(0))
	t.wg.Wait()
	return err
}

// hangUp closes the connections made under an older state of the ring.
func (t *transport) hangUp(epoch uint64) {
	for _, w := range append(t.requests.before(epoch), t.gossips.before(epoch)...) {
		_ = w.Close()
	}
}

// pause waits, or returns an error when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listener returns the peers' requests as a listener for net/http.
func (t *transport) listener() net.Listener {
	l := &requestListener{t: t}
	l.ctx, l.stop = context.WithCancel(t.ctx)
	return l
}

type requestListener struct {
	t    *transport
	ctx  context.Context
	stop context.CancelFunc
}

// Accept implements net.Listener.
func (l *requestListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.t.requestCh:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The port stays open for memberlist.
func (l *requestListener) Close() error {
	l.stop()
	return nil
}

// Addr implements net.Listener.
func (l *requestListener) Addr() net.Addr { return l.t.stream.Addr() }
