package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// checkAddr notices that the machine has another address than the one this node
// advertises, as after a new lease or a reconnected network. memberlist keeps a
// node's address for its life, so the node goes on as another instance; without
// that it would be declared dead and refute it for ever. It reports whether the
// node can be reached from now on where it could not before. Only one goroutine
// may call it at a time.
func (c *Cluster) checkAddr() bool {
	if c.cfg.AdvertiseAddr != "" || !addrPort(c.transport.stream.Addr()).Addr().IsUnspecified() {
		return false // told where it is
	}
	addrs, err := c.transport.network.LocalAddrs()
	if err != nil {
		return false
	}
	now := c.Addr()
	if !now.Addr().IsLoopback() && slices.Contains(addrs, now.Addr()) {
		back := c.unplugged
		c.unplugged = false
		return back
	}
	next, err := c.cfg.advertised(addrPort(c.transport.stream.Addr()).Addr(), c.transport.port())
	if err != nil || next.Addr().IsLoopback() {
		c.unplugged = true // there is nowhere to be
		return false
	}
	if err := c.move(next); err != nil {
		c.quiet.warn("move", "new address could not be taken", "address", next, "err", err)
		return false
	}
	c.unplugged = false
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
