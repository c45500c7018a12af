//go:build chaos

package processes

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"orthanc-oauth/internal/idptest"
)

// outside is the world beyond the fleet: a provider for each key and a guarded
// archive, with a book of who asked for, got and presented which token when.
type outside struct {
	time    *timeline
	where   place
	tls     *tls.Config
	keys    []string
	idps    map[string]*idptest.IdP
	gates   map[string]*idptest.Gate
	issuer  *server
	archive *server

	mu        sync.Mutex
	grants    []*grant
	byToken   map[string]*grant
	refusals  []time.Duration // answers other than grants
	asked     int             // token requests
	last      map[holder]string
	regressed []string // revoked tokens that came back
	expired   []string // tokens that came after their end
}

// grant is one acquisition, by the provider's own book.
type grant struct {
	key, token      string
	node            int // -1: not known, on loopback
	life            time.Duration
	arrived, served time.Duration // of the request; of its answer
	revoked         time.Duration // 0: never
	seen            map[holder]time.Duration
	dropped         map[holder]time.Duration // holders that went over to another
	refused         map[holder]bool          // holders that were told 401
	replaced        map[holder]bool          // holders that came with another token after that
	renewed         *grant                   // that this one was acquired to replace, as far as the judge knows
}

// holder is one incarnation of a node, and a key where that matters.
type holder struct {
	node, life int
	key        string
}

// lives are the tokens' lifetimes: some that are renewed again and again during
// a run, and one that hardly ever is.
var lives = map[string]time.Duration{"brief": 20 * time.Second, "short": time.Minute, "long": 20 * time.Minute}

func newOutside(ctx context.Context, t *timeline, where place, conf *tls.Config, client idptest.Client) (*outside, error) {
	o := &outside{
		time: t, where: where, tls: conf, keys: []string{"brief", "short", "long"},
		idps: map[string]*idptest.IdP{}, gates: map[string]*idptest.Gate{},
		byToken: map[string]*grant{}, last: map[holder]string{},
	}
	nothing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[]") })
	for _, key := range o.keys {
		o.idps[key] = idptest.New(idptest.Options{Clients: []idptest.Client{client}, Lifetime: lives[key]})
		o.gates[key] = idptest.NewGate(idptest.GateConfig{State: o.idps[key].State, Handler: nothing})
	}
	o.issuer = &server{where: where, tls: conf, handler: http.HandlerFunc(o.issue)}
	o.archive = &server{where: where, tls: conf, handler: http.HandlerFunc(o.guard)}
	if err := o.issuer.up(ctx); err != nil {
		return nil, err
	}
	return o, o.archive.up(ctx)
}

func (o *outside) close() {
	o.issuer.down()
	o.archive.down()
}

// nodeOf tells nodes by their addresses, which only namespaces give them.
func (o *outside) nodeOf(r *http.Request) int {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	last, ok := strings.CutPrefix(host, subnet)
	n, err := strconv.Atoi(last)
	if !ok || err != nil {
		return -1
	}
	return n - 10
}

// issue serves POST /token/{key} and writes the book.
func (o *outside) issue(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/token/")
	idp := o.idps[key]
	if idp == nil {
		http.NotFound(w, r)
		return
	}
	g := &grant{
		key: key, node: o.nodeOf(r), life: lives[key], arrived: o.time.now(),
		seen: map[holder]time.Duration{}, dropped: map[holder]time.Duration{}, refused: map[holder]bool{}, replaced: map[holder]bool{},
	}
	o.mu.Lock()
	o.asked++
	o.mu.Unlock()
	tee := &teeWriter{ResponseWriter: w}
	defer func() { o.issued(g, tee.body.Bytes()) }() // a scripted reset panics
	idp.ServeHTTP(tee, r)
}

