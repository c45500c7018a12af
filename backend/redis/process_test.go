package redis_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

// childEnv makes this test binary a member of a fleet in a process of its own.
const childEnv = "ORTHANC_OAUTH_TEST_MEMBER"

// A membership is what such a process is told.
type membership struct{ Redis, IdP string }

// An order is what it does next: that many callers ask at once, or only wait
// together as long as the provider takes; or the process prepares for the key.
type order struct {
	Key     string
	Callers int
	Wait    time.Duration
	Prepare bool
}

// A result is what came of it.
type result struct {
	Failed  int
	Slowest time.Duration
	CPU     time.Duration // used by the process meanwhile
	Faults  int64         // pages of memory that it touched for the first time
	Error   string

	Unanswered int // 1: Redis has not answered an operation in time, ever; a fleet's: by how many
}

// serveAsMember is the main function of the process.
func serveAsMember(text string) error {
	var as membership
	if err := json.Unmarshal([]byte(text), &as); err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	m, err := redis.New(redis.Config{Options: redis.Options{URL: redis.Secret("redis://" + as.Redis)}, Prefix: prefix, Registerer: reg})
	if err != nil {
		return err
	}
	orders, results := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return m.Close(context.Background()) // the test has ended
		}
		if o.Prepare {
			m.Prepare([]string{o.Key})
		}
		r := o.carryOut(m, as)
		if n, err := countErrors(reg, ""); err != nil {
			return err
		} else if n > 0 {
			r.Unanswered = 1
		}
		if err := results.Encode(r); err != nil {
			return err
		}
	}
}

func (o order) carryOut(m *redis.Redis, as membership) result {
	ask := func(ctx context.Context) error {
		_, err := m.Fill(ctx, o.Key, backend.Stamp{}, as.fill)
		return err
	}
	if o.Wait > 0 {
		flights := backend.NewFlights()
		ask = func(ctx context.Context) error {
			_, err := flights.Do(ctx, o.Key, func(context.Context) (backend.Entry, error) {
				<-time.After(o.Wait)
				return backend.Entry{}, nil
			})
			return err
		}
	}
	return together(o.Callers, ask)
}

// together lets that many callers ask at once.
func together(callers int, ask func(context.Context) error) result {
	var r result
	var mu sync.Mutex
	var wg sync.WaitGroup
	before := usage()
	began := time.Now()
	for range callers {
		wg.Go(func() {
			err := ask(context.Background())
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			r.Slowest = max(r.Slowest, took)
			if err != nil {
				r.Failed++
				r.Error = err.Error()
			}
		})
	}
	wg.Wait()
	after := usage()
	r.CPU, r.Faults = after.CPU-before.CPU, after.Faults-before.Faults
	return r
}

// usage returns what this process has used so far.
func usage() result {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return result{Error: err.Error()}
	}
	return result{CPU: time.Duration(u.Utime.Nano() + u.Stime.Nano()), Faults: u.Minflt}
}

// fill asks the provider, over HTTP as in life.
func (as membership) fill(ctx context.Context, gen uint64) (backend.Entry, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, as.IdP, nil)
	if err != nil {
		return backend.Entry{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return backend.Entry{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	token, err := io.ReadAll(resp.Body)
	return backend.Entry{Stamp: backend.Stamp{Gen: gen, ID: backend.NewID()}, Value: token, TTL: life}, err
}

// A process is a running member.
type process struct {
	cmd     *exec.Cmd
	orders  *json.Encoder
	results *json.Decoder
}

func startProcess(t testing.TB, as membership) *process {
	t.Helper()
	text, err := json.Marshal(as)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), os.Args[0]) // ended below
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if errIn != nil || errOut != nil {
		t.Fatal(errIn, errOut)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, orders: json.NewEncoder(in), results: json.NewDecoder(bufio.NewReader(out))}
	t.Cleanup(p.end)
	return p
}

// end kills the process. Once is enough.
func (p *process) end() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// httpProvider is an identity provider behind HTTP that counts.
type httpProvider struct {
	*httptest.Server
	delay atomic.Int64
	calls atomic.Int32
}

func startProvider(t testing.TB, delay time.Duration) *httpProvider {
	p := &httpProvider{}
	p.delay.Store(int64(delay))
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.calls.Add(1)
		select {
		case <-time.After(time.Duration(p.delay.Load())):
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "sealed")
	}))
	t.Cleanup(p.Close)
	return p
}

