//go:build chaos

package processes

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
	"orthanc-oauth/tokens"
	"orthanc-oauth/tokens/provider"
)

// observer asks nodes what they hold, as a peer would. It has the key, but is no
// member: a member would join what a partition has split.
type observer struct {
	cluster *cluster.Cluster
	keys    map[string]string // of the store, by server
}

func newObserver(w *world) (*observer, error) {
	keys, err := storeKeys(w)
	if err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{
		Name: "observer", BindAddr: w.net.hub.addr, Secrets: [][]byte{w.secret}, Network: sockets{w.net.hub},
	})
	return &observer{cluster: c, keys: keys}, err
}

func (o *observer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = o.cluster.Close(ctx) // it was never started
}

// storeKeys derives the keys as the nodes do.
func storeKeys(w *world) (map[string]string, error) {
	clock := backend.NewClock(nil)
	m, err := tokens.New(tokens.Config{Backend: backend.NewMemory(clock), BackendName: "memory", Clock: clock})
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Close(context.Background()) }() // it has done nothing
	keys := map[string]string{}
	for _, name := range w.out.keys {
		endpoint := w.out.issuer.url("/token/" + name)
		s, err := m.Set(tokens.SourceConfig{Name: name, Provider: nobody{}, Credential: tokens.Credential{
			TokenEndpoint: endpoint, ClientID: w.client.ID, Grant: "client_credentials", AuthStyle: "auto",
			Root: tokens.Root([]byte(w.client.Secrets[0]), endpoint, w.client.ID),
		}})
		if err != nil {
			return nil, err
		}
		keys[name] = s.Key()
	}
	return keys, nil
}

type nobody struct{}

// Fetch implements tokens.Provider.
func (nobody) Fetch(context.Context) (provider.Response, error) {
	return provider.Response{}, context.Canceled
}

// stamp returns which entry a node holds, "" for none.
func (o *observer) stamp(ctx context.Context, to cluster.Member, server string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "/peek", http.NoBody)
	if err != nil {
		return "", err
	}
	req.Header.Set("Oauth-Version", "1")
	req.Header.Set("Oauth-Key", o.keys[server])
	resp, err := o.cluster.Do(req, to)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is kept
	switch answer := resp.Header.Get("Oauth-Answer"); answer {
	case "token", "none":
		return resp.Header.Get("Oauth-Stamp"), nil
	default:
		return "", fmt.Errorf("%s answers %q for %q", to.Name, answer, server)
	}
}

// agreed returns an error unless all members that hold an entry of a key hold
// the same one.
func (o *observer) agreed(ctx context.Context, members []cluster.Member) error {
	for server := range o.keys {
		held := map[string][]string{}
		for _, m := range members {
			stamp, err := o.stamp(ctx, m, server)
			if err != nil {
				return err
			}
			if stamp != "" {
				held[stamp] = append(held[stamp], m.Name)
			}
		}
		if len(held) > 1 {
			return fmt.Errorf("%d different entries of %q are held: by %v", len(held), server, values(held))
		}
	}
	return nil
}

// member reads a member from the cluster view of a node.
func (m viewed) member() (cluster.Member, error) {
	addr, err := netip.ParseAddrPort(m.Address)
	return cluster.Member{ID: m.ID, Name: m.Name, Addr: addr}, err
}

// sockets is a cluster.Network in one place.
type sockets struct{ place place }

// Listen implements cluster.Network.
func (s sockets) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	return s.place.listen(ctx, addr.String())
}

// ListenPacket implements cluster.Network.
func (s sockets) ListenPacket(ctx context.Context, addr netip.AddrPort) (p net.PacketConn, err error) {
	err = s.place.within(func() error {
		p, err = new(net.ListenConfig).ListenPacket(ctx, "udp", addr.String())
		return err
	})
	return p, err
}

// Dial implements cluster.Network.
func (s sockets) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return s.place.dial(ctx, "tcp", addr.String())
}

// LookupNetIP implements cluster.Network.
func (s sockets) LookupNetIP(_ context.Context, host string) ([]netip.Addr, error) {
	return nil, fmt.Errorf("no names here: %s", strings.ToLower(host))
}

// LocalAddrs implements cluster.Network.
func (s sockets) LocalAddrs() ([]netip.Addr, error) {
	addr, err := netip.ParseAddr(s.place.addr)
	return []netip.Addr{addr}, err
}
