package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// peer is an entry of the peer list.
type peer struct {
	host string
	port uint16
}

// parsePeer reads host, host:port, an IPv6 address with or without brackets, or
// [v6]:port. A host is a name, which may have many addresses, or an address.
func parsePeer(s string, defaultPort uint16) (peer, error) {
	host, port, hasPort := strings.TrimSpace(s), "", false
	switch {
	case strings.HasPrefix(host, "["):
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return peer{}, fmt.Errorf("peer %q: ] is missing", s)
		}
		rest := host[end+1:]
		host = host[1:end]
		if port, hasPort = strings.CutPrefix(rest, ":"); !hasPort && rest != "" {
			return peer{}, fmt.Errorf("peer %q: :port expected after ]", s)
		}
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return peer{}, fmt.Errorf("peer %q: no IPv6 address in brackets", s)
		}
	case strings.Count(host, ":") == 1:
		host, port, hasPort = strings.Cut(host, ":")
	}
	p := peer{host: host, port: defaultPort}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return peer{}, fmt.Errorf("peer %q: port %q is not 1 to 65535", s, port)
		}
		p.port = uint16(n)
	}
	return p, checkHost(s, p.host)
}

func checkHost(s, host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if host == "" || len(host) > 253 || strings.ContainsAny(host, " /:@?#%[]\t\r\n") {
		return fmt.Errorf("peer %q: %q is no host name and no address", s, host)
	}
	return nil
}

func parsePeers(list []string, defaultPort uint16) ([]peer, error) {
	peers := make([]peer, 0, len(list))
	for _, s := range list {
		p, err := parsePeer(s, defaultPort)
		if err != nil {
			return nil, err
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// Pace and bounds of joining. memberlist never heals a partition by itself, so
// this goes on for ever.
const (
	rejoinEvery = 10 * time.Second // +-30%
	firstRejoin = 250 * time.Millisecond
	addrEvery   = time.Second            // how often the machine's addresses are looked at
	hurryEvery  = 500 * time.Millisecond // for those who cannot wait for the next round
	maxHurried  = 3                      // rounds of theirs at a time
	resolveTime = 5 * time.Second
	settleEvery = time.Second
	// After joining, and after a move, members of the peer list are asked again a
	// few times: what gossip missed would wait ten seconds for an exchange. In
	// virtual time it misses one of four members in one move of twenty.
	settleRounds = 3
	settlePeers  = 3   // of them a round
	maxJoins     = 16  // at a time
	maxTargets   = 256 // addresses tried in a round
	maxLast      = 256 // last-known addresses kept
	lastFor      = 24 * time.Hour
	lastEager    = time.Hour       // then a sixth of the rounds try it
	patience     = 5 * time.Second // of a fleet that starts together, before being alone is worth a warning
)

// rejoin joins the peers that are no members, again and again, each time that
// this machine has got an address as one who has just come.
func (c *Cluster) rejoin() {
	c.checkAddr()
	for c.joinFromHere() == nil {
	}
}

// joinFromHere joins often until a peer has answered, for nodes that start
// together, then every ten seconds. It returns nil where this machine has got an
// address: back, or another one.
func (c *Cluster) joinFromHere() error {
	c.joinRound(false)
	for wait, again := firstRejoin, settleRounds; ; {
		if moved, err := c.untilNext(jitter(wait)); moved || err != nil {
			return err
		}
		joined := c.hasJoined()
		c.joinRound(joined && again > 0)
		switch {
		case joined && again > 0:
			again--
			wait = settleEvery
		case joined:
			wait = rejoinEvery
		default:
			wait = min(2*wait, rejoinEvery)
		}
	}
}

// untilNext waits for the next round of joins, or until this machine has got an
// address.
func (c *Cluster) untilNext(wait time.Duration) (moved bool, err error) {
	for end := time.Now().Add(wait); ; {
		left := time.Until(end)
		if left <= 0 {
			return false, nil
		}
		if err := pause(c.ctx, min(left, addrEvery)); err != nil {
			return false, err
		}
		if c.checkAddr() {
			return true, nil
		}
	}
}

// JoinNow tries the peers that are no members at once, beside the rounds under
// way: those may wait five seconds for peers that were out of reach when they
// began, and the next may be ten away. It does not wait, and does nothing within
// half a second of the last time or while maxHurried such rounds are under way.
func (c *Cluster) JoinNow() {
	c.joinMu.Lock()
	defer c.joinMu.Unlock()
	if c.hurrying >= maxHurried || !c.hurried.IsZero() && time.Since(c.hurried) < hurryEvery {
		return
	}
	c.hurried = time.Now()
	c.hurrying++
	c.goes("join now", func() {
		defer func() {
			c.joinMu.Lock()
			defer c.joinMu.Unlock()
			c.hurrying--
		}()
		c.joinRound(false)
	})
}

func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.7 + 0.6*rand.Float64())) //nolint:gosec // spreads load, hides nothing
}

// joinRound resolves all peers, joins those that are no members, in parallel,
// and logs when that goes otherwise than last time.
func (c *Cluster) joinRound(again bool) {
	began := time.Now()
	targets, err := c.targets(again)
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, maxJoins)
		mu    sync.Mutex
		errs  = []error{err}
	)
	for _, addr := range targets {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			defer recovered(c.log, "join")
			if !again && c.knows(addr) {
				return // another of this round has told us
			}
			if err := c.join(addr); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if c.ctx.Err() == nil {
		c.reportJoin(began, errors.Join(errs...))
	}
}

