package demo

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// counters is what an instance says of itself.
type counters struct {
	Local        int `json:"local_hits"`
	Peer         int `json:"peer_hits"`
	Redis        int `json:"redis_hits"`
	Acquisitions int `json:"acquisitions"`
}

// look reads the member's metrics.
func (m *member) look(ctx context.Context) (counters, error) {
	raw, err := m.admin().Do(ctx, http.MethodGet, "/dicomweb-oauth/metrics", "", nil)
	if err != nil {
		return counters{}, fmt.Errorf("metrics of %s: %w", m.name, err)
	}
	m.last = counters{
		Local:        sum(raw, "orthanc_oauth_cache_hits_total", `source="local"`),
		Peer:         sum(raw, "orthanc_oauth_cache_hits_total", `source="peer"`),
		Redis:        sum(raw, "orthanc_oauth_cache_hits_total", `source="redis"`),
		Acquisitions: sum(raw, "orthanc_oauth_token_acquisitions_total", ""),
	}
	return m.last, nil
}

// sum adds up the samples of a counter that carry a label, in Prometheus' text
// format.
func sum(exposition []byte, name, label string) int {
	total := 0.0
	lines := bufio.NewScanner(bytes.NewReader(exposition))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' || !strings.Contains(rest, label) {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err == nil {
			total += value
		}
	}
	return int(total)
}
