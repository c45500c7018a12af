// Package memnet is a network in memory for tests of distributed code in
// testing/synctest bubbles: hosts with addresses, streams that buffer like
// TCP, packets that get lost like UDP, names, and setters for the faults in
// between (cuts in one or both directions, loss, delay, pauses, crashes).
//
// It blocks on nothing but sync.Cond and channels made inside it, so virtual
// time advances while its users wait. A Net belongs to the bubble it was made
// in.
package memnet
