package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// TransportConfig says how to reach one DICOMweb server. Zero durations mean the
// defaults.
type TransportConfig struct {
	SkipVerify bool   // VerifySSL false, or Orthanc's HttpsVerifyPeers false
	CAFile     string // PEM; VerifySSL's file, else Orthanc's HttpsCACertificates; empty: the system's
	Proxy      string // Orthanc's HttpProxy, "host:port" or a URL; empty: http_proxy, https_proxy and no_proxy of the environment

	ConnectTimeout time.Duration // TCP and TLS, each; 10 s
	HeaderTimeout  time.Duration // from the end of the request to the answer's header; 5 min: an archive may think about a query, or store what it was sent
}

// NewTransport returns a transport for one DICOMweb server. It speaks HTTP/1.1:
// one stream of a study a connection is faster than HTTP/2's windows and holds
// less memory.
func NewTransport(cfg TransportConfig) (*http.Transport, error) {
	tlsConfig, err := clientTLS(cfg)
	if err != nil {
		return nil, err
	}
	proxy, err := proxyFunc(cfg.Proxy)
	if err != nil {
		return nil, err
	}
	connect := orDefault(cfg.ConnectTimeout, 10*time.Second)
	dialer := &net.Dialer{Timeout: connect, KeepAliveConfig: keepAlive}
	return &http.Transport{
		Proxy: proxy,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			if tcp, ok := conn.(*net.TCPConn); ok {
				conn = newLifeline(tcp, silenceLimit)
			}
			return newLingerer(conn), nil
		},
		TLSClientConfig:       tlsConfig,
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:   connect,
		ResponseHeaderTimeout: orDefault(cfg.HeaderTimeout, 5*time.Minute),
		// Orthanc has 50 HTTP threads by default; one that finds no idle
		// connection pays a TLS handshake.
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true, // pixel data does not shrink, and lengths must survive
		MaxResponseHeaderBytes: 256 << 10,
	}, nil
}

// keepAlive finds out within 11 s that a kept connection leads nowhere: this host
// has another address since, or a firewall has forgotten the connection. The next
// request would be sent into it and wait for the whole HeaderTimeout. A remote
// that thinks about its answer answers the probes. lifeline looks after what is
// sent in those 11 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func clientTLS(cfg TransportConfig) (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		InsecureSkipVerify: cfg.SkipVerify, //nolint:gosec // the operator's VerifySSL false, warned about by config
	}
	if cfg.CAFile == "" || cfg.SkipVerify {
		return c, nil
	}
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read CA file: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s holds no PEM certificate", cfg.CAFile)
	}
	return c, nil
}

// proxyFunc follows libcurl: a configured proxy is for http and https alike, and
// no_proxy and loopback addresses are exempt.
func proxyFunc(configured string) (func(*http.Request) (*url.URL, error), error) {
	env := httpproxy.FromEnvironment()
	if configured != "" {
		if !strings.Contains(configured, "://") {
			configured = "http://" + configured
		}
		if u, err := url.Parse(configured); err != nil || u.Host == "" {
			// The value may hold a password: it stays out of the text.
			return nil, fmt.Errorf("proxy %w; expected host:port or http://user:password@host:port", errBadURL)
		}
		env = &httpproxy.Config{HTTPProxy: configured, HTTPSProxy: configured, NoProxy: env.NoProxy}
	}
	choose := env.ProxyFunc()
	return func(req *http.Request) (*url.URL, error) { return choose(req.URL) }, nil
}

// lingerTime is how long an answer may take to be read once writing has failed.
const lingerTime = 250 * time.Millisecond

// lingerer is a connection that reports a failed write a little later. A server
// that refuses an upload at its header answers and closes; net/http prefers the
// write error that follows to the 401 that is already in the receive buffer, and
// there would be nothing to replay for.
type lingerer struct {
	net.Conn
	closed context.Context
	close  context.CancelFunc
}

func newLingerer(conn net.Conn) *lingerer {
	closed, cancel := context.WithCancel(context.Background())
	return &lingerer{Conn: conn, closed: closed, close: cancel}
}

// Write implements net.Conn.
func (l *lingerer) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if err != nil && !errors.Is(err, errMoved) {
		t := time.NewTimer(lingerTime)
		defer t.Stop()
		select {
		case <-t.C:
		case <-l.closed.Done():
		}
	}
	return n, err
}

// Close implements net.Conn.
func (l *lingerer) Close() error {
	l.close()
	return l.Conn.Close()
}
