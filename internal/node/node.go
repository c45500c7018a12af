package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"orthanc-oauth/backend"
	"orthanc-oauth/internal/config"
	"orthanc-oauth/internal/proxy"
	"orthanc-oauth/tokens"
	"orthanc-oauth/tokens/provider"
)

// Version is the version of this build, set by the linker.
var Version = "dev"

// Config is what the host of a node decides.
type Config struct {
	Config *config.Config
	Log    *slog.Logger

	// Authorize guards the data path and AuthorizeAdmin the admin routes. The
	// second is nil where the host has authenticated the caller already.
	Authorize      func(*http.Request) bool
	AuthorizeAdmin func(*http.Request) bool

	// Realm makes the data path challenge callers without credentials; see
	// proxy.Config.
	Realm string
}

// Node is one running member of a fleet, or one that stands alone.
type Node struct {
	conf     *config.Config
	log      *slog.Logger
	clock    *backend.Clock
	started  time.Duration
	registry *prometheus.Registry
	store    storage
	tokens   *tokens.Manager
	metrics  *provider.Metrics
	proxy    *proxy.Proxy
	admin    http.Handler
	servers  []*server
	secrets  []*watched

	reloading sync.Mutex // guards what secrets point to

	life  context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup
	close sync.Once
	ended error
}

// gcPercent is how much garbage may pile up beside what is in use before it is
// collected. The runtime's own 100 lets what four large uploads keep for a replay
// (16 MiB) double: Orthanc then grew by 46 MiB. At 25 it grows by 25 MiB, at the
// same throughput.
const gcPercent = 25

// New builds a node from a validated configuration. It reads secrets, derives
// keys (0.13 s of CPU a credential) and binds the gossip port. A New that fails
// leaves nothing behind.
func New(cfg Config) (_ *Node, err error) {
	debug.SetGCPercent(gcPercent)
	n := &Node{conf: cfg.Config, log: cfg.Log, clock: backend.NewClock(nil), registry: prometheus.NewRegistry()}
	n.life, n.end = context.WithCancel(context.Background())
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			n.abandon()
		}
	}()
	if n.metrics, err = provider.NewMetrics(n.registry); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if err = n.buildStorage(); err != nil {
		return nil, err
	}
	if err = n.buildTokens(); err != nil {
		return nil, err
	}
	if err = n.buildRoutes(cfg); err != nil {
		return nil, err
	}
	n.logWarnings()
	return n, nil
}

func (n *Node) buildTokens() (err error) {
	n.tokens, err = tokens.New(tokens.Config{
		Backend:     n.store.backend(),
		BackendName: n.conf.Backend,
		Clock:       n.clock,
		Log:         n.log,
		Registerer:  n.registry,
	})
	if err != nil {
		return err
	}
	if n.servers, err = n.buildServers(); err != nil {
		return err
	}
	n.store.setKeys(n.tokens.Keys())
	return nil
}

func (n *Node) buildRoutes(cfg Config) error {
	metrics, err := proxy.NewMetrics(n.registry)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	n.proxy, err = proxy.New(proxy.Config{
		Authorize:        cfg.Authorize,
		Realm:            cfg.Realm,
		ReplayBytes:      n.conf.Proxy.ReplayBytes,
		ReplayTotalBytes: n.conf.Proxy.ReplayTotalBytes,
		Version:          Version,
		Metrics:          metrics,
		Log:              n.log,
	})
	if err != nil {
		return err
	}
	if err := n.proxy.SetUpstreams(n.upstreams()); err != nil {
		return err
	}
	n.admin = n.adminRoutes(cfg, metrics)
	return nil
}

func (n *Node) logWarnings() {
	for _, w := range n.conf.Warnings {
		n.log.Warn("configuration", "warning", w.String())
	}
}

// Start joins the fleet, if there is one, and begins to watch the clock and the
// secret files. It does not wait for either.
func (n *Node) Start() error {
	n.started = n.clock.Now()
	if err := n.store.start(); err != nil {
		return err
	}
	n.spawn("clock", func(ctx context.Context) {
		n.clock.Watch(ctx, func(leap time.Duration) {
			n.log.Warn("the machine was suspended or its clock stepped; tokens are aged by it", "seconds", leap.Seconds())
			n.tokens.Age(leap)
		})
	})
	n.spawn("secret files", n.watchSecrets)
	n.log.Info("orthanc-oauth started", "version", Version, "backend", n.conf.Backend, "servers", len(n.servers))
	return nil
}

// Data returns the data path: /{server}/...
func (n *Node) Data() http.Handler { return n.proxy }

// Admin returns the admin routes: /dicomweb-oauth/...
func (n *Node) Admin() http.Handler { return n.admin }

// Servers returns the names of the DICOMweb servers.
func (n *Node) Servers() []string {
	names := make([]string, len(n.servers))
	for i, s := range n.servers {
		names[i] = s.conf.Name
	}
	return names
}

// Close ends the node: requests in flight are cancelled, entries handed to the
// nodes that lead next, the fleet told. It is idempotent and takes no longer
// than ctx allows.
func (n *Node) Close(ctx context.Context) error {
	n.close.Do(func() {
		n.end()
		n.ended = errors.Join(
			n.proxy.Close(ctx),
			n.tokens.Close(ctx),
			n.store.close(ctx),
		)
		n.tasks.Wait() // they only wait for life, which has ended
	})
	return n.ended
}

// abandonTimeout bounds what a New that failed may take to let go.
const abandonTimeout = time.Second

func (n *Node) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	n.end()
	if n.proxy != nil {
		n.proxy.Close(ctx) //nolint:errcheck // the error that led here is the one to tell
	}
	if n.tokens != nil {
		n.tokens.Close(ctx) //nolint:errcheck // as above
	}
	if n.store != nil {
		n.store.close(ctx) //nolint:errcheck // as above
	}
}

// spawn runs a task until the node's life ends. A panic in it would kill the
// host.
func (n *Node) spawn(name string, task func(ctx context.Context)) {
	n.tasks.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				n.log.Error("background task panicked", "task", name, "panic", fmt.Sprint(v))
			}
		}()
		task(n.life)
	})
}
