// Package backendtest is the contract of backend.Backend as a test suite. All
// backends pass the same one, so package tokens need not know which it has.
//
// The suite plays the nodes of a fleet around one scripted identity provider
// and asserts on what that provider counted, never on a node's word. It depends
// on no exact times: what must happen eventually is polled for, and the cases
// that take minutes run only where the harness offers virtual time.
package backendtest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/backend"
)

// Harness is what the suite needs to know of a backend.
type Harness struct {
	// Fleet returns n members that share one fresh store. A backend whose fill
	// may run on another node installs resolve(i) as the Resolver of member i;
	// others ignore it. Fleet registers with t.Cleanup whatever must be closed;
	// closing a member twice is part of the contract.
	Fleet func(t testing.TB, n int, resolve func(member int) backend.Resolver) []backend.Backend

	// Shared says that members see each other's entries. A backend of one
	// process is asked for fleets of one only.
	Shared bool

	// Bubble runs every case inside a testing/synctest bubble, on virtual time.
	// Backends that talk to a real server cannot, and are spared the cases that
	// take longer than a few seconds.
	Bubble bool
}

// A testCase is one promise of the contract.
type testCase struct {
	name   string
	shared bool // needs members that see each other
	long   bool // needs virtual time
	run    func(t *testing.T, h Harness)
}

// Run runs the whole suite as subtests of t.
func Run(t *testing.T, h Harness) {
	for _, cases := range [][]testCase{storeCases, fillCases, refusalCases, revokeCases, lifeCases} {
		for _, c := range cases {
			if c.shared && !h.Shared || c.long && !h.Bubble {
				continue
			}
			t.Run(c.name, func(t *testing.T) { h.run(t, c) })
		}
	}
}

func (h Harness) run(t *testing.T, c testCase) {
	if !h.Bubble {
		c.run(t, h)
		return
	}
	synctest.Test(t, func(t *testing.T) { c.run(t, h) })
}

// A fleet is some members and the one provider they all ask.
type fleet struct {
	members []backend.Backend
	idp     *provider
}

// fleet returns n members, or one where the backend is not shared.
func (h Harness) fleet(t testing.TB, n int) fleet {
	t.Helper()
	if !h.Shared {
		n = 1
	}
	idp := newProvider()
	resolve := func(int) backend.Resolver {
		return func(key string) (backend.FillFunc, bool) { return idp.fillOf(key), true }
	}
	return fleet{members: h.Fleet(t, n, resolve), idp: idp}
}

// one returns the member of a fleet of one.
func (h Harness) one(t testing.TB) backend.Backend {
	t.Helper()
	return h.fleet(t, 1).members[0]
}

// keyOf returns a key as the contract wants it: 64 lower-case hex digits.
func keyOf(n int) string { return fmt.Sprintf("%064x", 0x5eed0000+n) }

var key = keyOf(0)

// fill calls Fill with the provider and fails the test on an error.
func (f fleet) fill(t testing.TB, member int, stale backend.Stamp) backend.Entry {
	t.Helper()
	e, err := f.members[member].Fill(t.Context(), key, stale, f.idp.fillOf(key))
	if err != nil {
		t.Fatalf("fill on member %d: %v", member, err)
	}
	if !e.Newer(stale) {
		t.Fatalf("fill on member %d returned %v, which is not newer than %v", member, e.Stamp, stale)
	}
	if e.TTL <= 0 {
		t.Fatalf("fill on member %d returned an entry with %v left", member, e.TTL)
	}
	return e
}

// calls fails the test unless the provider was asked want times.
func (f fleet) calls(t testing.TB, want int) {
	t.Helper()
	if got := f.idp.count(); got != want {
		t.Fatalf("%d calls to the provider, want %d", got, want)
	}
	if most := f.idp.atOnce(); most > 1 {
		t.Fatalf("%d calls to the provider for one key at the same time", most)
	}
}

const (
	patience = 10 * time.Second // real waits end long before
	step     = 20 * time.Millisecond
)

// eventually repeats check until it succeeds, and fails with its last error.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still after %v: %v", patience, err)
		}
		pause(step)
	}
}

// pause waits for d, virtual inside a bubble.
func pause(d time.Duration) { <-time.After(d) }

// sealed stands for a sealed value: every byte occurs, so that a backend that
// interprets, trims or re-encodes values is found out.
func sealed(n int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "acquisition %d ", n)
	for i := range 512 {
		b.WriteByte(byte(i))
	}
	return []byte(b.String())
}
