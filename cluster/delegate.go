package cluster

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// Delegate is what uses the cluster's gossip. Its methods are called on the
// cluster's goroutines and must not block; packets arrive in any order.
type Delegate interface {
	// Gossip takes a peer's broadcast, which is valid only during the call.
	Gossip(msg []byte)
	// State returns what a full exchange with one peer tells, at most MaxState
	// bytes.
	State() []byte
	// MergeState takes what the peer told.
	MergeState(state []byte)
}

// Bounds of what a Delegate may say.
const (
	MaxState  = 64 << 10 // bytes of State
	MaxGossip = 1024     // bytes of one broadcast: it must fit into a packet with others

	maxState = MaxState
	// retransmits times log10 of the members is how often a broadcast is sent.
	// memberlist's own 4 misses a member of a small cluster once in a hundred.
	retransmits  = 8
	maxBroadcast = 1024 // broadcasts queued; beyond, those sent most often go
)

// gossip is memberlist's view of this node: all its delegates in one. Every
// method may be called after Shutdown.
type gossip struct {
	self     func() Member
	delegate Delegate // may be nil
	allows   func(memberAddr *memberlist.Node) bool
	meta     atomic.Pointer[[]byte]
	queue    memberlist.TransmitLimitedQueue
	count    atomic.Int64 // members, for the queue: asking memberlist could deadlock
	synced   func()       // a full exchange with another instance took place
	rtt      rtts
	quiet    *throttle
}

// NodeMeta implements memberlist.Delegate.
func (g *gossip) NodeMeta(limit int) []byte {
	meta := *g.meta.Load()
	return meta[:min(len(meta), limit)]
}

// NotifyMsg implements memberlist.Delegate, on the goroutine of all packets.
func (g *gossip) NotifyMsg(msg []byte) {
	if g.delegate != nil {
		defer recovered(g.quiet.log, "gossip")
		g.delegate.Gossip(msg)
	}
}

// GetBroadcasts implements memberlist.Delegate.
func (g *gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.queue.GetBroadcasts(overhead, limit)
}

// stateVersion precedes the delegate's state, so that the state of a full
// exchange is never empty: memberlist does not tell of an empty one.
const stateVersion = 1

// LocalState implements memberlist.Delegate.
func (g *gossip) LocalState(bool) (state []byte) {
	state = []byte{stateVersion}
	if g.delegate == nil {
		return state
	}
	defer recovered(g.quiet.log, "state")
	own := g.delegate.State()
	if len(own) > MaxState {
		g.quiet.warn("state", "own state is too large to be exchanged", "bytes", len(own), "limit", MaxState)
		return state
	}
	return append(state, own...)
}

// MergeRemoteState implements memberlist.Delegate. memberlist calls it last in a
// full exchange, so the peer's members are known by then.
func (g *gossip) MergeRemoteState(state []byte, _ bool) {
	g.synced()
	if g.delegate == nil || len(state) < 2 || state[0] != stateVersion {
		return
	}
	defer recovered(g.quiet.log, "merge")
	g.delegate.MergeState(state[1:])
}

var errMember = errors.New("member refused")

// NotifyAlive implements memberlist.AliveDelegate: what it refuses, memberlist
// never hears of. A key holder can say anything.
func (g *gossip) NotifyAlive(node *memberlist.Node) error {
	m, err := member(node)
	switch {
	case err != nil:
		return err
	case !validID(m.ID):
		return fmt.Errorf("%w: id of %d bytes", errMember, len(m.ID))
	case !m.Addr.IsValid() || m.Addr.Port() == 0 || m.Addr.Addr().IsUnspecified() || m.Addr.Addr().IsMulticast():
		return fmt.Errorf("%w: address", errMember)
	case node.PMin > speaks || node.PMax < speaks || node.PCur < node.PMin || node.PCur > node.PMax || node.DMax != 0:
		return fmt.Errorf("%w: memberlist protocol", errMember) // one such would fail every exchange
	case m.ID != g.self().ID && !g.allows(node):
		return fmt.Errorf("%w: address not in AllowedCIDRs", errMember)
	}
	return nil
}

// AckPayload implements memberlist.PingDelegate.
func (g *gossip) AckPayload() []byte { return nil }

// NotifyPingComplete implements memberlist.PingDelegate.
func (g *gossip) NotifyPingComplete(node *memberlist.Node, rtt time.Duration, _ []byte) {
	g.rtt.add(node.Name, rtt)
}

// maxRTT bounds one measurement: the longest link that is supported (faults.md,
// 15). An answer that took longer tells of a process that stood still, and must
// not make others patient with it.
const maxRTT = time.Second

// rtts smooths round trips per member as TCP does (RFC 6298), with larger shares
// of each new one, as they are few: a quarter of a longer one, which may tell of a
// busy process as well as of the link, half of a shorter one, which cannot.
type rtts struct {
	mu sync.Mutex
	by map[string]time.Duration
}

func (r *rtts) add(id string, d time.Duration) {
	d = min(max(d, time.Nanosecond), maxRTT) // 0 stands for unknown
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = make(map[string]time.Duration)
	}
	if old, ok := r.by[id]; ok {
		share := time.Duration(2)
		if d > old {
			share = 4
		}
		d = old + (d-old)/share
	}
	r.by[id] = d
}

// first is add for a member whose round trip is not known yet, by a measurement
// that is not worth more.
func (r *rtts) first(id string, d time.Duration) {
	if r.get(id) == 0 {
		r.add(id, d)
	}
}

func (r *rtts) get(id string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[id]
}

// keep forgets everybody who is not a member.
func (r *rtts) keep(members map[string]Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.by {
		if _, ok := members[id]; !ok {
			delete(r.by, id)
		}
	}
}

// broadcast is a message in memberlist's queue.
type broadcast struct {
	name string
	msg  []byte
}

// Name implements memberlist.NamedBroadcast.
func (b broadcast) Name() string { return b.name }

// Invalidates implements memberlist.Broadcast.
func (b broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(broadcast)
	return ok && o.name == b.name
}

// Message implements memberlist.Broadcast.
func (b broadcast) Message() []byte { return b.msg }

// Finished implements memberlist.Broadcast.
func (b broadcast) Finished() {}
