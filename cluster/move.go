package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// whereabouts is what was seen of the machine's addresses. Only rejoin uses it.
type whereabouts struct {
	seen []netip.Addr   // at the last look
	gone time.Time      // since when the advertised one is missing; zero: it is there
	home netip.AddrPort // what was left for want of it, to be gone back to
}

// checkAddr notices that the machine has another address than the one this node
// advertises, as after a new lease or a reconnected network. memberlist keeps a
// node's address for its life, so the node goes on as another instance; without
// that it would be declared dead and refute it for ever. It reports whether the
// node can be reached from now on where it could not before.
//
// An address that has just come is taken at once. One that was there all along may
// be that of a bridge for containers, where nobody reaches this node: it is taken
// when the advertised one has been missing for a round of joins, and left when that
// is back. Only one goroutine may call this at a time.
func (c *Cluster) checkAddr() bool {
	bind := addrPort(c.transport.stream.Addr()).Addr()
	if c.cfg.AdvertiseAddr != "" || !bind.IsUnspecified() {
		return false // told where it is
	}
	addrs, err := c.transport.network.LocalAddrs()
	if err != nil {
		return false
	}
	w, now := &c.whereabouts, c.Addr()
	before := w.seen
	w.seen = addrs
	if w.home.IsValid() && slices.Contains(addrs, w.home.Addr()) {
		return c.moved(w.home, netip.AddrPort{})
	}
	if !now.Addr().IsLoopback() && slices.Contains(addrs, now.Addr()) {
		back := !w.gone.IsZero()
		w.gone = time.Time{}
		return back
	}
	if w.gone.IsZero() {
		w.gone = time.Now()
	}
	next, err := c.cfg.advertised(bind, c.transport.port())
	switch old := slices.Contains(before, next.Addr()); {
	case err != nil, next.Addr().IsLoopback(): // there is nowhere to be
		return false
	case old && time.Since(w.gone) < rejoinEvery:
		return false
	case old && !now.Addr().IsLoopback():
		return c.moved(next, now)
	}
	return c.moved(next, netip.AddrPort{})
}

// moved goes on at another address, to come back home from there if that is valid.
func (c *Cluster) moved(to, home netip.AddrPort) bool {
	if err := c.move(to); err != nil {
		c.quiet.warn("move", "new address could not be taken", "address", to, "err", err)
		return false
	}
	c.whereabouts.gone, c.whereabouts.home = time.Time{}, home
	return true
}

// farewell is how long the instance at the old address may take to leave.
const farewell = 500 * time.Millisecond

// move goes on as another instance at another address, over the same sockets.
func (c *Cluster) move(to netip.AddrPort) error {
	c.setMu.Lock()
	defer c.setMu.Unlock()
	self := c.Self()
	self.ID, self.Addr = newID(), to
	sec, err := forge(c.secrets, c.cfg.ClusterName, self.ID, c.cfg.PKI, c.cfg.Wall)
	if err != nil {
		return err
	}
	sec.epoch = c.transport.sec.Load().epoch + 1
	c.stateMu.Lock()
	defer c.stateMu.Unlock()
	if c.closing || c.left {
		return nil
	}
	if c.list != nil {
		c.witness.over.Store(true)
		_ = c.list.Leave(farewell) // whoever does not hear it will notice
		_ = c.list.Shutdown()
		c.list = nil
	}
	from := c.Addr()
	c.transport.sec.Store(sec)
	c.news.reset()
	c.announce(self)
	if err := c.create(); err != nil {
		self.Addr = from // so that the next round tries again
		c.announce(self)
		return fmt.Errorf("go on at %s: %w", to, err)
	}
	c.log.Info("address changed", "from", from, "to", to)
	c.renew(sec.epoch)
	return nil
}
