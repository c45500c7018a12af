package chaos

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
)

// relay passes TCP connections and UDP packets of one loopback port on to
// another, and keeps every byte of both directions: what somebody on the wire
// between two nodes sees.
type relay struct {
	target string
	socket net.PacketConn
	work   sync.WaitGroup

	mu      sync.Mutex
	streams []byte
	packets []byte
	back    map[string]net.Conn // by source of packets
	open    []io.Closer
	closed  bool
}

func newRelay(t *testing.T, port, target int) *relay {
	t.Helper()
	r := &relay{target: loopback(target), back: make(map[string]net.Conn)}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", loopback(port))
	must(t, err)
	r.keep(l)
	r.socket, err = new(net.ListenConfig).ListenPacket(t.Context(), "udp", loopback(port))
	must(t, err)
	r.keep(r.socket)
	r.work.Go(func() { r.accept(l) })
	r.work.Go(r.receive)
	t.Cleanup(r.close)
	return r
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// keep remembers what close has to close, and reports whether it still may.
func (r *relay) keep(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_ = c.Close()
		return false
	}
	r.open = append(r.open, c)
	return true
}

func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	for _, c := range r.open {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.work.Wait()
}

// seen returns what went through so far.
func (r *relay) seen() (streams, packets []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.streams...), append([]byte(nil), r.packets...)
}

func (r *relay) dial(network string) (net.Conn, error) {
	return new(net.Dialer).DialContext(context.Background(), network, r.target) // loopback: refused at once, or there
}

func (r *relay) accept(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := r.dial("tcp")
		if err != nil {
			_ = in.Close()
			continue
		}
		if !r.keep(in) || !r.keep(out) {
			return
		}
		r.work.Go(func() { r.pipe(in, out) })
		r.work.Go(func() { r.pipe(out, in) })
	}
}

// pipe copies one direction of a connection, and ends both with it.
func (r *relay) pipe(from, to net.Conn) {
	defer func() { _ = from.Close(); _ = to.Close() }()
	_, _ = io.Copy(to, io.TeeReader(from, recorder{r, &r.streams})) // its end is the connection's
}

func (r *relay) receive() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := r.socket.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = recorder{r, &r.packets}.Write(buf[:n])
		if out := r.toward(from); out != nil {
			_, _ = out.Write(buf[:n]) // packets may be lost
		}
	}
}

// toward returns the socket that packets of one source are sent from, so that
// their answers find back.
func (r *relay) toward(from net.Addr) net.Conn {
	if out := r.back[from.String()]; out != nil { // used by receive alone
		return out
	}
	out, err := r.dial("udp")
	if err != nil || !r.keep(out) {
		return nil
	}
	r.back[from.String()] = out
	r.work.Go(func() { r.answer(out, from) })
	return out
}

func (r *relay) answer(out net.Conn, to net.Addr) {
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the target is not there yet, or no more: ICMP said so
		}
		_, _ = recorder{r, &r.packets}.Write(buf[:n])
		_, _ = r.socket.WriteTo(buf[:n], to)
	}
}

// recorder appends to one of a relay's records.
type recorder struct {
	relay *relay
	into  *[]byte
}

// Write implements io.Writer.
func (w recorder) Write(p []byte) (int, error) {
	w.relay.mu.Lock()
	defer w.relay.mu.Unlock()
	*w.into = append(*w.into, p...)
	return len(p), nil
}
