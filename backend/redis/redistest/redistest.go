// Package redistest runs real redis-server processes for tests, on loopback or a
// unix socket, each in a folder of its own.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// RequireReal is the environment variable that, when set to 1, turns a missing
// redis-server from a skip into a failure.
const RequireReal = "ORTHANC_OAUTH_REQUIRE_REAL"

// Server is one redis-server process. It ends with its test.
type Server struct {
	Addr   string // host:port
	Socket string // path of its unix socket

	t        testing.TB
	password string // what Do needs
	occupied []net.Conn
	binary   string
	dir      string
	args     []string
	mu       sync.Mutex
	cmd      *exec.Cmd
	out      bytes.Buffer
}

// Start runs a redis-server with the given configuration directives, e.g.
// "requirepass secret", and returns once it answers.
func Start(t testing.TB, directives ...string) *Server {
	t.Helper()
	s := Prepare(t, directives...)
	s.Run()
	return s
}

// Prepare is Start without starting: Addr and Socket are known, nobody listens.
func Prepare(t testing.TB, directives ...string) *Server {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv(RequireReal) == "1" {
			t.Fatalf("%s=1 and no redis-server: %v", RequireReal, err)
		}
		t.Skip("no redis-server installed (Debian package redis-server)")
	}
	dir, err := os.MkdirTemp("", "redis") //nolint:usetesting // a socket's path has 108 bytes, t.TempDir's is too long
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, binary: binary, dir: dir, Addr: freeAddr(t), Socket: filepath.Join(dir, "s")}
	_, port, _ := net.SplitHostPort(s.Addr)
	s.args = []string{"--port", port, "--bind", "127.0.0.1", "--unixsocket", s.Socket, "--dir", dir, "--save", "", "--daemonize", "no"}
	s.args = append(s.args, arguments(directives)...)
	s.password = s.Directive("requirepass")
	t.Cleanup(func() {
		s.Kill()
		_ = os.RemoveAll(dir)
	})
	return s
}

// arguments turns directives into a command line.
func arguments(directives []string) (args []string) {
	for _, d := range directives {
		name, value, _ := strings.Cut(d, " ")
		args = append(args, "--"+name)
		args = append(args, strings.Fields(value)...)
	}
	return args
}

// StartSentinel is Start for a redis-sentinel. Directives are lines of its
// configuration file, which it rewrites.
func StartSentinel(t testing.TB, lines ...string) *Server {
	t.Helper()
	s := Prepare(t)
	file := filepath.Join(s.dir, "sentinel.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	s.args = []string{file, "--sentinel", "--port", port, "--bind", "127.0.0.1", "--unixsocket", s.Socket, "--dir", s.dir}
	s.Run()
	return s
}

// FreePort returns a loopback port that nobody listens on.
func FreePort(t testing.TB) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(freeAddr(t))
	return port
}

// Directive returns what a directive was set to at Start.
func (s *Server) Directive(name string) string {
	if i := slices.Index(s.args, "--"+name); i >= 0 {
		return s.args[i+1]
	}
	return ""
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Run starts the process, for the first time or again on the same address, and
// waits until it answers. What it held before is gone, unless directives or SAVE
// say otherwise.
func (s *Server) Run() {
	s.t.Helper()
	s.launch()
	deadline := time.Now().Add(10 * time.Second)
	for answer := ""; !strings.HasPrefix(answer, "+") && !strings.HasPrefix(answer, "-NOAUTH"); answer = s.ping() {
		if time.Now().After(deadline) {
			s.Kill()
			s.t.Fatalf("redis-server does not answer (%q): %s", answer, s.out.String())
		}
		<-time.After(10 * time.Millisecond)
	}
}

// RunLoading is Run for a server that has much to load, and returns as soon as it
// says so.
func (s *Server) RunLoading(directives ...string) {
	s.t.Helper()
	s.args = append(s.args, arguments(directives)...)
	s.launch()
	for deadline := time.Now().Add(10 * time.Second); !strings.HasPrefix(s.ping(), "-LOADING"); {
		if time.Now().After(deadline) {
			s.t.Fatalf("redis-server does not load: %s", s.out.String())
		}
	}
}

// launch starts the process.
func (s *Server) launch() {
	s.t.Helper()
	cmd := exec.CommandContext(context.Background(), s.binary, s.args...) // ended by Kill
	cmd.Stdout, cmd.Stderr = &s.out, &s.out
	// It must not outlive a test process that was killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.cmd = cmd
	s.mu.Unlock()
}

// ping returns what the server answers to a PING, or nothing.
func (s *Server) ping() string {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(s.t.Context(), "unix", s.Socket)
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return ""
	}
	b := make([]byte, 64)
	n, _ := conn.Read(b)
	return string(b[:n])
}

