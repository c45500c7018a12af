package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

var (
	// errNextNode is a peer's "not me": leaving, not configured, or of another
	// protocol. It says nothing about the provider.
	errNextNode = errors.New("peer cannot lead")
	// errSilent is a peer that did not answer in time or broke the connection.
	errSilent = errors.New("peer is silent")
)

const (
	// leadSlice is how long a peer may hold a request to lead or to wait before
	// it answers "pending": so a slow provider is told from a hung leader.
	leadSlice = time.Second
	// minGrace is what an answer may be late beyond the slice.
	minGrace = 500 * time.Millisecond
	// pushTimeout bounds one push, in which the peer fetches what is offered.
	pushTimeout = time.Second
	// pushTries is how often a copy is offered to a replica.
	pushTries = 3
	// minPeek and maxPeek bound how long a peek waits, whatever the link.
	minPeek, maxPeek = 250 * time.Millisecond, time.Second
)

// patience is how long a peer of an id may take, as the link to it is known now.
type patience func(id string) time.Duration

// sliceTimeout is how long a peer may take over a slice before it counts as
// silent: the slice and what the link to it needs.
func (g *Gossip) sliceTimeout(id string) time.Duration {
	return leadSlice + max(minGrace, 3*g.rtt(id))
}

// peekTimeout is how long a peek waits: who does not answer is skipped. A link
// that nothing is known of yet may be a slow one.
func (g *Gossip) peekTimeout(id string) time.Duration {
	rtt := g.rtt(id)
	if rtt == 0 {
		return maxPeek
	}
	return min(max(3*rtt, minPeek), maxPeek)
}

// pushPatience is how long a peer may take over a push: it fetches what is
// offered meanwhile, maybe over a new connection.
func (g *Gossip) pushPatience(id string) time.Duration { return max(pushTimeout, 6*g.rtt(id)) }

func (g *Gossip) rtt(id string) time.Duration {
	if p := g.peers.Load(); p != nil {
		return (*p).RTT(id)
	}
	return 0
}

// reply is a peer's answer with its bounded body read.
type reply struct {
	answer answer
	header http.Header
	entry  backend.Entry // aged by the whole round trip
}

// staged returns a context that ends when the peer lets its time pass at one of
// three stages: until there is a connection, until its sign that it has the
// request (102, from who is going to hold it), until its answer. Each stage tells
// how long a round trip is, so that a slow link is not taken for a silent peer.
func staged(ctx context.Context, id string, timeout patience) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(timeout(id), cancel)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:        func(httptrace.GotConnInfo) { timer.Reset(timeout(id)) },
		Got1xxResponse: func(int, textproto.MIMEHeader) error { timer.Reset(timeout(id)); return nil },
	})
	return ctx, func() { timer.Stop(); cancel() }
}

// call sends one request to a peer and reads the answer, each stage of it within
// timeout.
func (g *Gossip) call(ctx context.Context, m cluster.Member, op string, header http.Header, timeout patience) (reply, error) {
	p := g.peers.Load()
	version, common := versionFor(m)
	if p == nil || !common {
		return reply{}, errNextNode
	}
	ctx, cancel := staged(ctx, m.ID, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, op, http.NoBody)
	if err != nil {
		return reply{}, fmt.Errorf("request %s: %w", op, err)
	}
	req.Header = header
	req.Header.Set(hVersion, strconv.Itoa(version))
	req.Header["Idempotency-Key"] = nil // lets net/http repeat the request on a kept connection that died
	started := g.cfg.Clock.Now()
	res, err := (*p).Do(req, m)
	if err != nil {
		g.metrics.peerRequests.WithLabelValues(op[1:], "silent").Inc()
		return reply{}, fmt.Errorf("%w: %s: %w", errSilent, op[1:], err)
	}
	defer res.Body.Close()
	out, err := g.readReply(res, started)
	g.metrics.peerRequests.WithLabelValues(op[1:], resultOf(out, err)).Inc()
	return out, err
}

func resultOf(r reply, err error) string {
	switch {
	case errors.Is(err, errSilent):
		return "silent"
	case err != nil:
		return "invalid"
	default:
		return string(r.answer)
	}
}

func (g *Gossip) readReply(res *http.Response, started time.Duration) (reply, error) {
	if res.StatusCode != http.StatusOK {
		return reply{}, fmt.Errorf("%w: status %d", errNextNode, res.StatusCode)
	}
	a, ok := parseAnswer(res.Header.Get(hAnswer))
	if !ok {
		return reply{}, fmt.Errorf("%w: answer", errWire)
	}
	e, err := readEntry(res.Header, res.Body)
	switch {
	case errors.Is(err, errWire):
		return reply{}, err
	case err != nil:
		return reply{}, fmt.Errorf("%w: %w", errSilent, err)
	}
	// A kept connection is only reused when its body was read to the end.
	io.Copy(io.Discard, io.LimitReader(res.Body, maxBody)) //nolint:errcheck // best effort
	tripped := g.cfg.Clock.Now() - started
	e.TTL -= tripped
	e.From = backend.FromPeer
	if err := ageRefusal(res.Header, tripped); err != nil {
		return reply{}, err
	}
	return reply{answer: a, header: res.Header, entry: e}, nil
}

