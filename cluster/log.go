package cluster

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"maps"
	"runtime/debug"
	"sync"
	"time"
)

// tally keeps the counts that Status shows. Its keys are constants of this
// package, so it is bounded.
type tally struct {
	mu sync.Mutex
	n  map[string]uint64
}

func newTally() *tally { return &tally{n: make(map[string]uint64)} }

func (t *tally) add(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n[what]++
}

func (t *tally) counts() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.n)
}

// calm is how long a kind of warning stays silent after it was logged: what
// strangers can cause must not fill a disk.
const calm = 10 * time.Minute

// throttle logs a kind of warning once in a while, with how many were not.
type throttle struct {
	log  *slog.Logger
	mu   sync.Mutex
	last map[string]time.Time
	more map[string]int
}

func newThrottle(l *slog.Logger) *throttle {
	return &throttle{log: l, last: make(map[string]time.Time), more: make(map[string]int)}
}

// warn logs msg unless its kind has been logged recently. Kinds are constants.
func (t *throttle) warn(kind, msg string, args ...any) {
	t.mu.Lock()
	if at, ok := t.last[kind]; ok && time.Since(at) < calm {
		t.more[kind]++
		t.mu.Unlock()
		return
	}
	more := t.more[kind]
	t.last[kind], t.more[kind] = time.Now(), 0
	t.mu.Unlock()
	t.log.Warn(msg, append(args, "unlogged", more)...) //nolint:sloglint // every caller passes a constant
}

// recovered is deferred in every goroutine: a panic would end the host process.
func recovered(l *slog.Logger, name string) {
	if p := recover(); p != nil {
		l.Error("panic in the cluster", "goroutine", name, "panic", p, "stack", string(debug.Stack()))
	}
}

// A library's log lines are detail: at most chatBurst of them a chatWindow.
const (
	chatBurst  = 50
	chatWindow = 10 * time.Second
)

// chatter writes a library's log to ours, at debug level and bounded.
type chatter struct {
	log   *slog.Logger
	mu    sync.Mutex
	since time.Time
	lines int
}

// newChatter returns a logger for memberlist or net/http.
func newChatter(l *slog.Logger) *log.Logger { return log.New(&chatter{log: l}, "", 0) }

// Write implements io.Writer; log.Logger calls it once a line.
func (c *chatter) Write(line []byte) (int, error) {
	if c.log.Enabled(context.Background(), slog.LevelDebug) && c.allow() {
		c.log.Debug("library", "line", string(bytes.TrimSpace(line[:min(len(line), 500)])))
	}
	return len(line), nil
}

func (c *chatter) allow() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.since) > chatWindow {
		c.since, c.lines = now, 0
	}
	c.lines++
	return c.lines <= chatBurst
}