// join exchanges everything with one address.
func (c *Cluster) join(addr netip.AddrPort) error {
	list := c.membership()
	if list == nil {
		return nil // between two instances, see move
	}
	_, err := list.Join([]string{addr.String()})
	switch {
	case err == nil:
		c.metrics.joins.WithLabelValues("joined").Inc()
		return nil
	case strings.Contains(err.Error(), errSelf.Error()): // memberlist does not wrap
		return nil
	default:
		c.metrics.joins.WithLabelValues("failed").Inc()
		return plain(err)
	}
}

// plain returns the text of an error of memberlist's Join, which is a list of
// one in several lines and names the address.
func plain(err error) error {
	text := strings.TrimSpace(strings.TrimPrefix(err.Error(), "1 error occurred:\n\t* failed to "))
	return errors.New(text)
}

// reportJoin keeps the error for Status and logs changes of state: alone or
// not, and why. The text of an error changes with every round, its kind does not.
// A round that began before the last one reported knows less than that.
func (c *Cluster) reportJoin(began time.Time, err error) {
	alone := len(c.snap.Load().members) < 2
	c.joinMu.Lock()
	defer c.joinMu.Unlock()
	if began.Before(c.lastRound) {
		return
	}
	c.lastRound, c.joinErr = began, err
	if c.reported && c.alone == alone || alone && time.Since(c.started) < patience {
		return
	}
	c.reported, c.alone = true, alone
	switch {
	case !alone:
		c.log.Info("joined the cluster", "members", len(c.snap.Load().members))
	case c.HasPeers():
		c.log.Warn("no peer has answered; going on alone and trying for ever", "peers", len(c.peers), "err", brief(err))
	}
}

// brief returns the first of joined errors, and how many there are.
func brief(err error) string {
	if err == nil {
		return ""
	}
	first, rest, more := strings.Cut(err.Error(), "\n")
	if more {
		first += fmt.Sprintf(" (and %d more)", 1+strings.Count(rest, "\n"))
	}
	return first
}

// knows reports whether a member is at an address.
func (c *Cluster) knows(addr netip.AddrPort) bool {
	return slices.ContainsFunc(c.snap.Load().members, func(m Member) bool { return m.Addr == addr })
}

// targets returns where to join: the addresses of the peer list and the last
// known ones of members that went, less members' and one's own. With again a few
// members of the peer list are among them.
func (c *Cluster) targets(again bool) ([]netip.AddrPort, error) {
	seeds, err := c.resolve()
	rand.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] })
	own, members := c.ownAddrs(), make(map[netip.AddrPort]bool)
	for _, m := range c.snap.Load().members {
		members[m.Addr] = true
	}
	spare := 0
	if again {
		spare = settlePeers
	}
	var targets []netip.AddrPort
	for _, a := range append(seeds, c.lastKnown()...) {
		if members[a] && !own[a] && spare > 0 {
			spare--
			members[a] = false
		}
		if !own[a] && !members[a] && len(targets) < maxTargets {
			own[a] = true // once is enough
			targets = append(targets, a)
		}
	}
	return targets, err
}

// resolve looks every peer up again: addresses behind a name change.
func (c *Cluster) resolve() ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(c.ctx, resolveTime)
	defer cancel()
	found := make([][]netip.AddrPort, len(c.peers))
	errs := make([]error, len(c.peers))
	slots := make(chan struct{}, maxJoins)
	var wg sync.WaitGroup
	for i, p := range c.peers {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			defer recovered(c.log, "resolve")
			found[i], errs[i] = c.lookup(ctx, p)
		})
	}
	wg.Wait()
	return slices.Concat(found...), errors.Join(errs...)
}

func (c *Cluster) lookup(ctx context.Context, p peer) ([]netip.AddrPort, error) {
	ips := []netip.Addr{}
	if ip, err := netip.ParseAddr(p.host); err == nil {
		ips = append(ips, ip)
	} else if ips, err = c.transport.network.LookupNetIP(ctx, p.host); err != nil {
		return nil, fmt.Errorf("resolve peer: %w", err)
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), p.port)
	}
	return addrs, nil
}

// ownAddrs returns where this node can be reached itself: every node of a
// shared peer list finds itself in it.
func (c *Cluster) ownAddrs() map[netip.AddrPort]bool {
	own := map[netip.AddrPort]bool{c.Addr(): true}
	bound := addrPort(c.transport.stream.Addr())
	own[bound] = true
	if bound.Addr().IsUnspecified() {
		addrs, _ := c.transport.network.LocalAddrs() // without them a join finds itself, and is refused
		for _, a := range addrs {
			own[netip.AddrPortFrom(a, bound.Port())] = true
		}
	}
	return own
}

// lastKnown returns the addresses where members were seen in the past day. The
// key refuses a stranger who has got one since.
func (c *Cluster) lastKnown() []netip.AddrPort {
	c.joinMu.Lock()
	defer c.joinMu.Unlock()
	var addrs []netip.AddrPort
	for addr, at := range c.lastSeen {
		switch age := time.Since(at); {
		case age > lastFor:
			delete(c.lastSeen, addr)
		case age < lastEager || rand.IntN(6) == 0: //nolint:gosec // spreads load, hides nothing
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// remember keeps where members that went were last seen; of too many the oldest go.
func (c *Cluster) remember(gone []last) {
	c.joinMu.Lock()
	defer c.joinMu.Unlock()
	for _, l := range gone {
		c.lastSeen[l.addr] = l.at
	}
	for len(c.lastSeen) > maxLast {
		var oldest netip.AddrPort
		for addr, at := range c.lastSeen {
			if !oldest.IsValid() || at.Before(c.lastSeen[oldest]) {
				oldest = addr
			}
		}
		delete(c.lastSeen, oldest)
	}
}
