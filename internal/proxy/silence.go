package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// silenceLimit is how long a remote's host may acknowledge nothing of what was
// sent to it. It is longer than keepAlive needs (11 s), so that a request that
// net/http sends again does not meet another kept connection of the same dead
// path; and longer than a router or a virtual machine takes to move.
const silenceLimit = 15 * time.Second

// errSilence is what the kernel would say as well, after a quarter of an hour.
var errSilence = fmt.Errorf("the remote's host acknowledges nothing: %w", syscall.ETIMEDOUT)

// errMoved is for a kept connection from an address that this host has no more.
// Nothing was sent into it, so net/http takes another one.
var errMoved = fmt.Errorf("this host has lost the connection's address: %w", syscall.EADDRNOTAVAIL)

// lifeline is a TCP connection that is given up when its path is dead. keepAlive
// sees to that while nothing is on its way to the remote; but what has been sent
// and is not acknowledged holds keep-alive back, and is repeated for 15 min. A
// remote that has stopped reading still acknowledges and is waited for, which is
// why this is not TCP_USER_TIMEOUT.
type lifeline struct {
	*net.TCPConn
	limit time.Duration
	timer *time.Timer
	dead  atomic.Bool
	heard atomic.Bool // something was read since the last write: a request begins
}

func newLifeline(conn *net.TCPConn, limit time.Duration) *lifeline {
	l := &lifeline{TCPConn: conn, limit: limit}
	l.timer = time.AfterFunc(limit, l.look)
	l.timer.Reset(limit) // look reads timer, which is set only now
	return l
}

// look gives the connection up, or looks again when it could next be time. At a
// connection that is closed it ends.
func (l *lifeline) look() {
	silent, inVain, err := silence(l.TCPConn)
	switch {
	case err != nil:
	case inVain && silent >= l.limit:
		l.dead.Store(true)
		// A reset: the kernel would go on sending, and a STOW that was reported as
		// failed be stored when the path is back.
		l.SetLinger(0)    //nolint:errcheck // fails only where it is closed
		l.TCPConn.Close() //nolint:errcheck // nobody could do more
	default:
		l.timer.Reset(max(l.limit-silent, time.Second))
	}
}

// Read implements net.Conn.
func (l *lifeline) Read(p []byte) (int, error) {
	n, err := l.TCPConn.Read(p)
	l.heard.Store(true)
	return n, l.explain(err)
}

// Write implements net.Conn. Before a request on a kept connection it looks
// whether this host still has the address, and not between the pieces of an
// upload, which survives a short absence.
func (l *lifeline) Write(p []byte) (int, error) {
	if l.heard.Swap(false) && moved(l.TCPConn) {
		return 0, errMoved
	}
	n, err := l.TCPConn.Write(p)
	return n, l.explain(err)
}

// moved reports whether this host no longer has the connection's address: a
// socket could not be bound to it any more.
func moved(conn *net.TCPConn) bool {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	probe, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
	if err == nil {
		probe.Close() //nolint:errcheck // nothing was sent
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL)
}

// explain tells a connection that was given up from one that was closed.
func (l *lifeline) explain(err error) error {
	if err != nil && l.dead.Load() {
		return errSilence
	}
	return err
}

// Close implements net.Conn.
func (l *lifeline) Close() error {
	l.timer.Stop()
	return l.TCPConn.Close()
}
