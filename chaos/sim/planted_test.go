//go:build chaos

package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// edit replaces text in a file of the product, which must hold it.
type edit struct{ file, old, new string }

// planted is a fault in the code under test that the judge must catch: what is
// wrong, where, and what is run to show it.
type planted struct {
	name  string
	run   string   // the scripts, or Random
	args  []string // more of them
	edits []edit
}

const (
	gossipDir = "backend/gossip/"
	ofPeers   = "cluster/peers.go"
)

var plants = []planted{
	{
		name: "no rejoin", run: "Scripts/11_(halves|a_split)",
		edits: []edit{{ofPeers, "\t\tcase joined:\n\t\t\twait = rejoinEvery\n", "\t\tcase joined:\n\t\t\twait = 24 * time.Hour\n"}},
	},
	{
		name: "no intents", run: "Scripts/join",
		edits: []edit{{gossipDir + "lead.go", "rivals := g.look(ctx, key, stale, lookIntending(dismissed))", "g.look(ctx, key, stale, lookIntending(dismissed))\n\t\trivals := map[string]bool{}"}},
	},
	{
		name: "peeking at the next instead of the first", run: "Scripts/far_nodes",
		edits: []edit{{
			gossipDir + "gossip.go",
			"for _, m := range g.order(key) {\n\t\tif !m.Self && !g.suspect.has(m.ID) {",
			"order := g.order(key)\n\tfor i := range order {\n\t\tm := order[(i+g.rank(key)+1)%len(order)]\n\t\tif !m.Self && !g.suspect.has(m.ID) {",
		}},
	},
	{
		name: "no hop limit", run: "Scripts/the_leader_has_lost_its_way",
		edits: []edit{{gossipDir + "serve.go", "g.lead(ctx, req.key, req.stale, suspects, req.fill)", "g.Fill(ctx, req.key, req.stale, req.fill)\n\t_ = suspects"}},
	},
	{
		name: "absolute expiry", run: "Scripts/^20",
		edits: []edit{{"tokens/fill.go", "ttl := min(e.TTL, v.life-margin(v.life))", "ttl := v.issued.Add(v.life).Sub(c.manager.clock.Wall()) - margin(v.life)"}},
	},
	{
		// A script of two halves shows it only where the right one has the newer token,
		// and a seed in most of its runs: of these eight, two do.
		name: "stale by inequality instead of age", run: "Random", args: []string{"-sim.first", "1", "-sim.faults", "320"},
		edits: []edit{{"backend/backend.go", "bool { return s.Compare(o) > 0 }", "bool { return s != o }"}},
	},
	{
		name: "revocation by key", run: "Scripts/late_401",
		edits: []edit{{
			"backend/store.go", "func (r *record) revoke(id ID, ttl, now time.Duration) {\n",
			"func (r *record) revoke(id ID, ttl, now time.Duration) {\n\tif !r.entry.IsZero() {\n\t\tid = r.entry.ID\n\t}\n",
		}},
	},
	{
		name: "fixed 300 s buffer", run: "Scripts/^quiet",
		edits: []edit{{"tokens/life.go", "return min(max(buffer, 2*margin(life)), share)", "_ = share\n\treturn buffer"}},
	},
	{
		name: "a local try on every 5xx", run: "Scripts/^22",
		edits: []edit{{
			gossipDir + "ask.go", "case errors.As(err, &refusal) && !refusal.Way:\n\t\treturn backend.Entry{}, err",
			"case errors.As(err, &refusal) && !refusal.Way && q.asked >= 0:\n\t\treturn q.fill(ctx, q.store.Highest(q.key)+1)",
		}},
	},
	{
		name: "backoff not shared", run: "Scripts/^24",
		edits: []edit{{gossipDir + "takein.go", "if refusal != nil && !refusal.Way {", "if false {"}},
	},
}

func repository(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// overlay writes the changed copies and the file that tells the compiler of them.
func (p planted) overlay(t *testing.T) string {
	t.Helper()
	dir, changed := t.TempDir(), make(map[string]string)
	for _, e := range p.edits {
		path := filepath.Join(repository(t), e.file)
		from := path
		if copied, ok := changed[path]; ok {
			from = copied
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(text), e.old) != 1 {
			t.Fatalf("%s does not hold this once, plant the fault anew: %q", e.file, e.old)
		}
		changed[path] = filepath.Join(dir, fmt.Sprintf("%d.go", len(changed)))
		if err := os.WriteFile(changed[path], []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": changed})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

var violationLine = regexp.MustCompile(`VIOLATION (\w+): (.*)`)

// caughtBy runs the simulation with the planted fault and returns the invariants
// that the judge found violated, and the first of its words.
func (p planted) caughtBy(t *testing.T) (kinds []string, first string) {
	t.Helper()
	args := []string{"test", "-tags", "chaos", "-overlay", p.overlay(t), "-count=1", "-timeout=120s", "-run", p.run, ".", "-args", "-sim.history", t.TempDir()}
	args = append(args, p.args...)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "go", args...)
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil, ""
	}
	for _, m := range violationLine.FindAllStringSubmatch(string(out), -1) {
		if first == "" {
			first = m[2]
		}
		if !slices.Contains(kinds, m[1]) {
			kinds = append(kinds, m[1])
		}
	}
	if kinds == nil {
		t.Fatalf("%s: no verdict:\n%.2000s", p.name, out)
	}
	return kinds, first
}

func TestPlanted_FaultsInTheCodeUnderTestAreCaught(t *testing.T) {
	table := make([]string, len(plants))
	t.Run("plants", func(t *testing.T) {
		for i, p := range plants {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				kinds, first := p.caughtBy(t)
				if kinds == nil {
					t.Error("not caught")
					first = "NOT CAUGHT"
				}
				table[i] = fmt.Sprintf("%-42s %-22s %.140s", p.name, strings.Join(kinds, " "), first)
			})
		}
	})
	t.Logf("planted faults\n%s", strings.Join(table, "\n"))
}
