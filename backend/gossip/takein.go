package gossip

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

// hostilePause is how long a peer that sent nonsense is not asked.
const hostilePause = time.Minute

// takeIn merges what a message of a peer carries about key: revoked ids first,
// so that a revoked entry beside them is not held for a moment.
func (g *Gossip) takeIn(key string, header http.Header, e backend.Entry) error {
	revoked, err := parseRevoked(header.Get(hRevoked))
	if err != nil {
		return err
	}
	for _, r := range revoked {
		g.learnRevoked(key, r.ID, r.TTL)
	}
	refusal, err := readRefusal(header)
	if err != nil {
		return err
	}
	// A broken way is the peer's own trouble; everything else is the provider's
	// word to the whole fleet.
	if refusal != nil && !refusal.Way {
		g.store.AdoptRefusal(key, refusal)
	}
	if e.IsZero() {
		return nil
	}
	return g.hold(key, e)
}

// learnRevoked takes in what others know to be revoked.
func (g *Gossip) learnRevoked(key string, id backend.ID, ttl time.Duration) {
	g.store.Revoke(key, id, ttl)
	if g.cfg.Revoked != nil {
		g.cfg.Revoked(key, id)
	}
}

// hold vets and merges an entry that a peer sent.
func (g *Gossip) hold(key string, e backend.Entry) error {
	if e.TTL <= 0 {
		return nil // it expired on the way
	}
	if g.cfg.Vet != nil {
		if err := g.cfg.Vet(key, e); err != nil {
			g.metrics.rejected.Inc()
			return fmt.Errorf("%w: entry does not open", errWire)
		}
	}
	e.From = backend.FromPeer
	held, _ := g.store.Get(key)
	if g.store.Merge(key, e) && held.Stamp != e.Stamp {
		g.watch.notify(key)
		g.announce(key)
	}
	return nil
}

// hostile sets a peer that sent nonsense aside. Its bytes are not logged.
func (g *Gossip) hostile(m cluster.Member, err error) {
	g.metrics.rejected.Inc()
	if g.suspect.add(m.ID, hostilePause) {
		g.cfg.Log.Warn("peer sent what this node cannot accept; not asking it for a minute", "peer", m.Name, "error", err)
	}
}

// suspected sets a silent peer aside until it answers a ping, for at most
// suspectFor: so one hung leader costs one timeout and not one per request.
func (g *Gossip) suspected(m cluster.Member) {
	if !g.suspect.add(m.ID, suspectFor) {
		return
	}
	g.metrics.suspected.Inc()
	g.cfg.Log.Warn("peer does not answer; asking the next", "peer", m.Name)
	g.spawn("ping suspect", func(ctx context.Context) {
		for g.suspect.has(m.ID) && ctx.Err() == nil {
			if _, err := g.call(ctx, m, opPing, http.Header{}, g.sliceTimeout); err == nil {
				g.suspect.clear(m.ID)
				return
			}
			sleep(ctx, time.Second)
		}
	})
}

// suspectFor is how long a suspect that never answers is left out.
const suspectFor = 10 * time.Second

// Revoke implements backend.Backend. The key's leader decides whether the time
// for a revocation has come; where none answers within maxPeek this node decides.
func (g *Gossip) Revoke(ctx context.Context, key string, id backend.ID) error {
	if err := g.usable(ctx); err != nil {
		return err
	}
	if g.store.IsRevoked(key, id) {
		return nil
	}
	if err := g.revokeAtLeader(ctx, key, id); err != nil {
		return err
	}
	g.store.Revoke(key, id, 0)
	g.spreadRevocation(ctx, key, id, backend.MaxTTL)
	return nil
}

func (g *Gossip) revokeAtLeader(ctx context.Context, key string, id backend.ID) error {
	asking, cancel := context.WithTimeout(ctx, maxPeek)
	defer cancel()
	for _, m := range g.firstLeaders(key) {
		if m.Self || asking.Err() != nil {
			break
		}
		a, err := g.tellRevoked(asking, m, key, id, true)
		switch {
		case err == nil && a == answerDone:
			return nil
		case err == nil && a == answerPaced:
			return backend.ErrPaced
		}
		// Silence is no reason to suspect it yet: a caller waits, so it had little
		// time. The fill that follows gives it more.
	}
	return g.store.RevokePaced(key, id)
}

// firstLeaders returns the first of the key's order that answer.
func (g *Gossip) firstLeaders(key string) []cluster.Member {
	var out []cluster.Member
	for _, m := range g.order(key) {
		if len(out) < maxAsked && !g.suspect.has(m.ID) {
			out = append(out, m)
		}
	}
	return out
}

// Confirm implements backend.Backend. The leader is told behind the caller, whose
// request has succeeded already.
func (g *Gossip) Confirm(ctx context.Context, key string, id backend.ID) error {
	if err := g.usable(ctx); err != nil {
		return err
	}
	g.store.Confirm(key)
	g.spawn("confirm", func(ctx context.Context) {
		for _, m := range g.firstLeaders(key) {
			if m.Self {
				return
			}
			if _, err := g.callFor(ctx, m, opConfirm, key, http.Header{}, g.peekTimeout); err == nil {
				return
			}
		}
	})
	return nil
}
