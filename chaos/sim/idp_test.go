//go:build chaos

package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/gossip"
)

// mood is how the identity provider answers.
type mood struct {
	status int           // 0: it grants
	retry  time.Duration // Retry-After
	body   string        // of a 200 that grants nothing
}

// idp is the identity provider, and the truth about what it granted. The world's
// mutex guards it.
type idp struct {
	latency time.Duration
	mood    mood
	repeats bool // a grant repeats the token of the last one while that lives
	deaf    bool // nobody can connect
	noWay   map[int]int
	wayBack map[int]time.Duration // when a node's way was there again
	forbids bool                  // the remotes refuse every token
	grants  []*grant
	byToken map[string]*grant
	calls   int
	okSince time.Duration // since when it has granted at its usual pace
	busy    time.Duration // until when answers are due that it was slow with
}

// ok reports whether whoever reaches the provider gets a token in time.
func (p *idp) ok() bool { return p.mood == mood{} && !p.deaf && p.latency <= 3*time.Second }

// reaches reports whether a node's own way to the provider works.
func (p *idp) reaches(i int) bool { return p.noWay[i] == 0 && !p.deaf }

// grant is one acquisition.
type grant struct {
	n       int
	key     int
	token   string
	by      *instance
	at      time.Duration // when it was asked for; its life counts from here
	asked   time.Duration // when the node began to ask, which a pause can make long before
	life    time.Duration
	margin  time.Duration // before its end, in which it is not handed out
	id      backend.ID
	gen     uint64
	flying  bool // the answer is on its way
	arrived time.Duration
	void    bool // the remote refuses it
	revoked bool // by the fleet
	known   bool // that it is revoked, to somebody else than who revokes it
	holders map[*instance]bool
	lost    bool // died with its last holder while others lived on
	counted bool // its loss has been charged

	repeated bool // by the provider
}

func (g *grant) String() string { return fmt.Sprintf("grant %d of key %d", g.n, g.key) }

// tokenPrefix begins every token, so that logs can be searched for them.
const tokenPrefix = "canarytoken"

var errDown = errors.New("process is gone")

// line is one instance's way to the token endpoint of one key.
type line struct {
	in  *instance
	key int
}

// RoundTrip implements http.RoundTripper.
func (l line) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	ctx, w := req.Context(), l.in.node.w
	if err := l.in.awake(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	open := w.idp.reaches(l.in.node.i)
	if w.idp.deaf {
		w.judge.deaf = w.now()
	}
	w.mu.Unlock()
	if !open {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	answer, g, wait := w.asked(ctx, l)
	err := sleep(ctx, wait)
	if err == nil {
		err = l.in.awake(ctx)
	}
	w.answered(l.in, g, err)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// asked is the provider's decision, made when the request arrives: the node may
// be dead when the answer does.
func (w *world) asked(ctx context.Context, l line) (*http.Response, *grant, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idp.calls++
	w.judge.asked(l.in, l.key)
	w.idp.busy = max(w.idp.busy, w.now()+w.idp.latency)
	m := w.idp.mood
	switch {
	case m.status != 0:
		w.hist.add(l.in.String(), "key %d: provider says %d", l.key, m.status)
		resp := response(m.status, m.body)
		if m.retry > 0 {
			resp.Header.Set("Retry-After", fmt.Sprint(int(m.retry.Seconds())))
		}
		return resp, nil, w.idp.latency
	case m.body != "":
		return response(http.StatusOK, m.body), nil, w.idp.latency
	}
	g := w.grant(l)
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		a.grant = g
		g.asked = min(g.asked, a.began)
	}
	left := g.at + g.life - w.now()
	return response(http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, g.token, int(left.Seconds()))), g, w.idp.latency
}

