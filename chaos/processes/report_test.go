//go:build chaos

package processes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"orthanc-oauth/chaos/history"
)

// shown bounds how many of each complaint are printed.
const shown = 20

// report judges the run and prints the tables.
func (r *runner) report() {
	r.t.Helper()
	if err := r.breaker.Err(); err != nil {
		r.t.Error(err)
	}
	j := &history.Judge{Time: r.w.time, Book: r.w.out.book, Faults: r.breaker.Faults()}
	r.reportFaults()
	r.reportGets(j)
	r.reportAcquisitions(j)
	r.reportTokens()
}

func (r *runner) table(rows func(w *tabwriter.Writer)) {
	r.t.Helper()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	rows(w)
	_ = w.Flush() // to memory
	r.t.Log("\n" + text.String())
}

func (r *runner) reportFaults() {
	r.t.Helper()
	kinds := map[string]int{}
	for _, f := range r.breaker.Faults() {
		kinds[f.Kind]++
	}
	minutes := r.w.time.Now().Minutes()
	r.table(func(w *tabwriter.Writer) {
		for _, k := range slices.Sorted(maps.Keys(kinds)) {
			fmt.Fprintf(w, "%s\t%d\n", k, kinds[k])
		}
		fmt.Fprintf(w, "faults\t%d in %.1f min, %.1f a minute\n", len(r.breaker.Faults()), minutes, float64(len(r.breaker.Faults()))/minutes)
		if len(r.waits) > 0 {
			fmt.Fprintf(w, "one ring, one entry again after\t%v at most\n", slices.Max(r.waits).Round(time.Millisecond))
		}
	})
}

func (r *runner) reportGets(j *history.Judge) {
	r.t.Helper()
	verdicts := map[history.Verdict]int{}
	var slowest, slowestCalm history.Op
	for _, o := range r.load.odd {
		v := j.Get(o)
		verdicts[v]++
		if v == history.Broken || v == history.Slow {
			if verdicts[v] > shown {
				r.t.Fail() // the table counts it
			} else {
				r.t.Errorf("%s: node %d, %q (data path: %v), from %v to %v: %s%s%s", v, o.Node, o.Key, o.Data, o.Begun, o.Over, o.Failed, j.Within(o), r.nearby(o))
			}
		}
		if v == history.Recovering && verdicts[v] <= shown {
			r.t.Logf("%s: node %d, %q (data path: %v), from %v to %v: %s", v, o.Node, o.Key, o.Data, o.Begun, o.Over, o.Failed)
		}
		if o.Failed == "" && v != history.Excused && v != history.Unreached && o.Took() > slowest.Took() {
			slowest = o
		}
		if calm := j.Time.At(o.Begun).Calm() && j.Time.At(o.Over).Calm(); o.Failed == "" && calm && o.Took() > slowestCalm.Took() {
			slowestCalm = o
		}
	}
	r.table(func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "gets\t%d\n", r.load.gets)
		for _, v := range []history.Verdict{history.Broken, history.Slow, history.Recovering, history.Unlendable, history.Unreached, history.Excused} {
			fmt.Fprintf(w, "  %s\t%d\n", v, verdicts[v])
		}
		fmt.Fprintf(w, "slowest get that succeeded\t%v (node %d at %v)\n", slowest.Took().Round(time.Millisecond), slowest.Node, slowest.Begun.Round(time.Millisecond))
		fmt.Fprintf(w, "slowest with no fault about\tat most %v\n", max(slowestCalm.Took(), notable).Round(time.Millisecond))
	})
}

// nearby names the faults around a get.
func (r *runner) nearby(o history.Op) string {
	var out strings.Builder
	for _, f := range r.breaker.Faults() {
		if f.Begun <= o.Over && o.Begun <= f.End+history.FaultTail {
			fmt.Fprintf(&out, "\n\t%s: %v to %v", f.What, f.Begun.Round(time.Millisecond), f.End.Round(time.Millisecond))
		}
	}
	return out.String()
}

func (r *runner) reportAcquisitions(j *history.Judge) {
	r.t.Helper()
	if !r.w.net.real {
		r.t.Logf("%d acquisitions; which node asked is not known on loopback", len(r.w.out.book.Grants))
		return
	}
	extras := j.Extras()
	quiet, most := 0, 0
	for _, e := range extras {
		r.t.Logf("extra: %v%s", e, r.nearby(history.Op{Begun: e.Grant.Arrived, Over: e.Grant.Arrived}))
		if e.Fault == nil {
			quiet++
		}
	}
	for _, f := range r.breaker.Faults() {
		for _, n := range f.Extras {
			most = max(most, n)
		}
	}
	mean := float64(len(extras)) / float64(max(len(r.breaker.Faults()), 1))
	r.table(func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "token requests, acquisitions\t%d, %d\n", r.w.out.asked, len(r.w.out.book.Grants))
		fmt.Fprintf(w, "extra acquisitions\t%d\n", len(extras))
		fmt.Fprintf(w, "  in quiet\t%d\n", quiet)
		fmt.Fprintf(w, "  per fault, mean\t%.3f\n", mean)
		fmt.Fprintf(w, "  per fault and component, most\t%d\n", most)
	})
	if quiet > 0 || most > history.MaxExtra || mean > history.MeanExtra {
		r.t.Errorf("extra acquisitions: %d in quiet, %.3f per fault, %d at most; allowed are 0, %v, %d", quiet, mean, most, history.MeanExtra, history.MaxExtra)
	}
}

// reportTokens is Unexpired, Revoked and Secret.
func (r *runner) reportTokens() {
	r.t.Helper()
	for key, gate := range r.w.out.gates {
		if c := gate.Counts(); c.Unknown > 0 || c.Missing > 0 {
			r.t.Errorf("%s: the archive saw %d unknown and %d missing tokens", key, c.Unknown, c.Missing)
		}
	}
	for _, what := range slices.Concat(r.w.out.book.Regressed, r.w.out.book.Expired) {
		r.t.Error(what)
	}
	secrets := []string{r.w.client.Secrets[0], r.w.gossipKey, userWord, adminWord}
	for _, g := range r.w.out.book.Grants {
		secrets = append(secrets, g.Token)
	}
	for _, p := range r.w.fleet.Processes() {
		text := p.Log(8 << 20)
		for _, s := range secrets {
			if strings.Contains(text, s) {
				r.t.Errorf("the log of %s holds a secret: %.12s...", p.Name, s)
			}
		}
	}
}
