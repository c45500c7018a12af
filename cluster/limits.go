package cluster

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// Bounds of connections (protocol.md, Membership, Bounds).
const (
	maxStrangers     = 64 // connections that have not authenticated
	maxStrangersEach = 8  // of one address

	maxPerPeer   = 8              // what our client opens to a peer
	maxHeld      = 2 * maxPerPeer // what a peer may hold open: a rotation has two generations
	maxHeldPKI   = 8 * maxHeld    // several nodes may share a certificate and an address
	maxHeldTotal = 4096           // of all, against a key holder who invents instances
)

// wire is a stream below TLS. Its Close takes it out of the books.
type wire struct {
	net.Conn
	from    netip.Addr
	epoch   uint64 // of the ring when it was made
	once    sync.Once
	onDone  func(*wire)
	holder  string // set once authenticated
	evicted atomic.Bool
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.once.Do(func() { w.onDone(w) })
	return w.Conn.Close()
}

// strangers are the connections that have not authenticated, oldest first. When
// they are too many, the oldest of the newcomer's own address has to go:
// refusing the newcomer would let anybody who shares a peer's address keep that
// peer out.
type strangers struct {
	mu    sync.Mutex
	all   []*wire
	count map[netip.Addr]int
}

// admit takes a connection in and returns the one that must be closed for it.
func (s *strangers) admit(w *wire) (evict *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil {
		s.count = make(map[netip.Addr]int)
	}
	switch {
	case s.count[w.from] >= maxStrangersEach:
		evict = s.oldest(w.from)
	case len(s.all) >= maxStrangers && s.count[w.from] > 0:
		evict = s.oldest(w.from)
	case len(s.all) >= maxStrangers:
		evict = s.oldest(s.busiest())
	}
	if evict != nil {
		s.remove(evict)
		evict.evicted.Store(true)
	}
	s.all = append(s.all, w)
	s.count[w.from]++
	return evict
}

func (s *strangers) oldest(from netip.Addr) *wire {
	i := slices.IndexFunc(s.all, func(w *wire) bool { return w.from == from })
	if i < 0 {
		return nil
	}
	return s.all[i]
}

// busiest returns the address with the most strangers; among equals, that of
// the oldest.
func (s *strangers) busiest() (addr netip.Addr) {
	most := 0
	for _, w := range s.all {
		if n := s.count[w.from]; n > most {
			addr, most = w.from, n
		}
	}
	return addr
}

func (s *strangers) release(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(w)
}

func (s *strangers) remove(w *wire) {
	i := slices.Index(s.all, w)
	if i < 0 {
		return
	}
	s.all = slices.Delete(s.all, i, i+1)
	if s.count[w.from]--; s.count[w.from] == 0 {
		delete(s.count, w.from)
	}
}

// holders are the connections of authenticated peers.
type holders struct {
	mu  sync.Mutex
	by  map[string]map[*wire]struct{}
	all int
}

// admit takes a connection of holder in unless there are too many.
func (h *holders) admit(w *wire, holder string, limit int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by == nil {
		h.by = make(map[string]map[*wire]struct{})
	}
	if len(h.by[holder]) >= limit || h.all >= maxHeldTotal {
		return false
	}
	if h.by[holder] == nil {
		h.by[holder] = make(map[*wire]struct{})
	}
	w.holder = holder
	h.by[holder][w] = struct{}{}
	h.all++
	return true
}

func (h *holders) release(w *wire) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set := h.by[w.holder]
	if _, ok := set[w]; !ok {
		return
	}
	delete(set, w)
	h.all--
	if len(set) == 0 {
		delete(h.by, w.holder)
	}
}

// before returns the connections made under an older state of the ring.
func (h *holders) before(epoch uint64) []*wire {
	h.mu.Lock()
	defer h.mu.Unlock()
	var old []*wire
	for _, set := range h.by {
		for w := range set {
			if w.epoch < epoch {
				old = append(old, w)
			}
		}
	}
	return old
}
