package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire is the path to an archive over real TCP connections. Those that exist can
// be cut, so that no packet arrives at either end any more, as if a router had
// forgotten them; new ones work.
type wire struct {
	t       *testing.T
	archive *httptest.Server

	mu    sync.Mutex
	from  net.Addr       // that the proxy dials from; nil: any
	near  []*net.TCPConn // of the proxy
	far   []*net.TCPConn // of the archive
	ended atomic.Int64   // of far
}

// testLimit stands in for silenceLimit.
const testLimit = time.Second

// newWire puts an archive behind r. Its connections are given up after testLimit.
func newWire(r *rig, secure bool, archive http.HandlerFunc) *wire {
	r.t.Helper()
	w := &wire{t: r.t, archive: httptest.NewUnstartedServer(archive)}
	w.archive.Config.ConnState = w.note
	if secure {
		w.archive.StartTLS()
	} else {
		w.archive.Start()
	}
	r.aim(w.archive.URL, TransportConfig{SkipVerify: true})
	(*r.proxy.upstreams.Load())["pacs"].Transport.(*http.Transport).DialContext = w.dial
	r.t.Cleanup(func() {
		w.archive.CloseClientConnections()
		w.archive.Close()
	})
	return w
}

func (w *wire) note(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.far = append(w.far, conn.(*net.TCPConn))
	case http.StateClosed:
		w.ended.Add(1)
	}
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{LocalAddr: w.from}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.near = append(w.near, conn.(*net.TCPConn))
	return newLingerer(newLifeline(conn.(*net.TCPConn), testLimit)), nil
}

// cut lets both ends of all connections drop what arrives, before TCP sees it.
func (w *wire) cut() {
	w.t.Helper()
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	w.each(w.near, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	})
	w.each(w.far, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	})
}

// mend lets packets arrive at the archive again.
func (w *wire) mend() {
	w.t.Helper()
	w.each(w.far, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
}

func (w *wire) each(conns []*net.TCPConn, do func(fd int) error) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		raw, err := c.SyscallConn()
		must(w.t, err)
		var failed error
		must(w.t, raw.Control(func(fd uintptr) { failed = do(int(fd)) }))
		must(w.t, failed)
	}
}

func (w *wire) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.near)
}

func TestSilence_QueryIntoADeadConnectionGoesOverANewOne(t *testing.T) {
	for _, secure := range []bool{false, true} {
		r := newRig(t, status(http.StatusTeapot))
		w := newWire(r, secure, status(200))
		r.get("/pacs/studies")
		w.cut()
		resp, _ := r.get("/pacs/studies")
		want(t, "status", resp.StatusCode, 200)
		want(t, "connections", w.dialled(), 2)
	}
}

// Whether the archive has received it nobody knows.
func TestSilence_UploadIntoADeadConnectionIsNET001AndNeverArrives(t *testing.T) {
	r := newRig(t, status(http.StatusTeapot))
	var stored atomic.Int64
	w := newWire(r, false, func(_ http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			stored.Add(1)
		}
	})
	r.get("/pacs/studies")
	w.cut()
	resp, body := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(1000))))
	want(t, "status", resp.StatusCode, http.StatusGatewayTimeout)
	want(t, "code", failureIn(t, body).ErrorCode, "NET-001")
	r.counts(1, "transfers_total", "pacs", "timeout")
	want(t, "connections", w.dialled(), 1)

	// The archive asks whether anybody is left. A kernel that went on sending
	// would deliver the study instead.
	must(t, w.far[0].SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 100}))
	w.mend()
	eventually(t, func() error {
		if w.ended.Load() == 0 && stored.Load() == 0 {
			return errors.New("the archive knows nothing")
		}
		return nil
	})
	want(t, "stored", stored.Load(), 0)
}