// callFor is call for one key, with what every answer may carry taken in: an
// entry, revoked ids, a refusal.
func (g *Gossip) callFor(ctx context.Context, m cluster.Member, op, key string, header http.Header, timeout patience) (reply, error) {
	header.Set(hKey, key)
	r, err := g.call(ctx, m, op, header, timeout)
	if err == nil {
		err = g.takeIn(key, r.header, r.entry)
	}
	if errors.Is(err, errWire) {
		g.hostile(m, err)
	}
	return r, err
}

// askLead asks a peer to lead until it has an answer, for as long as it keeps
// answering "pending", and once more if what it offers has been revoked.
func (g *Gossip) askLead(ctx context.Context, m cluster.Member, key string, stale backend.Stamp, suspects []string) (backend.Entry, error) {
	header := http.Header{}
	header.Set(hStale, formatStamp(stale))
	header.Set(hSuspects, strings.Join(suspects[:min(len(suspects), maxIDs)], ","))
	for told := false; ; {
		r, err := g.callFor(ctx, m, opLead, key, header.Clone(), g.sliceTimeout)
		if err != nil {
			return backend.Entry{}, err
		}
		switch r.answer {
		case answerPending:
		case answerToken:
			if e, ok := g.store.Newer(key, stale); ok {
				return e, nil
			}
			if told || !r.entry.Newer(stale) || !g.store.IsRevoked(key, r.entry.ID) {
				// Too short-lived to have survived the trip, or not newer after all.
				return backend.Entry{}, fmt.Errorf("%w: answered with nothing newer", errNextNode)
			}
			told = true // the revocation has not reached it yet
			if _, err := g.tellRevoked(ctx, m, key, r.entry.ID, false); err != nil {
				return backend.Entry{}, err
			}
		case answerRefused:
			refusal, err := readRefusal(r.header)
			if err != nil || refusal == nil {
				return backend.Entry{}, fmt.Errorf("%w: refusal", errWire)
			}
			return backend.Entry{}, refusal
		default:
			return backend.Entry{}, fmt.Errorf("%w: %s", errNextNode, r.answer)
		}
	}
}

// askWait asks a peer how its own flight for key is doing, one slice long.
func (g *Gossip) askWait(ctx context.Context, m cluster.Member, key string, stale backend.Stamp) (answer, error) {
	header := http.Header{}
	header.Set(hStale, formatStamp(stale))
	r, err := g.callFor(ctx, m, opWait, key, header, g.sliceTimeout)
	return r.answer, err
}

// intent is what a look is for.
type intent struct {
	lead    bool     // those that are asked note that this node means to acquire
	skip    []string // ids of nodes not worth asking
	patient bool     // what is not found now is refused to callers
}

var (
	lookOnly      = intent{}
	lookPatiently = intent{patient: true}
)

func lookIntending(skip []string) intent { return intent{lead: true, skip: skip} }

// timeout is how long one peer is waited for.
func (in intent) timeout(g *Gossip) patience {
	if in.patient {
		return func(string) time.Duration { return maxPeek }
	}
	return g.peekTimeout
}

// maxLooks is how many rounds a look takes: a second one for those that did not
// answer in the first.
const maxLooks = 2

// look peeks at the first others of the key's order until R have answered: in
// parallel, then at as many more as were silent, so that those who look meet at
// the same nodes even where the first of the order have just died. It takes in
// what they hold, returns who intends to acquire (theirs and what this node
// noted itself), and comes back as soon as something newer than stale is here.
func (g *Gossip) look(ctx context.Context, key string, stale backend.Stamp, in intent) map[string]bool {
	seen := g.intents.live(key)
	targets, rest := g.lookAt(key, stale, in.skip)
	for round := 1; len(targets) > 0; round++ {
		silent, done := g.peekAll(ctx, targets, key, stale, in, seen)
		if done || round == maxLooks {
			break
		}
		n := min(silent, len(rest))
		targets, rest = rest[:n], rest[n:]
	}
	return seen
}

// peekAll peeks at all targets at once and adds who intends to seen. It returns
// how many did not answer, and whether there is no more to look for.
func (g *Gossip) peekAll(ctx context.Context, targets []cluster.Member, key string, stale backend.Stamp, in intent, seen map[string]bool) (silent int, done bool) {
	type result struct {
		ids []string
		err error
	}
	results := make(chan result, len(targets))
	for _, m := range targets {
		// Not bound to the caller: a request cut off costs the connection.
		g.spawn("peek", func(ctx context.Context) {
			ids, err := g.peek(ctx, m, key, in)
			results <- result{ids, err}
		})
	}
	for range targets {
		select {
		case r := <-results:
			if r.err != nil {
				silent++
			}
			for _, id := range r.ids {
				seen[id] = true
			}
		case <-ctx.Done():
			return silent, true
		case <-g.life.Done():
			return silent, true
		}
		if _, ok := g.store.Newer(key, stale); ok {
			return silent, true
		}
	}
	return silent, false
}

