package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// How long stopping may take. Orthanc is to be gone 3 s after SIGTERM and has
// work of its own to do; leaving the cluster takes at most 2 s.
const (
	removeTimeout = 500 * time.Millisecond  // deleting our DICOMweb servers
	closeTimeout  = 2200 * time.Millisecond // from OrthancStopped on: everything else
	minWait       = 100 * time.Millisecond  // in Finalize, however late it comes
)

// Limits of the loopback listener. There is none on bodies: a study of 100 GB
// may take its hour, and the proxy watches for transfers that stand still.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// adminTimeout bounds a call of an admin route, which holds one of Orthanc's 50
// HTTP threads. The slowest acquires a token, in at most 10 s.
const adminTimeout = 30 * time.Second

// assembly is what the plugin runs: internal/node, or a fake in tests.
type assembly interface {
	Start() error // joins; does not block for long
	Admin() http.Handler
	Data() http.Handler // checks the credentials it was made with
	Servers() []string
	Gauges() map[string]float64
	Close(ctx context.Context) error
}

// built is what an assembler makes of a configuration.
type built struct {
	node         assembly // nil: OAuth is not configured, or switched off
	dicomWebRoot string
	timeout      time.Duration     // of a whole transfer, as Orthanc's DICOMweb plugin counts it
	configured   map[string]string // the operator's own DICOMweb servers, warned about already
}

// assembler makes the assembly from Orthanc's whole configuration. Level is set
// to what the configuration says.
type assembler func(orthancJSON []byte, c credentials, log *slog.Logger, level *slog.LevelVar) (built, error)

// plugin is one life of the plugin, from Initialize to Finalize.
type plugin struct {
	host      host
	log       *slog.Logger
	node      assembly
	listener  net.Listener
	server    *http.Server
	registrar *registrar

	ctx          context.Context // parent of every request; ends after their connections are cut
	cancel       context.CancelFunc
	stopping     atomic.Bool
	restGone     atomic.Bool   // Orthanc's REST interface no longer answers
	unregister   chan struct{} // closed to end the registration
	unregistered chan struct{} // closed when it has ended; nil before OrthancStarted
	stop         sync.Once
	goroutines   sync.WaitGroup
	deadline     time.Time // for closing; set by stop
}

// newPlugin reads and checks the configuration and listens; nothing is visible to
// anybody yet, and neither Orthanc's REST interface nor its database is touched.
// It returns nil without an error where OAuth is not configured.
func newPlugin(h host, build assembler) (*plugin, error) {
	level := new(slog.LevelVar)
	log := newLogger(h, level)
	conf, err := h.Configuration()
	if err != nil {
		return nil, fmt.Errorf("read Orthanc's configuration: %w", err)
	}
	creds := newCredentials()
	b, err := build(conf, creds, log, level)
	if err != nil || b.node == nil {
		return nil, err
	}
	p := &plugin{host: h, log: log, node: b.node, unregister: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if err := p.open(b, creds); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *plugin) open(b built, c credentials) error {
	if err := bypassProxy(p.host); err != nil {
		return err
	}
	if err := p.listen(); err != nil {
		return err
	}
	p.registrar = newRegistrar(p.host, p.log, b.dicomWebRoot, p.wanted(b, c))
	for name := range b.configured {
		p.registrar.said[name] = true
	}
	return nil
}

// listen opens the data path. It is served from OrthancStarted on.
func (p *plugin) listen() error {
	ln, err := new(net.ListenConfig).Listen(p.ctx, "tcp4", loopback+":0")
	if err != nil {
		return fmt.Errorf("listen for DICOMweb requests of this Orthanc: %w", err)
	}
	p.listener = ln
	p.server = &http.Server{
		Handler:           p.node.Data(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return p.ctx },
	}
	return nil
}

// wanted are the DICOMweb servers to register, by name.
func (p *plugin) wanted(b built, c credentials) map[string]dicomWebServer {
	want := make(map[string]dicomWebServer)
	for _, name := range p.node.Servers() {
		want[name] = dicomWebServer{
			URL:      "http://" + p.listener.Addr().String() + "/" + url.PathEscape(name) + "/",
			Username: c.user,
			Password: c.password,
			Timeout:  int(b.timeout / time.Second),
		}
	}
	return want
}

// Started is OrthancStarted: Orthanc's REST interface works from here on. It
// returns at once; Orthanc holds a global lock.
func (p *plugin) Started() {
	p.spawn("data path", func() {
		if err := p.server.Serve(p.listener); err != nil && !p.stopping.Load() {
			p.log.Error("the data path has ended; DICOMweb requests will fail until Orthanc restarts", "error", err)
		}
	})
	p.spawn("start", func() {
		if err := p.node.Start(); err != nil {
			p.log.Error("cannot start; tokens are still acquired by this instance alone", "error", err)
		}
	})
	p.unregistered = make(chan struct{})
	p.spawn("registration", p.register)
}

// register keeps our DICOMweb servers registered until the stop and then takes
// them away: one after the other in one goroutine, or a last PUT might follow the
// DELETE.
func (p *plugin) register() {
	defer close(p.unregistered)
	p.registrar.Run(p.unregister)
	if p.restGone.Load() {
		return
	}
	if err := p.registrar.Remove(); err != nil {
		p.log.Warn("the DICOMweb servers made by this plugin could not be deleted", "error", err)
	}
}

// spawn runs f in a goroutine that Close waits for. A panic there would end
// Orthanc.
func (p *plugin) spawn(what string, f func()) {
	p.goroutines.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				p.logPanic(what, r)
			}
		}()
		f()
	})
}

