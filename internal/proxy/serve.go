package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"time"
)

// transfer is what is noted about one request while it is under way. Its fields
// belong to the request's own goroutine; the methods are safe on any.
type transfer struct {
	server   string // empty until known to be one of ours
	endpoint string
	target   *url.URL
	remote   int    // the last status the remote answered, or 0
	result   string // how it ended, if not well
	upload   *tee   // nil without a body
	dog      *watchdog
	metrics  *Metrics
}

type transferKey struct{}

func transferOf(ctx context.Context) *transfer { return ctx.Value(transferKey{}).(*transfer) }

func (t *transfer) replay(result string) {
	t.metrics.replays.WithLabelValues(t.server, result).Inc()
}

func (t *transfer) received(n int) {
	t.metrics.bytes.WithLabelValues(t.server, "received").Add(float64(n))
}

// newTee returns the tee of an upload, which feeds the watchdog as well: while a
// byte is due, from the caller or to the remote, it is on.
func (p *Proxy) newTee(body io.Reader, t *transfer) *tee {
	sent := t.metrics.bytes.WithLabelValues(t.server, "sent")
	t.dog.kick()
	return &tee{
		source: body,
		limit:  p.cfg.ReplayBytes,
		budget: p.budget,
		pool:   p.pool,
		moved: func(n int, end bool) {
			sent.Add(float64(n))
			if end {
				t.dog.off() // the remote's turn; see TransportConfig.HeaderTimeout
				return
			}
			t.dog.kick()
		},
	}
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	t := &transfer{endpoint: "rejected", metrics: p.cfg.Metrics}
	start := time.Now()
	defer func() {
		t.free()
		if v := recover(); v != nil {
			p.recovered(rec, t, v)
		}
		p.note(rec, r, t, time.Since(start))
		if t.result == "aborted" {
			// The header is out and the body broke off: only a cut connection
			// tells the caller so. net/http takes this panic for just that.
			panic(http.ErrAbortHandler)
		}
	}()
	p.serve(rec, r, t)
}

// callerLinger is how long a caller whose upload was answered early is listened
// to, so that it reads the answer before its connection is cut: libcurl stops
// sending when it sees an error.
const callerLinger = time.Second

// linger reads on after an early answer. Without it the caller's next write may
// meet a reset that discards the answer it has not read yet; without the
// deadline, a caller that stalls would hold up the connection, and the
// transport's read of its body, for ever.
func (t *transfer) linger(w http.ResponseWriter, body io.Reader) {
	if t.upload == nil || t.upload.close() {
		return
	}
	control := http.NewResponseController(w)
	if control.SetReadDeadline(time.Now().Add(callerLinger)) != nil || control.Flush() != nil {
		return // a host other than net/http, which has no connection to keep
	}
	io.Copy(io.Discard, body) //nolint:errcheck // until the caller has had enough
}

// free ends what the transfer holds.
func (t *transfer) free() {
	if t.upload != nil {
		t.upload.close()
	}
	if t.dog != nil {
		t.dog.off()
	}
}

// recovered keeps a panic from the host. http.ErrAbortHandler is ReverseProxy's
// way to say that the remote's body broke off.
func (p *Proxy) recovered(rec *recorder, t *transfer, v any) {
	broken := v == http.ErrAbortHandler //nolint:errorlint // a panic value, compared as net/http does
	if !broken {
		p.cfg.Log.Error("panic on the data path", "server", t.server, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	}
	if rec.status != 0 {
		t.result = "aborted"
		return
	}
	p.reject(rec, t, &Failure{Code: codeInternal, outcome: "panic"})
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, t *transfer) {
	if f := p.authorize(w, r); f != nil {
		p.reject(w, t, f)
		return
	}
	if !p.enter() {
		p.reject(w, t, cancelledBy(errClosing))
		return
	}
	defer p.active.Done()
	up, f := p.route(r, t)
	if f != nil {
		p.reject(w, t, f)
		return
	}
	p.cfg.Metrics.active.Inc()
	defer p.cfg.Metrics.active.Dec()

	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), transferKey{}, t))
	defer cancel(nil)
	defer context.AfterFunc(p.stop, func() { cancel(errClosing) })()
	if r.ContentLength != 0 {
		// Else net/http reads on before it writes, and an answer that comes early
		// waits for a caller that is not sending.
		http.NewResponseController(w).EnableFullDuplex() //nolint:errcheck // other hosts have none
	}
	t.dog = newWatchdog(p.cfg.IdleTimeout, func() { cancel(errIdle) })
	up.forward.ServeHTTP(w, r.WithContext(ctx))
	t.linger(w, r.Body)
}

