package proxy

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// bufferSize is that of every pooled buffer: large enough that system calls do
// not count (a 512 MiB study is 4,096 of them), small enough to hold one for
// each of Orthanc's 50 HTTP threads.
const bufferSize = 128 << 10

// bufferPool lends buffers of bufferSize; httputil.ReverseProxy takes from it too.
type bufferPool struct{ pool sync.Pool }

func newBufferPool() *bufferPool {
	return &bufferPool{pool: sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// Get implements httputil.BufferPool.
func (b *bufferPool) Get() []byte { return b.pool.Get().(*[bufferSize]byte)[:] }

// Put implements httputil.BufferPool.
func (b *bufferPool) Put(buf []byte) { b.pool.Put((*[bufferSize]byte)(buf[:bufferSize])) }

// earlyBytes covers what goes by before the answer of a remote that refuses a
// request at its header is seen: 0.6-1.7 MB were measured.
const earlyBytes = 3 << 20

// budget bounds what all tees of a proxy hold together. The first earlyBytes of
// each body may use all of it, so that as many uploads as possible survive an
// early 401 at once; the rest of a body, which helps only where the remote reads
// everything before it says no, may use a sixth. Four large uploads then hold
// 12 MiB with the defaults, and not 32.
type budget struct {
	used  atomic.Int64
	total int64
}

func (b *budget) take(n, heldSoFar int64) bool {
	limit := b.total
	if heldSoFar >= earlyBytes {
		limit /= 6
	}
	if b.used.Add(n) > limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// errDetached ends an attempt that another one has replaced.
var errDetached = errors.New("this attempt has been given up")

// tee hands a request's body to one attempt after the other. It keeps what has
// been read for as long as that is little; once more has gone by, it forgets all
// and there is no further attempt.
//
// A transport goes on reading a body after it returned an early answer. So:
//  1. attempt 1 waits in source.Read for the caller's next bytes;
//  2. the remote's 401 arrives, rewind makes attempt 1 a thing of the past;
//  3. attempt 2 replays what is held and then waits for attempt 1's turn to end;
//  4. the bytes arrive at attempt 1. It keeps them, whatever the limit: they are
//     lost to attempt 2 otherwise.
type tee struct {
	source io.Reader
	limit  int64 // of what is held
	budget *budget
	pool   *bufferPool
	moved  func(n int, end bool) // bytes came from the source

	turn sync.Mutex // held while reading from source; taken before mu

	mu      sync.Mutex // guards what follows; never held over a read
	attempt int
	blocks  [][]byte
	held    int64
	lost    bool  // more has gone by than is held
	end     error // how the source ended, io.EOF included
}

// rewind begins an attempt at the body's start, or reports false where that has
// been forgotten. Readers of earlier attempts fail from now on.
func (t *tee) rewind() (io.ReadCloser, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempt++ // in any case: nobody may go on reading for an attempt given up
	if t.lost {
		return nil, false
	}
	return &attemptBody{tee: t, attempt: t.attempt}, true
}

// close ends the attempts, frees what is held, and reports whether the source
// has been read to its end.
func (t *tee) close() (done bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempt++
	t.forget()
	return t.end != nil
}

// failed returns the error with which the caller's body broke off, if it did.
func (t *tee) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.end == nil || errors.Is(t.end, io.EOF) {
		return nil
	}
	return t.end
}

func (t *tee) forget() {
	t.lost = true
	for _, b := range t.blocks {
		t.pool.Put(b)
		t.budget.give(bufferSize)
	}
	t.blocks, t.held = nil, 0
}

// keep adds p to what is held. Orphans, the bytes of an attempt given up, are
// kept beyond the limits: at most one read of the transport's (32 KiB).
func (t *tee) keep(p []byte, orphans bool) {
	if t.lost {
		return
	}
	if !orphans && t.held+int64(len(p)) > t.limit {
		t.forget()
		return
	}
	for len(p) > 0 {
		at := int(t.held % bufferSize)
		if at == 0 && !t.grow(orphans) {
			t.forget()
			return
		}
		n := copy(t.blocks[len(t.blocks)-1][at:], p)
		p = p[n:]
		t.held += int64(n)
	}
}

func (t *tee) grow(orphans bool) bool {
	if !t.budget.take(bufferSize, t.held) {
		if !orphans {
			return false
		}
		t.budget.used.Add(bufferSize)
	}
	t.blocks = append(t.blocks, t.pool.Get())
	return true
}

// replay copies held bytes from off; done says that there are none and the
// attempt has to read on from the source, or ends with err.
func (t *tee) replay(attempt int, off int64, p []byte) (n int, done bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case attempt != t.attempt:
		return 0, false, errDetached
	case off < t.held && !t.lost:
		return copy(p, t.block(off)), false, nil
	case t.end != nil:
		return 0, false, t.end
	}
	return 0, true, nil
}

func (t *tee) block(off int64) []byte {
	b := t.blocks[off/bufferSize]
	if start := off / bufferSize * bufferSize; t.held-start < bufferSize {
		b = b[:t.held-start]
	}
	return b[off%bufferSize:]
}

// read takes the next bytes from the source for an attempt.
func (t *tee) read(attempt int, p []byte) (n int, err error) {
	// This runs on the transport's goroutine, where a panic of the host's
	// request body would end the process.
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, fmt.Errorf("reading the request body: panic: %v", v)
		}
	}()
	n, err = t.source.Read(p)
	t.moved(n, err != nil)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.end = err
	}
	orphans := attempt != t.attempt
	t.keep(p[:n], orphans)
	if orphans {
		return 0, errDetached
	}
	return n, err
}

// attemptBody is the body of one attempt.
type attemptBody struct {
	tee     *tee
	attempt int
	off     int64
}

// Read implements io.Reader.
func (b *attemptBody) Read(p []byte) (int, error) {
	n, dry, err := b.tee.replay(b.attempt, b.off, p)
	if dry {
		n, err = b.readOn(p)
	}
	b.off += int64(n)
	return n, err
}

func (b *attemptBody) readOn(p []byte) (int, error) {
	b.tee.turn.Lock()
	defer b.tee.turn.Unlock()
	// While this attempt waited for its turn, the one before may have added
	// bytes, or have met the end.
	if n, dry, err := b.tee.replay(b.attempt, b.off, p); !dry {
		return n, err
	}
	return b.tee.read(b.attempt, p)
}

// Close implements io.Closer. The source is closed by whoever opened it.
func (b *attemptBody) Close() error { return nil }
