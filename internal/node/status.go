package node

import (
	"context"
	"net/http"
	"strings"
	"time"

	"orthanc-oauth/cluster"
	"orthanc-oauth/internal/proxy"
	"orthanc-oauth/tokens"
)

func (n *Node) adminRoutes(cfg Config, metrics *proxy.Metrics) http.Handler {
	admin := proxy.AdminConfig{
		Version:    Version,
		Status:     n.status,
		Servers:    n.serverStatus,
		Test:       n.test,
		Invalidate: n.invalidate,
		ClearCache: n.tokens.Clear,
		Cluster:    n.clusterStatus,
		Authorize:  cfg.AuthorizeAdmin,
		Metrics:    metrics,
		Log:        n.log,
	}
	if n.conf.EnableMetrics {
		admin.Gatherer = n.registry
	}
	if l := n.conf.RateLimit; l.Requests > 0 {
		admin.Limit = proxy.NewLimit(l.Requests, l.Window, l.PerAddress)
	}
	return proxy.NewAdmin(admin)
}

func (n *Node) status(context.Context) proxy.Status {
	s := proxy.Status{
		Status:            proxy.Healthy,
		TokenManagers:     len(n.servers),
		ServersConfigured: len(n.servers) + len(n.conf.Disabled),
		Backend:           n.store.status(),
		Members:           len(n.members()),
		UptimeSeconds:     int64((n.clock.Now() - n.started) / time.Second),
	}
	degrade := func(to proxy.Health, reason string) {
		if s.Status != proxy.Unhealthy {
			s.Status = to
		}
		s.Reasons = append(s.Reasons, reason)
	}
	for _, reason := range n.conf.Degraded {
		degrade(proxy.Degraded, reason)
	}
	if s.Backend.State != "ok" {
		degrade(proxy.Degraded, strings.TrimSuffix(n.conf.Backend+": "+s.Backend.State+"; "+s.Backend.Reason, "; "))
	}
	for _, src := range n.tokens.Sources() {
		switch st := src.Status(); {
		case st.LastError == "":
		case st.Valid:
			degrade(proxy.Degraded, "server "+st.Name+": "+string(st.LastError)+", the token held is still valid")
		default:
			degrade(proxy.Unhealthy, "server "+st.Name+": "+string(st.LastError)+", and no usable token")
		}
	}
	return s
}

func (n *Node) serverStatus(context.Context) []proxy.ServerStatus {
	out := make([]proxy.ServerStatus, len(n.servers))
	for i, s := range n.servers {
		st := s.source.Status()
		out[i] = proxy.ServerStatus{
			Name:             s.conf.Name,
			URL:              s.conf.URL,
			TokenEndpoint:    s.conf.TokenEndpoint,
			Provider:         s.conf.Provider,
			HasCachedToken:   st.HasToken,
			TokenValid:       st.Valid,
			ExpiresIn:        int64(st.ExpiresIn / time.Second),
			Source:           string(st.Origin),
			KeyPrefix:        st.Key,
			LastErrorCode:    string(st.LastError),
			RetryAfter:       int64(st.RetryAfter / time.Second),
			TokenAcquisition: int64(st.Fills), //nolint:gosec // a count of requests
		}
	}
	return out
}

func (n *Node) find(name string) (*server, error) {
	for _, s := range n.servers {
		if s.conf.Name == name {
			return s, nil
		}
	}
	return nil, proxy.ErrUnknownServer
}

func (n *Node) test(ctx context.Context, name string) (proxy.TestResult, error) {
	s, err := n.find(name)
	if err != nil {
		return proxy.TestResult{}, err
	}
	t, err := s.source.Token(ctx)
	return s.result(t), err
}

func (n *Node) invalidate(ctx context.Context, name string) (proxy.TestResult, error) {
	s, err := n.find(name)
	if err != nil {
		return proxy.TestResult{}, err
	}
	t, err := s.source.Invalidate(ctx)
	return s.result(t), err
}

func (s *server) result(t tokens.Token) proxy.TestResult {
	return proxy.TestResult{
		Server:        s.conf.Name,
		Status:        "success",
		TokenAcquired: t.Valid(),
		HasToken:      t.Valid(),
		Provider:      s.conf.Provider,
		ExpiresIn:     int64(time.Until(t.Expiry()) / time.Second),
	}
}

// members returns the fleet as this node sees it: itself alone without a
// cluster.
func (n *Node) members() []cluster.Member {
	if g, ok := n.store.(*gossipStorage); ok {
		return g.cluster.Members()
	}
	return []cluster.Member{{Self: true}}
}

func (n *Node) clusterStatus(context.Context) proxy.ClusterStatus {
	g, ok := n.store.(*gossipStorage)
	if !ok {
		return proxy.ClusterStatus{}
	}
	return g.clusterStatus(n.tokens.Sources())
}

// Gauges returns what Orthanc's own metrics can show: numbers without labels.
func (n *Node) Gauges() map[string]float64 {
	var valid, acquisitions float64
	for _, s := range n.tokens.Sources() {
		st := s.Status()
		if st.Valid {
			valid++
		}
		acquisitions += float64(st.Fills)
	}
	return map[string]float64{
		"orthanc_oauth_members":      float64(len(n.members())),
		"orthanc_oauth_servers":      float64(len(n.servers)),
		"orthanc_oauth_valid_tokens": valid,
		"orthanc_oauth_acquisitions": acquisitions,
	}
}