// Writing and reading fail at once here, and either may be reported.
func TestSilence_UploadWhosePathDiesIsNET001(t *testing.T) {
	for _, secure := range []bool{false, true} {
		r := newRig(t, status(http.StatusTeapot))
		begun := make(chan struct{})
		w := newWire(r, secure, func(_ http.ResponseWriter, req *http.Request) {
			io.CopyN(io.Discard, req.Body, 1<<20)
			close(begun)
			io.Copy(io.Discard, req.Body)
		})
		go func() {
			<-begun
			w.cut()
		}()
		resp, body := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(1<<40))))
		want(t, "status", resp.StatusCode, http.StatusGatewayTimeout)
		want(t, "code", failureIn(t, body).ErrorCode, "NET-001")
	}
}

// A throttled archive says "not now" to every probe of the kernel's, and the
// kernel asks ever more rarely.
func TestSilence_ArchiveThatStopsReadingIsWaitedFor(t *testing.T) {
	r := newRig(t, status(http.StatusTeapot))
	busy := make(chan struct{})
	release := sync.OnceFunc(func() { close(busy) })
	w := newWire(r, false, func(rw http.ResponseWriter, req *http.Request) {
		<-busy
		size(rw, req)
	})
	var upload sync.WaitGroup
	defer upload.Wait()
	defer release() // before that
	upload.Go(func() {
		const n = 32 << 20
		body := newPattern(n)
		resp, got := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(body)))
		want(t, "status", resp.StatusCode, 200)
		want(t, "size and sum", got, fmt.Sprintf("%d %x", n, body.sum.Sum32()))
	})
	eventually(t, func() error { return w.silentFor(2 * testLimit) })
	release()
	upload.Wait()
	want(t, "connections", w.dialled(), 1)
}

// silentFor returns an error unless the archive has said nothing for d.
func (w *wire) silentFor(d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.near) == 0 {
		return errors.New("nothing is dialled yet")
	}
	since, _, err := silence(w.near[0])
	if err == nil && since < d {
		err = fmt.Errorf("the archive was heard %v ago", since)
	}
	return err
}

// inNamespace runs the test once more in a process whose network is its own, and
// reports whether this is that process.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "ORTHANC_OAUTH_TEST_NAMESPACE"
	if os.Getenv(mark) != "" {
		for _, args := range []string{"link set lo up", "address add 198.18.0.1/32 dev lo", "address add 198.18.0.2/32 dev lo"} {
			ip(t, args)
		}
		return true
	}
	if os.Geteuid() != 0 {
		if os.Getenv("ORTHANC_OAUTH_REQUIRE_REAL") != "" {
			t.Fatal("a network namespace needs root")
		}
		t.Skip("SKIPPED: a network namespace needs root")
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v") //nolint:gosec // this test itself
	cmd.Env = append(os.Environ(), mark+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a namespace: %v\n%s", err, out)
	}
	return false
}

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil { //nolint:gosec // constants
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// losable is an address that a test in a namespace takes away.
var losable = &net.TCPAddr{IP: net.IPv4(198, 18, 0, 2)}

// The kernel cannot send what is written then, and does not say so.
func TestSilence_ConnectionInUseWhoseAddressIsGoneIsGivenUp(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "198.18.0.1:0")
	must(t, err)
	defer l.Close()
	near, err := (&net.Dialer{LocalAddr: losable}).DialContext(t.Context(), "tcp", l.Addr().String())
	must(t, err)
	far, err := l.Accept()
	must(t, err)
	defer far.Close()
	conn := newLifeline(near.(*net.TCPConn), testLimit)
	defer conn.Close()
	ip(t, "address delete 198.18.0.2/32 dev lo")
	_, err = near.Write([]byte("hello"))
	must(t, err)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, errSilence) {
		t.Errorf("got %v, want that the connection was given up", err)
	}
}

// A kept connection is not even written to, so that the request goes over
// another one at once, and an upload too.
func TestSilence_KeptConnectionWhoseAddressIsGoneIsNotUsed(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newRig(t, status(http.StatusTeapot))
	w := newWire(r, false, func(_ http.ResponseWriter, req *http.Request) { io.Copy(io.Discard, req.Body) })
	w.from = losable
	resp, _ := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, 200)
	ip(t, "address delete 198.18.0.2/32 dev lo")
	w.from = nil
	resp, _ = r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(1000))))
	want(t, "status", resp.StatusCode, 200)
	want(t, "connections", w.dialled(), 2)
}
