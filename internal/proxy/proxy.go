package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a Proxy. Zero values mean the defaults; only Authorize is
// required.
type Config struct {
	// Authorize checks a caller's credentials; see Credential and Users.
	Authorize func(*http.Request) bool
	// Realm, if not empty, lets a request without credentials be answered with 401
	// and a Basic challenge, as people's own HTTP clients expect of the sidecar.
	// Orthanc must never see one.
	Realm string

	ReplayBytes      int64         // kept of each upload for a second attempt; 8 MiB
	ReplayTotalBytes int64         // kept of all together; 64 MiB; see budget
	IdleTimeout      time.Duration // a transfer on which no byte moves; 2 min

	Version string // for the envelope of error bodies
	Metrics *Metrics
	Log     *slog.Logger
}

// Upstream is one DICOMweb server.
type Upstream struct {
	Name      string
	URL       *url.URL // the base of what callers may reach
	Source    TokenSource
	Transport http.RoundTripper // see NewTransport
}

// Proxy is the data path. It is an http.Handler for /{server}/rest.
type Proxy struct {
	cfg       Config
	upstreams atomic.Pointer[map[string]*upstream]
	pool      *bufferPool
	budget    *budget

	mu     sync.Mutex // guards closed and active.Add, so that Close misses nobody
	closed bool
	active sync.WaitGroup
	stop   context.Context // done when the proxy closes
	end    context.CancelFunc
}

type upstream struct {
	Upstream
	proxy   *Proxy
	forward *httputil.ReverseProxy
}

var errBadURL = errors.New("is no usable URL")

// New returns a Proxy without upstreams.
func New(cfg Config) (*Proxy, error) {
	if cfg.Authorize == nil {
		return nil, errors.New("proxy: Authorize is missing; tokens would be lent to everybody")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics, _ = NewMetrics(nil)
	}
	cfg.ReplayBytes = orDefaultBytes(cfg.ReplayBytes, 8<<20)
	cfg.ReplayTotalBytes = orDefaultBytes(cfg.ReplayTotalBytes, 64<<20)
	cfg.IdleTimeout = orDefault(cfg.IdleTimeout, 2*time.Minute)
	p := &Proxy{cfg: cfg, pool: newBufferPool(), budget: &budget{total: cfg.ReplayTotalBytes}}
	p.stop, p.end = context.WithCancel(context.Background())
	p.upstreams.Store(&map[string]*upstream{})
	return p, nil
}

func orDefaultBytes(n, otherwise int64) int64 {
	if n > 0 {
		return n
	}
	return otherwise
}

// SetUpstreams replaces the servers. Requests under way go on as they began. On
// an error nothing changes.
func (p *Proxy) SetUpstreams(list []Upstream) error {
	next := make(map[string]*upstream, len(list))
	for _, u := range list {
		if err := u.validate(); err != nil {
			return fmt.Errorf("server %q: %w", u.Name, err)
		}
		if next[u.Name] != nil {
			return fmt.Errorf("server %q: two servers of this name", u.Name)
		}
		next[u.Name] = p.newUpstream(u)
	}
	old := *p.upstreams.Swap(&next)
	for name, u := range old {
		if now := next[name]; now == nil || now.Transport != u.Transport {
			closeIdle(u.Transport)
		}
	}
	return nil
}

func (u *Upstream) validate() error {
	switch {
	case u.Name == "":
		return errors.New("name is missing")
	case u.URL == nil || u.URL.Host == "" || (u.URL.Scheme != "http" && u.URL.Scheme != "https"):
		return fmt.Errorf("url %w; expected http or https and a host", errBadURL)
	case u.URL.User != nil || u.URL.RawQuery != "" || u.URL.Fragment != "":
		return fmt.Errorf("url %w; user, query and fragment are not allowed", errBadURL)
	case u.Source == nil || u.Transport == nil:
		return errors.New("source or transport is missing")
	}
	return nil
}

func (p *Proxy) newUpstream(u Upstream) *upstream {
	up := &upstream{Upstream: u, proxy: p}
	up.forward = &httputil.ReverseProxy{
		Rewrite:      up.rewrite,
		Transport:    up,
		BufferPool:   p.pool,
		ErrorLog:     slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelWarn),
		ErrorHandler: p.fail,
	}
	return up
}

// rewrite turns a caller's request into ours. ReverseProxy has taken away
// hop-by-hop and forwarding headers already.
func (u *upstream) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL = transferOf(r.In.Context()).target
	r.Out.Host = u.URL.Host
	r.Out.Header.Del("Authorization") // the caller's, for us alone
	r.Out.Header.Del("Expect")        // it costs 2 s where remotes ignore it, and helps little
	r.Out.Header.Del("Connection")    // no upgrades
	r.Out.Header.Del("Upgrade")
}

func closeIdle(rt http.RoundTripper) {
	if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Close cancels every request under way, waits for them no longer than ctx
// allows, and closes idle connections. Later requests are answered with 503.
func (p *Proxy) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.end()
	done := make(chan struct{})
	go func() { // ends with the last request, which has just been cancelled
		p.active.Wait()
		close(done)
	}()
	defer func() {
		for _, u := range *p.upstreams.Load() {
			closeIdle(u.Transport)
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close proxy: %w", ctx.Err())
	}
}

// enter counts a request in, or reports that the proxy is closed.
func (p *Proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.active.Add(1)
	return true
}
