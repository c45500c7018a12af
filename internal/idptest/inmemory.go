package idptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// InMemory returns a RoundTripper that calls handler without any socket, in a
// goroutine of its own, streaming both bodies: what a synctest bubble needs. A
// handler that aborts makes the request fail as a broken connection would.
func InMemory(handler http.Handler) http.RoundTripper { return inMemory{handler} }

type inMemory struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (m inMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	out := req.Clone(ctx)
	out.RequestURI = req.URL.RequestURI()
	out.Host = orText(req.Host, req.URL.Host)
	out.RemoteAddr = "127.0.0.1:1"
	if out.Body == nil {
		out.Body = http.NoBody
	}
	pr, pw := io.Pipe()
	w := &pipeWriter{header: make(http.Header), body: pw, ready: make(chan struct{})}
	go m.run(w, out, cancel)
	select {
	case <-w.ready:
	case <-req.Context().Done():
		cancel()
		_ = pr.CloseWithError(req.Context().Err())
		return nil, req.Context().Err()
	}
	if w.aborted {
		return nil, errReset
	}
	return w.response(req, &pipeBody{PipeReader: pr, cancel: cancel}), nil
}

var errReset = errors.New("connection reset by the scripted server")

func (m inMemory) run(w *pipeWriter, req *http.Request, cancel context.CancelFunc) {
	defer cancel()
	defer func() {
		_ = req.Body.Close()
		if recover() != nil { // a handler's abort is the script, not a defect
			w.abort()
			return
		}
		w.finish()
	}()
	m.handler.ServeHTTP(w, req)
}

// pipeWriter is a ResponseWriter whose body is read while it is written.
type pipeWriter struct {
	header  http.Header
	status  int
	sent    http.Header
	aborted bool
	started bool
	ready   chan struct{}
	body    *io.PipeWriter
}

// Header implements http.ResponseWriter.
func (w *pipeWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *pipeWriter) WriteHeader(status int) {
	if w.started || status < 200 {
		return
	}
	w.started, w.status, w.sent = true, status, w.header.Clone()
	close(w.ready)
}

// Write implements http.ResponseWriter.
func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush implements http.Flusher.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

func (w *pipeWriter) finish() {
	w.WriteHeader(http.StatusOK)
	_ = w.body.Close()
}

func (w *pipeWriter) abort() {
	if !w.started {
		w.started, w.aborted = true, true
		close(w.ready)
	}
	_ = w.body.CloseWithError(io.ErrUnexpectedEOF)
}

func (w *pipeWriter) response(req *http.Request, body io.ReadCloser) *http.Response {
	length := int64(-1)
	if n := w.sent.Get("Content-Length"); n != "" {
		_, _ = fmt.Sscan(n, &length)
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        w.sent,
		Body:          body,
		ContentLength: length,
		Request:       req,
	}
}

type pipeBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close tells the handler that its client is gone.
func (b *pipeBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}
