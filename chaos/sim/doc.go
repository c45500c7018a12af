// Package sim proves the gossip backend's promise (faults.md) in virtual time.
// Whole nodes (tokens.Manager over backend/gossip over cluster, with real
// memberlist, TLS and net/http) run in a testing/synctest bubble over an
// in-memory network. Everything around them is false and scripted: an identity
// provider that knows what it granted, a remote that takes or refuses tokens, a
// wall clock per node, and faults from a seed. A judge holds what happened
// against the invariants and knows, at every moment, who could reach whom.
//
// The package is tests only:
//
//	go test ./chaos/sim -run Random -sim.seed 17             one seed again
//	go test ./chaos/sim -run Random -sim.faults 10000 -sim.time 9m
//	go test ./chaos/sim -run Planted -v                      the judge is judged
//
// A seed replays faults, delays and clocks, not the scheduler, memberlist's own
// randomness or TLS. The history of a failure is kept in a file that its
// message names.
package sim
