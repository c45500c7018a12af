package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// ErrClosed says that the fleet has been closed.
var ErrClosed = errors.New("fleet closed")

// Options configures a Fleet.
type Options struct {
	Log *slog.Logger // starts and ends of processes, at debug level; nil: none
	// Keep leaves the folder behind for a look at logs and configurations.
	Keep bool
}

// Fleet is a set of processes and the folder they live in.
type Fleet struct {
	dir      string
	keep     bool
	log      *slog.Logger
	launcher *launcher
	http     *http.Client
	unwatch  func() bool // stops watching the context
	closing  sync.Once

	mu        sync.Mutex
	closed    bool
	processes []*Process
	ports     map[int]bool
}

// New makes the temporary folder. The end of ctx closes the fleet.
func New(ctx context.Context, opts Options) (*Fleet, error) {
	dir, err := os.MkdirTemp("", "orthanc-oauth-fleet-")
	if err != nil {
		return nil, fmt.Errorf("make folder for the fleet: %w", err)
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// Without proxies: all is loopback. And no connection is kept: Orthanc closes one
	// that is idle for a second, and a POST that begins just then is lost.
	transport := &http.Transport{DisableKeepAlives: true}
	f := &Fleet{
		dir:      dir,
		keep:     opts.Keep,
		log:      log,
		launcher: newLauncher(),
		http:     &http.Client{Transport: transport},
		ports:    make(map[int]bool),
	}
	f.unwatch = context.AfterFunc(ctx, f.Close)
	return f, nil
}

// Dir returns the folder, which Close removes.
func (f *Fleet) Dir() string { return f.dir }

// Close ends every process, waits for it and removes the folder. It is
// idempotent; every caller waits for the end.
func (f *Fleet) Close() {
	f.closing.Do(func() {
		f.mu.Lock()
		f.closed = true
		running := f.processes
		f.mu.Unlock()
		var wg sync.WaitGroup
		for _, p := range running {
			wg.Go(p.Stop)
		}
		wg.Wait()
		f.launcher.close()
		if !f.keep {
			_ = os.RemoveAll(f.dir) // a file that a dying process still wrote is not worth an error
		}
	})
	f.unwatch()
}

// Processes returns every process started so far, the ended ones included.
func (f *Fleet) Processes() []*Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*Process(nil), f.processes...)
}

// folder makes a folder of the fleet's own.
func (f *Fleet) folder(parts ...string) (string, error) {
	dir := filepath.Join(append([]string{f.dir}, parts...)...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	return dir, nil
}

// WriteFile writes a file, readable by this user only, and returns its path.
func (f *Fleet) WriteFile(name string, content []byte) (string, error) {
	path := filepath.Join(f.dir, name)
	if _, err := f.folder(filepath.Dir(name)); err != nil {
		return "", err
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("write file: %w", err)
	}
	return path, nil
}

// Ports below the range that the kernel takes for outgoing connections
// (net.ipv4.ip_local_port_range starts at 32768), so that none is taken between
// the look and the start of the process that wants it.
const (
	firstPort = 20000
	lastPort  = 32000
	portTries = 200
)

// Port returns a port that is free on loopback for TCP and for UDP and that
// this fleet hands out only once.
func (f *Fleet) Port() (int, error) {
	for range portTries {
		port := firstPort + rand.IntN(lastPort-firstPort)
		f.mu.Lock()
		taken := f.ports[port]
		f.ports[port] = true
		f.mu.Unlock()
		if !taken && portFree(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port after %d tries", portTries)
}

func portFree(port int) bool {
	ctx := context.Background() // neither call can block
	// Every address: Orthanc binds to all of them.
	addr := ":" + strconv.Itoa(port)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = l.Close() }()
	p, err := new(net.ListenConfig).ListenPacket(ctx, "udp", addr)
	if err != nil {
		return false
	}
	return p.Close() == nil
}

// finalError is an error that waiting cannot mend.
type finalError struct{ error }

// Unwrap returns the error itself.
func (e finalError) Unwrap() error { return e.error }

// Final marks an error of a check for Eventually as one that waiting cannot
// mend: it is returned at once.
func Final(err error) error { return finalError{err} }

// Eventually calls check every 25 ms until it returns nil or a Final error. When
// ctx or the patience ends first it returns the last error.
func Eventually(ctx context.Context, patience time.Duration, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if final, ok := errors.AsType[finalError](err); ok {
			return final.error
		}
		if ctx.Err() == nil || last == nil {
			last = err // a check that ctx cut short knows nothing new
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still after %v: %w", patience, last)
		case <-tick.C:
		}
	}
}
