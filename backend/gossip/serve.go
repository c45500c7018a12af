package gossip

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

// answers is what parseAnswer accepts.
var answers = []answer{
	answerToken, answerPending, answerRefused, answerLeaving, answerUnknown, answerNone,
	answerPeeking, answerWaiting, answerAcquiring, answerPaced, answerDone,
}

func parseAnswer(s string) (answer, bool) {
	return answer(s), slices.Contains(answers, answer(s))
}

// request is one request of a peer, its common fields checked.
type request struct {
	from  cluster.Member
	key   string
	stale backend.Stamp
	fill  backend.FillFunc
}

// ServeHTTP answers the requests of peers. The cluster has authenticated them
// and bounds their headers and connections.
func (g *Gossip) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from, ok := cluster.PeerFrom(r.Context())
	if !ok || r.Method != http.MethodPost {
		http.Error(w, "peers only", http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if r.URL.Path == opPing {
		say(w, answerDone)
		return
	}
	req, a := g.accept(from, r)
	if a != "" {
		say(w, a)
		return
	}
	if err := g.serve(w, r, req); err != nil {
		g.hostile(from, err)
		http.Error(w, "malformed", http.StatusBadRequest)
	}
}

// accept checks what every request has in common; a non-empty answer ends it.
func (g *Gossip) accept(from cluster.Member, r *http.Request) (request, answer) {
	req := request{from: from, key: r.Header.Get(hKey)}
	// Who leaves still tells what it holds, since its successors come to fetch it,
	// and how its last flight is doing: that is finished first.
	if g.leaving.Load() && r.URL.Path != opPeek && r.URL.Path != opWait {
		return req, answerLeaving
	}
	if !isKey(req.key) || !speaks(r.Header.Get(hVersion)) {
		return req, answerUnknown // the next node may understand it
	}
	fill, ok := g.cfg.Resolve(req.key)
	if !ok {
		// What a node stores for others is bounded by what it is configured for.
		return req, answerUnknown
	}
	req.fill = fill
	return req, ""
}

func (g *Gossip) serve(w http.ResponseWriter, r *http.Request, req request) (err error) {
	if req.stale, err = parseStamp(r.Header.Get(hStale)); err != nil {
		return err
	}
	switch r.URL.Path {
	case opLead:
		return g.serveLead(w, r, req)
	case opPeek:
		return g.servePeek(w, r, req)
	case opWait:
		return g.serveWait(w, r, req)
	case opPush:
		return g.servePush(w, r, req)
	case opRevoke:
		return g.serveRevoke(w, r, req)
	case opConfirm:
		g.store.Confirm(req.key)
		say(w, answerDone)
	default: // a later version's operation
		say(w, answerUnknown)
	}
	return nil
}

func say(w http.ResponseWriter, a answer) {
	w.Header().Set(hAnswer, string(a))
	w.WriteHeader(http.StatusOK)
}

// holding tells a peer that its request has arrived and is being held: from then
// on silence means a process that hangs, and not a link that is slow.
func holding(w http.ResponseWriter) { w.WriteHeader(http.StatusProcessing) }

// tell answers with an entry and its value.
func tell(w http.ResponseWriter, a answer, e backend.Entry) {
	setEntry(w.Header(), e)
	say(w, a)
	w.Write(e.Value) // if it fails the peer is gone, and will ask again
}

func (g *Gossip) serveLead(w http.ResponseWriter, r *http.Request, req request) error {
	ctx, cancel := context.WithTimeout(r.Context(), leadSlice)
	defer cancel()
	suspects := splitList(r.Header.Get(hSuspects))
	if _, held := g.store.Newer(req.key, req.stale); !held {
		holding(w)
	}
	e, err := g.lead(ctx, req.key, req.stale, suspects, req.fill)
	switch {
	case err == nil:
		tell(w, answerToken, e)
	case ctx.Err() != nil:
		say(w, answerPending)
	case errors.Is(err, backend.ErrClosed), errors.Is(err, context.Canceled):
		say(w, answerLeaving)
	default:
		refusal := *backend.AsRefusal(err)
		setRefusal(w.Header(), &refusal)
		say(w, answerRefused)
	}
	return nil
}

// servePeek tells everything this node knows of a key: its entry, who intends,
// its own flight included, the backoff, the revoked ids.
func (g *Gossip) servePeek(w http.ResponseWriter, r *http.Request, req request) error {
	// The peer's intent is noted before this node's are told, so that of two
	// that look at the same time at least one sees the other.
	if r.Header.Get(hIntent) != "" {
		g.intents.note(req.key, req.from.ID)
	}
	intending := g.intents.live(req.key)
	delete(intending, req.from.ID)
	ids := make([]string, 0, len(intending)+1)
	for id := range intending {
		ids = append(ids, id)
	}
	if p := g.peers.Load(); p != nil && g.phases.of(req.key) != "" {
		ids = append(ids, (*p).Self().ID)
	}
	h := w.Header()
	h.Set(hIntents, strings.Join(ids[:min(len(ids), maxIDs)], ","))
	h.Set(hRevoked, formatRevoked(g.store.Revoked(req.key)))
	if b := g.store.Backoff(req.key); b != nil {
		setRefusal(h, b)
	}
	if e, ok := g.store.Get(req.key); ok {
		tell(w, answerToken, e)
		return nil
	}
	say(w, answerNone)
	return nil
}

// serveWait tells how this node's own flight is doing, and never starts one. It
// holds the request while the flight decides or acquires, for one slice.
func (g *Gossip) serveWait(w http.ResponseWriter, r *http.Request, req request) error {
	ctx, cancel := context.WithTimeout(r.Context(), leadSlice)
	defer cancel()
	if g.phases.of(req.key) != "" {
		holding(w)
	}
	phase := g.phases.settled(ctx, req.key)
	e, ok := g.store.Newer(req.key, req.stale)
	b := g.store.Backoff(req.key)
	switch {
	case ok:
		tell(w, answerToken, e)
	case phase != "":
		say(w, phase)
	case b != nil:
		setRefusal(w.Header(), b)
		say(w, answerRefused)
	default:
		say(w, answerNone)
	}
	return nil
}

// servePush hears that a peer has something new. A push may have lain in a buffer
// for as long as this machine stood still or the network held it back, and nobody
// here can tell how long that was: the remaining times in it may be over. So what
// it offers is fetched by a request of our own, whose round trip ages it.
func (g *Gossip) servePush(w http.ResponseWriter, r *http.Request, req request) error {
	offered, err := readEntry(r.Header, r.Body)
	if err != nil {
		return err
	}
	refusal, err := readRefusal(r.Header)
	if err != nil {
		return err
	}
	revoked := http.Header{hRevoked: r.Header.Values(hRevoked)}
	if err := g.takeIn(req.key, revoked, backend.Entry{}); err != nil {
		return err
	}
	g.intents.clear(req.key, req.from.ID)
	held, _ := g.store.Get(req.key)
	if refusal != nil || offered.Newer(held.Stamp) {
		holding(w)
		_, _ = g.peek(g.life, req.from, req.key, lookOnly) // it is offered again, or found by digest
	}
	say(w, answerDone)
	return nil
}

func (g *Gossip) serveRevoke(w http.ResponseWriter, r *http.Request, req request) error {
	id, err := backend.ParseID(r.Header.Get(hRevoked))
	if err != nil {
		return err
	}
	if r.Header.Get(hPaced) != "" && g.store.RevokePaced(req.key, id) != nil {
		say(w, answerPaced)
		return nil
	}
	g.learnRevoked(req.key, id, 0)
	say(w, answerDone)
	return nil
}
