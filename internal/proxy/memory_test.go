package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// childRemote makes this test binary a process that holds a proxy and nothing
// else, so that what is measured is the proxy's memory.
const childRemote = "PROXY_TEST_CHILD_REMOTE"

func TestMain(m *testing.M) {
	if remote := os.Getenv(childRemote); remote != "" {
		if err := child(remote); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child serves a proxy to remote, and its own memory figures, until stdin ends.
func child(remote string) error {
	base, err := url.Parse(remote)
	if err != nil {
		return err
	}
	p, err := New(Config{Authorize: Credential(testUser, testPassword)})
	if err != nil {
		return err
	}
	transport, err := NewTransport(TransportConfig{})
	if err != nil {
		return err
	}
	if err := p.SetUpstreams([]Upstream{{Name: "pacs", URL: base, Source: &fakeSource{}, Transport: transport}}); err != nil {
		return err
	}
	front := httptest.NewServer(p)
	figures := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		json.NewEncoder(w).Encode(m) // the parent notices
	}))
	fmt.Println(front.URL, figures.URL)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

type childProxy struct{ front, figures string }

func startChild(t testing.TB, remote string) childProxy {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), childRemote+"="+remote)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		must(t, cmd.Wait())
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	front, figures, _ := strings.Cut(strings.TrimSpace(line), " ")
	return childProxy{front: front, figures: figures}
}

// sys returns what the child's Go runtime has taken from the system; it never
// gives back, so this is the peak.
func (c childProxy) sys(t testing.TB) uint64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.figures, nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	var m runtime.MemStats
	must(t, json.NewDecoder(resp.Body).Decode(&m))
	return m.Sys
}

// upload sends n bytes without a declared length, as Orthanc's STOW does.
func (c childProxy) upload(t testing.TB, n int64) error {
	body := io.LimitReader(zeros{}, n)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.front+"/pacs/studies", io.NopCloser(body))
	if err != nil {
		return err
	}
	req.SetBasicAuth(testUser, testPassword)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && string(text) != fmt.Sprint(n) {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func discarding(t testing.TB) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		s.Close()
	})
	return s
}

func (c childProxy) uploads(t testing.TB, parallel int, n int64) {
	t.Helper()
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			if err := c.upload(t, n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

const maxSys = 32 << 20

func TestMemory_StaysFlatForLargeUploads(t *testing.T) {
	remote := discarding(t)
	for _, c := range []struct {
		parallel int
		each     int64
	}{{1, 128 << 20}, {4, 32 << 20}} {
		p := startChild(t, remote.URL)
		before, start := p.sys(t), time.Now()
		p.uploads(t, c.parallel, c.each)
		after := p.sys(t)
		t.Logf("%d x %d MiB in %v: Sys %.1f -> %.1f MiB", c.parallel, c.each>>20, time.Since(start).Round(time.Millisecond), mib(before), mib(after))
		if after > maxSys {
			t.Errorf("%d x %d MiB took Sys to %.1f MiB, more than %d", c.parallel, c.each>>20, mib(after), maxSys>>20)
		}
	}
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

// BenchmarkSTOW sends studies of 512 MiB through a proxy in a process of its own.
func BenchmarkSTOW(b *testing.B) {
	remote := discarding(b)
	for _, parallel := range []int{1, 4} {
		b.Run(fmt.Sprintf("parallel=%d", parallel), func(b *testing.B) {
			p := startChild(b, remote.URL)
			b.SetBytes(int64(parallel) << 29)
			for b.Loop() {
				p.uploads(b, parallel, 512<<20)
			}
			b.ReportMetric(mib(p.sys(b)), "MiB-Sys")
		})
	}
}
