package demo

import (
	"context"
	"fmt"
	"os"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// idpLatency is how long the identity provider takes: what real ones take, so
// that a send that had to wait for it would show.
const idpLatency = 150 * time.Millisecond

// Tokens live as short as the story's pace allows: renewed after about two
// thirds of that, they must not roll over before the step that shows it. How
// long the first step took tells how fast this machine is.
const (
	minLifetime = 30 * time.Second
	maxLifetime = 60 * time.Second
)

func lifetime(firstStep time.Duration) time.Duration {
	return min(max(24*time.Second+3*firstStep, minLifetime), maxLifetime).Round(time.Second)
}

// prepare starts the outside world: the remote, its gate, the identity provider,
// and Redis where it is asked for.
func (s *story) prepare(ctx context.Context, tools fleet.Tools) error {
	cast, err := s.pick(tools)
	if err != nil {
		return err
	}
	s.cast = cast
	s.say("", "orthanc-oauth demo: backend %s, %s processes on loopback, logs in %s", s.opts.Backend, cast.noun(), s.fleet.Dir())
	client := idptest.Client{ID: "radiology", Secrets: []string{newSecret()}, Scopes: []string{"dicom"}}
	x := fixture{backend: s.opts.Backend, client: client, gossipSecret: newSecret(), ports: make(map[string]int)}
	if x.token, x.url, err = s.openWorld(ctx, client); err != nil {
		return err
	}
	if x.secretFile, err = s.fleet.WriteFile("client-secret", []byte(client.Secrets[0])); err != nil {
		return err
	}
	for _, name := range cast.names() {
		if x.ports[name], err = s.fleet.Port(); err != nil {
			return err
		}
	}
	if s.opts.Backend == redisBackend {
		if x.redis, err = s.fleet.Redis(ctx, tools, "redis"); err != nil {
			return err
		}
		s.say("redis", "up, pid %d", x.redis.Pid)
	}
	s.fixture = x
	return nil
}

func (s *story) pick(tools fleet.Tools) (cast, error) {
	if s.opts.Orthanc {
		return newOrthancs(s.fleet, tools, s.opts.Plugin)
	}
	binary := s.opts.Binary
	if binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		binary = self
	}
	return newSidecars(s.fleet, binary), nil
}

// openWorld starts the remote behind its gate, and the identity provider. It
// returns the token endpoint and the URL of the remote.
func (s *story) openWorld(ctx context.Context, client idptest.Client) (token, remote string, err error) {
	gate, err := s.cast.remote(ctx)
	if err != nil {
		return "", "", err
	}
	s.idp = idptest.New(idptest.Options{Clients: []idptest.Client{client}})
	s.setLifetime(maxLifetime)
	gate.State = s.idp.State
	s.gate = idptest.NewGate(gate)
	front, err := idptest.Listen(s.gate, idptest.ServerOptions{})
	if err != nil {
		return "", "", err
	}
	issuer, err := idptest.Listen(s.idp, idptest.ServerOptions{})
	if err != nil {
		front.Close()
		return "", "", err
	}
	s.close = func() { issuer.Close(); front.Close(); s.gate.Close() }
	s.say("remote", "a DICOMweb server behind a gate that wants a live bearer token")
	s.say("idp", "issues tokens to client %q, takes %v, and counts", client.ID, idpLatency)
	return issuer.URL + "/token", front.URL + "/dicom-web/", nil
}

func (s *story) setLifetime(life time.Duration) {
	s.idp.Always(idptest.Answer{Delay: idpLatency, Lifetime: life})
}
