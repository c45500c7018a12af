package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"orthanc-oauth/internal/fleet"
)

// monitor sees every command that a Redis carries out.
type monitor struct {
	redis    *fleet.Redis
	password string

	mu  sync.Mutex
	log []byte
}

// newMonitor watches until the test ends. Redis itself hides passwords in AUTH.
func newMonitor(t *testing.T, redis *fleet.Redis, password string) *monitor {
	t.Helper()
	m := &monitor{redis: redis, password: password}
	conn, in := m.dial(t)
	tell(t, conn, in, "MONITOR")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			line, err := in.ReadBytes('\n')
			m.mu.Lock()
			m.log = append(m.log, line...)
			m.mu.Unlock()
			if err != nil {
				return // closed below
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return m
}

func (m *monitor) dial(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", m.redis.Addr())
	must(t, err)
	in := bufio.NewReader(conn)
	tell(t, conn, in, "AUTH "+m.password)
	return conn, in
}

// tell sends one inline command that is answered by one line.
func tell(t *testing.T, conn net.Conn, in *bufio.Reader, command string) {
	t.Helper()
	_, err := fmt.Fprintf(conn, "%s\r\n", command)
	must(t, err)
	line, err := in.ReadString('\n')
	must(t, err)
	if !strings.HasPrefix(line, "+OK") {
		t.Fatalf("redis answers %q to %.7s", line, command)
	}
}

// seen returns the commands so far.
func (m *monitor) seen() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]byte(nil), m.log...)
}

// dump has Redis write its data to a file and returns that, without the
// compression that would hide a canary. An entry of ours must be in it.
func (m *monitor) dump(t *testing.T, file string) (raw []byte) {
	t.Helper()
	conn, in := m.dial(t)
	defer func() { _ = conn.Close() }()
	tell(t, conn, in, "CONFIG SET rdbcompression no")
	tell(t, conn, in, "SAVE")
	eventually(t, func(context.Context) (err error) {
		if raw, err = os.ReadFile(file); err == nil && !strings.Contains(string(raw), "orthanc:oauth:") {
			err = fmt.Errorf("no entry of ours in %d bytes", len(raw))
		}
		return err
	})
	return raw
}
