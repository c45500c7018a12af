package idptest

import (
	"net/http"
	"sync"
	"time"
)

// Options configures an IdP.
type Options struct {
	// Clients that may ask for tokens.
	Clients []Client
	// Lifetime of a token where an Answer names no other; default an hour.
	Lifetime time.Duration
	// JWT makes tokens look like JWTs (with iat, exp and jti, unsigned) instead
	// of opaque strings.
	JWT bool
	// Skew is how far this provider's wall clock is ahead: it shows in Date,
	// Retry-After dates and the claims of a JWT.
	Skew time.Duration
}

// IdP is a scripted identity provider. It answers POST /token (and every other
// path that is not /introspect, so that tests may name endpoints as real
// providers do) with the client credentials grant, and POST /introspect.
type IdP struct {
	opts Options

	mu      sync.Mutex
	clients map[string]*Client
	queue   []Answer
	always  Answer
	tokens  map[string]*issued
	last    map[string]string // client id -> the token issued last, for Answer.Repeat
	book    book
}

// New returns an IdP that grants every valid request.
func New(opts Options) *IdP {
	if opts.Lifetime == 0 {
		opts.Lifetime = time.Hour
	}
	i := &IdP{
		opts:    opts,
		clients: make(map[string]*Client),
		tokens:  make(map[string]*issued),
		last:    make(map[string]string),
		book:    newBook(),
	}
	for _, c := range opts.Clients {
		i.clients[c.ID] = &c
	}
	return i
}

// Script queues answers: each of the next requests takes one.
func (i *IdP) Script(answers ...Answer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.queue = append(i.queue, answers...)
}

// Always sets the answer of every request for which none is queued. The zero
// Answer grants.
func (i *IdP) Always(a Answer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.always = a
}

// Behave drops every queued answer and grants from now on. Tokens, secrets and
// counts stay.
func (i *IdP) Behave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.queue, i.always = nil, Answer{}
}

func (i *IdP) next() Answer {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.queue) == 0 {
		return i.always
	}
	a := i.queue[0]
	i.queue = i.queue[1:]
	return a
}

// now is this provider's wall clock.
func (i *IdP) now() time.Time { return time.Now().Add(i.opts.Skew) }

// ServeHTTP implements http.Handler.
func (i *IdP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/introspect" {
		i.introspect(w, r)
		return
	}
	req := readRequest(w, r)
	seen := i.arrived(host(r), req)
	defer i.left(seen)
	w.Header().Set("Date", i.now().UTC().Format(http.TimeFormat))
	a := i.next()
	if !pause(r.Context(), a.Delay) {
		return
	}
	if a.Kind != Grant {
		i.note(seen, string(a.Kind))
		i.misbehave(w, r, a)
		return
	}
	if refusal := i.check(req); refusal != nil {
		i.note(seen, refusal.Error)
		refuse(w, *refusal)
		return
	}
	i.grant(w, seen, req, a)
}
