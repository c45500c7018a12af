// Package backend is where a fleet keeps its tokens: the contract, and the
// backend that keeps them in this process only.
//
// A backend stores opaque, sealed bytes with a remaining lifetime and
// arbitrates who obtains new ones. It never sees a plaintext token, a secret
// or an identity provider. Every implementation passes the suite of package
// backendtest.
package backend

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ErrMiss says that no live entry is held for a key.
var ErrMiss = errors.New("no live entry")

// ErrPaced says that a revocation was not carried out because the previous one
// of the same key was too recent and no replay has been accepted since: the
// remote's 401 means "not allowed" rather than "stale token" (protocol.md, 401).
var ErrPaced = errors.New("revoked too recently")

// ErrClosed says that the backend has been closed.
var ErrClosed = errors.New("backend closed")

// ID names what one acquisition brought: 128 bits, random or derived from it
// under a secret. Equal values may have equal ids.
type ID [16]byte

// NewID returns a random ID.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails since Go 1.24
	return id
}

// String returns the ID as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID parses what String returns.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != hex.EncodedLen(len(id)) {
		return ID{}, fmt.Errorf("id of %d characters, want %d", len(s), hex.EncodedLen(len(id)))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("id: %w", err)
	}
	return id, nil
}

// Stamp names one acquisition and orders it among those of its key. The zero
// Stamp is older than every other.
type Stamp struct {
	Gen uint64
	ID  ID
}

// Newer reports whether s is a later acquisition than o: by generation, then by
// ID. The comparison is total, so every node picks the same winner.
func (s Stamp) Newer(o Stamp) bool { return s.Compare(o) > 0 }

// Compare returns -1, 0 or +1 as s is older than, the same as, or newer than o.
func (s Stamp) Compare(o Stamp) int {
	if c := cmp.Compare(s.Gen, o.Gen); c != 0 {
		return c
	}
	return bytesCompare(s.ID, o.ID)
}

func bytesCompare(a, b ID) int {
	for i := range a {
		if c := cmp.Compare(a[i], b[i]); c != 0 {
			return c
		}
	}
	return 0
}

// IsZero reports whether s names no acquisition.
func (s Stamp) IsZero() bool { return s == Stamp{} }

// Origin says where an entry was found; it is told to metrics and takes no part
// in any comparison.
type Origin string

// The origins an entry can have.
const (
	FromLocal Origin = "local" // held by this process
	FromPeer  Origin = "peer"  // held or acquired by another node
	FromRedis Origin = "redis" // held in Redis, or acquired by another process and stored there
	FromIdP   Origin = "idp"   // acquired by this process just now
)

// Entry is one sealed acquisition. Value is shared, never written to.
type Entry struct {
	Stamp
	Value []byte        // sealed; at most MaxValue bytes
	TTL   time.Duration // remaining at the moment of the call; instants never cross a wire
	Age   time.Duration // since the provider was asked for it, or less; 0 where nobody knows: see Pace
	From  Origin        // where this copy came from
}

// MaxValue bounds a sealed value: a 64 KiB token (protocol.md, Membership,
// Bounds) with room for what the seal adds.
const MaxValue = 66 << 10

// FillFunc obtains a new acquisition of generation gen. It seals the value under
// that generation and an id of its own choice: a new one, or that of the entry
// it replaces when the provider repeated the same bytes. It runs on the
// backend's lifetime, not on a caller's. An error that goes to every waiter and
// is shared as backoff is a *Refusal; any other error is an internal failure
// and treated as a Refusal without RetryAfter.
type FillFunc func(ctx context.Context, gen uint64) (Entry, error)

// Resolver is how a leader fills a key that a peer asked for: by its own
// configuration. It reports false for a key this node is not configured for.
type Resolver func(key string) (FillFunc, bool)

// Backend keeps the newest acquisition of each key and lets at most one fill per
// key run at a time across all nodes that share it. All methods are safe for
// concurrent use. Keys are 64 lower-case hexadecimal digits.
type Backend interface {
	// Get returns the live entry of a key, or ErrMiss.
	Get(ctx context.Context, key string) (Entry, error)

	// Set stores a value as a new acquisition that replaces the one held.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Delete revokes the acquisition now held and reports whether there was one.
	Delete(ctx context.Context, key string) (existed bool, err error)

	// Exists reports whether Get would return an entry.
	Exists(ctx context.Context, key string) (bool, error)

	// Clear is Delete for every key of this backend, and touches nothing else
	// that its storage may hold.
	Clear(ctx context.Context) error

	// Fill returns an entry newer than stale, running fill only where no node
	// has one. Callers wait under their own context; the flight they wait for
	// goes on without them, for at most FlightBudget. The fill that runs may be
	// another node's: see Resolver. It fails with a *Refusal when the provider
	// said no, which no caller retries before RetryAfter.
	Fill(ctx context.Context, key string, stale Stamp, fill FillFunc) (Entry, error)

	// Revoke makes one acquisition unservable everywhere. It is idempotent, holds
	// even if the next Fill fails, and cannot touch another acquisition. It
	// returns ErrPaced when the previous revocation of the key was too recent and
	// this acquisition was asked for since (see Pace): it then stays in service.
	Revoke(ctx context.Context, key string, id ID) error

	// Confirm reports that a request which had been refused with an older
	// acquisition was accepted with this one, so the revocation was right and
	// the next one need not wait.
	Confirm(ctx context.Context, key string, id ID) error

	// Close releases what the backend holds and waits for its goroutines, no
	// longer than ctx allows. Later calls return ErrClosed.
	Close(ctx context.Context) error
}

// FlightBudget is how long one flight may take: the 10 s within which a request
// for a token must succeed (faults.md, Available).
const FlightBudget = 10 * time.Second

// Refusal is the identity provider's no, or the backoff that followed one. It
// crosses wires, so it carries no text of the provider's.
type Refusal struct {
	Code       string        // what the fill reported, e.g. "AUTH-001"; opaque to backends, at most 16 bytes
	Way        bool          // the way to the provider failed (DNS, connect, TLS); another node's may not
	RetryAfter time.Duration // nobody asks the provider for this key before; 0: decorrelated jitter applies
	Err        error         // the cause, on the node where it happened; nil elsewhere
}

// Error implements error.
func (r *Refusal) Error() string {
	msg := "identity provider refused (" + r.Code + ")"
	if r.Err != nil {
		msg = r.Err.Error()
	}
	if r.RetryAfter > 0 {
		msg += fmt.Sprintf("; next attempt in %v", r.RetryAfter.Round(time.Millisecond))
	}
	return msg
}

// Unwrap returns the cause, if it happened on this node.
func (r *Refusal) Unwrap() error { return r.Err }
