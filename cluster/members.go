package cluster

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// idSize is the length of an instance id, in hexadecimal digits: orders need
// ids of one length, and 64 random bits never meet twice in a cluster's life.
const idSize = 16

func newID() string {
	var b [idSize / 2]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func validID(s string) bool {
	if len(s) != idSize {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Member is one instance. A restarted node is another instance.
type Member struct {
	ID   string // instance id: 16 hexadecimal digits, new at every start
	Name string // the operator's name for it, which need not be unique
	Addr netip.AddrPort
	Meta Meta
	Self bool
}

func compareIDs(a, b Member) int { return cmp.Compare(a.ID, b.ID) }

// snapshot is what is known of the membership at one moment; it is immutable.
type snapshot struct {
	members []Member // by rising ID, self included
	byID    map[string]Member
	ring    ring
	orders  map[string][]Member // of the configured keys
	changed chan struct{}       // closed when a newer snapshot has replaced this one
}

func newSnapshot(members map[string]Member, keys []string) *snapshot {
	s := &snapshot{
		members: slices.SortedFunc(maps.Values(members), compareIDs),
		byID:    maps.Clone(members),
		orders:  make(map[string][]Member, len(keys)),
		changed: make(chan struct{}),
	}
	s.ring = newRing(s.members)
	for _, k := range keys {
		s.orders[k] = s.ring.order(k)
	}
	return s
}

// order returns the order of a key; that of a configured key costs a look-up.
func (s *snapshot) order(key string) []Member {
	if o, ok := s.orders[key]; ok {
		return o
	}
	return s.ring.order(key)
}

// news collects what memberlist reports. Its callbacks run under its lock, so
// they only copy and signal; they may come in any number and after Shutdown.
type news struct {
	mu      sync.Mutex
	members map[string]*Member // nil: gone
	gone    []last
	afresh  bool // all that was known before is of no account
	signal  chan struct{}
}

// last is where a member was last seen, and when.
type last struct {
	addr netip.AddrPort
	at   time.Time
}

func newNews() *news {
	return &news{members: make(map[string]*Member), signal: make(chan struct{}, 1)}
}

func (n *news) poke() {
	select {
	case n.signal <- struct{}{}:
	default:
	}
}

// take returns what has come since the last call.
func (n *news) take() (members map[string]*Member, gone []last, afresh bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	members, gone, afresh = n.members, n.gone, n.afresh
	n.members, n.gone, n.afresh = make(map[string]*Member), nil, false
	return members, gone, afresh
}

// reset forgets everything, for a new instance that starts to look around.
func (n *news) reset() {
	n.mu.Lock()
	n.members, n.afresh = make(map[string]*Member), true
	n.mu.Unlock()
	n.poke()
}

func (n *news) put(node *memberlist.Node) {
	m, err := member(node)
	if err != nil {
		return // NotifyAlive has refused it already
	}
	n.mu.Lock()
	n.members[m.ID] = &m
	n.mu.Unlock()
	n.poke()
}

func (n *news) drop(node *memberlist.Node) {
	addr := nodeAddr(node)
	n.mu.Lock()
	n.members[node.Name] = nil
	if len(n.gone) < maxLast {
		n.gone = append(n.gone, last{addr, time.Now()})
	}
	n.mu.Unlock()
	n.poke()
}

// witness is the EventDelegate of one memberlist. Timers of memberlist outlive
// its Shutdown, and what they say then is not news.
type witness struct {
	news *news
	over atomic.Bool
}

// NotifyJoin implements memberlist.EventDelegate.
func (w *witness) NotifyJoin(node *memberlist.Node) { w.NotifyUpdate(node) }

// NotifyUpdate implements memberlist.EventDelegate.
func (w *witness) NotifyUpdate(node *memberlist.Node) {
	if !w.over.Load() {
		w.news.put(node)
	}
}

// NotifyLeave implements memberlist.EventDelegate.
func (w *witness) NotifyLeave(node *memberlist.Node) {
	if !w.over.Load() {
		w.news.drop(node)
	}
}

// member copies a node of memberlist's, whose fields it goes on changing.
func member(node *memberlist.Node) (Member, error) {
	meta, err := decodeMeta(node.Meta)
	return Member{ID: node.Name, Name: meta.Name, Addr: nodeAddr(node), Meta: meta}, err
}

func nodeAddr(node *memberlist.Node) netip.AddrPort {
	return addrPort(&net.UDPAddr{IP: node.Addr, Port: int(node.Port)})
}
