package proxy

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTransport_ProbesKeptConnections: chaos/containers found transfers that were
// sent into connections of an address that the host no longer had, and waited.
func TestTransport_ProbesKeptConnections(t *testing.T) {
	remote := httptest.NewServer(http.NotFoundHandler())
	defer remote.Close()
	transport, err := NewTransport(TransportConfig{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := transport.DialContext(t.Context(), "tcp", remote.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line, ok := conn.(*lingerer).Conn.(*lifeline)
	if !ok {
		t.Fatalf("%T is no lingerer of a lifeline", conn)
	}
	raw, err := line.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	options := map[string]int{}
	err = raw.Control(func(fd uintptr) {
		for name, option := range map[string]int{"idle": unix.TCP_KEEPIDLE, "interval": unix.TCP_KEEPINTVL, "count": unix.TCP_KEEPCNT} {
			options[name], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) // 0 fails below
		}
		options["on"], _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	})
	if err != nil {
		t.Fatal(err)
	}
	seconds := options["idle"] + options["interval"]*options["count"]
	if options["on"] == 0 || options["idle"] == 0 || seconds > 15 {
		t.Errorf("a dead connection is found out after %d s: %v", seconds, options)
	}
	// What is sent again must not meet another connection of the same dead path.
	if line.limit <= time.Duration(seconds)*time.Second {
		t.Errorf("a connection in use is given up after %v, idle ones later: %d s", line.limit, seconds)
	}
}
