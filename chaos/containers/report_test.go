//go:build chaos

package containers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/report"
	"orthanc-oauth/internal/idptest"
)

// shown bounds how many of each complaint are printed.
const shown = 20

// lost is for a failure of which nobody knows whose it was: no node answered.
const lost history.Verdict = "excused: no node answered the balancer"

// judged is a request with what the judge says of it.
type judged struct {
	op
	verdict history.Verdict
	stall   time.Duration // beyond the median in quiet, if a token was in reach all along and the balancer lost no time
}

// ours reports whether it failed by our fault.
func (o judged) ours() bool {
	return o.verdict == history.Broken && o.Failed != "" && o.server == archive
}

// judge judges the run, says so, and writes the documents.
func (r *runner) judge(ctx context.Context) {
	r.t.Helper()
	if err := r.breaker.Err(); err != nil {
		r.broken("%v", err)
	}
	book, requests, err := r.w.book(ctx)
	r.must(err)
	counts, err := r.w.provider().Report(ctx)
	r.must(err)
	j := &history.Judge{Time: r.w.time, Book: book, Faults: r.breaker.Faults()}
	extras := j.Extras()
	r.must(r.answered(ctx))
	all := r.judgeAll(j)
	run := report.Run{
		Backend: r.w.backend, Seed: r.seed, Started: r.began, Lifetime: lifetime.Seconds(),
		Faults: len(r.breaker.Faults()), Requests: requests, Acquisitions: len(book.Grants), Extra: len(extras),
		Transfers: map[string]report.Tally{}, Controls: map[string]report.Tally{}, Excused: map[string]int{}, Series: r.series(all, book),
	}
	for _, kind := range []string{stow, qido, retrieve} {
		run.Transfers[kind] = r.tally(all, kind, archive)
		run.Controls[kind] = r.tally(all, kind, control)
	}
	run.Tokens = r.tally(all, token, archive)
	for _, o := range all {
		if o.transfer() && o.Failed != "" && !o.ours() {
			run.Excused[string(o.verdict)]++
		}
	}
	run.Quiet = r.inQuiet(book, extras)
	for _, f := range r.breaker.Faults() {
		for _, n := range f.Extras {
			run.MostExtra = max(run.MostExtra, n)
		}
	}
	for _, wait := range r.waits {
		run.Converged = max(run.Converged, wait.Seconds())
	}
	run.Kinds = r.kinds(all, book)
	r.promises(run, book, counts.Gate, extras)
	r.scraped(ctx)
	r.searched(ctx, &run)
	run.Versions, run.Aborts = r.versions(ctx), &r.w.aborts
	run.Duration = time.Since(r.began).Seconds()
	r.tell(run)
	r.write(run)
	for _, why := range r.reasons {
		r.t.Error(why)
	}
}

// judgeAll judges every request.
func (r *runner) judgeAll(j *history.Judge) []judged {
	r.t.Helper()
	usual := map[string]time.Duration{}
	for _, kind := range []string{stow, qido, retrieve, token} {
		for _, server := range []string{archive, control} {
			usual[kind+server] = r.median(kind, server)
		}
	}
	all, complaints := make([]judged, 0, len(r.load.ops)), 0
	for _, o := range r.load.ops {
		v := judged{op: o, verdict: r.verdict(j, o)}
		if longer := v.wait() - usual[o.kind+o.server]; v.Failed == "" && v.Node >= 0 && v.tried == 1 && j.Lent(o.Op) {
			v.stall = max(longer, 0)
		}
		if bad := v.ours() || v.verdict == history.Slow && o.server == archive && o.tried == 1; bad && complaints < shown {
			complaints++
			r.t.Logf("%s: %s of node %d from %v to %v: %s%s%s", v.verdict, v.kind, v.Node+1, v.Begun, v.Over, v.Failed, r.within(j, v), r.during(v.Begun, v.Over))
		}
		all = append(all, v)
	}
	return all
}

func (r *runner) verdict(j *history.Judge, o op) history.Verdict {
	if o.Node >= 0 {
		return j.Get(o.Op)
	}
	// Nobody's: fine if every node was up and whole all the time.
	for _, m := range j.Time.During(o.Begun-history.Pace, o.Over) {
		for n := range orthancs {
			if m.Life[n] == 0 || m.Disturbed(n) {
				return lost
			}
		}
	}
	return history.Broken
}

func (r *runner) within(j *history.Judge, o judged) string {
	if o.Node < 0 {
		return ""
	}
	return j.Within(o.Op)
}

// answered notes when the archive had answered each transfer.
func (r *runner) answered(ctx context.Context) error {
	marks, err := r.w.provider().Marks(ctx)
	when := map[string]time.Duration{}
	for _, m := range marks {
		when[m.Mark] = max(when[m.Mark], r.w.time.When(m.Over))
	}
	for i := range r.load.ops {
		r.load.ops[i].answered = when[r.load.ops[i].mark]
	}
	return err
}

