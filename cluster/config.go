package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is what New needs. The zero value of a field means its default.
type Config struct {
	Name string // the operator's name for this node; default: the host name

	BindAddr      string // address both sockets listen on; default 0.0.0.0, which is IPv6 as well
	BindPort      int    // of both; 0: any free one
	AdvertiseAddr string // address or name others reach this node by; default: BindAddr, or an interface's
	AdvertisePort int    // default: the bound port

	Peers        []string       // host, host:port, [v6]:port, or a name with many addresses
	ClusterName  string         // nodes of another name are strangers; default "default"
	Secrets      [][]byte       // up to three of at least 32 bytes, the primary first
	PKI          *PKI           // an operator's certificates instead of the derived ones
	AllowedCIDRs []netip.Prefix // who may connect; nil: anybody who has the key
	Profile      string         // timings: "lan" (default), "wan" or "local"

	// AllowInsecure lets a node without Secrets bind beyond loopback.
	AllowInsecure bool

	Keys     []string // keys this node is configured for: 64 hexadecimal digits each
	Replicas int      // R: connections are kept to the first R+1 of each key's order; default 3

	Handler  http.Handler // answers peers' requests; PeerFrom names the sender
	Delegate Delegate     // takes part in gossip; may be nil

	Log        *slog.Logger          // default: nothing is logged
	Registerer prometheus.Registerer // may be nil
	Network    Network               // nil: the machine's
	Wall       func() time.Time      // for an operator's PKI; default time.Now
}

// defaultPort is the port of peers that name none, where BindPort is 0.
const defaultPort = 7946

// withDefaults returns the configuration with every default filled in.
func (cfg Config) withDefaults() Config {
	if cfg.Name == "" {
		cfg.Name, _ = os.Hostname() // a node without a name is still a member
	}
	cfg.BindAddr = orDefault(cfg.BindAddr, "0.0.0.0")
	cfg.ClusterName = orDefault(cfg.ClusterName, "default")
	cfg.Profile = orDefault(cfg.Profile, profileLAN)
	cfg.Replicas = orDefault(cfg.Replicas, 3)
	if cfg.Handler == nil {
		cfg.Handler = http.NotFoundHandler()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Network == nil {
		cfg.Network = machine{}
	}
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	return cfg
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// bindAddr returns the address to bind.
func (cfg Config) bindAddr() (netip.AddrPort, error) {
	if cfg.BindPort < 0 || cfg.BindPort > 65535 || cfg.AdvertisePort < 0 || cfg.AdvertisePort > 65535 {
		return netip.AddrPort{}, fmt.Errorf("port %d or %d is outside of 0 to 65535", cfg.BindPort, cfg.AdvertisePort)
	}
	host := cfg.BindAddr
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("bind address %q: %w", cfg.BindAddr, err)
	}
	return netip.AddrPortFrom(addr, uint16(cfg.BindPort)), nil
}

// ErrNoSecret says that gossip without a key was asked for beyond loopback.
var ErrNoSecret = errors.New("gossip beyond loopback needs a secret key")

// check returns the first thing wrong with the configuration.
func (cfg Config) check(bind netip.Addr) error {
	if err := checkSecrets(cfg.Secrets); err != nil {
		return err
	}
	if len(cfg.Secrets) == 0 && !bind.IsLoopback() && !cfg.AllowInsecure {
		return fmt.Errorf("%w: bind address %s", ErrNoSecret, bind)
	}
	if cfg.Replicas < 0 {
		return fmt.Errorf("%d replicas", cfg.Replicas)
	}
	for _, k := range cfg.Keys {
		if _, ok := keyPrefix(k); !ok {
			return fmt.Errorf("key %.8q... is not 64 hexadecimal digits", k)
		}
	}
	_, err := timings(cfg.Profile)
	return err
}

// advertised returns where others reach this node, bound to port.
func (cfg Config) advertised(bind netip.Addr, port uint16) (netip.AddrPort, error) {
	if cfg.AdvertisePort != 0 {
		port = uint16(cfg.AdvertisePort) //nolint:gosec // bindAddr has checked it
	}
	if cfg.AdvertiseAddr != "" {
		addr, err := cfg.lookupAdvertised()
		return netip.AddrPortFrom(addr, port), err
	}
	if !bind.IsUnspecified() {
		return netip.AddrPortFrom(bind.Unmap(), port), nil
	}
	addrs, err := cfg.Network.LocalAddrs()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("advertise address: %w", err)
	}
	return netip.AddrPortFrom(bestAddr(addrs, bind), port), nil
}

func (cfg Config) lookupAdvertised() (netip.Addr, error) {
	if addr, err := netip.ParseAddr(cfg.AdvertiseAddr); err == nil {
		return addr.Unmap(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTime)
	defer cancel()
	addrs, err := cfg.Network.LookupNetIP(ctx, cfg.AdvertiseAddr)
	if err != nil || len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("advertise address: %w", err)
	}
	return addrs[0].Unmap(), nil
}

// bestAddr picks the address others most likely reach: private before public
// (clusters live behind routers), IPv4 before IPv6 (it is what BindAddr's
// default says), loopback where there is nothing else.
func bestAddr(addrs []netip.Addr, bind netip.Addr) netip.Addr {
	best, rank := netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0
	for _, a := range addrs {
		r := 0
		switch {
		case !a.IsGlobalUnicast():
			continue
		case a.IsPrivate():
			r = 2
		default:
			r = 1
		}
		if r *= 2; a.Is4() {
			r++
		}
		if r > rank {
			best, rank = a, r
		}
	}
	if rank == 0 && bind.Is6() {
		return netip.IPv6Loopback()
	}
	return best
}

// Profiles of timings.
const (
	profileLAN   = "lan"
	profileWAN   = "wan"
	profileLocal = "local"
)

// speaks is the version of memberlist's protocol that its default speaks.
const speaks = memberlist.ProtocolVersion2Compatible

// timings returns memberlist's configuration for a profile. LAN timings notice
// a crash in 5.5 to 9 s; faster ones declare healthy nodes dead at 20% loss.
func timings(profile string) (*memberlist.Config, error) {
	var m *memberlist.Config
	switch profile {
	case profileLAN:
		m = memberlist.DefaultLANConfig()
	case profileWAN:
		m = memberlist.DefaultWANConfig()
	case profileLocal:
		// Not memberlist's own local profile: its few retransmissions leave gaps.
		m = memberlist.DefaultLANConfig()
		m.ProbeTimeout, m.GossipInterval = 200*time.Millisecond, 100*time.Millisecond
	default:
		return nil, fmt.Errorf("profile %q is none of lan, wan, local", profile)
	}
	// What gossip missed waits for an exchange. memberlist doubles this above 32
	// nodes and triples it above 64.
	m.PushPullInterval = 10 * time.Second
	m.TCPTimeout = 10 * time.Second
	m.EnableCompression = false // 1% of a CPU and 1 MB/s of garbage, for nothing
	m.UDPBufferSize -= packetOverhead
	return m, nil
}
