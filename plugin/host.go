package main

import (
	"errors"
	"log/slog"
)

// errDetached is what a call to Orthanc returns when there is no Orthanc to call:
// after Finalize the context pointer is dead.
var errDetached = errors.New("orthanc has unloaded the plugin")

// rest is Orthanc's own REST interface as its plugins left it. The calls block,
// take no context and run on Orthanc's side, without HTTP and without a user.
type rest interface {
	Get(uri string) ([]byte, error)
	Put(uri string, body []byte) error
	Delete(uri string) error
}

// logSink takes one finished line.
type logSink interface {
	Log(level slog.Level, line string)
}

// environment is that of the C library, which libcurl reads. Go keeps a copy of
// its own, made when the library was loaded.
type environment interface {
	Getenv(name string) string
	Setenv(name, value string) error
}

// host is the Orthanc that has loaded this plugin.
type host interface {
	rest
	logSink
	environment
	Configuration() ([]byte, error)
	SetGauge(name string, value float64)
}