// median is how long a kind of request takes in quiet.
func (r *runner) median(kind, server string) time.Duration {
	var took []time.Duration
	for _, o := range r.load.ops {
		if o.kind == kind && o.server == server && o.Failed == "" && o.Begun >= r.quietFrom && o.Over <= r.quietTo {
			took = append(took, o.wait())
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// during names the faults of a span of time.
func (r *runner) during(from, to time.Duration) string {
	var out strings.Builder
	for _, f := range r.breaker.Faults() {
		if f.Begun <= to && from <= f.End {
			fmt.Fprintf(&out, "\n\t%s: %v to %v", f.What, f.Begun.Round(time.Millisecond), f.End.Round(time.Millisecond))
		}
	}
	return out.String()
}

func (r *runner) tally(all []judged, kind, server string) (t report.Tally) {
	t.Median = r.median(kind, server).Seconds()
	for _, o := range all {
		if o.kind != kind || o.server != server {
			continue
		}
		t.Count++
		if o.Failed != "" {
			t.Failed++
		}
		if o.ours() {
			t.Ours++
		}
		if s := o.stall.Seconds(); s > t.Stall.Seconds {
			during := strings.ReplaceAll(strings.TrimSpace(r.during(o.Begun, o.Over)), "\n\t", "; ")
			t.Stall = report.Stall{Seconds: s, At: o.Begun.Seconds(), During: cmp.Or(during, "nothing")}
		}
	}
	return t
}

// inQuiet is what the fleet cost while nothing was done to it. A node or a fleet
// that renews when it must does so once in each renewal.
func (r *runner) inQuiet(book *history.Book, extras []history.Extra) (q report.Quiet) {
	q.Seconds = (r.quietTo - r.quietFrom).Seconds()
	for _, g := range book.Grants {
		if g.Arrived >= r.quietFrom && g.Arrived < r.quietTo {
			q.Acquisitions++
		}
	}
	for _, e := range extras {
		if e.Fault == nil {
			q.Extra++
		}
	}
	q.PerPeriod = float64(q.Acquisitions) * renewal.Seconds() / q.Seconds
	return q
}

// kinds is what each kind of fault has cost.
func (r *runner) kinds(all []judged, book *history.Book) (out []report.Kind) {
	for _, k := range kinds() {
		row := report.Kind{Name: k.name, Rows: k.rows}
		var spans []*history.Fault
		for _, f := range r.breaker.Faults() {
			if f.Kind == k.name {
				row.Count++
				spans = append(spans, f)
				for _, n := range f.Extras {
					row.Extra += n
				}
			}
		}
		for _, o := range all {
			if !o.transfer() || !covered(spans, o.Begun, o.Over, 0) {
				continue
			}
			row.Stall = max(row.Stall, o.stall.Seconds())
			switch {
			case o.ours():
				row.Ours++
			case o.Failed != "":
				row.Failed++
			}
		}
		for _, g := range book.Grants {
			if covered(spans, g.Arrived, g.Served, history.FaultTail) {
				row.Acquisitions++
			}
		}
		if row.Count > 0 {
			out = append(out, row)
		}
	}
	return out
}

// covered reports whether a span of time touches one of the faults.
func covered(faults []*history.Fault, from, to, tail time.Duration) bool {
	return slices.ContainsFunc(faults, func(f *history.Fault) bool { return f.Begun <= to && from <= f.End+tail })
}

// series is what the figures are drawn from.
func (r *runner) series(all []judged, book *history.Book) report.Series {
	const step = 5 * time.Second
	n := int(r.w.time.Now()/step) + 1
	s := report.Series{Step: step.Seconds(), Accepted: make([]int, n), Failed: make([]int, n), Ours: make([]int, n)}
	for _, o := range all {
		if !o.transfer() {
			continue
		}
		at := int(o.Over / step)
		switch {
		case o.ours():
			s.Ours[at]++
		case o.Failed != "":
			s.Failed[at]++
		default:
			s.Accepted[at]++
		}
	}
	for _, g := range book.Grants {
		s.Acquisitions = append(s.Acquisitions, round(g.Arrived))
	}
	for _, f := range r.breaker.Faults() {
		s.Faults = append(s.Faults, report.Span{Kind: f.Kind, What: f.What, From: round(f.Begun), To: round(f.End)})
	}
	return s
}

func round(d time.Duration) float64 { return d.Round(10 * time.Millisecond).Seconds() }

// The figures to reach.
var (
	stallBounds = map[string]time.Duration{"gossip": 2 * time.Second, "redis": 500 * time.Millisecond}
	meanBounds  = map[string]float64{"gossip": history.MeanExtra}
)

// promises notes what was broken. How long an Orthanc of a busy machine takes for
// a transfer is measured and reported; what is held to the bound is the token that
// it waits for.
func (r *runner) promises(run report.Run, book *history.Book, gate idptest.GateCounts, extras []history.Extra) {
	r.t.Helper()
	for _, e := range extras {
		r.t.Logf("extra: %v%s", e, r.during(e.Grant.Arrived-history.FaultTail, e.Grant.Arrived))
	}
	if n := run.Ours() + run.Tokens.Ours; n > 0 {
		r.broken("%d requests failed by our fault", n)
	}
	if run.Quiet.Extra > 0 {
		r.broken("%d extra acquisitions in quiet", run.Quiet.Extra)
	}
	if most, ok := meanBounds[run.Backend]; ok && run.MeanExtra() > most {
		r.broken("%.2f extra acquisitions per fault, at most %.2f are allowed", run.MeanExtra(), most)
	}
	if most, ok := stallBounds[run.Backend]; ok && run.Tokens.Stall.Seconds > most.Seconds() {
		r.broken("a token took %.2f s longer than usual although one was in reach, at most %v is allowed (at %.1f s, during %s)",
			run.Tokens.Stall.Seconds, most, run.Tokens.Stall.At, run.Tokens.Stall.During)
	}
	for _, what := range slices.Concat(book.Regressed, book.Expired, r.w.crashes) {
		r.broken("%s", what)
	}
	if gate.Unknown > 0 || gate.Missing > 0 {
		r.broken("the archive saw %d unknown and %d missing tokens", gate.Unknown, gate.Missing)
	}
}

// scraped asserts that Prometheus reaches every node, and that no node says of
// itself that it acquired more than the provider has counted.
func (r *runner) scraped(ctx context.Context) {
	r.t.Helper()
	var up struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	c := r.w.nodes[0].client("")
	c.Base, c.User = "http://127.0.0.1:"+r.w.metrics, ""
	err := c.Get(ctx, "/api/v1/query?query=sum(up)", &up)
	if err != nil || len(up.Data.Result) != 1 || up.Data.Result[0].Value[1] != fmt.Sprint(orthancs) {
		r.broken("Prometheus scrapes %+v, want %d nodes up: %v", up.Data.Result, orthancs, err)
	}
}

// searched looks for the planted secrets everywhere.
func (r *runner) searched(ctx context.Context, run *report.Run) {
	r.t.Helper()
	found, searched, err := r.w.leaks(ctx)
	if err != nil {
		r.broken("%v", err)
	}
	for _, leak := range found {
		r.broken("leaked: %s", leak)
	}
	run.Leaks, run.Searched = len(found), searched
}

// versions says what has run.
func (r *runner) versions(ctx context.Context) map[string]string {
	v := map[string]string{}
	ask := func(name string, args ...string) {
		if out, err := r.w.engine.do(ctx, args...); err == nil {
			v[name], _, _ = strings.Cut(out, "\n")
		}
	}
	ask("container engine", "version", "--format", "{{.Server.Version}}")
	ask("kernel", "info", "--format", "{{.KernelVersion}}")
	ask("processors", "info", "--format", "{{.NCPU}}")
	packages := func(id string, names ...string) {
		for _, name := range names {
			ask(name, "exec", id, "dpkg-query", "-W", "-f", "${Version}", name)
		}
	}
	packages(r.w.nodes[0].id, "orthanc", "orthanc-dicomweb")
	for service, name := range map[string]string{"balancer": "nginx-light", "prometheus": "prometheus", "redis-primary": "redis-server"} {
		if id, err := r.w.engine.container(ctx, service); err == nil {
			packages(id, name)
		}
	}
	if version, err := r.w.nodes[0].version(ctx); err == nil {
		v["orthanc-oauth"] = version
		v["orthanc-oauth, upgraded from"] = cmp.Or(r.w.previous, version)
	}
	return v
}

func (r *runner) tell(run report.Run) {
	r.t.Helper()
	all, failed := run.Total()
	r.t.Logf("%s: %d faults, %d transfers, %d failed (%d by us): %v", run.Backend, run.Faults, all, failed, run.Ours(), run.Excused)
	r.t.Logf("%d token requests, %d acquisitions, %d of them extra: %.2f a fault, %d at most, %d in quiet", run.Requests, run.Acquisitions, run.Extra, run.MeanExtra(), run.MostExtra, run.Quiet.Extra)
	r.t.Logf("in quiet: %d in %.0f s, %.1f a refresh period", run.Quiet.Acquisitions, run.Quiet.Seconds, run.Quiet.PerPeriod)
	r.t.Logf("longest stall of a transfer: %.2f s (without OAuth: %.2f s), of a token: %.2f s", run.Stall().Seconds, run.ControlStall().Seconds, run.Tokens.Stall.Seconds)
	for _, kind := range []string{stow, qido, retrieve} {
		r.t.Logf("%s: %+v, without OAuth %+v", kind, run.Transfers[kind], run.Controls[kind])
	}
	r.t.Logf("token: %+v", run.Tokens)
	r.t.Logf("Orthanc aborted by itself in %d of its stops (dicom-web 1.7 with jobs under way)", r.w.aborts)
	r.t.Logf("%d bytes of logs and answers searched, %d secrets found; took %.0f s", run.Searched, run.Leaks, run.Duration)
}

// write puts the run into the documents.
func (r *runner) write(run report.Run) {
	r.t.Helper()
	if *docsFlag == "" {
		return
	}
	all, err := report.Load(*docsFlag)
	if err == nil {
		all.Runs[run.Backend] = run
		err = all.Write(*docsFlag)
	}
	r.must(errors.Join(err))
}
