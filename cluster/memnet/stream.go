package memnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes a direction of a stream holds before Write blocks.
const window = 256 << 10

// half is one direction of a stream: what one end wrote and the other has not
// read. All fields are guarded by the network's mutex.
type half struct {
	net      *Net
	link     pair
	cond     *sync.Cond
	segments []segment
	size     int
	last     time.Time // when the latest segment arrives: streams stay in order
	fin      bool      // the writer has closed; what is queued is still read
	gone     bool      // the reader has closed; the writer learns it if the link passes
	err      error     // reset: nothing passes any more
}

// segment is what one Write sent, and when it arrives.
type segment struct {
	data []byte
	at   time.Time
}

// conn is one end of a stream.
type conn struct {
	host          *Host
	in, out       *half
	local, remote *net.TCPAddr
	readBy        time.Time
	writeBy       time.Time
	closed        bool
}

func newStream(a, b *Host, aPort, bPort uint16) (ours, theirs *conn) {
	there, back := newHalf(a, b), newHalf(b, a)
	ours = &conn{host: a, in: back, out: there, local: a.at(aPort), remote: b.at(bPort)}
	theirs = &conn{host: b, in: there, out: back, local: b.at(bPort), remote: a.at(aPort)}
	a.conns[ours] = struct{}{}
	b.conns[theirs] = struct{}{}
	return ours, theirs
}

func newHalf(from, to *Host) *half {
	h := &half{net: from.net, link: pair{from.addr, to.addr}}
	h.cond = sync.NewCond(&h.net.mu)
	h.net.halves[h] = struct{}{}
	return h
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	for {
		if c.closed {
			return 0, c.failed("read", net.ErrClosed)
		}
		if expired(c.readBy) {
			return 0, c.failed("read", os.ErrDeadlineExceeded)
		}
		if n, ok, err := c.in.take(b); ok {
			if err != nil && err != io.EOF { //nolint:errorlint // take returns it bare
				err = c.failed("read", err)
			}
			return n, err
		}
		c.in.wait(c.readBy)
	}
}

// take moves what has arrived into b; ok is false if the reader has to wait.
func (h *half) take(b []byte) (n int, ok bool, err error) {
	if h.err != nil {
		return 0, true, h.err
	}
	if h.net.blocked(h.link.from, h.link.to) {
		return 0, false, nil
	}
	now := time.Now()
	for n < len(b) && len(h.segments) > 0 && !h.segments[0].at.After(now) {
		m := copy(b[n:], h.segments[0].data)
		n += m
		if h.segments[0].data = h.segments[0].data[m:]; len(h.segments[0].data) == 0 {
			h.segments = h.segments[1:]
		}
	}
	if n > 0 || len(b) == 0 {
		h.size -= n
		h.cond.Broadcast()
		return n, true, nil
	}
	if h.fin && len(h.segments) == 0 && !h.last.After(now) {
		return 0, true, io.EOF
	}
	return 0, false, nil
}

// wait sleeps until something changes, the next segment arrives or by passes.
func (h *half) wait(by time.Time) {
	next := by
	if h.last.After(time.Now()) {
		at := h.last // also the arrival of the end of the stream
		if len(h.segments) > 0 && h.segments[0].at.After(time.Now()) {
			at = h.segments[0].at
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if !next.IsZero() {
		t := time.AfterFunc(time.Until(next), h.cond.Broadcast)
		defer t.Stop()
	}
	h.cond.Wait()
}

// Write implements net.Conn. It blocks only while the window is full.
func (c *conn) Write(b []byte) (int, error) {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	written := 0
	for {
		if c.closed {
			return written, c.failed("write", net.ErrClosed)
		}
		if err := c.out.broken(); err != nil {
			return written, c.failed("write", err)
		}
		if expired(c.writeBy) {
			return written, c.failed("write", os.ErrDeadlineExceeded)
		}
		if n := min(window-c.out.size, len(b)-written); n > 0 {
			c.out.put(b[written : written+n])
			written += n
		}
		if written == len(b) {
			return written, nil
		}
		c.out.wait(c.writeBy)
	}
}

// broken tells the writer why nothing it sends will be read.
func (h *half) broken() error {
	if h.err == nil && h.gone && !h.net.blocked(h.link.from, h.link.to) {
		return syscall.EPIPE
	}
	return h.err
}

func (h *half) put(b []byte) {
	h.last = h.arrival()
	h.segments = append(h.segments, segment{append([]byte(nil), b...), h.last})
	h.size += len(b)
	h.cond.Broadcast()
}

// arrival returns when something sent now is there, after all that was sent before.
func (h *half) arrival() time.Time {
	l := h.net.links[h.link]
	at := time.Now().Add(l.delay)
	for h.net.lose(l) {
		at = at.Add(retransmit)
	}
	if at.Before(h.last) {
		at = h.last
	}
	return at
}

// Close implements net.Conn. What was written still arrives.
func (c *conn) Close() error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	if c.closed {
		return c.failed("close", net.ErrClosed)
	}
	c.closed = true
	c.out.fin, c.out.last = true, c.out.arrival()
	c.in.gone = true
	delete(c.host.conns, c)
	c.wake()
	return nil
}

// abort ends a stream at its host's death: with a reset the peer learns of it.
func (c *conn) abort(reset bool) {
	c.closed = true
	if reset {
		c.out.err, c.in.err = syscall.ECONNRESET, syscall.ECONNRESET
	}
	c.wake()
}

// wake lets all who wait on this end or the other look again, and forgets
// halves that nobody reads any more.
func (c *conn) wake() {
	for _, h := range []*half{c.in, c.out} {
		if h.cond.Broadcast(); h.err != nil || (h.fin && h.gone) {
			delete(h.net.halves, h)
		}
	}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error { return c.deadline(t, &c.readBy, &c.writeBy) }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.deadline(t, &c.readBy) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.deadline(t, &c.writeBy) }

func (c *conn) deadline(t time.Time, which ...*time.Time) error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	for _, d := range which {
		*d = t
	}
	c.wake()
	return nil
}

func (c *conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

func expired(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// listener hands out the streams dialled to one port.
type listener struct {
	host  *Host
	addr  netip.Addr // as asked for: any address of the host is listened on
	port  uint16
	queue chan *conn
	done  chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, opError("accept", "tcp", l.Addr(), net.ErrClosed)
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	l.close()
	return nil
}

func (l *listener) close() {
	if l.host.listeners[l.port] == l {
		delete(l.host.listeners, l.port)
		close(l.done)
	}
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr {
	return &net.TCPAddr{IP: l.addr.AsSlice(), Port: int(l.port)}
}
