// Package processes breaks a fleet of real orthanc-oauth serve processes and
// judges it by what its clients got and what the identity provider counted.
//
// Each node lives in a network namespace of its own, on a bridge in another
// one: signals, pulled cables, one-way drops, loss, partitions, restarts and a
// provider that is slow, throttles or is gone, many of them at once, from a
// schedule that a seed replays. Without root, or without namespaces, the nodes
// stand on loopback addresses and only the faults that need no network of their
// own are injected; ORTHANC_OAUTH_REQUIRE_REAL makes that a failure.
//
//	go test ./chaos/processes                                  three minutes
//	go test ./chaos/processes -chaos.faults 500 -timeout 45m   the long run
//	go test ./chaos/processes -chaos.seed 42                   the same faults again
//
// Seeded is not deterministic: the seed replays faults, targets and pauses, not
// the scheduler, memberlist's own randomness or TLS.
package processes
