package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// Bounds of peers' requests (protocol.md, Membership, Bounds).
const (
	MaxBody = 96 << 10 // bytes of a request's or an answer's body

	maxRequestHeader = 8 << 10
	headerSlop       = 4 << 10 // net/http adds it to what it is told

	idleClient = 2 * time.Minute // less than the server's, so that the client decides
	idleServer = 3 * time.Minute
)

const (
	pathPing     = "/orthanc-oauth/ping"
	headerSender = "Orthanc-Oauth-From" // instance id; proof of it is the leaf's where that tells
)

type contextKey int

const (
	keyPeer contextKey = iota // Member, of a request's sender
	keyDial                   // netip.AddrPort, of a request's receiver
	keyWire                   // *tls.Conn, under a request
)

// PeerFrom returns who sent a request that the cluster's Handler serves.
func PeerFrom(ctx context.Context) (Member, bool) {
	m, ok := ctx.Value(keyPeer).(Member)
	return m, ok
}

// newServer returns the server of the peers' requests.
func (c *Cluster) newServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           http.HandlerFunc(c.serve),
		Protocols:         protocols,
		ReadHeaderTimeout: handshakeTimeout,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // longer than the longest wait for a flight
		IdleTimeout:       idleServer,
		MaxHeaderBytes:    maxRequestHeader - headerSlop,
		ErrorLog:          newChatter(c.log),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, keyWire, conn)
		},
	}
}

// serve checks who asks and whether we are who is asked, then lets the Handler answer.
func (c *Cluster) serve(w http.ResponseWriter, r *http.Request) {
	conn, _ := r.Context().Value(keyWire).(*tls.Conn)
	if conn == nil || r.Host != c.Self().ID {
		// A restarted node has the address of the one that was meant.
		http.Error(w, "another instance", http.StatusMisdirectedRequest)
		return
	}
	if wire, ok := conn.NetConn().(*wire); ok && wire.epoch != c.transport.sec.Load().epoch {
		w.Header().Set("Connection", "close") // made under another state of the ring
	}
	if r.URL.Path == pathPing {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	defer c.survive(w, r)
	c.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), keyPeer, c.sender(conn, r))))
}

// survive is deferred around the Handler. Breaking an answer off on purpose is
// left to net/http, which recovers from it.
func (c *Cluster) survive(w http.ResponseWriter, r *http.Request) {
	switch p := recover(); p {
	case nil:
	case http.ErrAbortHandler:
		panic(p)
	default:
		c.log.Error("panic while answering a peer", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// sender returns the member at the other end: as the leaf says, or with an
// operator's certificates as it says itself.
func (c *Cluster) sender(conn *tls.Conn, r *http.Request) Member {
	id := r.Header.Get(headerSender)
	if leaf := conn.ConnectionState().PeerCertificates[0]; c.transport.sec.Load().derived {
		id = leaf.Subject.CommonName
	}
	if m, ok := c.snap.Load().byID[id]; ok {
		return m
	}
	return Member{ID: id, Addr: addrPort(conn.RemoteAddr())} // gossip has not told us yet
}

// newClient returns the client of one state of the ring. A rotation makes
// another: no request then meets a connection that is about to be closed.
func (c *Cluster) newClient() *http.Transport {
	return &http.Transport{
		DialTLSContext:         c.dialMember,
		MaxConnsPerHost:        maxPerPeer,
		MaxIdleConnsPerHost:    2, // one in use is the rule
		IdleConnTimeout:        idleClient,
		MaxResponseHeaderBytes: maxRequestHeader,
		DisableCompression:     true,
	}
}

// dialMember opens a connection to the instance that is the host of the URL.
func (c *Cluster) dialMember(ctx context.Context, _, hostPort string) (net.Conn, error) {
	id, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	addr, _ := ctx.Value(keyDial).(netip.AddrPort)
	if m, ok := c.snap.Load().byID[id]; ok {
		addr = m.Addr
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	started := time.Now()
	conn, err := c.transport.dial(ctx, addr, alpnHTTP, id)
	if err != nil {
		return nil, err // not the nil *tls.Conn
	}
	// TCP and TLS 1.3 take one round trip each: before the first ping, the only
	// hint that a link is slow.
	c.gossip.rtt.first(id, time.Since(started)/2)
	return conn, nil
}

// Do sends a request to a member over mutual TLS; of the URL only path and query
// count. The answer comes from that very instance or not at all. A request with
// GetBody is sent again where a kept connection turns out dead. The time until
// the first sign of an answer is taken for a round trip: a Handler that has to
// think says 102 first.
func (c *Cluster) Do(req *http.Request, to Member) (*http.Response, error) {
	self := c.Self().ID
	if to.ID == self {
		return nil, fmt.Errorf("request to %s: %w", to.ID, errSelf)
	}
	if !validID(to.ID) {
		return nil, fmt.Errorf("request to %q: no instance id", to.ID)
	}
	ctx := context.WithValue(req.Context(), keyDial, to.Addr)
	r := req.Clone(c.timed(ctx, to.ID))
	r.URL.Scheme, r.URL.Host, r.Host = "https", to.ID, to.ID
	r.Header.Set(headerSender, self)
	// Present and empty: net/http then replays a POST, and sends no header.
	r.Header["Idempotency-Key"] = nil
	resp, err := c.client.Load().RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", to.ID, err)
	}
	if resp.StatusCode == http.StatusMisdirectedRequest {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("request to %s: %w", to.ID, errOther)
	}
	resp.Body = &boundedBody{resp.Body, MaxBody}
	return resp, nil
}

// timed takes the round trip of a request into RTT. memberlist's own pings find
// none above its probe timeout. The hooks run on net/http's goroutines.
func (c *Cluster) timed(ctx context.Context, id string) context.Context {
	var sent atomic.Pointer[time.Time]
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			now := time.Now()
			sent.Store(&now)
		},
		GotFirstResponseByte: func() {
			if at := sent.Swap(nil); at != nil {
				c.gossip.rtt.add(id, time.Since(*at))
			}
		},
	})
}

var errBody = errors.New("answer is too long")

// boundedBody fails where an answer is longer than agreed.
type boundedBody struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errBody
	}
	return n, err
}

// Ping asks a member for a sign of life, over the connection that requests take.
func (c *Cluster) Ping(ctx context.Context, to Member) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+idPlaceholder+pathPing, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req, to)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("ping %s: status %d", to.ID, resp.StatusCode)
	}
	return nil
}

// idPlaceholder stands where Do puts the instance.
const idPlaceholder = "member"
