package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"

	"orthanc-oauth/backend"
)

// Reasons that State and the metric can name.
const (
	reasonOK          = "ok"
	reasonUnreachable = "unreachable"
	reasonTimeout     = "timeout"
	reasonTLS         = "tls"
	reasonNoAuth      = "noauth"
	reasonWrongPass   = "wrongpass"
	reasonDenied      = "denied"
	reasonReadOnly    = "readonly"
	reasonOOM         = "oom"
	reasonMisconf     = "misconf"
	reasonWrongDB     = "wrongdb"
	reasonLoading     = "loading"
	reasonClusterDown = "clusterdown"
	reasonMoved       = "moved"
	reasonSentinel    = "sentinel"
	reasonMaxClients  = "maxclients"
	reasonPool        = "pool"
	reasonForeign     = "foreign" // counted only: a value under our key that is not ours
	reasonOther       = "other"
)

// hints are what an operator does about each reason.
var hints = map[string]string{
	reasonUnreachable: "is Redis running, and do Host, Port and firewalls let this node reach it?",
	reasonTimeout:     "no answer in time: its host is off or a firewall drops packets; Redis hangs, is overloaded or too far away (DialTimeoutMs, ReadTimeoutMs); or SSL is set for a plain port",
	reasonTLS:         "check SSL, CAFile and ServerName against the server's certificate",
	reasonNoAuth:      "Redis wants a password: set Redis.Password",
	reasonWrongPass:   "Redis refuses Username or Password",
	reasonDenied:      "the ACL user may not run a command or touch a key: see docs/operations/redis.md for what is needed",
	reasonReadOnly:    "this is a replica: point Host at the primary, or set Mode to sentinel or cluster",
	reasonOOM:         "Redis has reached maxmemory and may evict nothing: raise it, or choose a volatile-* policy",
	reasonMisconf:     "Redis cannot write its snapshot and refuses writes: look at its disk and its log",
	reasonWrongDB:     "Redis.DB does not exist on this server (a cluster has only 0)",
	reasonLoading:     "Redis loads its data after a start",
	reasonClusterDown: "the cluster has no master for our slots, or is failing over",
	reasonMoved:       "this is one node of a cluster: set Mode to cluster",
	reasonSentinel:    "no Sentinel names a master: do Addrs name Sentinels (port 26379), do they answer, and do they watch MasterName?",
	reasonMaxClients:  "Redis has reached maxclients",
	reasonPool:        "all connections of the pool are in use",
	reasonOther:       "see the error",
}

// Hint returns what an operator does about a reason that State names, or
// nothing.
func Hint(reason string) string { return hints[reason] }

// Reasons returns every reason that Hint knows, in order.
func Reasons() []string { return slices.Sorted(maps.Keys(hints)) }

// codes are the beginnings of Redis's own errors. Order matters: the general
// ones come last.
var codes = []struct{ text, reason string }{
	{"NOAUTH", reasonNoAuth},
	{"Protocol error: unauthenticated", reasonNoAuth}, // what a long command gets before AUTH
	{"WRONGPASS", reasonWrongPass},
	{"ERR invalid password", reasonWrongPass},
	{"ERR Client sent AUTH", reasonWrongPass},
	{"ERR AUTH", reasonWrongPass},
	{"NOPERM", reasonDenied},
	{"The user executing the script", reasonDenied},
	{"ACL failure in script", reasonDenied},
	{"ERR unknown command 'sentinel'", reasonSentinel},
	{"ERR unknown command", reasonDenied}, // renamed away by a managed service
	{"READONLY", reasonReadOnly},
	{"OOM", reasonOOM},
	{"MISCONF", reasonMisconf},
	{"LOADING", reasonLoading},
	{"CLUSTERDOWN", reasonClusterDown},
	{"MASTERDOWN", reasonClusterDown},
	{"MOVED ", reasonMoved},
	{"ERR DB index is out of range", reasonWrongDB},
	{"ERR invalid DB index", reasonWrongDB},
	{"ERR SELECT is not allowed", reasonWrongDB},
	{"ERR max number of clients", reasonMaxClients},
}

// noSentinel is in go-redis's error when no Sentinel has named a master, whatever
// each of them said.
const noSentinel = "all sentinels specified in configuration are unreachable"

// classify names what an error says about Redis.
func classify(err error) string {
	if _, ok := errors.AsType[goredis.Error](err); ok {
		return classifyReply(err.Error())
	}
	switch {
	case strings.Contains(err.Error(), noSentinel):
		return reasonSentinel
	case errors.Is(err, goredis.ErrPoolTimeout), errors.Is(err, goredis.ErrPoolExhausted):
		return reasonPool
	case isTLS(err):
		return reasonTLS
	case isTimeout(err):
		return reasonTimeout
	case isNetwork(err):
		return reasonUnreachable
	}
	return classifyReply(err.Error())
}