// fleetOf starts n processes.
func fleetOf(t testing.TB, n int, s *redistest.Server, p *httpProvider) []*process {
	t.Helper()
	fleet := make([]*process, n)
	for i := range fleet {
		fleet[i] = startProcess(t, membership{Redis: s.Addr, IdP: p.URL})
	}
	return fleet
}

// all gives every process the same order and returns the slowest time, and the
// sum of the rest.
func all(t testing.TB, fleet []*process, o order) (worst result) {
	t.Helper()
	for _, c := range fleet {
		if err := c.orders.Encode(o); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range fleet {
		var r result
		if err := c.results.Decode(&r); err != nil {
			t.Fatal(err)
		}
		worst.Failed += r.Failed
		worst.CPU += r.CPU
		worst.Faults += r.Faults
		worst.Unanswered += r.Unanswered
		worst.Slowest = max(worst.Slowest, r.Slowest)
		if r.Error != "" {
			worst.Error = r.Error
		}
	}
	return worst
}

func keyOf(i int) string { return fmt.Sprintf("%064x", i) }

// Nobody has connected before. How long it takes: BenchmarkColdFleet. Whom Redis
// does not answer in time goes alone, by promise: where ten processes under the
// race detector share a busy machine that happens, and is told from a second
// acquisition by those who are answered.
func TestProcesses_ColdFleetAcquiresOnce(t *testing.T) {
	s, p := redistest.Start(t), startProvider(t, 100*time.Millisecond)
	fleet := fleetOf(t, 10, s, p)
	all(t, fleet, order{}) // all are up
	most := 0
	for i := range 3 {
		r := all(t, fleet, order{Key: keyOf(i), Callers: 200})
		most += 1 + r.Unanswered
		if n := int(p.calls.Load()); n < i+1 || n > most || r.Failed != 0 {
			t.Fatalf("%d acquisitions of %d keys, want at most %d with %d processes that Redis left unanswered; %d callers failed: %s", n, i+1, most, r.Unanswered, r.Failed, r.Error)
		}
	}
}

func TestProcesses_SlowProviderIsAskedOnce(t *testing.T) {
	t.Parallel()
	s, p := redistest.Start(t), startProvider(t, 8*time.Second)
	r := all(t, fleetOf(t, 10, s, p), order{Key: key, Callers: 20})
	t.Logf("8 s provider: all served after %v", r.Slowest)
	if n := int(p.calls.Load()); n < 1 || n > 1+r.Unanswered || r.Failed != 0 {
		t.Fatalf("%d acquisitions with %d processes that Redis left unanswered; %d callers failed: %s", n, r.Unanswered, r.Failed, r.Error)
	}
}

// The next takes over as soon as the lock has ended by itself, so what is left of
// it is how long that takes, but for a look.
func TestProcesses_NextTakesOverFromAKilledHolder(t *testing.T) {
	t.Parallel()
	s, p := redistest.Start(t), startProvider(t, time.Minute)
	fleet := fleetOf(t, 3, s, p)
	took := takeOver(t, s, p, fleet, key)
	t.Logf("holder killed: the next served after %v", took)
	if n := p.calls.Load(); n != 2 {
		t.Fatalf("%d acquisitions, want the lost one and one more", n)
	}
}

// takeOver kills the first process while it acquires, and returns how long the
// others' callers then waited.
func takeOver(t testing.TB, s *redistest.Server, p *httpProvider, fleet []*process, key string) time.Duration {
	t.Helper()
	before := p.calls.Load()
	if err := fleet[0].orders.Encode(order{Key: key, Callers: 1}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return want(p.calls.Load() == before+1, "the holder has not begun") })
	p.delay.Store(0)
	if err := fleet[0].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if left, err := strconv.Atoi(s.Do("PTTL", prefix+"{"+key+"}:lock")); err != nil || left <= 0 || left > 3000 {
		t.Fatalf("the dead holder's lock has %d ms left (%v), want 1 to 3000", left, err)
	}
	r := all(t, fleet[1:], order{Key: key, Callers: 20})
	if r.Failed != 0 {
		t.Fatalf("%d callers failed: %s", r.Failed, r.Error)
	}
	return r.Slowest
}

// memberMain runs this process as a member where it was started as one.
func memberMain() (status int, isMember bool) {
	text := os.Getenv(childEnv)
	if text == "" {
		return 0, false
	}
	if err := serveAsMember(text); err != nil && !strings.Contains(err.Error(), "EOF") {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}
