// Package containers breaks the fleet of ../docker-compose.yml as its operators
// could find it broken, and counts: real Orthancs with the plugin behind a load
// balancer, a guarded archive, and gossip, Redis or memory as the backend.
//
//	make chaos                                         all three, 64 faults each, and docs/chaos.md
//	go test -tags chaos ./chaos/containers             a slice of gossip, about four minutes
//	go test -tags chaos ./chaos/containers -chaos.backend redis -chaos.seed 42
//
// It is a test and not a command: it asserts, it is built only by who runs it,
// and it shares flags, seeds and the judge with chaos/processes. It needs root
// for iptables in the containers' network namespaces, and an engine that
// listens; scripts/with-docker brings one where Debian's packages can.
//
// Transfers go through the load balancer and are judged by what their client
// got; which node served one is in the balancer's answer. What was acquired is
// the provider's count, and who used which token the gate's. After each transfer
// comes the same one past the gate, without OAuth: what both suffer, the machine
// does. Upgrades come from the version that `make before` has built.
package containers
