package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Why a connection was refused, and on which side we were.
const (
	sideServer = "server"
	sideClient = "client"
	sideStream = "stream"

	refusedKey      = "key"
	refusedAddress  = "address"
	refusedInstance = "instance"
	refusedLimit    = "limit"
	refusedTimeout  = "timeout"
	refusedProtocol = "protocol"
)

// Why a packet was dropped.
const (
	dropSeal    = "seal"
	dropMessage = "message"
	dropAddress = "address"
)

// metrics counts what the cluster decides.
type metrics struct {
	members   prometheus.GaugeFunc
	refused   *prometheus.CounterVec
	dropped   *prometheus.CounterVec
	joins     *prometheus.CounterVec
	rotations prometheus.Counter
	seen      *tally
}

func newMetrics(members func() float64) *metrics {
	const ns, sub = "orthanc_oauth", "cluster"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, labels)
	}
	return &metrics{
		members: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "members", Help: "Members alive, this node included.",
		}, members),
		refused: counter("refused_connections_total", "Connections refused, by side and reason.", "side", "reason"),
		dropped: counter("dropped_packets_total", "Packets dropped, by reason.", "reason"),
		joins:   counter("joins_total", "Attempts to join an address that was no member, by result.", "result"),
		rotations: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "key_rotations_total", Help: "Changes of the secret ring.",
		}),
		seen: newTally(),
	}
}

// register adds all of them to r, or none.
func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	all := []prometheus.Collector{m.members, m.refused, m.dropped, m.joins, m.rotations}
	for i, c := range all {
		if err := r.Register(c); err != nil {
			for _, done := range all[:i] {
				r.Unregister(done)
			}
			return err
		}
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range []prometheus.Collector{m.members, m.refused, m.dropped, m.joins, m.rotations} {
		r.Unregister(c)
	}
}

func (m *metrics) refuse(side, reason string) {
	m.refused.WithLabelValues(side, reason).Inc()
	m.seen.add("refused " + side + " " + reason)
}

func (m *metrics) drop(reason string) {
	m.dropped.WithLabelValues(reason).Inc()
	m.seen.add("dropped " + reason)
}
