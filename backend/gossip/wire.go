package gossip

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

// MinVersion and Version are the protocol versions that this code speaks. Every
// request names one: the highest that both ends understand.
const (
	MinVersion = 1
	Version    = 1
)

// versionFor returns the version to speak with a peer, and false where the two
// have none in common.
func versionFor(m cluster.Member) (int, bool) {
	v := min(Version, int(m.Meta.ProtocolMax))
	return v, v >= MinVersion && v >= int(m.Meta.ProtocolMin)
}

// speaks reports whether this code understands a request's version.
func speaks(header string) bool {
	v, err := strconv.Atoi(header)
	return err == nil && v >= MinVersion && v <= Version
}

// The operations a peer can ask for. Each is a POST to the path of its name.
const (
	opLead    = "/lead"    // obtain something newer than a stamp
	opPeek    = "/peek"    // tell what you hold; note my intent, if I have one
	opWait    = "/wait"    // tell how your own flight is doing
	opPush    = "/push"    // hold this copy
	opRevoke  = "/revoke"  // make an id unservable
	opConfirm = "/confirm" // the last revocation was right
	opPing    = "/ping"    // are you there
)

// The headers that fields travel in; bodies are sealed values as they are.
const (
	hVersion  = "Oauth-Version"
	hKey      = "Oauth-Key"
	hStale    = "Oauth-Stale"
	hSuspects = "Oauth-Suspects"
	hIntent   = "Oauth-Intent"
	hIntents  = "Oauth-Intents"
	hAnswer   = "Oauth-Answer"
	hStamp    = "Oauth-Stamp"
	hTTL      = "Oauth-Ttl-Ms"
	hAge      = "Oauth-Age-Ms"
	hHighest  = "Oauth-Highest"
	hRevoked  = "Oauth-Revoked"
	hPaced    = "Oauth-Paced"
	hCode     = "Oauth-Code"
	hWay      = "Oauth-Way"
	hRetry    = "Oauth-Retry-Ms"
)

// answer is what a peer says to a request. The first three must never be
// confused: pending means ask again, refused goes to every waiter, leaving and
// unknown mean the next node.
type answer string

const (
	answerToken     answer = "token"
	answerPending   answer = "pending"
	answerRefused   answer = "refused"
	answerLeaving   answer = "leaving"
	answerUnknown   answer = "unknown"
	answerNone      answer = "none"
	answerPeeking   answer = "peeking"
	answerWaiting   answer = "waiting"
	answerAcquiring answer = "acquiring"
	answerPaced     answer = "paced"
	answerDone      answer = "done"
)

// Bounds of what a peer may send (protocol.md, Membership, Bounds).
const (
	maxBody    = 96 << 10
	maxIDs     = 64 // suspects, intents or revoked ids in one message
	maxCodeLen = 16
)

var errWire = errors.New("malformed message")

func formatStamp(s backend.Stamp) string {
	return strconv.FormatUint(s.Gen, 10) + "." + s.ID.String()
}

func parseStamp(s string) (backend.Stamp, error) {
	if s == "" {
		return backend.Stamp{}, nil
	}
	gen, id, ok := strings.Cut(s, ".")
	if !ok {
		return backend.Stamp{}, fmt.Errorf("%w: stamp", errWire)
	}
	g, err := strconv.ParseUint(gen, 10, 64)
	if err != nil {
		return backend.Stamp{}, fmt.Errorf("%w: generation", errWire)
	}
	i, err := backend.ParseID(id)
	if err != nil {
		return backend.Stamp{}, fmt.Errorf("%w: %w", errWire, err)
	}
	return backend.Stamp{Gen: g, ID: i}, nil
}

// formatMillis rounds down: a remaining lifetime may only shrink on its way, and
// an age that is too young is safe.
func formatMillis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// parseMillis accepts what a duration of at most a day can be.
func parseMillis(s string) (time.Duration, error) {
	ms, err := strconv.ParseUint(s, 10, 32)
	if d := time.Duration(ms) * time.Millisecond; err == nil && d <= backend.MaxTTL {
		return d, nil
	}
	return 0, fmt.Errorf("%w: duration", errWire)
}

