package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
)

// logName begins every line: Orthanc does not say which plugin wrote one.
const logName = "dicomweb-oauth: "

// newLogger returns a logger that writes to Orthanc's log and drops what is
// below level.
func newLogger(sink logSink, level slog.Leveler) *slog.Logger {
	out := &lineBuffer{sink: sink}
	text := slog.NewTextHandler(&out.buf, &slog.HandlerOptions{Level: level, ReplaceAttr: dropBuiltins})
	return slog.New(&logHandler{text: text, out: out})
}

// dropBuiltins leaves time and level to Orthanc, which prints its own, and the
// message to Handle, which puts it first and unquoted.
func dropBuiltins(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey, slog.LevelKey, slog.MessageKey:
		return slog.Attr{}
	}
	return a
}

// lineBuffer is where the text handler leaves the attributes of one record.
type lineBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	sink logSink
}

// logHandler prints "dicomweb-oauth: message key=value ...". The text handler
// underneath quotes values, so no value can begin a line of its own.
type logHandler struct {
	text slog.Handler
	out  *lineBuffer
}

// Enabled implements slog.Handler.
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.text.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	line, err := h.format(ctx, r)
	if err != nil {
		return err
	}
	h.out.sink.Log(r.Level, line)
	return nil
}

// format holds the lock while attributes are printed and not while Orthanc logs.
// An attribute whose printing panics must not leave it locked, hence the defer.
func (h *logHandler) format(ctx context.Context, r slog.Record) (string, error) {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.buf.Reset()
	if err := h.text.Handle(ctx, r); err != nil {
		return "", err
	}
	attrs := strings.TrimSpace(h.out.buf.String())
	line := logName + strings.ReplaceAll(r.Message, "\n", "; ")
	if attrs != "" {
		line += " " + attrs
	}
	return line, nil
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{text: h.text.WithAttrs(attrs), out: h.out}
}

// WithGroup implements slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{text: h.text.WithGroup(name), out: h.out}
}

// oneLine prints an error, which may be several joined ones, as one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
