package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Modes of a deployment.
const (
	ModeSingle   = "single"
	ModeSentinel = "sentinel"
	ModeCluster  = "cluster"
)

const (
	// defaultTimeout bounds each step of an operation, and an operation as a
	// whole: without it a hung Redis costs 6 s a GET (protocol.md, Redis).
	defaultTimeout = 250 * time.Millisecond
	// maxIdle closes connections before the idle limits of managed services and
	// firewalls (4 min and more) cut them silently.
	maxIdle = 3 * time.Minute
	// credentialLife is how long a connection lives that cannot authenticate
	// again: what a cloud issues is renewed five minutes or more before its end.
	credentialLife = 4 * time.Minute
)

// Options say how Redis is reached; they are the configuration's Redis section.
type Options struct {
	URL      Secret // redis://, rediss:// or unix://; Host, Port, DB, Username, Password, SSL win where set
	Host     string // default localhost
	Port     int    // default 6379
	DB       int
	Username string
	Password Secret
	// Credentials, when set, takes the place of Username and Password.
	Credentials      Credentials
	CredentialsEvery time.Duration // how often it is asked again; default 10 s

	SSL                       bool
	CAFile, CertFile, KeyFile string // PEM; read again at every new connection
	ServerName                string // for services that answer with IP addresses

	Mode             string   // single (default), sentinel, cluster
	Addrs            []string // host:port of sentinels or of some cluster nodes
	MasterName       string
	SentinelUsername string
	SentinelPassword Secret

	DialTimeout, ReadTimeout time.Duration // default 250 ms each

	// Dial replaces the way to a server; nil is the network. TLS is spoken over
	// what it returns.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// String names where Redis is, without credentials.
func (o Options) String() string {
	u, err := o.resolved()
	if err != nil {
		return "redis (" + err.Error() + ")"
	}
	return u.Mode + " " + strings.Join(u.Addrs, ",")
}

// resolved returns o with URL, Host and Port folded into Addrs and every
// default filled in.
func (o Options) resolved() (Options, error) {
	addr := "localhost:6379"
	if o.URL != "" {
		u, err := goredis.ParseURL(string(o.URL))
		if err != nil {
			// The library's error repeats the URL, password included.
			return o, errors.New("redis url: want redis://, rediss:// or unix://, with a host or a path")
		}
		addr = u.Addr
		o.SSL = o.SSL || u.TLSConfig != nil
		o.DB = first(o.DB, u.DB)
		o.Username = first(o.Username, u.Username)
		o.Password = first(o.Password, Secret(u.Password))
	}
	if o.Host != "" || o.Port != 0 {
		addr = hostPort(addr, o.Host, o.Port)
	}
	if len(o.Addrs) == 0 {
		o.Addrs = []string{addr}
	}
	o.Mode = first(o.Mode, ModeSingle)
	o.DialTimeout = first(o.DialTimeout, defaultTimeout)
	o.ReadTimeout = first(o.ReadTimeout, defaultTimeout)
	return o, o.check()
}

// hostPort replaces the host, the port or both of addr. A host that is a path
// is a unix socket.
func hostPort(addr, host string, port int) string {
	if strings.HasPrefix(host, "/") {
		return host
	}
	h, p, err := net.SplitHostPort(addr)
	if err != nil { // a unix socket, which an explicit host replaces
		h, p = "localhost", "6379"
	}
	if port != 0 {
		p = strconv.Itoa(port)
	}
	return net.JoinHostPort(strings.Trim(first(host, h), "[]"), p)
}

func (o Options) check() error {
	switch o.Mode {
	case ModeSingle:
		if len(o.Addrs) != 1 {
			return fmt.Errorf("redis mode single: %d addresses, want 1", len(o.Addrs))
		}
	case ModeSentinel:
		if o.MasterName == "" {
			return errors.New("redis mode sentinel: the name of the master is missing")
		}
	case ModeCluster:
		if o.DB != 0 {
			return fmt.Errorf("redis mode cluster: database %d, a cluster has only 0", o.DB)
		}
	default:
		return fmt.Errorf("redis mode %q: want single, sentinel or cluster", o.Mode)
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return errors.New("redis client certificate: certificate and key file go together")
	}
	return nil
}

// client returns a client of o's deployment, and what keeps it authenticated
// where credentials can change; nothing is dialled yet.
func (o Options) client() (goredis.UniversalClient, *keeper, error) {
	o, err := o.resolved()
	if err != nil {
		return nil, nil, err
	}
	u := o.universal()
	var k *keeper
	switch {
	case o.Credentials == nil:
	case o.Mode == ModeSentinel:
		// The library's failover client panics on a streaming provider (9.23), so
		// connections are replaced in time instead.
		u.CredentialsProviderContext = o.Credentials
		u.ConnMaxLifetime = credentialLife
	default:
		k = newKeeper(o)
		u.StreamingCredentialsProvider = k
	}
	switch o.Mode {
	case ModeSentinel:
		return goredis.NewFailoverClient(u.Failover()), k, nil
	case ModeCluster:
		return goredis.NewClusterClient(u.Cluster()), k, nil
	default:
		return goredis.NewClient(u.Simple()), k, nil
	}
}

// universal is the one table from our options to the library's.
func (o Options) universal() *goredis.UniversalOptions {
	return &goredis.UniversalOptions{
		Addrs:            o.Addrs,
		DB:               o.DB,
		Username:         o.Username,
		Password:         string(o.Password),
		MasterName:       o.MasterName,
		SentinelUsername: o.SentinelUsername,
		SentinelPassword: string(o.SentinelPassword),
		Dialer:           o.dial,

		// What restricted ACL users may not send: HELLO 3, CLIENT SETINFO,
		// CLIENT MAINT_NOTIFICATIONS.
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},

		DialTimeout:           o.DialTimeout,
		ReadTimeout:           o.ReadTimeout,
		WriteTimeout:          o.ReadTimeout,
		PoolTimeout:           o.ReadTimeout * 2 / 5, // waited for twice, and over before the operation, to be told from a hung server
		ContextTimeoutEnabled: true,
		ConnMaxIdleTime:       maxIdle,
		DialerRetries:         1,
		// One retry, at once: a kept connection that the server has closed since
		// is found out only by using it. The operation's timeout bounds both.
		MaxRetries:      1,
		MinRetryBackoff: -1,
		MaxRetryBackoff: -1,
	}
}

// dial connects, and speaks TLS with files as they are now: private CA bundles
// and client certificates rotate while we run.
func (o Options) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	dial := o.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, addr)
	if err != nil || !o.SSL {
		return conn, err
	}
	cfg, err := o.tlsConfig(addr)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("tls to redis at %s: %w", addr, err), conn.Close())
	}
	return secure, nil
}

func (o Options) tlsConfig(addr string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("redis address %q: %w", addr, err)
		}
		cfg.ServerName = host
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("redis ca file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis ca file %s holds no certificate", o.CAFile)
		}
	}
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("redis client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// first returns a unless it is zero.
func first[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}
