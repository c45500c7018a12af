package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// Cluster is this node's part in a cluster. All methods are safe for concurrent
// use, and those that read the membership take one atomic load.
type Cluster struct {
	cfg      Config // with defaults; Secrets and Keys are those of the start
	peers    []peer
	replicas int
	log      *slog.Logger
	quiet    *throttle
	metrics  *metrics
	handler  http.Handler

	transport *transport
	gossip    *gossip
	news      *news
	server    *http.Server
	client    atomic.Pointer[http.Transport]
	snap      atomic.Pointer[snapshot]
	self      atomic.Pointer[Member]
	keys      atomic.Pointer[[]string]
	announced chan struct{} // own metadata has changed

	exchanged atomic.Bool // with another instance
	joined    chan struct{}

	setMu   sync.Mutex // one change of keys, secrets or address at a time
	secrets [][]byte

	whereabouts whereabouts

	started   time.Time  // set before rejoin is
	joinMu    sync.Mutex // guards what follows
	joinErr   error
	hurried   time.Time // when JoinNow last did something
	hurrying  int       // rounds of it under way
	lastRound time.Time // when the round reported last had begun
	reported  bool
	alone     bool
	lastSeen  map[netip.AddrPort]time.Time

	stateMu sync.Mutex             // guards what follows
	list    *memberlist.Memberlist // nil before Start
	witness *witness               // of list
	left    bool
	closing bool
	closed  chan struct{} // closed when Close is done
	closeE  error

	ctx  context.Context // ends at Close
	stop context.CancelFunc

	goMu  sync.Mutex // guards what follows
	ended bool       // nothing may be started any more
	wg    sync.WaitGroup
}

// ErrClosed says that the cluster has been closed.
var ErrClosed = errors.New("cluster closed")

