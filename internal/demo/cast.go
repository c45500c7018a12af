package demo

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync/atomic"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// The values of CacheBackend.
const (
	gossipBackend = "gossip"
	redisBackend  = "redis"
	memoryBackend = "memory"
)

// archive is the name that every instance gives to the remote server.
const archive = "archive"

// cast is who plays the story.
type cast interface {
	// noun is what an instance is called, names how they are.
	noun() string
	names() []string
	// remote starts the DICOMweb server and tells a gate how to reach it.
	remote(ctx context.Context) (idptest.GateConfig, error)
	// start starts an instance with an OAuth section.
	start(ctx context.Context, name string, section map[string]any) (instance, error)
	// studies are what is sent, at least one for each name.
	studies() []fleet.Study
}

// instance is one running node and the three things it does with the remote.
type instance interface {
	pid() int
	kill() // SIGKILL, and wait for the end
	admin() fleet.Client
	// ready returns an error until requests can be sent.
	ready(ctx context.Context) error
	send(ctx context.Context, study fleet.Study) error
	// retrieve gets a study and returns how many of its instances came.
	retrieve(ctx context.Context, study fleet.Study) (int, error)
	// query returns how many studies of this UID the remote knows.
	query(ctx context.Context, study fleet.Study) (int, error)
}

// member is an instance and what the story knows of it.
type member struct {
	instance
	name  string
	study fleet.Study
	sends atomic.Int64
	last  counters // as of its last look; all that is left of one that was killed
	lost  bool
}

// transmit sends the member's study and counts it.
func (m *member) transmit(ctx context.Context) error {
	if err := m.send(ctx, m.study); err != nil {
		return fmt.Errorf("%s sends: %w", m.name, err)
	}
	m.sends.Add(1)
	return nil
}

// fixture is what all sections have in common.
type fixture struct {
	backend      string
	token, url   string // token endpoint, and the remote's URL
	client       idptest.Client
	secretFile   string
	gossipSecret string
	ports        map[string]int
	redis        *fleet.Redis
}

// section is the OAuth section of an instance. It is all that the operator
// writes.
func (x fixture) section(name string) map[string]any {
	section := map[string]any{
		"CacheBackend": x.backend,
		"Servers": map[string]any{archive: map[string]any{
			"Url":              x.url,
			"TokenEndpoint":    x.token,
			"ClientId":         x.client.ID,
			"ClientSecretFile": x.secretFile,
			"Scope":            "dicom",
		}},
	}
	switch x.backend {
	case gossipBackend:
		section["Gossip"] = x.gossip(name)
	case redisBackend:
		section["Redis"] = map[string]any{"Host": x.redis.Host, "Port": x.redis.Port}
	}
	return section
}

func (x fixture) gossip(name string) map[string]any {
	peers := make([]string, 0, len(x.ports))
	for _, port := range x.ports {
		peers = append(peers, "127.0.0.1:"+strconv.Itoa(port))
	}
	return map[string]any{
		"Name":      name,
		"BindAddr":  "127.0.0.1",
		"BindPort":  x.ports[name],
		"Peers":     peers, // the same list on every instance, itself included
		"SecretKey": x.gossipSecret,
	}
}

// newSecret returns 32 random bytes in base64, as keygen does.
func newSecret() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

// newPassword returns a random word for one telling.
func newPassword() string {
	var b [12]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
