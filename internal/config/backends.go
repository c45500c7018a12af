package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

type fileRedis struct {
	Host                         string
	Port, DB                     int
	Username                     string
	Password                     *Secret
	PasswordFile                 *string
	Prefix                       string
	SSL                          bool
	CAFile, CertFile, KeyFile    string
	ServerName, Mode             string
	Addrs                        []string
	MasterName, SentinelUsername string
	SentinelPassword             *Secret
	DialTimeoutMs, ReadTimeoutMs int
}

func (b *builder) redis(at place, f fileRedis) {
	r := Redis{
		Mode: f.Mode, DB: f.DB, Username: f.Username, Prefix: f.Prefix, TLS: f.SSL,
		Password:   b.redisPassword(at, f),
		CAFile:     b.caFile(at.at("CAFile"), f.CAFile),
		ServerName: f.ServerName, MasterName: f.MasterName, SentinelUsername: f.SentinelUsername,
		DialTimeout: time.Duration(f.DialTimeoutMs) * time.Millisecond,
		ReadTimeout: time.Duration(f.ReadTimeoutMs) * time.Millisecond,
	}
	if f.SentinelPassword != nil {
		r.SentinelPassword = SecretRef{at: at.at("SentinelPassword"), inline: *f.SentinelPassword}
	}
	r.CertFile, r.KeyFile = b.keyPair(at, f.CertFile, f.KeyFile)
	r.Network, r.Addrs = b.redisAddrs(at, f)
	b.redisShape(at, f)
	b.redisSafety(at, r)
	b.cfg.Redis = r
}

// redisPassword is optional, and an empty one means none; but a variable that is
// not set looks the same, and Redis would only say NOAUTH.
func (b *builder) redisPassword(at place, f fileRedis) SecretRef {
	if f.Password != nil && f.Password.IsZero() && f.PasswordFile == nil {
		b.report.warn(at.at("Password"), "is empty, so none is sent; is ${VAR} set?")
		return SecretRef{}
	}
	return b.secret(at, "Password", f.Password, f.PasswordFile)
}

func (b *builder) redisAddrs(at place, f fileRedis) (network string, addrs []string) {
	if filepath.IsAbs(f.Host) && len(f.Addrs) == 0 {
		return "unix", []string{f.Host}
	}
	for i, addr := range f.Addrs {
		if host, ok := splitAddr(addr); !ok || host == "" {
			b.report.invalid(at.at("Addrs").item(i), brief(addr), "host:port")
		}
	}
	if len(f.Addrs) > 0 {
		return "tcp", f.Addrs
	}
	switch {
	case !b.require(at.at("Host"), f.Host):
	case !isHost(f.Host):
		b.report.invalid(at.at("Host"), brief(f.Host), "a host name or address without a port, or the absolute path of a socket")
	}
	return "tcp", []string{net.JoinHostPort(f.Host, strconv.Itoa(f.Port))}
}

// redisShape checks which keys go with which Mode.
func (b *builder) redisShape(at place, f fileRedis) {
	switch f.Mode {
	case "single":
		if len(f.Addrs) > 0 {
			b.report.refuse(at.at("Addrs"), InvalidValue, "goes with Mode \"sentinel\" or \"cluster\"; Mode is \"single\", which uses Host and Port")
		}
	case "sentinel":
		b.require(at.at("MasterName"), f.MasterName)
		if len(f.Addrs) == 0 {
			b.report.refuse(at.at("Addrs"), MissingKey, "is missing; Mode \"sentinel\" needs the Sentinels as host:port")
		}
	case "cluster":
		if f.DB != 0 {
			b.report.invalid(at.at("DB"), strconv.Itoa(f.DB), "0 in Mode \"cluster\"")
		}
	}
	if !f.SSL && f.CAFile+f.CertFile+f.KeyFile+f.ServerName != "" {
		b.report.refuse(at.at("SSL"), InvalidValue, "found false, but CAFile, CertFile, KeyFile or ServerName is set; allowed: true")
	}
}

// guideKeys are the keys that the guide of the Python plugin has for Redis.
// Whoever uses another one has written the configuration for this product.
var guideKeys = []string{"Host", "Port", "DB", "Password", "Prefix", "SSL"}

// redisSafety refuses or marks a Redis whose traffic others can read or join.
// Tokens are sealed, but whoever reaches Redis can delete or replay entries. What
// was written after the guide starts all the same, open or not.
func (b *builder) redisSafety(at place, r Redis) {
	local := r.Network == "unix" || !slices.ContainsFunc(r.Addrs, func(addr string) bool {
		host, _ := splitAddr(addr)
		return !isLoopback(host)
	})
	var missing []string
	if !r.TLS {
		missing = append(missing, "TLS")
	}
	if !r.Password.IsSet() && r.CertFile == "" {
		missing = append(missing, "a password")
	}
	if local || len(missing) == 0 {
		return
	}
	message := fmt.Sprintf("Redis beyond loopback without %s", strings.Join(missing, " and "))
	newer := slices.IndexFunc(b.redisKeys, func(key string) bool { return !slices.Contains(guideKeys, key) })
	if len(missing) == 2 && newer >= 0 && !b.cfg.AllowInsecure {
		b.report.refuse(at, InvalidValue, "%s, with %q, which no configuration of the Python plugin has; set SSL, Password or AllowInsecure",
			message, b.redisKeys[newer])
		return
	}
	b.degrade(at, message)
}

