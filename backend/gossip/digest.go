package gossip

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

// A digest is what a node tells everybody about what it holds: the version, the
// node's id, then records of fixed length. Integers are big-endian.
//
//	version 1 | id length 1 | id
//	'E' key prefix 8 | generation 8 | id 16 | remaining ms 4     an entry
//	'R' key prefix 8 | id 16 | remaining ms 4                    a revocation
//	'B' key prefix 8 | remaining ms 4 | code 8, zero padded      a backoff
//
// It carries no token and has no authority: an entry is asked for by request,
// and judged when it arrives.
const (
	recEntry   = 'E'
	recRevoked = 'R'
	recBackoff = 'B'
	codeLen    = 8
	// maxDigest bounds what push/pull carries (protocol.md, Bounds).
	maxDigest = 64 << 10
	// pullQueue bounds the pulls under way: one per key and digest is enough.
	pullQueue = 16
)

// prefix is the first 8 bytes of a key. Eight bytes name one of the few keys a
// fleet has without telling a reader the key.
type prefix [8]byte

func prefixOf(key string) (p prefix, ok bool) {
	if !isKey(key) {
		return p, false
	}
	_, err := hex.Decode(p[:], []byte(key[:16]))
	return p, err == nil
}

type record struct {
	kind   byte
	prefix prefix
	stamp  backend.Stamp // 'E'; 'R' uses its ID
	left   time.Duration
	code   string // 'B'
}

func beginDigest(id string) []byte {
	return append([]byte{Version, byte(len(id))}, id...)
}

func appendMillis(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(max(0, d.Milliseconds()))) //nolint:gosec // lifetimes are at most a day
}

func (r record) append(b []byte) []byte {
	b = append(append(b, r.kind), r.prefix[:]...)
	switch r.kind {
	case recEntry:
		b = binary.BigEndian.AppendUint64(b, r.stamp.Gen)
		b = append(b, r.stamp.ID[:]...)
	case recRevoked:
		b = append(b, r.stamp.ID[:]...)
	}
	b = appendMillis(b, r.left)
	if r.kind == recBackoff {
		var code [codeLen]byte
		copy(code[:], r.code)
		b = append(b, code[:]...)
	}
	return b
}

// parseDigest returns the sender's id and the records. Records of a kind that
// this version does not know end the message: their length is not known.
func parseDigest(b []byte) (from string, out []record, err error) {
	if len(b) < 2 || len(b) > maxDigest || len(b) < 2+int(b[1]) {
		return "", nil, fmt.Errorf("%w: digest of %d bytes", errWire, len(b))
	}
	from, b = string(b[2:2+int(b[1])]), b[2+int(b[1]):]
	for len(b) > 0 {
		r, rest, err := parseRecord(b)
		if err != nil || r.kind == 0 {
			return from, out, err
		}
		out, b = append(out, r), rest
	}
	return from, out, nil
}

var recordLen = map[byte]int{
	recEntry:   1 + 8 + 8 + 16 + 4,
	recRevoked: 1 + 8 + 16 + 4,
	recBackoff: 1 + 8 + 4 + codeLen,
}

func parseRecord(b []byte) (r record, rest []byte, err error) {
	n, known := recordLen[b[0]]
	if !known {
		return record{}, nil, nil
	}
	if len(b) < n {
		return record{}, nil, fmt.Errorf("%w: digest cut off", errWire)
	}
	r.kind = b[0]
	copy(r.prefix[:], b[1:9])
	f := b[9:n]
	switch r.kind {
	case recEntry:
		r.stamp.Gen = binary.BigEndian.Uint64(f)
		copy(r.stamp.ID[:], f[8:24])
		f = f[24:]
	case recRevoked:
		copy(r.stamp.ID[:], f[:16])
		f = f[16:]
	}
	r.left = min(time.Duration(binary.BigEndian.Uint32(f))*time.Millisecond, backend.MaxTTL)
	if r.kind == recBackoff {
		r.code = trimZeros(f[4:])
		if !isCode(r.code) {
			return record{}, nil, fmt.Errorf("%w: code", errWire)
		}
	}
	return r, b[n:], nil
}

func trimZeros(b []byte) string {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b)
}

// records returns what there is to tell about one key.
func (g *Gossip) records(key string) (out []record) {
	p, ok := prefixOf(key)
	if !ok {
		return nil
	}
	for _, r := range g.store.Revoked(key) {
		out = append(out, record{kind: recRevoked, prefix: p, stamp: backend.Stamp{ID: r.ID}, left: r.TTL})
	}
	if e, ok := g.store.Get(key); ok && e.TTL >= minReplicated {
		out = append(out, record{kind: recEntry, prefix: p, stamp: e.Stamp, left: e.TTL})
	}
	if b := g.store.Backoff(key); b != nil && !b.Way {
		out = append(out, record{kind: recBackoff, prefix: p, left: b.RetryAfter, code: b.Code})
	}
	return out
}

// announce gossips what this node holds for key.
func (g *Gossip) announce(key string) {
	g.broadcast("key/"+key, g.records(key))
}

func (g *Gossip) broadcastRevocation(key string, id backend.ID, ttl time.Duration) {
	if p, ok := prefixOf(key); ok {
		g.broadcast("revoked/"+id.String(), []record{{kind: recRevoked, prefix: p, stamp: backend.Stamp{ID: id}, left: ttl}})
	}
}

// maxBroadcast keeps a message within one packet.
const maxBroadcast = cluster.MaxGossip

func (g *Gossip) broadcast(name string, records []record) {
	p := g.peers.Load()
	if p == nil || len(records) == 0 {
		return
	}
	b := beginDigest((*p).Self().ID)
	for _, r := range records {
		if len(b)+recordLen[r.kind] > maxBroadcast {
			break // the rest goes by push/pull
		}
		b = r.append(b)
	}
	(*p).Broadcast(name, b)
}

