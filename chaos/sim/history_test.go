//go:build chaos

package sim

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

var historyDir = flag.String("sim.history", "", "folder for the histories of failures (default: a temporary one)")

// maxLines bounds a history; what comes first explains what follows.
const maxLines = 200_000

// history is what happened, line by line.
type history struct {
	began time.Time
	mu    sync.Mutex
	lines []string
	logs  bytes.Buffer // what the nodes log, searched for tokens
}

func newHistory() *history { return &history{} }

func (h *history) add(who, format string, args ...any) {
	line := fmt.Sprintf("%10.4f %-8s ", min(time.Since(h.began), time.Hour).Seconds(), who) + fmt.Sprintf(format, args...)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.lines) < maxLines {
		h.lines = append(h.lines, line)
	}
}

// keep writes the history to a file and says where.
func (h *history) keep(seed uint64) string {
	dir := *historyDir
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "orthanc-oauth-sim")
	}
	name := filepath.Join(dir, fmt.Sprintf("seed-%d-%d.txt", seed, os.Getpid()))
	h.mu.Lock()
	defer h.mu.Unlock()
	text := strings.Join(h.lines, "\n") + "\n"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err.Error()
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return err.Error()
	}
	return "history: " + name
}

// leaked reports whether a token's bytes are in what the nodes logged.
func (h *history) leaked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Contains(h.logs.Bytes(), []byte(tokenPrefix))
}

// logger returns the logger of one node, whose lines become part of the history.
func (h *history) logger(who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(logSink{h, who}, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: noTime}))
}

func noTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

type logSink struct {
	h   *history
	who string
}

func (s logSink) Write(p []byte) (int, error) {
	s.h.add(s.who, "log %s", bytes.TrimSpace(p))
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.h.logs.Len() < 8<<20 {
		s.h.logs.Write(p)
	}
	return len(p), nil
}
