package cluster

import (
	"time"
)

// Status is what an operator wants to see. It holds no secret.
type Status struct {
	Cluster      string            `json:"cluster"`
	Self         MemberStatus      `json:"self"`
	Members      []MemberStatus    `json:"members"`
	Lost         []LostStatus      `json:"lost,omitempty"` // gone in the past day and not back at that address
	Joined       bool              `json:"joined"`
	JoinError    string            `json:"join_error,omitempty"`
	Fingerprints []string          `json:"fingerprints"`
	Secured      bool              `json:"secured"` // a secret key is configured
	Refused      map[string]uint64 `json:"refused"` // by kind, side and reason, since the start
}

// MemberStatus is one member alive.
type MemberStatus struct {
	ID           string   `json:"id"`
	Name         string   `json:"name"`
	Addr         string   `json:"addr"`
	State        string   `json:"state"`
	Fingerprints []string `json:"fingerprints"`
	Protocol     [2]uint8 `json:"protocol"`
	RTTMillis    float64  `json:"rtt_ms,omitempty"`
}

// LostStatus is an address where a member was last seen.
type LostStatus struct {
	Addr  string `json:"addr"`
	Since int    `json:"since_seconds"`
}

// Status returns the state of this moment.
func (c *Cluster) Status() Status {
	s := Status{
		Cluster:      c.cfg.ClusterName,
		Self:         c.memberStatus(c.Self()),
		Joined:       c.hasJoined(),
		Fingerprints: names(c.transport.sec.Load().fingerprints),
		Secured:      len(c.cfg.Secrets) > 0,
		Refused:      c.metrics.seen.counts(),
	}
	here := make(map[string]bool)
	for _, m := range c.Members() {
		s.Members = append(s.Members, c.memberStatus(m))
		here[m.Addr.String()] = true
	}
	c.joinMu.Lock()
	defer c.joinMu.Unlock()
	if c.joinErr != nil {
		s.JoinError = c.joinErr.Error()
	}
	for addr, at := range c.lastSeen {
		if !here[addr.String()] {
			s.Lost = append(s.Lost, LostStatus{addr.String(), int(time.Since(at).Seconds())})
		}
	}
	return s
}

func (c *Cluster) memberStatus(m Member) MemberStatus {
	return MemberStatus{
		ID: m.ID, Name: m.Name, Addr: m.Addr.String(), State: "alive",
		Fingerprints: names(m.Meta.Fingerprints),
		Protocol:     [2]uint8{m.Meta.ProtocolMin, m.Meta.ProtocolMax},
		RTTMillis:    float64(c.RTT(m.ID).Microseconds()) / 1000,
	}
}

func names(prints []Fingerprint) []string {
	list := make([]string, len(prints))
	for i, f := range prints {
		list[i] = f.String()
	}
	return list
}
