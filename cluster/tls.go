package cluster

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"time"
)

// The two protocols behind one port. The version is part of the name, so that
// another generation of either can live beside it.
const (
	alpnGossip = "orthanc-oauth-gossip/1"
	alpnHTTP   = "http/1.1"
)

// Timeouts of making a connection. Three seconds are three round trips of the
// longest links supported (faults.md 15).
const (
	handshakeTimeout = 3 * time.Second
	dialTimeout      = 5 * time.Second
)

var (
	// errProtocol says that a client offered no protocol of ours: TLS itself
	// lets a client through that offers none at all.
	errProtocol = errors.New("no common protocol")

	// errOther says that another instance answered at a member's address: the
	// one we knew is gone.
	errOther = errors.New("another instance answered at this address")

	// errSelf says that an address turned out to be our own.
	errSelf = errors.New("this instance answered itself")
)

// serverTLS returns what the listener speaks. Everything that rotates is read
// from sec at each handshake.
func serverTLS(sec func() *security) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpnGossip, alpnHTTP},
		ClientAuth:             tls.RequireAnyClientCert, // verified below, at an instant of ours
		SessionTicketsDisabled: true,                     // a resumed session would outlive its key's removal
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &sec().leaf, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != alpnGossip && cs.NegotiatedProtocol != alpnHTTP {
				return errProtocol
			}
			return sec().verify(cs.PeerCertificates, x509.ExtKeyUsageClientAuth)
		},
	}
}

// clientTLS returns what a dial of one protocol speaks. Which instance answered
// is for expect to check once the handshake is done: an alert in the midst of it
// would tell the other side that its key is wrong.
func clientTLS(sec *security, protocol string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{protocol},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does more: the chain at our instant
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &sec.leaf, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != protocol {
				return errProtocol
			}
			return sec.verify(cs.PeerCertificates, x509.ExtKeyUsageServerAuth)
		},
	}
}

// expect checks that want answered, or anybody where that is empty, and never
// self. It does so where leaves tell: with an operator's PKI the
// requests' Host and the streams' preface do.
func (s *security) expect(leaf *x509.Certificate, want, self string) error {
	if !s.derived {
		return nil
	}
	switch id := leaf.Subject.CommonName; {
	case id == self:
		return errSelf
	case want != "" && id != want:
		return fmt.Errorf("%w: %s, not %s", errOther, id, want)
	default:
		return nil
	}
}

// holder names who a connection belongs to, for bounds: the instance where the
// leaf tells, else the certificate and address.
func (s *security) holder(c *tls.Conn) string {
	leaf := c.ConnectionState().PeerCertificates[0]
	if s.derived {
		return leaf.Subject.CommonName
	}
	sum := sha256.Sum256(leaf.Raw)
	return hex.EncodeToString(sum[:8]) + "@" + addrPort(c.RemoteAddr()).Addr().String()
}

// handshake completes a handshake within its time, or closes the connection.
func handshake(ctx context.Context, c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		_ = c.NetConn().Close() // no alert: tls has sent it, and Close would wait for a stranger
		return err
	}
	return nil
}

// refusal says in one word why a connection came to nothing, for metrics.
func refusal(err error) string {
	var op *net.OpError
	var ne net.Error
	switch {
	case errors.Is(err, errKey):
		return refusedKey
	case errors.As(err, &op) && op.Op == "remote error":
		return refusedKey // an alert: the other side did not trust ours
	case errors.Is(err, errSelf), errors.Is(err, errOther):
		return refusedInstance
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return refusedTimeout
	default:
		return refusedProtocol
	}
}