// lookAt returns whom to look at first, the first R others and whoever announced
// something newer by digest, and whom to turn to where those are silent.
func (g *Gossip) lookAt(key string, stale backend.Stamp, skip []string) (first, rest []cluster.Member) {
	all := slices.DeleteFunc(g.others(key), func(m cluster.Member) bool { return slices.Contains(skip, m.ID) })
	n := min(len(all), g.cfg.Replicas)
	first, rest = all[:n:n], all[n:]
	holder, ok := g.heard.holder(key, stale)
	isHolder := func(m cluster.Member) bool { return m.ID == holder }
	if !ok || slices.ContainsFunc(first, isHolder) || slices.Contains(skip, holder) {
		return first, rest
	}
	if m, ok := g.member(holder); ok {
		first, rest = append(first, m), slices.DeleteFunc(rest, isHolder)
	}
	return first, rest
}

func (g *Gossip) member(id string) (cluster.Member, bool) {
	if p := g.peers.Load(); p != nil {
		for _, m := range (*p).Members() {
			if m.ID == id && !m.Self {
				return m, true
			}
		}
	}
	return cluster.Member{}, false
}

// peek asks one peer what it holds and returns who it knows to intend.
func (g *Gossip) peek(ctx context.Context, m cluster.Member, key string, in intent) ([]string, error) {
	header := http.Header{}
	if in.lead {
		header.Set(hIntent, "1")
	}
	r, err := g.callFor(ctx, m, opPeek, key, header, in.timeout(g))
	if err != nil {
		g.cfg.Log.Debug("peek got no answer", "peer", m.Name, "error", err)
		return nil, err
	}
	return splitList(r.header.Get(hIntents)), nil
}

// replicate offers the live entry of key, or the refusal that took its place, to
// the first R others, and tells everybody by digest. Either ends this node's
// intent with them.
func (g *Gossip) replicate(ctx context.Context, key string, refusal *backend.Refusal) {
	var pushes sync.WaitGroup
	for _, m := range g.replicas(key) {
		pushes.Go(func() { g.push(ctx, m, key, refusal) })
	}
	g.announce(key)
	pushes.Wait()
}

func (g *Gossip) push(ctx context.Context, m cluster.Member, key string, refusal *backend.Refusal) {
	defer g.recovered("push")
	for try := range pushTries {
		if try > 0 {
			sleep(ctx, time.Duration(try)*minPeek)
		}
		_, err := g.call(ctx, m, opPush, g.pushMessage(key, refusal), g.pushPatience)
		if err == nil || !errors.Is(err, errSilent) || ctx.Err() != nil {
			return
		}
	}
	g.metrics.pushesLost.Inc()
}

// pushMessage says what there is to fetch; see servePush for why it is not sent
// along.
func (g *Gossip) pushMessage(key string, refusal *backend.Refusal) http.Header {
	header := http.Header{}
	header.Set(hKey, key)
	header.Set(hRevoked, formatRevoked(g.store.Revoked(key)))
	if refusal != nil {
		setRefusal(header, refusal)
	}
	if e, ok := g.store.Get(key); ok && e.TTL >= minReplicated {
		setEntry(header, e)
	}
	return header
}

// spreadRevocation tells the first R others at once and everybody else by
// gossip.
func (g *Gossip) spreadRevocation(ctx context.Context, key string, id backend.ID, ttl time.Duration) {
	g.broadcastRevocation(key, id, ttl)
	var told sync.WaitGroup
	for _, m := range g.replicas(key) {
		told.Go(func() {
			defer g.recovered("revoke")
			if _, err := g.tellRevoked(ctx, m, key, id, false); err != nil {
				g.cfg.Log.Debug("revocation not delivered", "peer", m.Name, "error", err)
			}
		})
	}
	told.Wait()
}

// tellRevoked tells one peer that an id is revoked. A paced revocation asks it,
// as the key's leader, whether the time for one has come.
func (g *Gossip) tellRevoked(ctx context.Context, m cluster.Member, key string, id backend.ID, paced bool) (answer, error) {
	header := http.Header{}
	header.Set(hRevoked, id.String())
	if paced {
		header.Set(hPaced, "1")
	}
	r, err := g.callFor(ctx, m, opRevoke, key, header, g.peekTimeout)
	return r.answer, err
}

func (g *Gossip) recovered(task string) {
	if v := recover(); v != nil {
		g.cfg.Log.Error("gossip task panicked", "task", task, "panic", fmt.Sprint(v))
	}
}
