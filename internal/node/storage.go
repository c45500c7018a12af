package node

import (
	"context"
	"errors"
	"fmt"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/gossip"
	"orthanc-oauth/cluster"
	"orthanc-oauth/internal/config"
	"orthanc-oauth/internal/proxy"
	"orthanc-oauth/tokens"
)

// storage is a backend with what surrounds it: a cluster, a connection, or
// nothing.
type storage interface {
	backend() backend.Backend
	setKeys(keys []string)
	start() error
	status() proxy.BackendStatus
	close(ctx context.Context) error
}

func (n *Node) buildStorage() (err error) {
	var store storage
	switch n.conf.Backend {
	case config.BackendGossip:
		store, err = n.newGossip()
	case config.BackendRedis:
		store, err = n.newRedis()
	default:
		store = memoryStorage{backend.NewMemory(n.clock)}
	}
	if err != nil {
		return err // store may hold a typed nil: abandon must not see it
	}
	n.store = store
	return nil
}

// memoryStorage is each instance for itself.
type memoryStorage struct{ memory *backend.Memory }

func (s memoryStorage) backend() backend.Backend { return s.memory }
func (memoryStorage) setKeys([]string)           {}
func (memoryStorage) start() error               { return nil }
func (memoryStorage) status() proxy.BackendStatus {
	return proxy.BackendStatus{Name: config.BackendMemory, State: "ok"}
}
func (s memoryStorage) close(ctx context.Context) error { return s.memory.Close(ctx) }

// gossipStorage is the gossip backend on its cluster.
type gossipStorage struct {
	conf    config.Gossip
	gossip  *gossip.Gossip
	cluster *cluster.Cluster
}

func (n *Node) newGossip() (*gossipStorage, error) {
	conf := n.conf.Gossip
	secrets, err := loadRing(conf)
	if err != nil {
		return nil, err
	}
	g, err := gossip.New(gossip.Config{
		// The manager is made after its backend; peers are served after both.
		Resolve:    func(key string) (backend.FillFunc, bool) { return n.tokens.Resolve(key) },
		Vet:        func(key string, e backend.Entry) error { return n.tokens.Vet(key, e) },
		Revoked:    func(key string, id backend.ID) { n.tokens.Revoked(key, id) },
		Clock:      n.clock,
		Replicas:   conf.Replicas,
		Log:        n.log,
		Registerer: n.registry,
	})
	if err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{
		Name:          conf.Name,
		BindAddr:      conf.BindAddr,
		BindPort:      conf.BindPort,
		AdvertiseAddr: conf.AdvertiseAddr,
		AdvertisePort: conf.AdvertisePort,
		Peers:         conf.Peers,
		ClusterName:   conf.ClusterName,
		Secrets:       secrets,
		AllowInsecure: n.conf.AllowInsecure,
		PKI:           pkiOf(conf.TLS),
		Profile:       conf.Profile,
		AllowedCIDRs:  conf.AllowedCIDRs,
		Replicas:      conf.Replicas,
		Handler:       g,
		Delegate:      g,
		Log:           n.log,
		Registerer:    n.registry,
	})
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	s := &gossipStorage{conf: conf, gossip: g, cluster: c}
	n.Watch("gossip secrets", s.reload, append(conf.Secrets.Paths(), conf.TLS.CAFile, conf.TLS.CertFile, conf.TLS.KeyFile)...)
	return s, nil
}

func loadRing(conf config.Gossip) ([][]byte, error) {
	if !conf.Secrets.IsSet() {
		return nil, nil
	}
	return conf.Secrets.Load()
}

func pkiOf(files config.TLSFiles) *cluster.PKI {
	if !files.IsSet() {
		return nil
	}
	return &cluster.PKI{CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile}
}

func (s *gossipStorage) backend() backend.Backend { return s.gossip }

func (s *gossipStorage) setKeys(keys []string) {
	s.gossip.SetKeys(keys)
	s.cluster.SetKeys(keys)
}

func (s *gossipStorage) start() error {
	s.gossip.Start(s.cluster)
	if err := s.cluster.Start(); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// reload takes a changed ring or certificate into use.
func (s *gossipStorage) reload() error {
	secrets, err := loadRing(s.conf)
	if err != nil {
		return err
	}
	return s.cluster.SetSecrets(secrets)
}

func (s *gossipStorage) status() proxy.BackendStatus {
	st := proxy.BackendStatus{Name: config.BackendGossip, State: "ok"}
	if s.cluster.HasPeers() && !isClosed(s.cluster.Joined()) {
		st.State, st.Reason = "alone", "no other instance has answered yet"
	}
	return st
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// close hands entries over while the cluster is still up.
func (s *gossipStorage) close(ctx context.Context) error {
	return errors.Join(s.gossip.Close(ctx), s.cluster.Close(ctx))
}

// clusterStatus is what GET /dicomweb-oauth/cluster shows.
func (s *gossipStorage) clusterStatus(sources []*tokens.Source) proxy.ClusterStatus {
	st := s.cluster.Status()
	out := proxy.ClusterStatus{
		Enabled:         true,
		Self:            st.Self.Name,
		ClusterName:     st.Cluster,
		Joined:          st.Joined,
		LastJoinError:   st.JoinError,
		KeyFingerprints: st.Fingerprints,
	}
	for _, m := range st.Members {
		out.Members = append(out.Members, proxy.MemberStatus{
			Name: m.Name, ID: m.ID, Address: m.Addr, State: m.State, Self: m.ID == st.Self.ID,
			RTTMillis: m.RTTMillis, KeyFingerprints: m.Fingerprints,
		})
	}
	for _, refused := range st.Refused {
		out.Refused += int64(refused) //nolint:gosec // a count of connections
	}
	for _, src := range sources {
		out.Leaders = append(out.Leaders, s.leaders(src))
	}
	return out
}

// shownLeaders is how much of a key's order is worth showing: those that are
// asked before a node helps itself.
const shownLeaders = 3

func (s *gossipStorage) leaders(src *tokens.Source) proxy.LeaderStatus {
	st := proxy.LeaderStatus{Server: src.Name()}
	for i, m := range s.cluster.Order(src.Key()) {
		switch {
		case i == 0:
			st.Leader = m.Name
		case i >= shownLeaders:
			return st
		}
		st.Order = append(st.Order, m.Name)
	}
	return st
}
