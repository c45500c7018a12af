package memnet

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// retransmit is what one lost segment costs a stream: the least retransmission
// timeout of Linux. Streams never lose bytes, they get late.
const retransmit = 200 * time.Millisecond

// Net is a set of hosts and the links between them.
type Net struct {
	mu     sync.Mutex // guards everything below and every queue of every connection
	rng    *rand.Rand
	hosts  map[netip.Addr]*Host
	links  map[pair]link
	names  map[string][]netip.Addr
	halves map[*half]struct{} // open streams, to be woken when a link changes
	port   uint16
}

// pair is a direction of a link.
type pair struct{ from, to netip.Addr }

// link is the state of one direction.
type link struct {
	cut   bool
	loss  float64
	delay time.Duration
}

// New returns an empty network whose losses follow seed.
func New(seed uint64) *Net {
	return &Net{
		rng:    rand.New(rand.NewPCG(seed, seed)), //nolint:gosec // a test network, and replayable
		hosts:  make(map[netip.Addr]*Host),
		links:  make(map[pair]link),
		names:  make(map[string][]netip.Addr),
		halves: make(map[*half]struct{}),
		port:   32768,
	}
}

// Host returns a new host at an IP address, e.g. "10.0.0.1". A host that was
// there before is crashed first, so that calling it again is a reboot.
func (n *Net) Host(ip string) *Host {
	addr := netip.MustParseAddr(ip)
	n.mu.Lock()
	old := n.hosts[addr]
	n.mu.Unlock()
	if old != nil {
		old.Crash()
	}
	h := &Host{
		net:       n,
		addr:      addr,
		listeners: make(map[uint16]*listener),
		sockets:   make(map[uint16]*packetConn),
		conns:     make(map[*conn]struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = h
	return h
}

// SetDNS makes a name resolve to addresses; with none, to an error.
func (n *Net) SetDNS(name string, ips ...string) {
	addrs := make([]netip.Addr, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.MustParseAddr(ip)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = addrs
}

// Cut drops everything that from sends to to: packets are lost, stream bytes
// wait. The other direction is left alone.
func (n *Net) Cut(from, to string) { n.update(from, to, func(l *link) { l.cut = true }) }

// Join undoes Cut.
func (n *Net) Join(from, to string) { n.update(from, to, func(l *link) { l.cut = false }) }

// Partition cuts both directions between every host of a and every host of b.
func (n *Net) Partition(a, b []string) { n.between(a, b, n.Cut) }

// Heal undoes Partition.
func (n *Net) Heal(a, b []string) { n.between(a, b, n.Join) }

func (n *Net) between(a, b []string, set func(from, to string)) {
	for _, x := range a {
		for _, y := range b {
			set(x, y)
			set(y, x)
		}
	}
}

// SetLoss makes a share of what from sends to to be lost: packets for good, a
// stream's segments for one retransmission.
func (n *Net) SetLoss(from, to string, share float64) {
	n.update(from, to, func(l *link) { l.loss = share })
}

// SetDelay makes everything that from sends to to arrive that much later.
func (n *Net) SetDelay(from, to string, d time.Duration) {
	n.update(from, to, func(l *link) { l.delay = d })
}

func (n *Net) update(from, to string, set func(*link)) {
	p := pair{netip.MustParseAddr(from), netip.MustParseAddr(to)}
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.links[p]
	set(&l)
	n.links[p] = l
	n.wakeAll()
}

// wakeAll lets every waiting reader look at its link again.
func (n *Net) wakeAll() {
	for h := range n.halves {
		h.cond.Broadcast()
	}
}

// blocked reports whether nothing passes from one address to another now.
func (n *Net) blocked(from, to netip.Addr) bool {
	if n.links[pair{from, to}].cut {
		return true
	}
	return n.paused(from) || n.paused(to)
}

func (n *Net) paused(addr netip.Addr) bool {
	h := n.hosts[addr]
	return h != nil && h.paused
}

// lose draws whether the next segment of a link is lost.
func (n *Net) lose(l link) bool { return l.loss > 0 && n.rng.Float64() < l.loss }

// nextPort returns an ephemeral port no socket of this network has used yet.
func (n *Net) nextPort() uint16 {
	n.port++
	if n.port == 0 {
		n.port = 32768
	}
	return n.port
}
