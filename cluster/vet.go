package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
)

// Bounds of a memberlist stream. A thousand members with full metadata take
// about 600 KB; memberlist allocates 150 bytes for every node a header claims,
// before it has seen one.
const (
	maxStream    = 1 << 20
	maxNodes     = 4096
	maxUserState = maxState + 1 // the delegate's, and our version byte
	maxSmall     = 4 << 10      // pings, acks and errors
	maxHeader    = 128          // a header has at most three short fields
)

// errStream is why a stream was refused before memberlist read it.
var errStream = errors.New("memberlist stream refused")

// vetConn lets memberlist read a stream only once its header has been found
// plausible, and no more of it than the bound of its kind.
type vetConn struct {
	net.Conn
	dialled bool            // we asked, so answers are allowed
	refused func(err error) // counts

	head   []byte // read and vetted, not yet handed on
	left   int    // bytes memberlist may still read, once vetted
	vetted bool
	err    error
}

// Read implements net.Conn. memberlist reads a connection in one goroutine.
func (c *vetConn) Read(p []byte) (int, error) {
	if !c.vetted && c.err == nil {
		c.err = c.vet()
	}
	if c.err != nil {
		return 0, c.err
	}
	if c.left <= 0 {
		c.err = fmt.Errorf("%w: longer than its kind may be", errStream)
		c.refused(c.err)
		return 0, c.err
	}
	p = p[:min(len(p), c.left)]
	n := copy(p, c.head)
	c.head = c.head[n:]
	var err error
	if n == 0 {
		n, err = c.Conn.Read(p)
	}
	c.left -= n
	return n, err
}

// vet reads until the header is whole or refused.
func (c *vetConn) vet() error {
	buf := make([]byte, maxHeader)
	have := 0
	for {
		n, err := c.Conn.Read(buf[have:])
		have += n
		if limit, ok, verr := vetHeader(buf[:have], c.dialled); verr != nil {
			c.refused(verr)
			return verr
		} else if ok {
			c.head, c.left, c.vetted = buf[:have], limit, true
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// vetHeader returns how long a stream that begins with b may be. It reports
// false while b is too short to tell. Both sides write the header as a map of
// named integers; whatever else the decoder would take is refused.
func vetHeader(b []byte, dialled bool) (limit int, ok bool, err error) {
	if len(b) == 0 {
		return 0, false, nil
	}
	switch kind := b[0]; {
	case kind == msgPing && !dialled, kind == msgAck && dialled, kind == msgError && dialled:
		return maxSmall, true, nil
	case kind == msgPushPull:
		ok, err = vetFields(b[1:], map[string]uint64{"Nodes": maxNodes, "UserStateLen": maxUserState, "Join": 1})
	case kind == msgUser && !dialled:
		ok, err = vetFields(b[1:], map[string]uint64{"UserMsgLen": maxUserState})
	default:
		return 0, false, fmt.Errorf("%w: message type %d", errStream, kind)
	}
	if err == nil && !ok && len(b) >= maxHeader {
		err = fmt.Errorf("%w: endless header", errStream)
	}
	return maxStream, ok, err
}

// vetFields checks a msgpack map of integers and booleans against the bound of
// each field, which it takes out of bounds.
func vetFields(b []byte, bounds map[string]uint64) (ok bool, err error) {
	r := reader{b: b}
	count := r.mapLen()
	if r.err == nil && count > len(bounds) {
		return false, fmt.Errorf("%w: %d fields in a header", errStream, count)
	}
	for range count {
		name, value := r.str(), r.number()
		if r.short || r.err != nil {
			break
		}
		bound, known := bounds[name]
		if !known || value > bound {
			return false, fmt.Errorf("%w: header field %.16q is %d", errStream, name, value)
		}
		delete(bounds, name) // the decoder would take the last of two
	}
	return r.err == nil && !r.short, r.err
}

// reader reads the little msgpack that headers are made of.
type reader struct {
	b     []byte
	short bool // b ended; more may come
	err   error
}

func (r *reader) next(n int) []byte {
	if r.err != nil || r.short || n > len(r.b) {
		r.short = r.short || r.err == nil
		return nil
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) fail(what string, tag byte) {
	r.err = fmt.Errorf("%w: %s expected, found %#x", errStream, what, tag)
}

func (r *reader) tag() (byte, bool) {
	b := r.next(1)
	if b == nil {
		return 0, false
	}
	return b[0], true
}

func (r *reader) mapLen() int {
	tag, ok := r.tag()
	if ok && tag&0xf0 != 0x80 {
		r.fail("a map", tag)
	}
	return int(tag & 0x0f)
}

func (r *reader) str() string {
	tag, ok := r.tag()
	if ok && tag&0xe0 != 0xa0 {
		r.fail("a short name", tag)
	}
	return string(r.next(int(tag & 0x1f)))
}

// number reads an unsigned integer, or a boolean as 0 or 1.
func (r *reader) number() uint64 {
	tag, ok := r.tag()
	if !ok {
		return 0
	}
	switch {
	case tag < 0x80:
		return uint64(tag)
	case tag == 0xc2, tag == 0xc3:
		return uint64(tag - 0xc2)
	case tag >= 0xcc && tag <= 0xcf, tag >= 0xd0 && tag <= 0xd3:
		return r.wide(1 << ((tag - 0xcc) & 3)) // a negative one reads as huge
	default:
		r.fail("a number", tag)
		return 0
	}
}

func (r *reader) wide(size int) uint64 {
	b := r.next(size)
	if b == nil {
		return 0
	}
	var wide [8]byte
	copy(wide[8-size:], b)
	return binary.BigEndian.Uint64(wide[:])
}