// grant makes a token, or repeats the last.
func (w *world) grant(l line) *grant {
	p := &w.idp
	if p.repeats {
		for _, g := range slices.Backward(p.grants) {
			if g.key == l.key && !g.void && w.now() < g.at+g.life-10*time.Second {
				w.hist.add(l.in.String(), "key %d: provider repeats %v", l.key, g)
				g.repeated, g.margin = true, min(g.margin, marginOf(g.at+g.life-w.now()))
				return g
			}
		}
	}
	g := &grant{
		n: len(p.grants) + 1, key: l.key, by: l.in, at: w.now(), asked: w.now(), life: w.o.life,
		margin: marginOf(w.o.life), flying: true, holders: make(map[*instance]bool),
	}
	g.token = fmt.Sprintf("%s-%d-%d-%d", tokenPrefix, w.o.seed, l.key, g.n)
	w.judge.granted(g)
	p.grants = append(p.grants, g)
	p.byToken[g.token] = g
	return g
}

func response(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), ProtoMajor: 1, ProtoMinor: 1,
	}
}

func (w *world) answered(in *instance, g *grant, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g == nil {
		return
	}
	g.flying, g.arrived = false, w.now()
	if err != nil {
		w.hist.add(in.String(), "%v did not arrive: %v", g, err)
	}
}

// remote is one instance's way to the server of one key, which takes what the
// provider granted and has not voided.
type remote struct {
	in  *instance
	key int
}

// RoundTrip implements http.RoundTripper.
func (r remote) RoundTrip(req *http.Request) (*http.Response, error) {
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	w := r.in.node.w
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.idp.byToken[token]
	w.judge.used(r.in, r.key, g)
	if g == nil || g.void || w.idp.forbids || w.now() >= g.at+g.life {
		return response(http.StatusUnauthorized, ""), nil
	}
	return response(http.StatusOK, ""), nil
}

// voids lets the remote refuse the newest live token of a key.
func (w *world) voids(key int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.idp.grants {
		if g.key == key && !g.void && w.now() < g.at+g.life {
			g.void = true
			w.hist.add("remote", "refuses %v from now on", g)
		}
	}
}

// setIdP changes the provider.
func (w *world) setIdP(change func(p *idp)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.idp.ok()
	change(&w.idp)
	if w.idp.ok() && !was {
		w.idp.okSince = max(w.now(), w.idp.busy)
	}
}

// attempt is one run of a fill, carried in its context down to the provider.
type (
	attempt struct {
		grant *grant
		began time.Duration
	}
	attemptKey struct{}
)

func (in *instance) noted(k int, fill backend.FillFunc) backend.FillFunc {
	return func(ctx context.Context, gen uint64) (backend.Entry, error) {
		a := &attempt{began: in.node.w.now()}
		e, err := fill(context.WithValue(ctx, attemptKey{}, a), gen)
		in.node.w.filled(in, k, a, e, err)
		return e, err
	}
}

func (in *instance) keyOf(key string) int {
	for k, s := range in.sources {
		if s.Key() == key {
			return k
		}
	}
	return -1
}

// resolve is the backend.Resolver of the instance.
func (in *instance) resolve(key string) (backend.FillFunc, bool) {
	fill, ok := in.manager.Resolve(key)
	if !ok {
		return nil, false
	}
	return in.noted(in.keyOf(key), fill), true
}

// vet sees every entry that a peer hands over.
func (in *instance) vet(key string, e backend.Entry) error {
	if err := in.manager.Vet(key, e); err != nil {
		return err
	}
	in.node.w.held(in, e)
	return nil
}

// revoked sees every revocation that the instance learns of.
func (in *instance) revoked(key string, id backend.ID) {
	in.manager.Revoked(key, id)
	in.node.w.learned(in, id)
}

// spy stands between the tokens and their backend and notes what passes.
type spy struct {
	*gossip.Gossip
	in *instance
}

// Fill implements backend.Backend.
func (s spy) Fill(ctx context.Context, key string, stale backend.Stamp, fill backend.FillFunc) (backend.Entry, error) {
	return s.Gossip.Fill(ctx, key, stale, s.in.noted(s.in.keyOf(key), fill))
}

// Revoke implements backend.Backend.
func (s spy) Revoke(ctx context.Context, key string, id backend.ID) error {
	done := s.in.node.w.revoking(s.in, id)
	err := s.Gossip.Revoke(ctx, key, id)
	done(err)
	return err
}
