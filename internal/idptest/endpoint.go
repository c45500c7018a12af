package idptest

import (
	"crypto/tls"
	"net/http"
	"sync/atomic"
)

// Endpoint is a provider's listener that can go down, or show a certificate that
// has expired, and recover.
type Endpoint struct {
	*Server
	expired atomic.Bool
}

// ListenEndpoint serves handler with the certificate of valid, and with that of
// expired while Expire says so. Without valid it speaks plain HTTP.
func ListenEndpoint(handler http.Handler, addr string, valid, expired *tls.Config) (*Endpoint, error) {
	e := &Endpoint{}
	opts := ServerOptions{Addr: addr}
	if valid != nil {
		opts.TLS = valid.Clone()
		opts.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if e.expired.Load() {
				return expired, nil
			}
			return nil, nil // valid
		}
	}
	var err error
	e.Server, err = Listen(handler, opts)
	return e, err
}

// Expire switches to the expired certificate, or back. Connections are cut: what
// was shaken hands on before says nothing of it.
func (e *Endpoint) Expire(expired bool) error {
	e.expired.Store(expired)
	e.Down()
	return e.Up()
}