func (o *outside) issued(g *grant, body []byte) {
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	_ = json.Unmarshal(body, &answer) // a refusal has none
	o.mu.Lock()
	defer o.mu.Unlock()
	g.served, g.token = o.time.now(), answer.AccessToken
	if g.token == "" {
		o.refusals = append(o.refusals, g.served)
		return
	}
	if o.idps[g.key].State(g.token) == idptest.Revoked {
		g.revoked = g.served // revoked between the grant and this line
	}
	o.grants = append(o.grants, g)
	o.byToken[g.token] = g
}

type teeWriter struct {
	http.ResponseWriter
	body bytes.Buffer
}

// Write implements io.Writer.
func (t *teeWriter) Write(p []byte) (int, error) {
	t.body.Write(p)
	return t.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController through, for scripted resets.
func (t *teeWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// guard serves /{node}/{key}/... and notes who presents what.
func (o *outside) guard(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
	node, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) < 3 || o.gates[parts[1]] == nil {
		http.NotFound(w, r)
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	o.presented(node, parts[1], token)
	o.gates[parts[1]].ServeHTTP(w, r)
}

func (o *outside) presented(node int, key, token string) {
	life := o.time.current().life[node]
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.byToken[token]
	if g == nil || life == 0 {
		return // a node on its way down may still say something
	}
	who := holder{node, life, key}
	o.move(who, g)
	if now := o.time.now(); now > g.served+g.life {
		o.late(who, g, now)
	}
	if _, before := g.seen[who]; !before {
		g.seen[who] = o.time.now()
	}
	if g.revoked != 0 {
		g.refused[who] = true
	}
}

// late notes an expired token, unless the node was stopped after it had lent the
// token, or the request lost packets on its way.
func (o *outside) late(who holder, g *grant, now time.Duration) {
	for _, m := range o.time.during(now-patience, now) {
		if m.life[who.node] != who.life || m.disturbed(who.node) {
			return
		}
	}
	o.expired = append(o.expired, fmt.Sprintf("node %d presented a token of %q %v after its end, at %v", who.node, who.key, now-g.served-g.life, now))
}

// move notes that a holder has come from one token to another. A client asks
// one thing after the other, so a token that was refused and replaced must never
// come back.
func (o *outside) move(who holder, g *grant) {
	last := o.byToken[o.last[who]]
	if last != nil && last != g {
		last.dropped[who] = o.time.now()
		last.replaced[who] = last.replaced[who] || last.refused[who]
	}
	delete(g.dropped, who)
	if g.replaced[who] {
		o.regressed = append(o.regressed, fmt.Sprintf("node %d (life %d) presented a revoked token of %q again at %v", who.node, who.life, who.key, o.time.now()))
	}
	o.last[who] = g.token
}

// revoke kills a key's tokens and returns whether there was one alive.
func (o *outside) revoke(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.time.now()
	for _, g := range o.grants {
		if g.key == key && g.revoked == 0 {
			g.revoked = now
		}
	}
	return o.idps[key].RevokeAll() > 0
}

// behave changes how the provider answers for every key.
func (o *outside) behave(a idptest.Answer) {
	for _, idp := range o.idps {
		idp.Always(a)
	}
}

func values[K comparable, V any](m map[K]V) (out []V) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// server is a handler in a place, which can go down and come up again.
type server struct {
	where   place
	tls     *tls.Config
	handler http.Handler
	port    string // "0" until the first start

	mu   sync.Mutex
	http *http.Server
	done chan struct{}
}

func (s *server) up(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.port == "" {
		s.port = "0"
	}
	l, err := s.where.listen(ctx, net.JoinHostPort(s.where.addr, s.port))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	srv := &http.Server{Handler: s.handler, ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	s.http, s.done = srv, done
	go func() {
		defer close(done)
		_ = srv.Serve(tls.NewListener(l, s.tls)) // ends with down
	}()
	return nil
}

// down stops listening and cuts every connection.
func (s *server) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return
	}
	_ = s.http.Close()
	<-s.done
	s.http = nil
}

func (s *server) url(path string) string {
	return "https://" + net.JoinHostPort(s.where.addr, s.port) + path
}