func (p *plugin) logPanic(where string, r any) {
	p.log.Error("internal error", "in", where, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
}

// Stopped is OrthancStopped, the last moment at which Orthanc's REST interface
// works. In-flight requests are cut here: Orthanc would wait for them, for as long
// as a hung remote likes.
func (p *plugin) Stopped() {
	p.stop.Do(p.shutDown)
}

// Close is Finalize. It waits, at most until closeTimeout after the stop began,
// for what Stopped has set in motion.
func (p *plugin) Close() {
	p.restGone.Store(true)
	p.stop.Do(p.shutDown)
	// Orthanc's own work between the two may have used up the time, and ours be
	// done long since: so a moment at least.
	if !wait(&p.goroutines, max(time.Until(p.deadline), minWait)) {
		p.log.Warn("stopping took too long; some work is left behind")
	}
}

// shutDown begins the end and returns when the data path is closed.
func (p *plugin) shutDown() {
	p.deadline = time.Now().Add(closeTimeout)
	p.stopping.Store(true)
	close(p.unregister)
	if p.unregistered != nil {
		select { // bounded, because a call into Orthanc takes no context
		case <-p.unregistered:
		case <-time.After(removeTimeout):
		}
	}
	// Connections first and contexts second: a handler that returns because its
	// context ended would finish the answer properly, and half a study would look
	// like a whole one.
	if p.server != nil {
		p.server.Close() // connections are cut, whatever state they are in
	}
	p.cancel()
	if p.listener != nil {
		p.listener.Close() // closed already if it was served
	}
	p.spawn("close", func() {
		ctx, cancel := context.WithDeadline(context.Background(), p.deadline)
		defer cancel()
		if err := p.node.Close(ctx); err != nil {
			p.log.Warn("not everything could be closed in time", "error", err)
		}
	})
}

// wait reports whether the group was done in time.
func wait(wg *sync.WaitGroup, limit time.Duration) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// Answer serves one request for an admin route of Orthanc's own port.
func (p *plugin) Answer(c restCall) (answer restAnswer) {
	defer func() {
		if r := recover(); r != nil {
			p.logPanic("route", r)
			answer = plainAnswer(http.StatusInternalServerError)
		}
	}()
	if p.stopping.Load() {
		return plainAnswer(http.StatusServiceUnavailable)
	}
	ctx, cancel := context.WithTimeout(p.ctx, adminTimeout)
	defer cancel()
	return c.serve(ctx, p.node.Admin())
}

// RefreshGauges copies the gauges into Orthanc's own metrics, which have neither
// labels nor counters; the full exposition is on our own route.
func (p *plugin) RefreshGauges() {
	if p.stopping.Load() {
		return
	}
	for name, value := range p.node.Gauges() {
		p.host.SetGauge(name, value)
	}
}
