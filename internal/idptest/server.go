package idptest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server is a handler on a loopback port.
type Server struct {
	// URL is the base, without a slash at its end.
	URL string

	handler http.Handler
	tls     *tls.Config
	addr    string

	mu   sync.Mutex
	http *http.Server
	done chan struct{}
}

// ServerOptions configures Listen.
type ServerOptions struct {
	Addr string      // default "127.0.0.1:0"
	TLS  *tls.Config // for example CA.Server; nil: plain HTTP
}

// Listen serves handler until Close.
func Listen(handler http.Handler, opts ServerOptions) (*Server, error) {
	s := &Server{handler: handler, tls: opts.TLS, addr: orText(opts.Addr, "127.0.0.1:0")}
	if err := s.Up(); err != nil {
		return nil, err
	}
	scheme := "http://"
	if s.tls != nil {
		scheme = "https://"
	}
	s.URL = scheme + s.addr
	return s, nil
}

// Up listens again, on the same port, after Down.
func (s *Server) Up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", s.addr, err)
	}
	s.addr = l.Addr().String()
	if s.tls != nil {
		l = tls.NewListener(l, s.tls)
	}
	// HTTP/2 off: a scripted reset needs the connection to itself.
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	done := make(chan struct{})
	s.http, s.done = srv, done
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Down, the only reason it can
	}()
	return nil
}

// Down stops listening and cuts every connection: a server that has crashed.
func (s *Server) Down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return
	}
	_ = s.http.Close()
	<-s.done
	s.http = nil
}

// Close is Down.
func (s *Server) Close() { s.Down() }
