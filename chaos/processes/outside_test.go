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

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/internal/idptest"
)

// outside is the world beyond the fleet: a provider for each key and a guarded
// archive, with a book of who asked for, got and presented which token when.
type outside struct {
	time    *history.Timeline
	where   place
	tls     *tls.Config
	keys    []string
	idps    map[string]*idptest.IdP
	gates   map[string]*idptest.Gate
	issuer  *server
	archive *server

	mu    sync.Mutex
	book  *history.Book
	asked int // token requests
}

// lives are the tokens' lifetimes: some that are renewed again and again during
// a run, and one that hardly ever is.
var lives = map[string]time.Duration{"brief": 20 * time.Second, "short": time.Minute, "long": 20 * time.Minute}

func newOutside(ctx context.Context, t *history.Timeline, where place, conf *tls.Config, client idptest.Client) (*outside, error) {
	o := &outside{
		time: t, where: where, tls: conf, keys: []string{"brief", "short", "long"},
		idps: map[string]*idptest.IdP{}, gates: map[string]*idptest.Gate{}, book: history.NewBook(t),
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
	g := &history.Grant{Key: key, Node: o.nodeOf(r), Life: lives[key], Arrived: o.time.Now()}
	o.mu.Lock()
	o.asked++
	o.mu.Unlock()
	tee := &teeWriter{ResponseWriter: w}
	defer func() { o.issued(g, tee.body.Bytes()) }() // a scripted reset panics
	idp.ServeHTTP(tee, r)
}

func (o *outside) issued(g *history.Grant, body []byte) {
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	_ = json.Unmarshal(body, &answer) // a refusal has none
	o.mu.Lock()
	defer o.mu.Unlock()
	g.Served, g.Token = o.time.Now(), answer.AccessToken
	if g.Token == "" {
		o.book.Refusals = append(o.book.Refusals, g.Served)
		return
	}
	if o.idps[g.Key].State(g.Token) == idptest.Revoked {
		g.Revoked = g.Served // revoked between the grant and this line
	}
	o.book.Granted(g)
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
	o.mu.Lock()
	defer o.mu.Unlock()
	o.book.Presented(node, key, token, o.time.Now())
}

// revoke kills a key's tokens and returns whether there was one alive.
func (o *outside) revoke(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.book.Revoke(key, o.time.Now())
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
