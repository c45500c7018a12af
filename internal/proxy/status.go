package proxy

// The data of the admin routes. No field may hold a token or a secret.

// Health is the verdict of the status route.
type Health string

// The states of a node.
const (
	Healthy   Health = "healthy"
	Degraded  Health = "degraded"  // works, and something should be looked at
	Unhealthy Health = "unhealthy" // a server has no usable token and cannot get one: 503
)

// Status is the data of GET /dicomweb-oauth/status.
type Status struct {
	Status            Health        `json:"status"`
	Reasons           []string      `json:"reasons,omitempty"` // why it is not healthy
	TokenManagers     int           `json:"token_managers"`    // servers with a token source
	ServersConfigured int           `json:"servers_configured"`
	Backend           BackendStatus `json:"backend"`
	Members           int           `json:"members"` // alive, this node included; 1 without a cluster
	UptimeSeconds     int64         `json:"uptime_seconds"`
}

// BackendStatus says how the shared cache is doing.
type BackendStatus struct {
	Name   string `json:"name"`  // "memory", "redis" or "gossip"
	State  string `json:"state"` // "ok", or what is wrong in a word
	Reason string `json:"reason,omitempty"`
	Since  string `json:"since,omitempty"` // RFC 3339
}

// ServerStatus is one entry of GET /dicomweb-oauth/servers.
type ServerStatus struct {
	Name             string `json:"name"`
	URL              string `json:"url"`
	TokenEndpoint    string `json:"token_endpoint"`
	Provider         string `json:"provider,omitempty"`
	HasCachedToken   bool   `json:"has_cached_token"`
	TokenValid       bool   `json:"token_valid"`
	ExpiresIn        int64  `json:"expires_in"`           // seconds; 0 without a token
	Source           string `json:"source,omitempty"`     // "local", "peer", "redis" or "idp"
	KeyPrefix        string `json:"key_prefix,omitempty"` // 8 hex digits: equal where nodes share a token
	LastErrorCode    string `json:"last_error_code,omitempty"`
	RetryAfter       int64  `json:"retry_after_seconds,omitempty"` // of a backoff under way
	TokenAcquisition int64  `json:"token_acquisitions"`            // by this node
	Registered       *bool  `json:"registered,omitempty"`          // with Orthanc's DICOMweb plugin
}

// TestResult is the data of POST /dicomweb-oauth/servers/{name}/test, and of
// invalidate.
type TestResult struct {
	Server        string `json:"server"`
	Status        string `json:"status"` // "success"
	TokenAcquired bool   `json:"token_acquired"`
	HasToken      bool   `json:"has_token"`
	Provider      string `json:"provider"`
	ExpiresIn     int64  `json:"expires_in"` // seconds
}

// ClusterStatus is the data of GET /dicomweb-oauth/cluster.
type ClusterStatus struct {
	Enabled         bool           `json:"enabled"` // false: CacheBackend is not gossip
	Self            string         `json:"self,omitempty"`
	ClusterName     string         `json:"cluster_name,omitempty"`
	Joined          bool           `json:"joined"` // another instance has answered
	LastJoinError   string         `json:"last_join_error,omitempty"`
	Members         []MemberStatus `json:"members"`
	KeyFingerprints []string       `json:"key_fingerprints"` // of the secret ring, the first one signs
	Leaders         []LeaderStatus `json:"leaders"`
	Refused         int64          `json:"refused_connections"` // strangers, since the start
}

// MemberStatus is one node as this one sees it.
type MemberStatus struct {
	Name            string   `json:"name"`
	ID              string   `json:"id"`
	Address         string   `json:"address"`
	State           string   `json:"state"` // "alive", "suspect", "left", ...
	Self            bool     `json:"self"`
	RTTMillis       float64  `json:"rtt_ms,omitempty"`
	KeyFingerprints []string `json:"key_fingerprints,omitempty"`
}

// LeaderStatus says who acquires the tokens of a server.
type LeaderStatus struct {
	Server string   `json:"server"`
	Leader string   `json:"leader"`
	Order  []string `json:"order"` // who follows if it is lost, first three
}