// State implements cluster.Delegate: everything this node holds.
func (g *Gossip) State() []byte {
	p := g.peers.Load()
	if p == nil {
		return nil
	}
	b := beginDigest((*p).Self().ID)
	for _, key := range g.known.union(g.store.Keys()) {
		for _, r := range g.records(key) {
			if len(b)+recordLen[r.kind] <= maxDigest {
				b = r.append(b)
			}
		}
	}
	return b
}

// MergeState implements cluster.Delegate.
func (g *Gossip) MergeState(state []byte) { g.Gossip(state) }

// Gossip implements cluster.Delegate: it notes what a digest says and pulls what
// is newer, without blocking the caller.
func (g *Gossip) Gossip(msg []byte) {
	if len(msg) == 0 {
		return
	}
	from, records, err := parseDigest(msg)
	if err != nil {
		g.metrics.rejected.Inc()
	}
	for _, r := range records {
		if key, ok := g.known.byPrefix(r.prefix); ok {
			g.heed(from, key, r)
		}
	}
}

// heed takes one record in. What is news is passed on: memberlist sends a
// broadcast a few times and to nodes at random, so an originator alone reaches
// most of a fleet and not all of it.
func (g *Gossip) heed(from, key string, r record) {
	switch r.kind {
	case recRevoked:
		if !g.store.IsRevoked(key, r.stamp.ID) {
			g.learnRevoked(key, r.stamp.ID, r.left)
			g.broadcastRevocation(key, r.stamp.ID, r.left)
		}
	case recBackoff:
		g.heedBackoff(from, key, r)
	case recEntry:
		g.heedEntry(from, key, r)
	}
}

// digestAge is how old a digest usually is at most when it arrives: it waits in a
// queue and is sent several times.
const digestAge = 2 * time.Second

// heedBackoff asks the sender how long its backoff lasts, where this node knows of
// none that long. The record itself does not bind: a digest waits in its sender's
// queue for as long as there is nobody to send it to, and in the socket of a
// machine that stands still, so the pause it names may be over.
func (g *Gossip) heedBackoff(from, key string, r record) {
	known := g.store.Backoff(key)
	if r.left <= 0 || known != nil && r.left <= known.RetryAfter+digestAge {
		return
	}
	g.pull(from, key, func() {
		if known == nil && g.store.Backoff(key) != nil {
			g.announce(key)
		}
	})
}

func (g *Gossip) heedEntry(from, key string, r record) {
	if g.store.IsRevoked(key, r.stamp.ID) || r.left < minReplicated {
		return
	}
	if e, ok := g.store.Get(key); ok && !r.stamp.Newer(e.Stamp) {
		return
	}
	g.heard.note(key, from, r.stamp, r.left)
	g.pull(from, key, func() {})
}

// pull asks a digest's sender for what it holds now, and calls then. One pull of
// a key at a time is enough; of those that ask for one meanwhile the last is
// asked after it.
func (g *Gossip) pull(from, key string, then func()) {
	if g.suspect.has(from) || !g.heard.pulling(key, from) {
		return
	}
	g.spawn("pull", func(ctx context.Context) {
		for more := true; more; from, more = g.heard.pulled(key) {
			if m, ok := g.awaitMember(ctx, from); ok {
				_, _ = g.peek(ctx, m, key, lookOnly)
				then()
			}
		}
	})
}

// memberWait is how long a digest may be ahead of the news that its sender is a
// member: the exchange of a join brings both.
const memberWait = time.Second

// awaitMember returns the member of an id, as soon as it is one.
func (g *Gossip) awaitMember(ctx context.Context, id string) (cluster.Member, bool) {
	ctx, cancel := context.WithTimeout(ctx, memberWait)
	defer cancel()
	for p := g.peers.Load(); p != nil; {
		changed := (*p).Changed()
		if m, ok := g.member(id); ok {
			return m, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return cluster.Member{}, false
		}
	}
	return cluster.Member{}, false
}

// announcements is who said by digest to hold what, and what is being pulled.
type announcements struct {
	clock *backend.Clock
	mu    sync.Mutex
	by    map[string]announcement
	pulls map[string]string // under way, by key: who is to be asked next, or ""
}

type announcement struct {
	holder string
	stamp  backend.Stamp
	until  time.Duration
}

func newAnnouncements(clock *backend.Clock) *announcements {
	return &announcements{clock: clock, by: make(map[string]announcement), pulls: make(map[string]string)}
}

// note keeps the newest announcement of a key, of equal ones the latest: its
// sender was alive most recently. What follows an expired one always counts.
func (a *announcements) note(key, holder string, stamp backend.Stamp, left time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock.Now()
	if old := a.by[key]; now >= old.until || !old.stamp.Newer(stamp) {
		a.by[key] = announcement{holder: holder, stamp: stamp, until: now + left}
	}
}

// holder returns who announced something newer than stale that still lives.
func (a *announcements) holder(key string, stale backend.Stamp) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	an, ok := a.by[key]
	return an.holder, ok && a.clock.Now() < an.until && an.stamp.Newer(stale)
}

// pulling reports whether a pull of key may start, and notes it. Where one is
// under way from is asked after it.
func (a *announcements) pulling(key, from string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, busy := a.pulls[key]; busy {
		a.pulls[key] = from
		return false
	}
	if len(a.pulls) >= pullQueue {
		return false
	}
	a.pulls[key] = ""
	return true
}

// pulled ends a pull, unless somebody is to be asked next.
func (a *announcements) pulled(key string) (next string, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if next = a.pulls[key]; next != "" {
		a.pulls[key] = ""
		return next, true
	}
	delete(a.pulls, key)
	return "", false
}
