package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// instances is how many Orthancs share a token, or do not.
const instances = 3

// markdown is the report for readers.
func (r Report) markdown() string {
	var out strings.Builder
	out.WriteString(`# Chaos on containers
Written by ` + "`make chaos`" + `; do not edit. What a run does and how it judges: [chaos/containers](../chaos/containers/doc.go), [chaos/history](../chaos/history/doc.go). The same figures for machines: [report.json](chaos/report.json).

Three Orthancs with the plugin behind nginx, a fourth as the protected archive behind a bearer gate, a scripted identity provider, Prometheus; with Redis a primary, a replica and three Sentinels ([docker-compose.yml](../chaos/docker-compose.yml)). STOW, QIDO and retrieve run through the load balancer all the time. Faults overlap: storms of 40 s, and a calm after each. After each transfer its client makes the same one past the gate, to the same archive through the same nodes, without OAuth: the control. An upgrade takes one container after the other back to an earlier version of the plugin and up again, so that both work beside each other.

## At a glance
`)
	r.glance(&out)
	out.WriteString(`
- **Failed by us**: a transfer that failed or broke off although its Orthanc ran, its network was whole, and a token was to be had: from the provider, or from a node in its reach for ten seconds. All others are explained by what was done to them ([why](#failed-transfers)).
- **Acquisitions** are the provider's own count. **Extra** is one that was made although the fleet, or the part of it that could be reached, held a live token that was neither revoked nor due. With memory each instance is a fleet of its own.
- **Aborts**: orthanc-dicomweb 1.7 ends Orthanc with an abort where a job of its own is under way at a stop ("Classes deriving from SingleFunctionJob must explicitly call Finalize()"), without this plugin as well (9 of 14 stops under load without it, 18 of 25 with it). A crash of this plugin would leave a trace of goroutines in the log, and fails the run.
- **Stall**: how much longer than the median in quiet the archive's last answer took, while a live token was in reach of the transfer, its Orthanc ran, its network was whole and the balancer went to no other first. It holds whatever else the machine was busy with, such as Orthancs that start: see the control's. (Orthanc tells of the end of a job up to half a second after the archive has answered, with OAuth or without; that is left out.)
- **A rotated client secret** makes a new key, which costs one acquisition by design; it stands among the extra ones.

![acquisitions](chaos/acquisitions.svg)

![stalls](chaos/stalls.svg)

`)
	r.faults(&out)
	r.failures(&out)
	r.runs(&out)
	return out.String()
}

// cells writes one row of a table with a cell for each backend that has a run.
func (r Report) cells(out *strings.Builder, name string, cell func(run Run) string) {
	fmt.Fprintf(out, "| %s |", name)
	for _, backend := range Backends {
		text := "not run"
		if run, ok := r.Runs[backend]; ok {
			text = cell(run)
		}
		fmt.Fprintf(out, " %s |", text)
	}
	out.WriteString("\n")
}

func head(out *strings.Builder) {
	out.WriteString("| |")
	for _, backend := range Backends {
		fmt.Fprintf(out, " %s |", backend)
	}
	out.WriteString("\n|---|" + strings.Repeat("---|", len(Backends)) + "\n")
}

func (r Report) glance(out *strings.Builder) {
	head(out)
	for _, row := range []struct {
		name string
		cell func(run Run) string
	}{
		{"faults", func(run Run) string { return fmt.Sprint(run.Faults) }},
		{"transfers", func(run Run) string { all, _ := run.Total(); return fmt.Sprint(all) }},
		{"**failed by us**", func(run Run) string { return fmt.Sprintf("**%d**", run.Ours()) }},
		{"failed by the faults", func(run Run) string { _, failed := run.Total(); return fmt.Sprint(failed - run.Ours()) }},
		{"acquisitions", func(run Run) string { return fmt.Sprint(run.Acquisitions) }},
		{"in quiet, per key and refresh period", func(run Run) string {
			text := fmt.Sprintf("%.1f (%d in %.0f s)", run.Quiet.PerPeriod, run.Quiet.Acquisitions, run.Quiet.Seconds)
			if run.Backend == "memory" {
				text += fmt.Sprintf("; %.1f per instance", run.Quiet.PerPeriod/instances)
			}
			return text
		}},
		{"extra, in quiet", func(run Run) string { return fmt.Sprint(run.Quiet.Extra) }},
		{"extra per fault, mean", func(run Run) string { return fmt.Sprintf("%.2f", run.MeanExtra()) }},
		{"extra per fault and component, most", func(run Run) string { return fmt.Sprint(run.MostExtra) }},
		{"longest stall of a transfer", func(run Run) string { return fmt.Sprintf("%.2f s", run.Stall().Seconds) }},
		{"... of the control, without OAuth", func(run Run) string { return fmt.Sprintf("%.2f s", run.ControlStall().Seconds) }},
		{"longest stall of a token", func(run Run) string { return fmt.Sprintf("%.2f s", run.Tokens.Stall.Seconds) }},
		{"one fleet again after a storm, at most", func(run Run) string { return fmt.Sprintf("%.1f s", run.Converged) }},
		{"Orthanc aborted at a stop", func(run Run) string {
			if run.Aborts == nil {
				return "not counted"
			}
			return fmt.Sprint(*run.Aborts)
		}},
		{"secrets found in logs and answers", func(run Run) string {
			return fmt.Sprintf("%d in %.0f MB", run.Leaks, float64(run.Searched)/1e6)
		}},
	} {
		r.cells(out, row.name, row.cell)
	}
}

