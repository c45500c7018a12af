package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Backends are what is compared, in the order of every table.
var Backends = []string{"gossip", "redis", "memory"}

// Report is the last run of each backend.
type Report struct {
	Runs map[string]Run `json:"runs"` // by backend
}

// Run is one run of one backend. All times are seconds, those named At or From
// since the run began.
type Run struct {
	Backend  string            `json:"backend"`
	Seed     uint64            `json:"seed"`
	Started  time.Time         `json:"started"`
	Duration float64           `json:"duration_s"` // from the first command to the last
	Lifetime float64           `json:"token_lifetime_s"`
	Versions map[string]string `json:"versions"`

	Faults    int              `json:"faults"`
	Kinds     []Kind           `json:"kinds"`
	Transfers map[string]Tally `json:"transfers"` // by kind of transfer
	Controls  map[string]Tally `json:"controls"`  // the same transfers to the same archive without OAuth
	Tokens    Tally            `json:"tokens"`    // POST .../test at each node
	Excused   map[string]int   `json:"excused"`   // failed transfers that the faults explain, by why

	Quiet        Quiet   `json:"quiet"`
	Requests     int     `json:"token_requests"`
	Acquisitions int     `json:"acquisitions"`
	Extra        int     `json:"extra_acquisitions"`
	MostExtra    int     `json:"most_extra_per_fault_and_component"`
	Converged    float64 `json:"longest_until_converged_s"`

	// Aborts is how often Orthanc ended with an abort when it was told to stop;
	// nil: it was not looked at.
	Aborts *int `json:"orthanc_aborts_at_stop,omitempty"`

	Leaks    int `json:"secrets_found"`
	Searched int `json:"bytes_searched"`

	Series Series `json:"series"`
}

// MeanExtra is how many acquisitions a fault has cost that need not have been.
func (r Run) MeanExtra() float64 { return float64(r.Extra) / float64(max(r.Faults, 1)) }

// Ours is how many transfers failed by our fault.
func (r Run) Ours() (n int) {
	for _, t := range r.Transfers {
		n += t.Ours
	}
	return n
}

// Total is how many transfers there were, and how many failed, by whosoever fault.
func (r Run) Total() (all, failed int) {
	for _, t := range r.Transfers {
		all += t.Count
		failed += t.Failed
	}
	return all, failed
}

// Stall is the longest stall of a transfer with a live token in reach.
func (r Run) Stall() Stall { return longest(r.Transfers) }

// ControlStall is the longest of one that needed no token: what the machine costs.
func (r Run) ControlStall() Stall { return longest(r.Controls) }

func longest(tallies map[string]Tally) (longest Stall) {
	for _, t := range tallies {
		if t.Stall.Seconds > longest.Seconds {
			longest = t.Stall
		}
	}
	return longest
}

// Kind is what one kind of fault has cost. Faults overlap, so that a failure, an
// acquisition or a stall may count for several of them.
type Kind struct {
	Name         string  `json:"name"`
	Rows         string  `json:"rows"` // of the matrix of faults
	Count        int     `json:"count"`
	Failed       int     `json:"failed"` // transfers, by the fault
	Ours         int     `json:"ours"`   // transfers, by our fault
	Acquisitions int     `json:"acquisitions"`
	Extra        int     `json:"extra"` // these count once, for one fault
	Stall        float64 `json:"longest_stall_s"`
}

// Tally is one kind of request.
type Tally struct {
	Count  int     `json:"count"`
	Failed int     `json:"failed"`
	Ours   int     `json:"ours"` // of them
	Median float64 `json:"median_in_quiet_s"`
	Stall  Stall   `json:"longest_stall"`
}

// Stall is how much longer than usual a request took although a live token was in
// reach and nothing was done to its node.
type Stall struct {
	Seconds float64 `json:"seconds"`
	At      float64 `json:"at"`
	During  string  `json:"during"` // the faults then
}

// Quiet is what the fleet cost while nothing was done to it.
type Quiet struct {
	Seconds      float64 `json:"seconds"`
	Acquisitions int     `json:"acquisitions"`
	Extra        int     `json:"extra"` // those that need not have been, in the whole run's quiet
	// PerPeriod is acquisitions per refresh period of the key: two thirds of a
	// token's life.
	PerPeriod float64 `json:"per_refresh_period"`
}

// Series is what the figures are drawn from.
type Series struct {
	Step         float64   `json:"step_s"`
	Accepted     []int     `json:"accepted"` // transfers that ended in each step
	Failed       []int     `json:"failed"`   // by a fault
	Ours         []int     `json:"ours"`
	Acquisitions []float64 `json:"acquisitions"` // when
	Faults       []Span    `json:"faults"`
}

// Span is one fault.
type Span struct {
	Kind string  `json:"kind"`
	What string  `json:"what"`
	From float64 `json:"from"`
	To   float64 `json:"to"`
}

// Load reads dir/chaos/report.json; without one the report is empty.
func Load(dir string) (Report, error) {
	r := Report{Runs: map[string]Run{}}
	raw, err := os.ReadFile(filepath.Join(dir, "chaos", "report.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read report: %w", err)
	}
	return r, nil
}

// Write writes chaos.md and the folder chaos under dir.
func (r Report) Write(dir string) error {
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	files := map[string]string{
		"chaos.md":               r.markdown(),
		"chaos/report.json":      string(raw) + "\n",
		"chaos/acquisitions.svg": r.acquisitionsFigure(),
		"chaos/stalls.svg":       r.stallsFigure(),
	}
	for backend, run := range r.Runs {
		files["chaos/timeline-"+backend+".svg"] = run.timelineFigure()
	}
	if err := os.MkdirAll(filepath.Join(dir, "chaos"), 0o755); err != nil { //nolint:gosec // documents
		return fmt.Errorf("write report: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // documents
			return fmt.Errorf("write report: %w", err)
		}
	}
	return nil
}
