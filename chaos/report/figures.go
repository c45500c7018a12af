package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// end is how long the longest run was observed.
func (s Series) end() float64 {
	end := s.Step * float64(len(s.Accepted))
	for _, f := range s.Faults {
		end = max(end, f.To)
	}
	return end
}

// acquisitionsFigure is the cost of each backend over time: the IdP's count.
func (r Report) acquisitionsFigure() string {
	f := newFigure(900, 320, "Acquisitions at the identity provider, three Orthancs, one key")
	x, most := axis{left: 60, right: 880}, 1
	for _, run := range r.Runs {
		x.most = max(x.most, run.Series.end())
		most = max(most, len(run.Series.Acquisitions))
	}
	const top, bottom = 40.0, 280.0
	y := func(n int) float64 { return bottom - (bottom-top)*float64(n)/float64(most) }
	f.seconds(x, top, bottom)
	step := max(1, most/5)
	for n := 0; n <= most; n += step {
		f.text(52, y(n)+4, "end", 10, fmt.Sprint(n))
		f.line(x.left, y(n), x.right, y(n), faint)
	}
	for i, backend := range Backends {
		run, ok := r.Runs[backend]
		if !ok {
			continue
		}
		points := [][2]float64{{x.left, bottom}}
		for n, at := range run.Series.Acquisitions {
			points = append(points, [2]float64{x.at(at), y(n + 1)})
		}
		points = append(points, [2]float64{x.at(run.Series.end()), y(len(run.Series.Acquisitions))})
		f.steps(points, colours[backend])
		f.rect(70, 48+18*float64(i), 12, 12, colours[backend], "")
		f.text(88, 58+18*float64(i), "start", 12, fmt.Sprintf("%s: %d in %.0f min, %d faults", backend, run.Acquisitions, run.Series.end()/60, run.Faults))
	}
	return f.String()
}

// stallsFigure is the longest stall by kind of fault, for each backend.
func (r Report) stallsFigure() string {
	names := map[string]bool{}
	x := axis{left: 250, right: 840, most: 2}
	for _, run := range r.Runs {
		for _, k := range run.Kinds {
			names[k.Name] = true
			x.most = max(x.most, k.Stall)
		}
	}
	kinds := slices.Sorted(maps.Keys(names))
	f := newFigure(900, 70+36*len(kinds), "Longest stall of a transfer with a live token in reach, in seconds, by what was going on")
	for s := 0.0; s <= x.most; s += 0.5 {
		f.line(x.at(s), 36, x.at(s), float64(50+36*len(kinds)), faint)
		f.text(x.at(s), float64(64+36*len(kinds)), "middle", 10, fmt.Sprintf("%.1f", s))
	}
	for i, name := range kinds {
		y := 40 + 36*float64(i)
		f.text(240, y+18, "end", 11, name)
		for b, backend := range Backends {
			for _, k := range r.Runs[backend].Kinds {
				if k.Name == name {
					f.rect(x.left, y+9*float64(b), x.at(k.Stall)-x.left, 8, colours[backend], fmt.Sprintf("%s: %.2f s", backend, k.Stall))
				}
			}
		}
	}
	for b, backend := range Backends {
		f.rect(620+80*float64(b), 10, 10, 10, colours[backend], "")
		f.text(634+80*float64(b), 19, "start", 11, backend)
	}
	return f.String()
}

// timelineFigure is one run: what was broken, what passed, what was acquired.
func (r Run) timelineFigure() string {
	lanes := map[string]int{}
	for _, s := range r.Series.Faults {
		lanes[s.Kind] = 0
	}
	for i, kind := range slices.Sorted(maps.Keys(lanes)) {
		lanes[kind] = i
	}
	height := 14 * float64(len(lanes))
	f := newFigure(1100, int(height)+250, fmt.Sprintf("%s: %d faults, transfers, acquisitions (seed %d)", r.Backend, r.Faults, r.Seed))
	x := axis{left: 210, right: 1085, most: r.Series.end()}
	f.seconds(x, 36, height+212)
	for kind, lane := range lanes {
		f.text(202, 50+14*float64(lane), "end", 10, kind)
	}
	for _, s := range r.Series.Faults {
		f.rect(x.at(s.From), 41+14*float64(lanes[s.Kind]), max(x.at(s.To)-x.at(s.From), 2), 10, other, fmt.Sprintf("%s: %.1f to %.1f s", s.What, s.From, s.To))
	}
	r.transfers(f, x, height+60, height+180)
	f.text(202, height+204, "end", 10, "acquisitions")
	for _, at := range r.Series.Acquisitions {
		f.rect(x.at(at)-1, height+192, 2, 16, colours[r.Backend], fmt.Sprintf("%.1f s", at))
	}
	return f.String()
}

// transfers draws what succeeded and failed in each step.
func (r Run) transfers(f *figure, x axis, top, bottom float64) {
	s := r.Series
	most := 1
	for i := range s.Accepted {
		most = max(most, s.Accepted[i]+s.Failed[i]+s.Ours[i])
	}
	f.text(202, top+10, "end", 10, fmt.Sprintf("transfers in %.0f s (top: %d)", s.Step, most))
	for i, legend := range []struct{ colour, name string }{{good, "succeeded"}, {other, "failed by the fault"}, {bad, "failed by us"}} {
		f.rect(90, top+24+14*float64(i), 8, 8, legend.colour, "")
		f.text(202, top+32+14*float64(i), "end", 10, legend.name)
	}
	width := x.at(s.Step) - x.left - 1
	for i := range s.Accepted {
		y := bottom
		for _, part := range []struct {
			n      int
			colour string
		}{{s.Accepted[i], good}, {s.Failed[i], other}, {s.Ours[i], bad}} {
			h := (bottom - top) * float64(part.n) / float64(most)
			if part.n > 0 {
				f.rect(x.at(s.Step*float64(i)), y-h, width, h, part.colour, fmt.Sprintf("%d at %.0f s", part.n, s.Step*float64(i)))
			}
			y -= h
		}
	}
}

// kinds returns all kinds of fault of all backends, in the order of the matrix
// as far as one run has it.
func (r Report) kinds() (all []Kind) {
	seen := map[string]bool{}
	for _, backend := range Backends {
		for _, k := range r.Runs[backend].Kinds {
			if !seen[k.Name] {
				seen[k.Name] = true
				all = append(all, k)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Kind) int { return cmp.Compare(firstRow(a.Rows), firstRow(b.Rows)) })
	return all
}

func firstRow(rows string) (n int) {
	_, _ = fmt.Sscanf(rows, "%d", &n) // 0 where there is none
	return n
}
