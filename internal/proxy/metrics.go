package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what both faces do. Make one per Registerer and pass it to both.
type Metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	transfers *prometheus.CounterVec
	remote    *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	replays   *prometheus.CounterVec
	active    prometheus.Gauge
}

// NewMetrics registers the metrics; a nil Registerer keeps them to oneself.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		requests: counter("dicomweb_oauth_http_requests_total", "Requests answered.", "method", "endpoint", "status"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dicomweb_oauth_http_request_duration_seconds",
			Help: "How long requests took, transfers included.",
			// From an admin route to the longest study.
			Buckets: []float64{.001, .005, .025, .1, .5, 2, 10, 60, 300, 1800},
		}, []string{"method", "endpoint"}),
		transfers: counter("dicomweb_oauth_transfers_total", "Requests to DICOMweb servers by how they ended.", "server", "result"),
		remote:    counter("dicomweb_oauth_remote_responses_total", "Last answers of DICOMweb servers, by their true status.", "server", "status"),
		bytes:     counter("dicomweb_oauth_transfer_bytes_total", "Bytes of bodies, sent to and received from DICOMweb servers.", "server", "direction"),
		replays:   counter("dicomweb_oauth_replays_total", "Requests whose token was refused, by what sending them again came to.", "server", "result"),
		active:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "dicomweb_oauth_transfers_active", Help: "Requests to DICOMweb servers under way."}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.transfers, m.remote, m.bytes, m.replays, m.active} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) answered(method, endpoint string, status int, took time.Duration) {
	method = knownMethod(method)
	m.requests.WithLabelValues(method, endpoint, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(method, endpoint).Observe(took.Seconds())
}

// knownMethod bounds the label: the method is the caller's free choice.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch:
		return method
	}
	return "other"
}

// recorder notes an answer's status.
type recorder struct {
	http.ResponseWriter
	status int // 0: nothing written
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 { // 1xx may come first, and repeatedly
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