func setEntry(h http.Header, e backend.Entry) {
	h.Set(hStamp, formatStamp(e.Stamp))
	h.Set(hTTL, formatMillis(e.TTL))
	h.Set(hAge, formatMillis(e.Age))
}

// readEntry reads the entry of a message, the zero Entry if it carries none.
func readEntry(h http.Header, body io.Reader) (backend.Entry, error) {
	if h.Get(hStamp) == "" {
		return backend.Entry{}, nil
	}
	stamp, err := parseStamp(h.Get(hStamp))
	if err != nil {
		return backend.Entry{}, err
	}
	ttl, err := parseMillis(h.Get(hTTL))
	if err != nil {
		return backend.Entry{}, err
	}
	age, err := readAge(h)
	if err != nil {
		return backend.Entry{}, err
	}
	value, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if err != nil {
		return backend.Entry{}, fmt.Errorf("read entry: %w", err)
	}
	if len(value) > backend.MaxValue {
		return backend.Entry{}, fmt.Errorf("%w: value too large", errWire)
	}
	return backend.Entry{Stamp: stamp, Value: value, TTL: ttl, Age: age}, nil
}

// readAge reads the age of an entry, 0 where the sender's build does not tell it.
func readAge(h http.Header) (time.Duration, error) {
	if h.Get(hAge) == "" {
		return 0, nil
	}
	return parseMillis(h.Get(hAge))
}

func setRefusal(h http.Header, r *backend.Refusal) {
	h.Set(hCode, r.Code)
	h.Set(hRetry, formatMillis(r.RetryAfter))
	if r.Way {
		h.Set(hWay, "1")
	}
}

// readRefusal reads the refusal of a message, nil if it carries none. The cause
// stays on the node where it happened.
func readRefusal(h http.Header) (*backend.Refusal, error) {
	code := h.Get(hCode)
	if code == "" {
		return nil, nil //nolint:nilnil // no refusal is a normal answer
	}
	if len(code) > maxCodeLen || !isCode(code) {
		return nil, fmt.Errorf("%w: code", errWire)
	}
	after, err := parseMillis(h.Get(hRetry))
	if err != nil {
		return nil, err
	}
	return &backend.Refusal{Code: code, Way: h.Get(hWay) == "1", RetryAfter: min(after, backend.MaxRetryAfter)}, nil
}

// ageRefusal shortens the pause that a message names by the time it was on its
// way: a fleet that passes one on would stretch it beyond what the provider asked.
func ageRefusal(h http.Header, age time.Duration) error {
	if h.Get(hRetry) == "" {
		return nil
	}
	left, err := parseMillis(h.Get(hRetry))
	if err != nil {
		return err
	}
	h.Set(hRetry, formatMillis(max(0, left-age)))
	return nil
}

// isCode keeps a peer's bytes out of logs and error texts.
func isCode(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func formatRevoked(rs []backend.Revocation) string {
	parts := make([]string, 0, len(rs))
	for _, r := range rs[:min(len(rs), maxIDs)] {
		parts = append(parts, r.ID.String()+":"+formatMillis(r.TTL))
	}
	return strings.Join(parts, ",")
}

func parseRevoked(s string) ([]backend.Revocation, error) {
	var out []backend.Revocation
	for _, part := range splitList(s) {
		id, ms, _ := strings.Cut(part, ":")
		rid, err := backend.ParseID(id)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errWire, err)
		}
		ttl, err := parseMillis(ms)
		if err != nil {
			return nil, err
		}
		out = append(out, backend.Revocation{ID: rid, TTL: ttl})
	}
	return out, nil
}

// splitList splits a bounded, comma-separated list; the empty string has none.
func splitList(s string) []string {
	if s == "" {
		return nil
	}
	parts := strings.SplitN(s, ",", maxIDs+1)
	return parts[:min(len(parts), maxIDs)]
}

// isKey reports whether s is a key: 64 lower-case hexadecimal digits.
func isKey(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