// faults is the table of what each kind has cost.
func (r Report) faults(out *strings.Builder) {
	out.WriteString("## Each fault\nHow often; transfers that failed by it + by us; acquisitions while it lasted and 15 s after, of which extra; longest stall. Faults overlap, so one failure, acquisition or stall may stand in several rows; what is extra is put down to one.\n\n")
	out.WriteString("| fault | rows |")
	for _, backend := range Backends {
		fmt.Fprintf(out, " %s: n | failed | acquired (extra) | stall |", backend)
	}
	out.WriteString("\n|---|---|" + strings.Repeat("---|", 4*len(Backends)) + "\n")
	for _, kind := range r.kinds() {
		fmt.Fprintf(out, "| %s | %s |", kind.Name, kind.Rows)
		for _, backend := range Backends {
			at := slices.IndexFunc(r.Runs[backend].Kinds, func(k Kind) bool { return k.Name == kind.Name })
			if at < 0 {
				out.WriteString(" | | | |")
				continue
			}
			k := r.Runs[backend].Kinds[at]
			fmt.Fprintf(out, " %d | %d+%d | %d (%d) | %.2f s |", k.Count, k.Failed, k.Ours, k.Acquisitions, k.Extra, k.Stall)
		}
		out.WriteString("\n")
	}
	out.WriteString("\n")
}

// failures is why transfers failed.
func (r Report) failures(out *strings.Builder) {
	out.WriteString("## Failed transfers\n")
	head(out)
	why := map[string]bool{}
	for _, run := range r.Runs {
		for reason := range run.Excused {
			why[reason] = true
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(why)) {
		r.cells(out, reason, func(run Run) string { return fmt.Sprint(run.Excused[reason]) })
	}
	for _, kind := range []string{"stow", "qido", "retrieve"} {
		r.cells(out, kind+": all, failed, by us", func(run Run) string {
			t := run.Transfers[kind]
			return fmt.Sprintf("%d, %d, %d", t.Count, t.Failed, t.Ours)
		})
		r.cells(out, kind+": median in quiet, longest stall", func(run Run) string {
			t := run.Transfers[kind]
			return fmt.Sprintf("%.2f s, %.2f s", t.Median, t.Stall.Seconds)
		})
		r.cells(out, kind+", control: all, failed; median, longest stall", func(run Run) string {
			t := run.Controls[kind]
			return fmt.Sprintf("%d, %d; %.2f s, %.2f s", t.Count, t.Failed, t.Median, t.Stall.Seconds)
		})
	}
	out.WriteString("\n")
}

// runs is how each run can be had again.
func (r Report) runs(out *strings.Builder) {
	out.WriteString("## The runs\nSeeded is not deterministic: a seed replays faults, targets and pauses, not the scheduler.\n\n")
	head(out)
	r.cells(out, "seed", func(run Run) string { return fmt.Sprint(run.Seed) })
	r.cells(out, "begun", func(run Run) string { return run.Started.UTC().Format(time.DateTime) + " UTC" })
	r.cells(out, "duration, start and end included", func(run Run) string {
		return time.Duration(run.Duration * float64(time.Second)).Round(time.Second).String()
	})
	r.cells(out, "a token lives", func(run Run) string { return fmt.Sprintf("%.0f s", run.Lifetime) })
	names := map[string]bool{}
	for _, run := range r.Runs {
		for name := range run.Versions {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		r.cells(out, name, func(run Run) string { return run.Versions[name] })
	}
	out.WriteString("\n")
	for _, backend := range Backends {
		run, ok := r.Runs[backend]
		if !ok {
			continue
		}
		stall := run.Stall()
		fmt.Fprintf(out, "### %s\n![timeline](chaos/timeline-%s.svg)\n\nThe longest stall of a transfer was at %.0f s, during: %s.\n\n", backend, backend, stall.At, stall.During)
	}
}
