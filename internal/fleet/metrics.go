package fleet

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Metric adds up the samples of a metric that carry all labels, each as it stands
// in Prometheus' text format (`result="success"`).
func (c Client) Metric(ctx context.Context, name string, labels ...string) (float64, error) {
	raw, err := c.Do(ctx, http.MethodGet, "/dicomweb-oauth/metrics", "", nil)
	if err != nil {
		return 0, err
	}
	total, found := 0.0, false
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		if slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(line, l) }) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		total, found = total+value, true
	}
	if !found {
		return 0, fmt.Errorf("no metric %s with %v", name, labels)
	}
	return total, nil
}