func classifyReply(text string) string {
	for _, c := range codes {
		if strings.Contains(text, c.text) {
			return c.reason
		}
	}
	return reasonOther
}

func isTLS(err error) bool {
	_, verify := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	return verify || record || alert || unknown
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func isNetwork(err error) bool {
	_, op := errors.AsType[*net.OpError](err)
	_, dns := errors.AsType[*net.DNSError](err)
	_, system := errors.AsType[syscall.Errno](err)
	return op || dns || system || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// answered reports whether Redis answers reads although it failed with reason:
// the breaker stays closed then.
func answered(reason string) bool {
	switch reason {
	case reasonReadOnly, reasonOOM, reasonMisconf, reasonDenied:
		return true
	}
	return false
}

// errAway says that Redis was not asked: the breaker is open.
var errAway = errors.New("redis is away")

// Breaker: open after 3 failures in a row, one probe a second (protocol.md).
const (
	breakerFailures = 3
	breakerPause    = time.Second
)

// health knows how Redis is, counts its errors, and logs each reason once per
// outage: a host that is off is unreachable and silent by turns.
type health struct {
	log     *slog.Logger
	clock   *backend.Clock
	errors  *prometheus.CounterVec
	breaker *gobreaker.CircuitBreaker[struct{}]

	mu     sync.Mutex
	reason string
	said   map[string]bool // reasons of this outage that the log has
	since  time.Duration
	mute   bool          // reads failed as well, so that one that works ends it
	key    string        // what failed last: in a cluster, only its master may be away
	back   chan struct{} // signals that Redis works again
}

func newHealth(cfg Config) (*health, error) {
	errs, err := backend.NewErrorCounter(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	h := &health{
		log: cfg.Log, clock: cfg.Clock, errors: errs,
		reason: reasonOK, said: map[string]bool{}, since: cfg.Clock.Now(), back: make(chan struct{}, 1),
	}
	h.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        "redis",
		MaxRequests: 1,
		Timeout:     breakerPause,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerFailures },
		IsSuccessful: func(err error) bool {
			return err == nil || answered(classify(err))
		},
		// A caller who gave up says nothing about Redis.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
	})
	return h, nil
}

// try runs one operation on key unless the breaker is open. Its error, if any,
// says what is known: errAway, or what Redis or the way to it answered.
func (h *health) try(key string, op func() error) error {
	_, err := h.breaker.Execute(func() (struct{}, error) { return struct{}{}, op() })
	switch {
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		return errAway
	case err == nil:
		h.answers()
	case !errors.Is(err, context.Canceled):
		h.failed(key, err, answered(classify(err)))
	}
	return err
}

// count counts an error that does not make Redis unhealthy.
func (h *health) count(reason string) { h.errors.WithLabelValues("redis", reason).Inc() }

// failed notes an error. One that comes with answers to reads is over only when
// something has been stored.
func (h *health) failed(key string, err error, whileAnswering bool) {
	reason := classify(err)
	h.count(reason)
	h.mu.Lock()
	h.key, h.mute = key, !whileAnswering
	h.mu.Unlock()
	if h.change(reason) {
		h.log.Warn("redis does not work, this node acquires for itself", "reason", reason, "hint", hints[reason], "error", err)
	}
}

// answers notes that Redis has answered. A read-only or full one does that too,
// so those end with stored only, and the state does not flap.
func (h *health) answers() {
	h.mu.Lock()
	over := h.mute
	h.mu.Unlock()
	if over {
		h.stored()
	}
}

// stored notes that Redis has stored something: nothing is wrong with it.
func (h *health) stored() {
	if !h.change(reasonOK) {
		return
	}
	h.log.Info("redis works again")
	select {
	case h.back <- struct{}{}:
	default:
	}
}

// change moves to reason and reports whether the log lacks that.
func (h *health) change(reason string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	// A pool runs out because Redis does not answer: that is no other fault.
	if h.reason == reason || reason == reasonPool && h.reason != reasonOK {
		return false
	}
	h.reason, h.since = reason, h.clock.Now()
	if reason == reasonOK {
		clear(h.said)
		return true
	}
	known := h.said[reason]
	h.said[reason] = true
	return !known
}

// ailing returns the key that failed last while Redis does not work.
func (h *health) ailing() (key string, yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.key, h.reason != reasonOK
}

func (h *health) state() (ok bool, reason string, since time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reason == reasonOK, h.reason, h.clock.Now() - h.since
}
