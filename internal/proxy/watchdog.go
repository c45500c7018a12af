package proxy

import (
	"io"
	"time"
)

// watchdog ends a transfer on which no byte has moved for too long, in whichever
// direction one is due. It is off while the remote works out its answer, which
// has a limit of its own (TransportConfig.HeaderTimeout).
type watchdog struct {
	timer *time.Timer
	limit time.Duration
}

// newWatchdog returns a watchdog that is off. Bite is called at most once per kick.
func newWatchdog(limit time.Duration, bite func()) *watchdog {
	t := time.AfterFunc(limit, bite)
	t.Stop()
	return &watchdog{timer: t, limit: limit}
}

// kick says that a byte moved and another one is due.
func (w *watchdog) kick() { w.timer.Reset(w.limit) }

// off says that none is due.
func (w *watchdog) off() { w.timer.Stop() }

// watched is a response body. Only waiting for the remote counts: a caller that
// reads slowly has all the time it wants.
type watched struct {
	io.ReadCloser
	dog   *watchdog
	count func(n int)
}

// Read implements io.Reader.
func (b *watched) Read(p []byte) (int, error) {
	b.dog.kick()
	n, err := b.ReadCloser.Read(p)
	b.dog.off()
	b.count(n)
	return n, err
}
