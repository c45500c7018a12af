//go:build orthanc && cgo

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Where Debian's packages put things.
const (
	orthancBinary  = "Orthanc"
	dicomWebPlugin = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
)

// library returns the plugin to test: the one that make has built, or a build of
// its own.
func library(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("ORTHANC_OAUTH_PLUGIN"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "plugin.so")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "orthanc", "-buildmode=c-shared", "-trimpath",
		"-ldflags", "-s -w", "-o", path, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	return path
}

func testExports(t *testing.T, path string) {
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Initialize", "Finalize", "GetName", "GetVersion"} {
		defined := func(s elf.Symbol) bool {
			return s.Name == "OrthancPlugin"+name && s.Section != elf.SHN_UNDEF && elf.ST_BIND(s.Info) == elf.STB_GLOBAL
		}
		if !slices.ContainsFunc(symbols, defined) {
			t.Errorf("the library lacks OrthancPlugin%s", name)
		}
	}
}

// remote is an identity provider and a DICOMweb server that takes its tokens.
type remote struct {
	*httptest.Server
	held chan struct{} // one value for each request that is left hanging
}

func newRemote(t *testing.T) *remote {
	r := &remote{held: make(chan struct{}, 16)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"canary-token","token_type":"Bearer","expires_in":3600}`)
	})
	mux.HandleFunc("/dicom-web/studies", func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer canary-token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/dicom+json")
		_, _ = io.WriteString(w, `[]`)
	})
	mux.HandleFunc("/dicom-web/hang", func(_ http.ResponseWriter, req *http.Request) {
		r.held <- struct{}{}
		<-req.Context().Done()
	})
	r.Server = httptest.NewServer(mux)
	t.Cleanup(r.Close)
	return r
}

// process is a real Orthanc.
type process struct {
	cmd  *exec.Cmd
	base string
	done chan struct{}
	mu   sync.Mutex
	log  bytes.Buffer
}

// Write keeps the log.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port
}

// launch starts Orthanc with a section for the plugin, in a folder of its own.
// Its environment names a proxy that does not answer.
func launch(t *testing.T, plugin string, oauth map[string]any) *process {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	conf, err := json.Marshal(map[string]any{
		"Name": "plugin-test", "HttpPort": port, "DicomPort": freePort(t), "RemoteAccessAllowed": false,
		"StorageDirectory": dir, "IndexDirectory": dir,
		"Plugins": []string{plugin, dicomWebPlugin}, // ours first: its registration meets the other's reload
		"DicomWeb": map[string]any{
			"Servers": map[string]any{"pacs": []string{"http://old.example/", "u", "canary-old"}},
			"OAuth":   oauth,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "orthanc.json")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{base: fmt.Sprintf("http://127.0.0.1:%d", port), done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), orthancBinary, file)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.Env = append(os.Environ(), "http_proxy=http://127.0.0.1:9", "NO_PROXY=example.org")
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the state is read from cmd.ProcessState
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Log(p.logged())
		}
	})
	return p
}

// call makes one request and returns status and body.
func (p *process) call(t *testing.T, method, path, body string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.base+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

// works says whether a DICOMweb query goes through Orthanc, the plugin and the
// token to the remote.
func (p *process) works(t *testing.T) error {
	status, body, err := p.call(t, http.MethodPost, "/dicom-web/servers/pacs/get", `{"Uri":"/studies"}`)
	if err != nil || status != http.StatusOK || strings.TrimSpace(body) != "[]" {
		return fmt.Errorf("query: %d %q, %w", status, body, err)
	}
	return nil
}

// reset restarts Orthanc inside its process and waits for the new life, which has
// another loopback port.
func (p *process) reset(t *testing.T) {
	t.Helper()
	_, before, err := p.call(t, http.MethodGet, "/dicom-web/servers?expand", "")
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := p.call(t, http.MethodPost, "/tools/reset", ""); err != nil || status != http.StatusOK {
		t.Fatalf("reset: %d, %v", status, err)
	}
	eventually(t, func() error {
		_, after, err := p.call(t, http.MethodGet, "/dicom-web/servers?expand", "")
		if err != nil || after == before || !strings.Contains(after, userPrefix) {
			return fmt.Errorf("not registered anew: %s, %w", after, err)
		}
		return nil
	})
}

// stops waits for the end of the process after SIGTERM, far below the hour that a
// hung transfer may take.
func (p *process) stops(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatal("Orthanc does not stop")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func section(r *remote) map[string]any {
	return map[string]any{"Servers": []any{map[string]any{
		"Name": "pacs", "Url": r.URL + "/dicom-web", "TokenEndpoint": r.URL + "/token",
		"ClientId": "orthanc", "ClientSecret": "canary-secret-of-some-length",
	}}}
}

func testLife(t *testing.T, plugin string) {
	r := newRemote(t)
	p := launch(t, plugin, section(r))
	eventually(t, func() error { return p.works(t) })
	for range 3 {
		p.reset(t)
		eventually(t, func() error { return p.works(t) })
	}
	testRoutes(t, p)

	hung := make(chan struct{})
	go func() {
		defer close(hung)
		_, _, _ = p.call(t, http.MethodPost, "/dicom-web/servers/pacs/get", `{"Uri":"/hang"}`) // cut by the stop
	}()
	<-r.held
	p.stops(t)
	<-hung
	if log := p.logged(); strings.Contains(log, "canary") {
		t.Error("a secret stands in Orthanc's log")
	} else if !strings.Contains(log, "OAuth server as well") {
		t.Error("the log does not say that a configured server was replaced")
	}
}

func testRoutes(t *testing.T, p *process) {
	for path, want := range map[string]int{
		"/dicomweb-oauth/live": 200, "/dicomweb-oauth/status": 200, "/plugins/oauth/status": 200,
		"/dicomweb-oauth/servers": 200, "/dicomweb-oauth/metrics": 200, "/plugins/oauth/metrics": 200,
		"/dicomweb-oauth/nothing": 404, "/dicomweb-oauth/servers/pacs/test": 405,
	} {
		status, body, err := p.call(t, http.MethodGet, path, "")
		if err != nil || status != want {
			t.Errorf("GET %s: %d, %v, want %d", path, status, err, want)
		}
		if strings.Contains(body, "canary") {
			t.Errorf("GET %s shows a secret", path)
		}
	}
	status, body, err := p.call(t, http.MethodPost, "/dicomweb-oauth/servers/pacs/test", "")
	if err != nil || status != http.StatusOK || !strings.Contains(body, `"token_acquired"`) {
		t.Errorf("test: %d %s, %v", status, body, err)
	}
	_, metrics, err := p.call(t, http.MethodGet, "/tools/metrics-prometheus", "")
	if err != nil || !strings.Contains(metrics, "orthanc_oauth_valid_tokens 1") {
		t.Errorf("Orthanc's own metrics lack our gauges (%v)", err)
	}
	_, plugins, err := p.call(t, http.MethodGet, "/plugins/dicomweb-oauth", "")
	if err != nil || !strings.Contains(plugins, `"dicomweb-oauth"`) {
		t.Errorf("plugin: %s, %v", plugins, err)
	}
}

func testBadConfiguration(t *testing.T, plugin string) {
	bad := section(newRemote(t))
	bad["Servres"] = bad["Servers"]
	delete(bad, "Servers")
	p := launch(t, plugin, bad)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatal("Orthanc has started on a bad configuration")
	}
	if p.cmd.ProcessState.ExitCode() == 0 {
		t.Error("exit code 0")
	}
	log := p.logged()
	if n := strings.Count(log, "dicomweb-oauth: "); n != 1 || !strings.Contains(log, "Servres") {
		t.Errorf("%d lines of ours, want one that names the key", n)
	}
	if strings.Contains(log, "canary") {
		t.Error("a secret stands in Orthanc's log")
	}
}

func TestLibrary(t *testing.T) {
	path := library(t)
	t.Run("exports the four functions", func(t *testing.T) { testExports(t, path) })
	t.Run("serves through resets until SIGTERM", func(t *testing.T) { testLife(t, path) })
	t.Run("refuses a bad configuration", func(t *testing.T) { testBadConfiguration(t, path) })
}
