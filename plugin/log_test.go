package main

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
)

func TestLogger_WritesOneLineWithLevelMessageAndValues(t *testing.T) {
	o := newFakeOrthanc()
	level := new(slog.LevelVar)
	log := newLogger(o, level)
	log.Debug("dropped")
	log.With("server", "pacs").WithGroup("g").Warn("two\nlines", "error", errors.New("a\nb"), "n", 3)
	log.Info("bare")
	level.Set(slog.LevelDebug)
	log.Debug("kept")
	want := []string{
		`WARN dicomweb-oauth: two; lines server=pacs g.error="a\nb" g.n=3`,
		`INFO dicomweb-oauth: bare`,
		`DEBUG dicomweb-oauth: kept`,
	}
	if !slices.Equal(o.lines, want) {
		t.Errorf("lines %q\n want %q", o.lines, want)
	}
}

type explosive struct{}

func (explosive) MarshalText() ([]byte, error) { panic("boom") }

func TestLogger_GoesOnAfterAValueThatPanics(t *testing.T) {
	o := newFakeOrthanc()
	log := newLogger(o, slog.LevelInfo)
	func() {
		defer func() { _ = recover() }()
		log.Info("bad", "value", explosive{})
	}()
	log.Info("good")
	if len(o.logged("good")) != 1 {
		t.Errorf("lines %q", o.lines)
	}
}
