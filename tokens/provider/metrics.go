package provider

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what Resilient decides, under the names of the Python
// plugin's dashboards. One Metrics serves the providers of all servers.
type Metrics struct {
	breakerState *prometheus.GaugeVec
	rejections   *prometheus.CounterVec
	retries      *prometheus.CounterVec
}

// NewMetrics registers the metrics with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	server := []string{"server"}
	m := &Metrics{
		breakerState: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dicomweb_oauth_circuit_breaker_state",
			Help: "State of the circuit breaker before the token endpoint: 0 closed, 1 open, 2 half-open.",
		}, server),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dicomweb_oauth_circuit_breaker_rejections_total",
			Help: "Token requests that an open circuit breaker did not let through.",
		}, server),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dicomweb_oauth_retry_attempts_total",
			Help: "Token requests repeated within one acquisition.",
		}, server),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.breakerState, m.rejections, m.retries} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register provider metrics: %w", err)
		}
	}
	return m, nil
}
