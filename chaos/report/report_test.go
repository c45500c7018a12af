package report

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// example is a run with a failure of ours and one by a fault.
func example(backend string) Run {
	return Run{
		Backend: backend, Seed: 7, Started: time.Unix(0, 0), Duration: 400, Lifetime: 45, Versions: map[string]string{"orthanc": "1.10.1"},
		Faults: 4, Extra: 1, MostExtra: 1, Acquisitions: 3, Requests: 5,
		Transfers: map[string]Tally{"stow": {Count: 10, Failed: 3, Ours: 1, Median: 0.5, Stall: Stall{Seconds: 1.25, At: 60, During: "kill <node>"}}},
		Controls:  map[string]Tally{"stow": {Count: 9, Failed: 2, Median: 0.4, Stall: Stall{Seconds: 0.75}}},
		Excused:   map[string]int{"excused: node down": 2},
		Quiet:     Quiet{Seconds: 60, Acquisitions: 6, PerPeriod: 3},
		Kinds:     []Kind{{Name: "kill <one>", Rows: "1-3", Count: 4, Failed: 2, Ours: 1, Acquisitions: 3, Extra: 1, Stall: 1.25}},
		Series: Series{
			Step: 5, Accepted: []int{3, 4}, Failed: []int{0, 2}, Ours: []int{0, 1}, Acquisitions: []float64{1, 8},
			Faults: []Span{{Kind: "kill <one>", What: `kill "one"`, From: 2, To: 70}},
		},
	}
}

func TestReport_PutsTheBackendsSideBySide(t *testing.T) {
	r := Report{Runs: map[string]Run{"gossip": example("gossip"), "memory": example("memory")}}
	text := r.markdown()
	for _, want := range []string{
		"| faults | 4 | not run | 4 |",
		"| **failed by us** | **1** | not run | **1** |",
		"| failed by the faults | 2 | not run | 2 |",
		"| in quiet, per key and refresh period | 3.0 (6 in 60 s) | not run | 3.0 (6 in 60 s); 1.0 per instance |",
		"| extra per fault, mean | 0.25 | not run | 0.25 |",
		"| kill <one> | 1-3 | 4 | 2+1 | 3 (1) | 1.25 s | | | | | 4 |",
		"| excused: node down | 2 | not run | 2 |",
		"| longest stall of a transfer | 1.25 s | not run | 1.25 s |",
		"| ... of the control, without OAuth | 0.75 s | not run | 0.75 s |",
		"| stow, control: all, failed; median, longest stall | 9, 2; 0.40 s, 0.75 s | not run |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
}

func TestReport_KeepsTheOtherBackendsOfEarlierRuns(t *testing.T) {
	dir := t.TempDir()
	for _, backend := range []string{"gossip", "redis"} {
		r, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		r.Runs[backend] = example(backend)
		if err := r.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Load(dir)
	if err != nil || len(r.Runs) != 2 {
		t.Fatalf("%d runs: %v", len(r.Runs), err)
	}
	for _, name := range []string{"acquisitions", "stalls", "timeline-gossip", "timeline-redis"} {
		raw, err := os.ReadFile(filepath.Join(dir, "chaos", name+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		wellFormed(t, name, string(raw))
	}
}

// wellFormed asserts that a browser can read a figure.
func wellFormed(t *testing.T, name, text string) {
	t.Helper()
	in := xml.NewDecoder(strings.NewReader(text))
	for {
		_, err := in.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func TestReport_RefusesABrokenFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "chaos"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "chaos", "report.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("figures of other backends would be overwritten")
	}
}
