package tokens

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens/provider"
)

// metrics holds the counters of this package, each under the name of the
// operations guide and, where the Python plugin had one, under that too.
type metrics struct {
	backend string // label

	hits, misses, errors, acquisitions *prometheus.CounterVec

	pyHits, pyMisses, pyAcquisitions, pyErrors *prometheus.CounterVec
	pyDuration                                 *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, backendName string) (*metrics, error) {
	m := &metrics{
		backend:        backendName,
		hits:           counter("orthanc_oauth_cache_hits_total", "Requests served with a held token (source local), and tokens adopted from elsewhere.", "server", "backend", "source"),
		misses:         counter("orthanc_oauth_cache_misses_total", "Requests that found no usable token in this process.", "server", "backend"),
		acquisitions:   counter("orthanc_oauth_token_acquisitions_total", "Requests for a token that this process made to the identity provider.", "server", "backend", "result"),
		pyHits:         counter("dicomweb_oauth_cache_hits_total", "Requests served without asking the identity provider.", "server"),
		pyMisses:       counter("dicomweb_oauth_cache_misses_total", "Requests that found no usable token in this process.", "server"),
		pyAcquisitions: counter("dicomweb_oauth_token_acquisitions_total", "Requests for a token that this process made to the identity provider.", "server", "status"),
		pyErrors:       counter("dicomweb_oauth_errors_total", "Failures by error code.", "server", "error_code", "category"),
		pyDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "dicomweb_oauth_token_acquisition_duration_seconds",
			Help:    "How long the identity provider took.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"server"}),
	}
	var err error
	if m.errors, err = backend.NewErrorCounter(reg); err != nil {
		return nil, err
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.hits, m.misses, m.acquisitions,
		m.pyHits, m.pyMisses, m.pyAcquisitions, m.pyErrors, m.pyDuration,
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register token metrics: %w", err)
		}
	}
	return m, nil
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// serverMetrics are the counters of one server on the path of a request,
// resolved once.
type serverMetrics struct{ hits, misses, pyHits, pyMisses prometheus.Counter }

// of resolves a server's counters, which also makes them visible at zero.
func (m *metrics) of(server string) serverMetrics {
	for _, result := range []string{"success", "failure"} {
		m.acquisitions.WithLabelValues(server, m.backend, result)
		m.pyAcquisitions.WithLabelValues(server, result)
	}
	return serverMetrics{
		hits:     m.hits.WithLabelValues(server, m.backend, string(backend.FromLocal)),
		misses:   m.misses.WithLabelValues(server, m.backend),
		pyHits:   m.pyHits.WithLabelValues(server),
		pyMisses: m.pyMisses.WithLabelValues(server),
	}
}

func (s serverMetrics) hit() { s.hits.Inc(); s.pyHits.Inc() }

func (s serverMetrics) miss() { s.misses.Inc(); s.pyMisses.Inc() }

// adopted counts a token that came from elsewhere; those from the provider are
// acquisitions.
func (m *metrics) adopted(server string, from backend.Origin) {
	switch from {
	case backend.FromPeer, backend.FromRedis:
		m.hits.WithLabelValues(server, m.backend, string(from)).Inc()
		m.pyHits.WithLabelValues(server).Inc()
	}
}

func (m *metrics) acquired(server string, took time.Duration, err error) {
	result := "success"
	if err != nil {
		result = "failure"
		m.failed(server, failure(server, err).Code)
	}
	m.acquisitions.WithLabelValues(server, m.backend, result).Inc()
	m.pyAcquisitions.WithLabelValues(server, result).Inc()
	m.pyDuration.WithLabelValues(server).Observe(took.Seconds())
}

func (m *metrics) failed(server string, code provider.Code) {
	m.pyErrors.WithLabelValues(server, string(code), code.Category()).Inc()
}

func (m *metrics) cacheError(reason string) {
	m.errors.WithLabelValues(m.backend, reason).Inc()
}