// Kill ends the process at once, as kill -9 does.
func (s *Server) Kill() {
	s.mu.Lock()
	cmd := s.cmd
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// Hang stops the process without ending it; Resume lets it go on.
func (s *Server) Hang() { s.signal(syscall.SIGSTOP) }

// Resume ends a Hang.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		s.t.Fatal("redis-server does not run")
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Stored returns everything that the server has written to its folder: RDB and
// AOF.
func (s *Server) Stored() []byte {
	s.t.Helper()
	var all []byte
	err := filepath.WalkDir(s.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		all = append(all, content...)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// Monitor records every command that the server carries out until stop, which
// returns them.
func (s *Server) Monitor() (stop func() string) {
	s.t.Helper()
	conn, err := new(net.Dialer).DialContext(s.t.Context(), "unix", s.Socket)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, args := range s.authenticated([]string{"MONITOR"}) {
		if _, err := ask(conn, args); err != nil {
			s.t.Fatal(err)
		}
	}
	var seen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&seen, conn) // ends with the connection
	}()
	return func() string {
		_ = conn.Close()
		<-done
		return seen.String()
	}
}

// FailSnapshots makes the server unable to write its snapshot, so that it
// refuses writes (MISCONF).
func (s *Server) FailSnapshots() {
	s.t.Helper()
	s.Do("CONFIG", "SET", "save", "3600 1")
	if err := os.Mkdir(filepath.Join(s.dir, "dump.rdb"), 0o700); err != nil { // no file can take its place
		s.t.Fatal(err)
	}
	s.Do("BGSAVE")
	s.await("rdb_last_bgsave_status:err", "INFO", "persistence")
}

// Occupy makes the server accept n connections at most, and holds those until
// Vacate.
func (s *Server) Occupy(n int) {
	s.t.Helper()
	s.Do("CONFIG", "SET", "maxclients", strconv.Itoa(n))
	// The connection of that command counts until the server has noticed its end,
	// and one of these is turned away instead, so that a place would stay free.
	for deadline := time.Now().Add(10 * time.Second); len(s.occupied) < n; {
		conn, err := new(net.Dialer).DialContext(s.t.Context(), "unix", s.Socket)
		if err != nil {
			s.t.Fatal(err)
		}
		if answer, err := ask(conn, []string{"PING"}); err == nil && answer == "PONG" {
			s.occupied = append(s.occupied, conn)
			continue
		}
		_ = conn.Close()
		if time.Now().After(deadline) {
			s.t.Fatalf("only %d of %d places can be taken", len(s.occupied), n)
		}
	}
}

// Vacate ends an Occupy.
func (s *Server) Vacate() {
	s.t.Helper()
	for _, c := range s.occupied {
		_ = c.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); s.ping() != "+PONG\r\n"; {
		if time.Now().After(deadline) {
			s.t.Fatal("connections do not end")
		}
		<-time.After(10 * time.Millisecond)
	}
	s.Do("CONFIG", "SET", "maxclients", "1000")
}

// Do sends one command over a connection of its own and returns the first line
// of the answer, or the string it holds. It needs no client library, so that
// what the library does cannot hide anything.
func (s *Server) Do(args ...string) string {
	s.t.Helper()
	out, err := s.do(s.t.Context(), s.authenticated(args)...)
	if err != nil {
		s.t.Fatalf("redis %s: %v", args[0], err)
	}
	return out
}

// authenticated puts before a command what it needs.
func (s *Server) authenticated(command []string) [][]string {
	if s.password == "" {
		return [][]string{command}
	}
	return [][]string{{"AUTH", s.password}, command}
}

// do sends commands and returns the answer to the last.
func (s *Server) do(ctx context.Context, commands ...[]string) (answer string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", s.Socket)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	for _, args := range commands {
		if answer, err = ask(conn, args); err != nil {
			return "", err
		}
	}
	return answer, nil
}

func ask(conn net.Conn, args []string) (string, error) {
	if _, err := conn.Write(command(args)); err != nil {
		return "", err
	}
	return reply(conn)
}

func command(args []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.Bytes()
}

// reply reads a simple answer: a status, an error, an integer or a string.
func reply(conn net.Conn) (string, error) {
	var b bytes.Buffer
	chunk := make([]byte, 64<<10)
	for {
		n, err := conn.Read(chunk)
		if err != nil {
			return "", err
		}
		b.Write(chunk[:n])
		line, rest, ok := strings.Cut(b.String(), "\r\n")
		if !ok {
			continue
		}
		size, isString := strings.CutPrefix(line, "$")
		if !isString {
			return line[1:], nil
		}
		want, err := strconv.Atoi(size)
		if err != nil || want < 0 {
			return "", err
		}
		if len(rest) >= want+2 {
			return rest[:want], nil
		}
	}
}
