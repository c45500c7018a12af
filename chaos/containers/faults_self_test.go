//go:build chaos

package containers

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"orthanc-oauth/chaos/report"
	"orthanc-oauth/chaos/storm"
)

func TestDeck_HasEveryKindOfItsBackendAndIsReplayedByItsSeed(t *testing.T) {
	for _, backend := range report.Backends {
		draw := func(seed uint64, n int) []plan {
			rng := rand.New(rand.NewPCG(seed, 0))
			return schedule(rng, newDeck(rng, backend), n)
		}
		said := func(plans []plan) (out []string) {
			for _, p := range plans {
				out = append(out, p.String())
			}
			return out
		}
		if !slices.Equal(said(draw(1, 64)), said(draw(1, 64))) {
			t.Errorf("%s: a seed draws two schedules", backend)
		}
		if slices.Equal(said(draw(1, 64)), said(draw(2, 64))) {
			t.Errorf("%s: two seeds draw one schedule", backend)
		}
		seen := map[string]bool{}
		for _, p := range draw(1, len(kinds())) {
			seen[p.kind.name] = true
		}
		for _, k := range kinds() {
			if mine := len(k.backends) == 0 || slices.Contains(k.backends, backend); seen[k.name] != mine {
				t.Errorf("%s: %s drawn: %v, want %v", backend, k.name, seen[k.name], mine)
			}
		}
	}
}

func TestRules_ApplyToWhoIsBlockedAndNobodyElse(t *testing.T) {
	w := &world{redis: []*container{{addr: "10.0.0.9"}}}
	for i := range orthancs {
		w.nodes = append(w.nodes, &node{number: i, container: container{addr: fmt.Sprintf("10.0.0.%d", i)}})
	}
	wanted := storm.Wanted{Blocked: map[[2]int]bool{{0, 1}: true, {0, store}: true}, Lost: map[int]int{1: 30, 2: away}}
	for i, want := range [][]string{
		{"-A INPUT -s 10.0.0.9 -j DROP"},
		{
			"-A INPUT -s 10.0.0.0 -j DROP", "-A INPUT ! -i lo -m statistic --mode random --probability 0.30 -j DROP",
			"-A OUTPUT ! -o lo -m statistic --mode random --probability 0.30 -j DROP",
		},
		{"-A INPUT ! -i lo -j DROP", "-A OUTPUT ! -o lo -j DROP"},
	} {
		if got := w.rulesOf(w.nodes[i], wanted); !slices.Equal(got, want) {
			t.Errorf("node %d: %q, want %q", i+1, got, want)
		}
	}
}