// New checks the configuration and binds the port. Nothing is visible to others
// before Start; Close releases it either way.
func New(cfg Config) (*Cluster, error) {
	cfg = cfg.withDefaults()
	bind, err := cfg.bindAddr()
	if err != nil {
		return nil, err
	}
	if err := cfg.check(bind.Addr()); err != nil {
		return nil, err
	}
	peers, err := parsePeers(cfg.Peers, uint16(orDefault(cfg.BindPort, defaultPort))) //nolint:gosec // checked
	if err != nil {
		return nil, err
	}
	c := assemble(cfg, peers)
	if err := c.open(bind); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// assemble wires the parts of a Cluster up.
func assemble(cfg Config, peers []peer) *Cluster {
	c := &Cluster{
		cfg:       cfg,
		peers:     peers,
		replicas:  cfg.Replicas,
		log:       cfg.Log,
		quiet:     newThrottle(cfg.Log),
		handler:   cfg.Handler,
		news:      newNews(),
		announced: make(chan struct{}, 1),
		joined:    make(chan struct{}),
		lastSeen:  make(map[netip.AddrPort]time.Time),
		closed:    make(chan struct{}),
	}
	c.secrets = cfg.Secrets
	c.self.Store(&Member{ID: newID(), Self: true})
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.metrics = newMetrics(func() float64 { return float64(len(c.Members())) })
	c.transport = &transport{
		network:   cfg.Network,
		self:      c.Self,
		allowed:   cfg.AllowedCIDRs,
		log:       c.log,
		quiet:     c.quiet,
		metrics:   c.metrics,
		packetCh:  make(chan *memberlist.Packet, packetQueue),
		streamCh:  make(chan net.Conn),
		requestCh: make(chan net.Conn),
	}
	c.transport.ctx, c.transport.stop = context.WithCancel(context.Background())
	c.gossip = &gossip{
		self:     c.Self,
		delegate: cfg.Delegate,
		quiet:    c.quiet,
		synced:   c.synced,
		allows:   func(n *memberlist.Node) bool { return c.transport.allows(nodeAddr(n).Addr()) },
	}
	c.gossip.queue.RetransmitMult = retransmits
	c.gossip.queue.NumNodes = func() int { return int(c.gossip.count.Load()) }
	c.server = c.newServer()
	c.client.Store(c.newClient())
	return c
}

// open derives the keys, binds, and shows this node to itself.
func (c *Cluster) open(bind netip.AddrPort) error {
	self := c.Self()
	sec, err := forge(c.secrets, c.cfg.ClusterName, self.ID, c.cfg.PKI, c.cfg.Wall)
	if err != nil {
		return err
	}
	c.transport.sec.Store(sec)
	if err := c.transport.bind(bind); err != nil {
		return err
	}
	self.Addr, err = c.cfg.advertised(bind.Addr(), c.transport.port())
	if err == nil {
		err = c.metrics.register(c.cfg.Registerer)
	}
	if err != nil {
		return errors.Join(err, c.transport.Shutdown())
	}
	c.keys.Store(&c.cfg.Keys)
	meta := Meta{
		Name: cutName(c.cfg.Name), ProtocolMin: protocolMin, ProtocolMax: protocolMax,
		Fingerprints: sec.fingerprints,
	}
	self.Name, self.Meta = meta.Name, meta.withKeys(c.cfg.Keys)
	c.announce(self)
	c.rebuild(map[string]Member{})
	return nil
}

// announce makes self what this node is. What memberlist knows of it follows.
func (c *Cluster) announce(self Member) {
	encoded := self.Meta.encode()
	c.gossip.meta.Store(&encoded)
	c.self.Store(&self)
	select {
	case c.announced <- struct{}{}:
	default:
	}
	c.news.poke()
}

// Start makes this node visible and goes on joining its peers until Close.
func (c *Cluster) Start() error {
	c.stateMu.Lock()
	defer c.stateMu.Unlock()
	if c.closing {
		return ErrClosed
	}
	if c.list != nil {
		return errors.New("cluster started twice")
	}
	c.transport.run()
	if err := c.create(); err != nil {
		return fmt.Errorf("start membership: %w", err)
	}
	c.goes("requests", func() { _ = c.server.Serve(c.transport.listener()) })
	c.goes("members", c.follow)
	c.goes("metadata", c.advertise)
	c.started = time.Now()
	c.goes("rejoin", c.rejoin)
	c.goes("warm", c.warm)
	return nil
}

// create starts memberlist, as the instance that this node is, on our transport.
// The caller holds stateMu.
func (c *Cluster) create() error {
	m, err := timings(c.cfg.Profile)
	if err != nil {
		return err
	}
	w := &witness{news: c.news}
	m.Name = c.Self().ID
	m.Transport = lease{c.transport}
	m.BindPort = int(c.transport.port()) // the port of addresses that name none
	m.AdvertisePort = int(c.Self().Addr.Port())
	m.Delegate, m.Events, m.Ping, m.Alive = c.gossip, w, c.gossip, c.gossip
	m.Logger = newChatter(c.log)
	list, err := memberlist.Create(m)
	if err != nil {
		return err
	}
	c.list, c.witness = list, w
	return nil
}

// membership returns memberlist, or nil where there is none.
func (c *Cluster) membership() *memberlist.Memberlist {
	c.stateMu.Lock()
	defer c.stateMu.Unlock()
	return c.list
}

// goes runs f on a goroutine that Close waits for.
func (c *Cluster) goes(name string, f func()) {
	c.goMu.Lock()
	defer c.goMu.Unlock()
	if c.ended {
		return
	}
	c.wg.Go(func() {
		defer recovered(c.log, name)
		f()
	})
}

// follow is the one goroutine that turns news into snapshots.
func (c *Cluster) follow() {
	known := make(map[string]Member)
	for {
		select {
		case <-c.news.signal:
		case <-c.ctx.Done():
			return
		}
		members, gone, afresh := c.news.take()
		if afresh {
			clear(known)
		}
		for id, m := range members {
			if m == nil {
				delete(known, id)
			} else {
				known[id] = *m
			}
		}
		c.remember(gone)
		c.rebuild(known)
	}
}

// rebuild replaces the snapshot, and says so.
func (c *Cluster) rebuild(known map[string]Member) {
	members := maps.Clone(known)
	self := c.Self()
	members[self.ID] = self
	old := c.snap.Swap(newSnapshot(members, *c.keys.Load()))
	c.gossip.count.Store(int64(len(members)))
	c.gossip.rtt.keep(members)
	if len(members) > 1 && c.exchanged.Load() && !c.hasJoined() {
		close(c.joined) // only this goroutine does
	}
	if old != nil {
		close(old.changed)
	}
}

// synced notes a full exchange with another instance: transport lets none of
// our own through.
func (c *Cluster) synced() {
	if c.exchanged.CompareAndSwap(false, true) {
		c.news.poke()
	}
}

// advertise tells the others of changed metadata.
func (c *Cluster) advertise() {
	for {
		select {
		case <-c.announced:
		case <-c.ctx.Done():
			return
		}
		// It is queued at once; the wait is for its first transmission.
		if list := c.membership(); list != nil {
			_ = list.UpdateNode(time.Second)
		}
	}
}

// SetKeys replaces the keys this node is configured for.
func (c *Cluster) SetKeys(keys []string) {
	c.setMu.Lock()
	defer c.setMu.Unlock()
	keys = slices.Clone(keys)
	c.keys.Store(&keys)
	self := c.Self()
	self.Meta = self.Meta.withKeys(keys)
	c.announce(self)
}

// drain is how long connections of an older ring may finish what they are at:
// longer than any answer takes.
const drain = 5 * time.Second

// SetSecrets replaces the secret ring, and reads an operator's certificates
// again. The order that loses no request is: add the new secret everywhere, make
// it the first everywhere, remove the old one everywhere. Connections made under
// the old ring finish and are closed.
func (c *Cluster) SetSecrets(secrets [][]byte) error {
	c.setMu.Lock()
	defer c.setMu.Unlock()
	if err := checkSecrets(secrets); err != nil {
		return err
	}
	if (len(secrets) == 0) != (len(c.cfg.Secrets) == 0) {
		return errors.New("a running node keeps its choice between a secret key and none")
	}
	self := c.Self()
	sec, err := forge(secrets, c.cfg.ClusterName, self.ID, c.cfg.PKI, c.cfg.Wall)
	if err != nil {
		return err
	}
	old := c.transport.sec.Load()
	if c.cfg.PKI == nil && slices.Equal(old.fingerprints, sec.fingerprints) {
		return nil
	}
	sec.epoch = old.epoch + 1
	c.transport.sec.Store(sec)
	c.secrets = secrets
	self.Meta.Fingerprints = sec.fingerprints
	c.announce(self)
	c.metrics.rotations.Inc()
	c.log.Info("secret ring changed", "fingerprints", fmt.Sprint(sec.fingerprints))
	c.renew(sec.epoch)
	return nil
}

// renew lets requests go on over new connections, and the old ones end: on our
// side when they fall idle, on the peers' after their next answer, at last by
// closing.
func (c *Cluster) renew(epoch uint64) {
	old := c.client.Swap(c.newClient())
	old.CloseIdleConnections()
	c.goes("drain", func() {
		_ = pause(c.ctx, drain)
		old.CloseIdleConnections()
		c.transport.hangUp(epoch)
	})
}

// Self returns this instance.
func (c *Cluster) Self() Member { return *c.self.Load() }

// Order returns the members that are alive and configured for key, this one
// included where it is, in the order in which they lead it. It must not be
// written to.
func (c *Cluster) Order(key string) []Member { return c.snap.Load().order(key) }

// Members returns the members alive, this one included, by rising ID. It must
// not be written to.
func (c *Cluster) Members() []Member { return c.snap.Load().members }

// Changed returns a channel that is closed when the membership, or what a member
// announces, is no longer what it was at the call.
func (c *Cluster) Changed() <-chan struct{} { return c.snap.Load().changed }

// Joined returns a channel that is closed once another instance has answered.
func (c *Cluster) Joined() <-chan struct{} { return c.joined }

func (c *Cluster) hasJoined() bool {
	select {
	case <-c.joined:
		return true
	default:
		return false
	}
}

// HasPeers reports whether peers are configured.
func (c *Cluster) HasPeers() bool { return len(c.peers) > 0 }

// Addr returns where others reach this node.
func (c *Cluster) Addr() netip.AddrPort { return c.Self().Addr }

// RTT returns the smoothed round trip to a member, 0 where none is known yet.
func (c *Cluster) RTT(id string) time.Duration { return c.gossip.rtt.get(id) }

// Broadcast gossips msg to all members, within seconds and with high
// probability. It replaces a message of the same name that is still queued.
func (c *Cluster) Broadcast(name string, msg []byte) {
	if len(msg) > MaxGossip {
		c.quiet.warn("broadcast", "message is too long to be gossiped", "bytes", len(msg), "limit", MaxGossip)
		return
	}
	c.gossip.queue.QueueBroadcast(broadcast{name, slices.Clone(msg)})
	c.gossip.queue.Prune(maxBroadcast)
}

// Bounds of leaving, which must not keep the host from exiting.
const (
	leaveTime = 2 * time.Second
	quitTime  = 500 * time.Millisecond
	closeTime = 3 * time.Second
)

// Leave tells the others that this node goes, in at most two seconds. It goes on
// answering until Close.
func (c *Cluster) Leave(ctx context.Context) error {
	c.stateMu.Lock()
	list := c.list
	again := c.left
	c.left = true
	c.stateMu.Unlock()
	if list == nil || again {
		return nil
	}
	limit := leaveTime
	if by, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(by)-quitTime)
	}
	if err := list.Leave(max(limit, time.Millisecond)); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

