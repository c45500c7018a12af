package main

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strings"
)

// maxAnswer bounds what one admin route may answer; the largest, the metrics of
// some hundred servers, is far below 1 MiB.
const maxAnswer = 16 << 20

// maxBody bounds what one admin route may be sent; none reads more than a few
// bytes, and Orthanc has read the whole body before it calls.
const maxBody = 1 << 20

// pair is one query parameter or header.
type pair struct{ key, value string }

// restCall is a request as Orthanc hands it to a plugin: path decoded, parameters
// split, header names in lower case, the whole body in memory.
type restCall struct {
	method string
	path   string
	query  []pair
	header []pair
	body   []byte
}

// restAnswer is what goes back; Orthanc cannot stream it.
type restAnswer struct {
	status int
	header http.Header
	body   []byte
}

// request rebuilds the HTTP request. The Orthanc user's own credentials stay
// behind: nothing here needs them, so nothing here can log or forward them.
func (c *restCall) request(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, c.method, "/", bytes.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	// Not through the parser, which would take "//x/" for a host.
	req.URL = &url.URL{Path: c.path, RawQuery: c.rawQuery()}
	for _, h := range c.header {
		switch h.key = strings.ToLower(h.key); h.key {
		case "authorization", "proxy-authorization", "cookie":
		case "host":
			req.Host = h.value
		default:
			req.Header.Add(h.key, h.value)
		}
	}
	req.RequestURI = req.URL.RequestURI()
	return req, nil
}

// rawQuery joins the parameters. Orthanc 1.10.1 splits the query and decodes
// nothing, so what is valid as it stands is left as it is.
func (c *restCall) rawQuery() string {
	var b strings.Builder
	for i, p := range c.query {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(escapeOnce(p.key))
		if p.value != "" {
			b.WriteByte('=')
			b.WriteString(escapeOnce(p.value))
		}
	}
	return b.String()
}

func escapeOnce(s string) string {
	if _, err := url.QueryUnescape(s); err != nil || strings.ContainsAny(s, " &#;\x00\r\n") {
		return url.QueryEscape(s)
	}
	return s
}

// serve runs one call through h.
func (c *restCall) serve(ctx context.Context, h http.Handler) restAnswer {
	if len(c.body) > maxBody {
		return plainAnswer(http.StatusRequestEntityTooLarge)
	}
	req, err := c.request(ctx)
	if err != nil {
		return plainAnswer(http.StatusBadRequest)
	}
	rec := &recorder{header: http.Header{}}
	h.ServeHTTP(rec, req)
	return rec.answer()
}

func plainAnswer(status int) restAnswer {
	return restAnswer{
		status: status,
		header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
		body:   []byte(http.StatusText(status) + "\n"),
	}
}

// recorder is the http.ResponseWriter of one call.
type recorder struct {
	header http.Header
	sent   http.Header // as it was when the status was written, as net/http has it
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter. Informational answers have no way
// through Orthanc.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status, r.sent = status, r.header.Clone()
	}
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.body.Len()+len(p) > maxAnswer {
		return 0, http.ErrContentLength
	}
	return r.body.Write(p)
}

func (r *recorder) answer() restAnswer {
	r.WriteHeader(http.StatusOK)
	if r.sent.Get("Content-Type") == "" {
		r.sent.Set("Content-Type", http.DetectContentType(r.body.Bytes()))
	}
	// Orthanc counts for itself; a second Content-Length breaks the answer.
	for _, name := range []string{"Content-Length", "Connection", "Transfer-Encoding", "Date"} {
		r.sent.Del(name)
	}
	return restAnswer{status: r.status, header: r.sent, body: r.body.Bytes()}
}

// sendable returns the status closest to one that Orthanc cannot send: those it
// has no name for (429 and 495, in 1.10.1) make it drop the connection without an
// answer. The true code stays in the body.
func sendable(status int) int {
	switch {
	case status == http.StatusTooManyRequests:
		return http.StatusServiceUnavailable // as Retry-After has it
	case status == statusTLS:
		return http.StatusBadGateway
	case status >= http.StatusInternalServerError:
		return http.StatusInternalServerError
	default:
		return http.StatusBadRequest
	}
}

// statusTLS is what NET-003 answers with: nginx's "SSL certificate error".
const statusTLS = 495
