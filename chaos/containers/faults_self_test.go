//go:build chaos

package containers

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"orthanc-oauth/chaos/report"
)

func TestDeck_HasEveryKindOfItsBackendOnceAndIsReplayedByItsSeed(t *testing.T) {
	for _, backend := range report.Backends {
		draw := func(seed uint64) (names []string) {
			d := newDeck(rand.New(rand.NewPCG(seed, 0)), backend)
			for _, p := range d.schedule(64) {
				names = append(names, p.String())
			}
			return names
		}
		if !slices.Equal(draw(1), draw(1)) {
			t.Errorf("%s: a seed draws two schedules", backend)
		}
		if slices.Equal(draw(1), draw(2)) {
			t.Errorf("%s: two seeds draw one schedule", backend)
		}
		seen := map[string]bool{}
		for _, p := range newDeck(rand.New(rand.NewPCG(1, 0)), backend).schedule(len(kinds())) {
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
	w := &world{losses: map[int]int{1: 30, 2: away}, ending: map[[2]int]int{}, redis: []*container{{addr: "10.0.0.9"}}}
	for i := range orthancs {
		w.nodes = append(w.nodes, &node{number: i, container: container{addr: fmt.Sprintf("10.0.0.%d", i)}})
	}
	blocked := map[[2]int]int{{0, 1}: 1, {1, 2}: 0, {0, store}: 1}
	for i, want := range [][]string{
		{"-A INPUT -s 10.0.0.9 -j DROP"},
		{
			"-A INPUT -s 10.0.0.0 -j DROP", "-A INPUT ! -i lo -m statistic --mode random --probability 0.30 -j DROP",
			"-A OUTPUT ! -o lo -m statistic --mode random --probability 0.30 -j DROP",
		},
		{"-A INPUT ! -i lo -j DROP", "-A OUTPUT ! -o lo -j DROP"},
	} {
		if got := w.rulesOf(w.nodes[i], blocked); !slices.Equal(got, want) {
			t.Errorf("node %d: %q, want %q", i+1, got, want)
		}
	}
}
