package cluster

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// pack encodes as memberlist does.
func pack(t testing.TB, kind byte, v any) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{kind})
	if err := codec.NewEncoder(b, &codec.MsgpackHandle{}).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// memberlist's own headers, which it does not export.
type pushPullHeader struct {
	Nodes        int
	UserStateLen int
	Join         bool
}

type userHeader struct{ UserMsgLen int }

func TestVetHeader(t *testing.T) {
	tests := []struct {
		name    string
		in      []byte
		dialled bool
		ok      bool
	}{
		{"push/pull", pack(t, msgPushPull, pushPullHeader{50, 65536, true}), false, true},
		{"push/pull answer", pack(t, msgPushPull, pushPullHeader{50, 1, false}), true, true},
		{"a thousand nodes", pack(t, msgPushPull, pushPullHeader{1000, 200, false}), false, true},
		{"a million nodes", pack(t, msgPushPull, pushPullHeader{1 << 20, 0, true}), false, false},
		{"negative nodes", pack(t, msgPushPull, pushPullHeader{-1 << 40, 0, true}), false, false},
		{"20 MiB of state", pack(t, msgPushPull, pushPullHeader{1, 20 << 20, true}), false, false},
		{"user message", pack(t, msgUser, userHeader{100}), false, true},
		{"20 MiB of user message", pack(t, msgUser, userHeader{20 << 20}), false, false},
		{"user message as an answer", pack(t, msgUser, userHeader{100}), true, false},
		{"unknown field", pack(t, msgPushPull, map[string]int{"Nodez": 1}), false, false},
		{"a string for a number", pack(t, msgPushPull, map[string]string{"Nodes": "9"}), false, false},
		{"a list for a map", pack(t, msgPushPull, []int{1 << 20, 0, 1}), false, false},
		{"one field twice", []byte("\x06\x82\xa5Nodes\x01\xa5Nodes\xce\x00\x10\x00\x00"), false, false},
		{"ping", []byte{msgPing}, false, true},
		{"ack to nobody", []byte{msgAck}, false, false},
		{"ack", []byte{msgAck}, true, true},
		{"error", []byte{msgError}, true, true},
		{"compressed", []byte{9, 1, 2}, false, false},
		{"encrypted", []byte{10, 1, 2}, false, false},
		{"labelled", []byte{244, 1, 2}, false, false},
		{"endless name", append([]byte("\x06\x81\xbf"), make([]byte, maxHeader)...), false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, ok, err := vetHeader(tt.in, tt.dialled)
			if tt.ok != (ok && err == nil) {
				t.Fatalf("%x: ok %v, err %v", tt.in, ok, err)
			}
			if !tt.ok && !errors.Is(err, errStream) {
				t.Fatalf("%x: %v is not errStream", tt.in, err)
			}
		})
	}
}

// drip is a connection that gives one byte at a time.
type drip struct {
	net.Conn
	r io.Reader
}

func (d drip) Read(b []byte) (int, error) { return d.r.Read(b[:min(len(b), 1)]) }

func TestVetConn_HandsOnWhatItVettedAndNoMoreThanItsBound(t *testing.T) {
	header := pack(t, msgPushPull, pushPullHeader{Nodes: 2})
	body := strings.Repeat("x", 1000)
	ok := &vetConn{Conn: drip{r: strings.NewReader(string(header) + body)}}
	if got, err := io.ReadAll(ok); err != nil || string(got) != string(header)+body {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	refused := 0
	long := &vetConn{Conn: drip{r: io.MultiReader(bytes.NewReader(header), zeros{})}, refused: func(error) { refused++ }}
	if n, err := io.Copy(io.Discard, long); !errors.Is(err, errStream) || n > maxStream || refused != 1 {
		t.Fatalf("read %d bytes, %v, refused %d times", n, err, refused)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// A header of 67 bytes that claims a million nodes made memberlist allocate 3 GB.
func TestVetConn_RefusesAMillionNodesAtTheHeader(t *testing.T) {
	header := pack(t, msgPushPull, pushPullHeader{Nodes: 1 << 20, UserStateLen: 0, Join: true})
	header = append(header, make([]byte, 67-len(header))...)
	var why error
	c := &vetConn{Conn: drip{r: bytes.NewReader(header)}, refused: func(err error) { why = err }}
	if n, err := c.Read(make([]byte, 4096)); n != 0 || !errors.Is(err, errStream) || why == nil {
		t.Fatalf("read %d bytes, %v, counted %v", n, err, why)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errStream) {
		t.Fatalf("a second read: %v", err)
	}
}

func TestVetConn_PassesErrorsOfTheConnectionOn(t *testing.T) {
	c := &vetConn{Conn: drip{r: failing{}}, refused: func(error) { t.Error("counted as refused") }}
	if _, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

func FuzzVetHeader(f *testing.F) {
	f.Add(pack(f, msgPushPull, pushPullHeader{50, 65536, true}), false)
	f.Add(pack(f, msgPushPull, pushPullHeader{1 << 20, 1 << 30, true}), true)
	f.Add(pack(f, msgUser, userHeader{100}), false)
	f.Add([]byte{msgPing}, false)
	f.Fuzz(func(t *testing.T, b []byte, dialled bool) {
		_, ok, err := vetHeader(b, dialled)
		if !ok || err != nil || b[0] != msgPushPull {
			return
		}
		// What was let through must mean to memberlist what it meant to us.
		var h pushPullHeader
		if err := codec.NewDecoder(bytes.NewReader(b[1:]), &codec.MsgpackHandle{}).Decode(&h); err != nil {
			return // memberlist refuses it, too
		}
		if h.Nodes > maxNodes || h.UserStateLen > maxUserState {
			t.Fatalf("%x let through: %+v", b, h)
		}
	})
}
