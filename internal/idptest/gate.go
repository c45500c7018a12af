package idptest

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// GateConfig configures a Gate.
type GateConfig struct {
	// State says what a token is worth: IdP.State, or Introspect for a provider
	// in another process.
	State func(token string) TokenState
	// Upstream is the DICOMweb server behind the gate; its user information, if
	// any, becomes Basic credentials. Handler is used instead where it is nil.
	Upstream *url.URL
	Handler  http.Handler
	// Transport reaches Upstream; nil: one of its own, without proxies.
	Transport http.RoundTripper
}

// GateScript is how a Gate misbehaves. The zero GateScript only checks tokens.
type GateScript struct {
	// Drain makes the gate read a request's whole body before it refuses it;
	// otherwise it refuses at once, as most do.
	Drain bool `json:"drain,omitempty"`
	// RefuseNext requests get a 401 whatever their token.
	RefuseNext int `json:"refuse_next,omitempty"`
	// RefusePath makes every request whose path contains it get a 401 whatever
	// its token.
	RefusePath string `json:"refuse_path,omitempty"`
	// Forbid answers 403 to everybody.
	Forbid bool `json:"forbid,omitempty"`
	// DeadStatus replaces the 401 of a dead token; some guards answer 403.
	DeadStatus int `json:"dead_status,omitempty"`
	// Delay comes before every answer; nanoseconds in JSON.
	Delay time.Duration `json:"delay,omitempty"`
}

// GateCounts is what a Gate has seen.
type GateCounts struct {
	Accepted  int `json:"accepted"`
	Missing   int `json:"missing"` // no bearer token at all
	Unknown   int `json:"unknown"`
	Expired   int `json:"expired"`
	Revoked   int `json:"revoked"`
	Scripted  int `json:"scripted"` // refused by RefuseNext or RefusePath
	Forbidden int `json:"forbidden"`
	// Tokens is how many different live tokens were accepted.
	Tokens int `json:"tokens"`
}

// Refused is how many requests got no further than the gate.
func (c GateCounts) Refused() int {
	return c.Missing + c.Unknown + c.Expired + c.Revoked + c.Scripted + c.Forbidden
}

// Gate is a streaming reverse proxy that lets only live bearer tokens through.
type Gate struct {
	state func(string) TokenState
	next  http.Handler
	idle  func() // closes idle connections to the server behind

	mu      sync.Mutex
	script  GateScript
	counts  GateCounts
	seen    map[string]bool
	journal journal
}

// NewGate returns a Gate that only checks tokens.
func NewGate(cfg GateConfig) *Gate {
	g := &Gate{state: cfg.State, next: cfg.Handler, idle: func() {}, seen: make(map[string]bool)}
	if cfg.Upstream == nil {
		return g
	}
	transport := cfg.Transport
	if transport == nil {
		own := &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second, DisableCompression: true}
		transport, g.idle = own, own.CloseIdleConnections
	}
	g.next = reverseProxy(cfg.Upstream, transport)
	return g
}

func reverseProxy(target *url.URL, transport http.RoundTripper) http.Handler {
	base := *target
	base.User = nil
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&base)
			r.Out.URL.RawQuery = r.In.URL.RawQuery // ReverseProxy drops what it cannot parse
			if target.User != nil {
				password, _ := target.User.Password()
				r.Out.SetBasicAuth(target.User.Username(), password)
			}
		},
		Transport:  transport,
		BufferPool: &buffers{},
		ErrorLog:   log.New(io.Discard, "", 0),
	}
}

// Close lets go of idle connections to the server behind the gate.
func (g *Gate) Close() { g.idle() }

// buffers lends copy buffers of 128 KiB, so that big studies stream at the speed
// of the machine rather than of 32 KiB reads.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 128<<10)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

// Script replaces how the gate misbehaves.
func (g *Gate) Script(s GateScript) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.script = s
}

// Counts returns what the gate has seen.
func (g *Gate) Counts() GateCounts {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.counts
	c.Tokens = len(g.seen)
	return c
}

// ServeHTTP implements http.Handler.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, drain, delay := g.judge(r)
	if !pause(r.Context(), delay) {
		return
	}
	if status == http.StatusOK {
		// The token is the gate's business, not that of the server behind it.
		r.Header.Del("Authorization")
		g.next.ServeHTTP(w, r)
		return
	}
	if drain {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="dicomweb", error="invalid_token"`)
	}
	http.Error(w, "the bearer gate refused this request", status)
}

// judge decides on a request and counts the decision.
func (g *Gate) judge(r *http.Request) (status int, drain bool, delay time.Duration) {
	token, hasToken := bearer(r)
	state := Unknown
	if hasToken {
		state = g.state(token) // may be a request: not under the lock
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.journal.note(r, token, state)
	return g.decide(r, token, state, hasToken), g.script.Drain, g.script.Delay
}

func (g *Gate) decide(r *http.Request, token string, state TokenState, hasToken bool) int {
	s, c := &g.script, &g.counts
	dead := or(s.DeadStatus, http.StatusUnauthorized)
	switch {
	case !hasToken:
		c.Missing++
		return http.StatusUnauthorized
	case s.Forbid:
		c.Forbidden++
		return http.StatusForbidden
	case s.RefuseNext > 0:
		s.RefuseNext--
		c.Scripted++
		return http.StatusUnauthorized
	case s.RefusePath != "" && strings.Contains(r.URL.Path, s.RefusePath):
		c.Scripted++
		return http.StatusUnauthorized
	case state == Unknown:
		c.Unknown++
		return dead
	case state == Expired:
		c.Expired++
		return dead
	case state == Revoked:
		c.Revoked++
		return dead
	}
	c.Accepted++
	if len(g.seen) < maxTokens {
		g.seen[token] = true
	}
	return http.StatusOK
}

// bearer returns the bearer token of a request. It wants the scheme spelled
// "Bearer", as the strictest guards do.
func bearer(r *http.Request) (string, bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token, ok && token != ""
}
