package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// Backends that CacheBackend selects.
const (
	BackendMemory = "memory"
	BackendRedis  = "redis"
	BackendGossip = "gossip"
)

// Options says how a configuration is read.
type Options struct {
	// Sidecar reads and demands the keys of orthanc-oauth serve. Without it they
	// are ignored, so that it and the plugin can share a file.
	Sidecar bool
	// Expand replaces ${VAR} and ${VAR:-default}. Orthanc's core has done so
	// already in what it gives to a plugin.
	Expand bool
	// Getenv looks an environment variable up; os.LookupEnv when nil.
	Getenv func(string) (string, bool)
	// BaseDir is where relative file names start; the working directory when
	// empty.
	BaseDir string
}

// Config is a validated configuration. It may be printed: secrets in it are
// SecretRefs.
type Config struct {
	Enabled         bool
	Backend         string // BackendMemory, BackendRedis or BackendGossip
	Redis           Redis  // set if Backend is BackendRedis
	Gossip          Gossip // set if Backend is BackendGossip
	AllowInsecure   bool
	EncryptionKey   SecretRef // LoadKey; not set: client secrets alone seal
	Proxy           Proxy
	SecurityLog     string // "inline", "stdout" or a path
	AssumedLifetime time.Duration
	Sidecar         Sidecar  // set if Options.Sidecar
	Servers         []Server // enabled ones, in the file's order
	Disabled        []string // names of the servers left out
	LogLevel        slog.Level
	EnableMetrics   bool
	RateLimit       RateLimit
	Warnings        []Warning
	Degraded        []string // what an operator should mend: status says degraded because of it
	Orthanc         Orthanc  // zero in a file that holds only the section

	effective any
}

// Redacted returns the effective configuration: canonical keys, defaults filled
// in, secrets replaced. It encodes to JSON that Parse reads.
func (c *Config) Redacted() any { return c.effective }

// Redis says how to reach Redis.
type Redis struct {
	Mode             string   // "single", "sentinel" or "cluster"
	Network          string   // "tcp" or "unix"
	Addrs            []string // host:port each, or one path of a socket
	DB               int
	Username         string
	Password         SecretRef // may be not set
	Prefix           string
	TLS              bool
	CAFile           string // "" for the system's
	CertFile         string // "" for none
	KeyFile          string
	ServerName       string // "" for the host
	MasterName       string
	SentinelUsername string
	SentinelPassword SecretRef // may be not set
	DialTimeout      time.Duration
	ReadTimeout      time.Duration
}

// Gossip says how to take part in a cluster.
type Gossip struct {
	Name          string
	BindAddr      string // an IP address
	BindPort      int    // 0 for any
	AdvertiseAddr string // "" for what is found out
	AdvertisePort int    // 0 for the bound one
	Peers         []string
	Secrets       KeyRing // empty only on loopback or with AllowInsecure
	ClusterName   string
	Profile       string // "lan", "wan" or "local"
	Replicas      int
	AllowedCIDRs  []netip.Prefix
	TLS           TLSFiles // empty for the derived CA
}

// TLSFiles are PEM files; CAFile is unused where a server presents itself.
type TLSFiles struct{ CAFile, CertFile, KeyFile string }

// IsSet reports whether any file is configured.
func (t TLSFiles) IsSet() bool { return t != TLSFiles{} }

// Proxy bounds the data path.
type Proxy struct {
	Timeout          time.Duration // total transfer time registered with DICOMweb
	ReplayBytes      int64
	ReplayTotalBytes int64
}

// RateLimit bounds the POST requests to our own routes.
type RateLimit struct {
	Requests   int // in one Window; 0 for no limit
	Window     time.Duration
	PerAddress bool // each remote address for itself: Orthanc's callbacks see none, the sidecar does
}

// Sidecar is what orthanc-oauth serve needs beyond the plugin.
type Sidecar struct {
	Listen      string    // host:port of the data path
	ListenTLS   TLSFiles  // of both addresses; empty for plain HTTP
	Users       SecretRef // the data path's credentials, as proxy.Users reads them
	AdminListen string    // host:port of the admin routes
	AdminToken  SecretRef
}

// Server is one DICOMweb server and how to obtain its tokens.
type Server struct {
	Name           string // safe in a URL path
	URL            string // absolute, http or https
	TokenEndpoint  string // absolute, https or on loopback
	ClientID       string
	ClientSecret   SecretRef
	Scope          string
	Audience       string
	Resource       string
	EndpointParams Params
	AuthStyle      string // "auto", "basic" or "post"
	RefreshBuffer  time.Duration
	VerifySSL      VerifySSL
	Provider       string // detected or configured: "generic", "keycloak", "azure", "aws"; all plain token endpoints
	Resilience     Resilience
}

// VerifySSL says whom to trust.
type VerifySSL struct {
	Skip   bool
	CAFile string // "" for the system's
}

// Resilience tightens retries of token requests and adds a circuit breaker. Its
// values lie within the built-in limits already.
type Resilience struct {
	CircuitBreakerEnabled          bool
	CircuitBreakerFailureThreshold int
	CircuitBreakerTimeout          time.Duration
	RetryMaxAttempts               int    // the first included
	RetryStrategy                  string // "fixed", "linear" or "exponential"
	RetryInitialDelay              time.Duration
	RetryMultiplier                float64
	RetryMaxDelay                  time.Duration
	RetryIncrement                 time.Duration
}

// Orthanc is what the rest of orthanc.json says that concerns this plugin.
type Orthanc struct {
	DicomWebEnabled     bool              // DicomWeb.Enable
	DicomWebRoot        string            // DicomWeb.Root, with slashes at both ends
	ServersInDatabase   bool              // DicomWeb.ServersInDatabase
	DicomWebServers     map[string]string // DicomWeb.Servers: name to URL
	HTTPProxy           Secret            // HttpProxy; may hold a password
	HTTPSVerifyPeers    bool
	HTTPSCACertificates string // path
}
