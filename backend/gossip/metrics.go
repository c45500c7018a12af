package gossip

import "github.com/prometheus/client_golang/prometheus"

// metrics count decisions. Labels are operations and answers of the protocol,
// never a key, a token or an address.
type metrics struct {
	acquired     *prometheus.CounterVec
	peerRequests *prometheus.CounterVec
	lastResort   prometheus.Counter
	waits        prometheus.Counter
	suspected    prometheus.Counter
	rejected     prometheus.Counter
	pushesLost   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "orthanc_oauth", Subsystem: "gossip", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "orthanc_oauth", Subsystem: "gossip", Name: name, Help: help}, labels)
	}
	m := &metrics{
		acquired:     vec("acquisitions_led_total", "Acquisitions this node made as a leader, by result.", "result"),
		peerRequests: vec("peer_requests_total", "Requests to peers, by operation and answer.", "operation", "answer"),
		lastResort:   counter("last_resort_total", "Times this node led because no leader of the order could."),
		waits:        counter("waits_total", "Times a leader waited for another that was first."),
		suspected:    counter("suspects_total", "Times a peer did not answer and the next was asked."),
		rejected:     counter("messages_rejected_total", "Messages of peers that were malformed or did not open."),
		pushesLost:   counter("pushes_lost_total", "Copies that a replica did not take in three tries."),
	}
	if reg != nil {
		reg.MustRegister(m.acquired, m.peerRequests, m.lastResort, m.waits, m.suspected, m.rejected, m.pushesLost)
	}
	return m
}
