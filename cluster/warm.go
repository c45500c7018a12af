package cluster

import (
	"context"
	"time"
)

// warmEvery is how often the connections that leading a key takes are used, so
// that no request of a caller has to open one; well below idleClient.
const warmEvery = 40 * time.Second

// warmSettle is how long a change of membership may go on before connections
// follow it, at most: a fleet that starts would otherwise dial as one.
const warmSettle = 500 * time.Millisecond

// warm keeps connections open to the members this node will ask first, by real
// requests: in TLS 1.3 a client's handshake returns before the server has
// refused it.
func (c *Cluster) warm() {
	for {
		changed := c.Changed()
		if pause(c.ctx, jitter(warmSettle)) != nil {
			return
		}
		for _, m := range c.firstAsked() {
			ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
			_ = c.Ping(ctx, m) // whoever does not answer is found out when it is needed
			cancel()
		}
		timer := time.NewTimer(jitter(warmEvery))
		select {
		case <-changed:
		case <-timer.C:
		case <-c.ctx.Done():
		}
		timer.Stop()
	}
}

// firstAsked returns the first Replicas+1 others of each configured key's order.
func (c *Cluster) firstAsked() []Member {
	var list []Member
	seen := make(map[string]bool)
	snap := c.snap.Load()
	for _, order := range snap.orders {
		left := c.replicas + 1
		for _, m := range order {
			if left == 0 {
				break
			}
			if m.Self {
				continue
			}
			if left--; !seen[m.ID] {
				seen[m.ID] = true
				list = append(list, m)
			}
		}
	}
	return list
}