type fileGossip struct {
	Name, BindAddr       string
	BindPort             int
	AdvertiseAddr        string
	AdvertisePort        int
	Peers                []string
	SecretKey            *Secret
	SecretKeyFile        *string
	SecretKeys           []Secret
	ClusterName, Profile string
	Replicas             int
	AllowedCIDRs         []string
	TLS                  *TLSFiles
}

func (b *builder) gossip(at place, f fileGossip) {
	g := Gossip{
		Name: f.Name, BindAddr: f.BindAddr, BindPort: f.BindPort,
		AdvertiseAddr: f.AdvertiseAddr, AdvertisePort: f.AdvertisePort, Peers: f.Peers,
		ClusterName: f.ClusterName, Profile: f.Profile, Replicas: f.Replicas,
		Secrets:      b.keyRing(at, f),
		AllowedCIDRs: b.prefixes(at.at("AllowedCIDRs"), f.AllowedCIDRs),
	}
	b.checkAddr(at.at("BindAddr"), f.BindAddr)
	if f.AdvertiseAddr != "" {
		b.checkAddr(at.at("AdvertiseAddr"), f.AdvertiseAddr)
	}
	b.checkPeers(at.at("Peers"), f.Peers)
	if f.TLS != nil {
		g.TLS = b.clusterPKI(at.at("TLS"), *f.TLS)
	}
	b.gossipSafety(at, g)
	b.cfg.Gossip = g
}

func (b *builder) keyRing(at place, f fileGossip) KeyRing {
	given := 0
	for _, set := range []bool{f.SecretKey != nil, f.SecretKeyFile != nil, len(f.SecretKeys) > 0} {
		if set {
			given++
		}
	}
	if given > 1 {
		b.report.refuse(at, InvalidValue, "found more than one of \"SecretKey\", \"SecretKeyFile\", \"SecretKeys\"; keep one")
		return KeyRing{}
	}
	var ring KeyRing
	for i, key := range f.SecretKeys {
		ring.refs = append(ring.refs, b.load(SecretRef{at: at.at("SecretKeys").item(i), inline: key}))
	}
	if f.SecretKey != nil || f.SecretKeyFile != nil {
		ring.refs = append(ring.refs, b.secret(at, "SecretKey", f.SecretKey, f.SecretKeyFile))
	}
	b.checkRing(ring)
	return ring
}

// checkRing reports secrets that load but are not keys.
func (b *builder) checkRing(ring KeyRing) {
	for _, ref := range ring.refs {
		if _, err := ref.Load(); err == nil {
			b.failed(KeyRing{refs: []SecretRef{ref}}.Load())
		}
	}
}

func (b *builder) checkAddr(at place, addr string) {
	if !b.require(at, addr) {
		return
	}
	if _, err := netip.ParseAddr(addr); err != nil {
		b.report.invalid(at, brief(addr), "an IP address")
	}
}

func (b *builder) checkPeers(at place, peers []string) {
	for i, peer := range peers {
		host, ok := splitAddr(peer)
		if !isHost(peer) && (!ok || host == "") {
			b.report.invalid(at.item(i), brief(peer), "host, host:port or [v6]:port")
		}
	}
	if len(peers) == 0 {
		b.report.warn(at, "is empty: this instance shares nothing until another one names it as a peer")
	}
}

func (b *builder) prefixes(at place, texts []string) []netip.Prefix {
	var prefixes []netip.Prefix
	for i, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			b.report.invalid(at.item(i), brief(text), "a prefix like 10.0.0.0/8")
			continue
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes
}

func (b *builder) clusterPKI(at place, f TLSFiles) TLSFiles {
	if f.CAFile == "" || f.CertFile == "" || f.KeyFile == "" {
		b.report.refuse(at, MissingKey, "needs all of CAFile, CertFile and KeyFile; one is missing or empty")
		return TLSFiles{}
	}
	pki := TLSFiles{CAFile: b.caFile(at.at("CAFile"), f.CAFile)}
	pki.CertFile, pki.KeyFile = b.keyPair(at, f.CertFile, f.KeyFile)
	return pki
}

// gossipSafety refuses a cluster that anybody could join.
func (b *builder) gossipSafety(at place, g Gossip) {
	if g.Secrets.IsSet() || isLoopback(g.BindAddr) {
		return
	}
	if b.cfg.AllowInsecure {
		b.degrade(at, "gossip beyond loopback without a key: whoever reaches the port can join")
		return
	}
	b.report.refuse(at.at("SecretKey"), MissingKey,
		"is missing, and BindAddr %q is not loopback; make one with: orthanc-oauth keygen", g.BindAddr)
}