// authorize checks the caller's credentials, which end here.
func (p *Proxy) authorize(w http.ResponseWriter, r *http.Request) *Failure {
	if p.cfg.Authorize(r) {
		return nil
	}
	f := &Failure{Code: codeCredentials, status: http.StatusForbidden, outcome: "forbidden"}
	switch given := r.Header.Get("Authorization"); {
	case given == "" && p.cfg.Realm != "":
		w.Header().Set("WWW-Authenticate", "Basic realm="+strconv.Quote(p.cfg.Realm)+`, charset="UTF-8"`)
		f.status = http.StatusUnauthorized
		f.Message = "credentials are required"
		f.Hints = []string{"send HTTP Basic credentials of a user in UsersFile"}
	case given == "":
		f.Message = "this address serves only the Orthanc that it belongs to"
		f.Hints = []string{"send requests to Orthanc's own DICOMweb routes"}
	default:
		f.Message = "the request carries an Authorization header that is not this proxy's"
		f.Hints = []string{
			"remove HttpHeaders.Authorization from the DICOMweb request: it overrides the password with which Orthanc is known here",
			"the access token for the remote server is added by this proxy",
		}
	}
	return f
}

// route finds the server and what the request becomes there.
func (p *Proxy) route(r *http.Request, t *transfer) (*upstream, *Failure) {
	if r.Method == http.MethodTrace || r.Method == http.MethodConnect {
		// TRACE would echo the token to the caller.
		return nil, rejected(http.StatusMethodNotAllowed, "method "+r.Method+" is not allowed")
	}
	name, rest, err := splitPath(r.URL.EscapedPath())
	if err != nil {
		return nil, rejected(http.StatusBadRequest, err.Error())
	}
	up := (*p.upstreams.Load())[name]
	if up == nil {
		return nil, rejected(http.StatusNotFound, "no server of this name is configured")
	}
	t.server = up.Name
	if t.target, err = joinURL(up.URL, rest, r.URL.RawQuery); err != nil {
		return nil, rejected(http.StatusBadRequest, "the path is not properly escaped")
	}
	return up, nil
}

func rejected(status int, message string) *Failure {
	return &Failure{Code: codeInvalidValue, Message: message, Hints: []string{"check the request"}, status: status, outcome: "rejected"}
}

func cancelledBy(cause error) *Failure {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	return cancelled(ctx)
}

// fail is ReverseProxy's ErrorHandler: nothing has been written yet.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	p.reject(w, transferOf(r.Context()), sendFailure(r.Context(), err))
}

// reject answers with a failure and notes it.
func (p *Proxy) reject(w http.ResponseWriter, t *transfer, f *Failure) {
	t.result = f.outcome
	if t.server != "" { // strangers must not fill the log
		// Neither path nor query: they name patients.
		p.cfg.Log.Warn("request not served", "server", t.server, "code", f.Code,
			"result", f.outcome, "status", f.dataStatus(), "remote_status", t.remote, "error", f.Error())
	}
	if t.upload != nil {
		w.Header().Set("Connection", "close") // the rest of the upload is not wanted
	}
	writeFailure(w, p.cfg.Version, f, f.dataStatus(), t.server)
}

func (p *Proxy) note(rec *recorder, r *http.Request, t *transfer, took time.Duration) {
	m := p.cfg.Metrics
	m.answered(r.Method, t.endpoint, rec.status, took)
	if t.server == "" {
		return
	}
	if t.result == "" {
		t.result = "ok"
		if rec.status >= http.StatusBadRequest {
			t.result = "remote_error"
		}
	}
	m.transfers.WithLabelValues(t.server, t.result).Inc()
	if t.remote != 0 {
		m.remote.WithLabelValues(t.server, strconv.Itoa(t.remote)).Inc()
	}
}
