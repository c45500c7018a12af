package node

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/internal/config"
)

var update = flag.Bool("update", false, "write the generated table of docs/operations/metrics.md")

const metricsDoc = "../../docs/operations/metrics.md"

// TestMetrics_TheDocumentNamesThemAll holds the table of the document equal to
// what nodes of the three backends register. With -update it writes it.
func TestMetrics_TheDocumentNamesThemAll(t *testing.T) {
	const begin, end = "<!-- metrics: generated -->\n", "<!-- end -->"
	raw, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(raw), begin)
	old, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatal("docs/operations/metrics.md has no place for the table")
	}
	table := metricTable(t)
	if old == table {
		return
	}
	if !*update {
		t.Fatalf("the table differs from the code; run: go test ./internal/node -run Metrics -update\ngot\n%s\nwant\n%s", old, table)
	}
	if err := os.WriteFile(metricsDoc, []byte(before+begin+table+end+after), 0o644); err != nil { //nolint:gosec // a document
		t.Fatal(err)
	}
}

// metric is a row of the table.
type metric struct {
	name, labels, help string
	backends           []string // that register it
}

func metricTable(t *testing.T) string {
	t.Helper()
	backends := []string{config.BackendMemory, config.BackendRedis, config.BackendGossip}
	all := make(map[string]*metric)
	for _, name := range backends {
		for _, m := range registered(t, name) {
			if all[m.name] == nil {
				all[m.name] = &m
			}
			all[m.name].backends = append(all[m.name].backends, name)
		}
	}
	var b strings.Builder
	b.WriteString("| metric | labels | what it counts | with |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m, with := all[name], "every backend"
		if len(m.backends) < len(backends) {
			with = "`" + strings.Join(m.backends, "` `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.labels, m.help, with)
	}
	return b.String()
}

// description is how a Desc prints; it has no other way to tell its parts.
var description = regexp.MustCompile(`^Desc\{fqName: "(.*)", help: "(.*?)",(?: unit: "",)? constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// registered returns our metrics of a node with one backend, those included that
// have no sample yet. Those of Go's runtime and of the process are left out.
func registered(t *testing.T, backend string) (out []metric) {
	t.Helper()
	raw := fmt.Sprintf(`{"DicomWeb": {"OAuth": {"CacheBackend": %q,
		"Gossip": {"BindAddr": "127.0.0.1", "BindPort": 0},
		"Servers": {"pacs": {"Url": "https://dicom.example.com/", "TokenEndpoint": "https://idp.example.com/token",
			"ClientId": "orthanc", "ClientSecret": "0123456789-0123456789"}}}}}`, backend)
	conf, err := config.Parse([]byte(raw), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(Config{
		Config: conf, Log: slog.New(slog.DiscardHandler),
		Authorize: func(*http.Request) bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.abandon()
	ch := make(chan *prometheus.Desc)
	go func() { defer close(ch); n.registry.Describe(ch) }()
	for d := range ch {
		parts := description.FindStringSubmatch(d.String())
		if parts == nil {
			t.Errorf("cannot read %s", d)
			continue
		}
		if !strings.HasPrefix(parts[1], "go_") && !strings.HasPrefix(parts[1], "process_") {
			out = append(out, metric{name: parts[1], help: parts[2], labels: code(parts[3])})
		}
	}
	return out
}

// code sets a list of labels as code.
func code(labels string) string {
	if labels == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(labels, ",", "` `") + "`"
}
