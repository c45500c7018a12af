package history

import (
	"fmt"
	"time"
)

// Grant is one acquisition, by the provider's own book.
type Grant struct {
	Key, Token      string // Token: or what names it
	Node            int    // -1: not known
	Life            time.Duration
	Arrived, Served time.Duration // of the request; of its answer
	Revoked         time.Duration // 0: never

	seen     map[Holder]time.Duration
	dropped  map[Holder]time.Duration // holders that went over to another
	refused  map[Holder]bool          // holders that were told 401
	replaced map[Holder]bool          // holders that came with another token after that
	renewed  *Grant                   // that this one was acquired to replace, as far as the judge knows
}

// Holder is one incarnation of a node, and a key where that matters.
type Holder struct {
	Node, Life int
	Key        string
}

// Book is who got and presented which token when. It is not for concurrent use.
type Book struct {
	Grants    []*Grant
	Refusals  []time.Duration // answers of the provider other than grants
	Regressed []string        // revoked tokens that came back
	Expired   []string        // tokens that came after their end

	time    *Timeline
	byToken map[string]*Grant
	last    map[Holder]string
}

// NewBook returns an empty book of a run.
func NewBook(t *Timeline) *Book {
	return &Book{time: t, byToken: map[string]*Grant{}, last: map[Holder]string{}}
}

// Granted adds an acquisition.
func (b *Book) Granted(g *Grant) {
	g.seen, g.dropped = map[Holder]time.Duration{}, map[Holder]time.Duration{}
	g.refused, g.replaced = map[Holder]bool{}, map[Holder]bool{}
	b.Grants = append(b.Grants, g)
	b.byToken[g.Token] = g
}

// Revoke notes that all tokens of a key that have been issued are dead from now
// on.
func (b *Book) Revoke(key string, now time.Duration) {
	for _, g := range b.Grants {
		if g.Key == key && g.Revoked == 0 && g.Served <= now {
			g.Revoked = now
		}
	}
}

// Presented notes that a node came to the archive with a token.
func (b *Book) Presented(node int, key, token string, now time.Duration) {
	life := b.time.At(now).Life[node]
	g := b.byToken[token]
	if g == nil || life == 0 {
		return // a node on its way down may still say something
	}
	who := Holder{node, life, key}
	b.move(who, g, now)
	if now > g.Served+g.Life {
		b.late(who, g, now)
	}
	if _, before := g.seen[who]; !before {
		g.seen[who] = now
	}
	if g.Revoked != 0 && g.Revoked <= now {
		g.refused[who] = true
	}
}

// lateTail is how long before a token was presented its node must have run, and
// its network been whole, for the token's age to be the node's own fault: what
// a client waits at most.
const lateTail = 15 * time.Second

// late notes an expired token, unless the node was stopped after it had lent the
// token, or the request lost packets on its way.
func (b *Book) late(who Holder, g *Grant, now time.Duration) {
	for _, m := range b.time.During(now-lateTail, now) {
		if m.Life[who.Node] != who.Life || m.Disturbed(who.Node) {
			return
		}
	}
	b.Expired = append(b.Expired, fmt.Sprintf("node %d presented a token of %q %v after its end, at %v", who.Node, who.Key, now-g.Served-g.Life, now))
}

// move notes that a holder has come from one token to another. A client asks
// one thing after the other, so a token that was refused and replaced must never
// come back.
func (b *Book) move(who Holder, g *Grant, now time.Duration) {
	last := b.byToken[b.last[who]]
	if last != nil && last != g {
		last.dropped[who] = now
		last.replaced[who] = last.replaced[who] || last.refused[who]
	}
	delete(g.dropped, who)
	if g.replaced[who] {
		b.Regressed = append(b.Regressed, fmt.Sprintf("node %d (life %d) presented a revoked token of %q again at %v", who.Node, who.Life, who.Key, now))
	}
	b.last[who] = g.Token
}

// Alive reports whether a token can be used at an instant by who holds it.
func (g *Grant) Alive(at time.Duration) bool {
	left := min(max(g.Life/50, time.Second), time.Minute, g.Life/4)
	return g.Served <= at && at < g.Arrived+g.Life-left && (g.Revoked == 0 || at < g.Revoked)
}

// Due reports whether a token may be renewed at an instant: a node with the
// default buffer does so a fifth before its end, a third if it lives less than a
// minute, and up to a twentieth sooner.
func (g *Grant) Due(at time.Duration) bool {
	ahead := g.Life / 5
	if g.Life < time.Minute {
		ahead = g.Life / 3
	}
	return at > g.Arrived+g.Life-min(ahead, 5*time.Minute)-g.Life/20-time.Second
}

// HeldIn reports whether one of the nodes has the token at an instant: it came
// with it, and has not gone over to another since. Where a fault has made two, a
// node that learns of the other keeps one.
func (g *Grant) HeldIn(nodes map[int]bool, m Moment, at time.Duration) bool {
	for n := range nodes {
		who := Holder{n, m.Life[n], g.Key}
		seen, ok := g.seen[who]
		if dropped, gone := g.dropped[who]; ok && seen <= at && (!gone || dropped > at) {
			return true
		}
	}
	return false
}