// Close leaves, finishes answering, and ends every goroutine and connection, in
// at most three seconds. Further calls wait for the first.
func (c *Cluster) Close(ctx context.Context) error {
	c.stateMu.Lock()
	first := !c.closing
	c.closing = true
	c.stateMu.Unlock()
	if !first {
		<-c.closed
		return c.closeE
	}
	defer close(c.closed)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeBudget(ctx))
	defer cancel()
	if err := c.Leave(ctx); err != nil {
		c.log.Debug("left without farewell", "err", err) // the others will notice
	}
	c.quit(ctx)
	c.closeE = c.shutdown(ctx)
	c.metrics.unregister(c.cfg.Registerer)
	return c.closeE
}

// closeBudget returns what ctx leaves of closeTime. An ended ctx still gets a
// moment: sockets are closed in any case.
func closeBudget(ctx context.Context) time.Duration {
	by, ok := ctx.Deadline()
	if !ok {
		return closeTime
	}
	return max(min(closeTime, time.Until(by)), quitTime)
}

// quit lets requests that are being answered finish for a moment.
func (c *Cluster) quit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quitTime)
	defer cancel()
	if c.server.Shutdown(ctx) != nil {
		_ = c.server.Close()
	}
	c.client.Load().CloseIdleConnections()
}

// shutdown stops memberlist, the transport and every loop, and waits for them
// as long as ctx allows.
func (c *Cluster) shutdown(ctx context.Context) error {
	c.stop()
	c.goMu.Lock()
	c.ended = true
	c.goMu.Unlock()
	done := make(chan error, 1)
	go func() {
		defer recovered(c.log, "shutdown")
		err := c.transport.Shutdown()
		if list := c.membership(); list != nil {
			err = errors.Join(err, list.Shutdown())
		}
		c.wg.Wait()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("close cluster: %w", ctx.Err())
	}
}
