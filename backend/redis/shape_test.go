package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis"
	"orthanc-oauth/backend/redis/redistest"
)

// leastACL is what an ACL user needs, and nothing else.
var leastACL = []string{
	"ACL", "SETUSER", "oauth", "on", ">canary", "resetkeys", "~" + prefix + "*", "resetchannels", "&" + prefix + "*",
	"-@all", "+evalsha", "+eval", "+get", "+set", "+del", "+strlen", "+pttl", "+pexpire", "+time",
	"+scan", "+getrange", "+unlink", "+publish", "+subscribe", "+ping",
}

// clusterACL is what a cluster needs besides: who has which slots.
var clusterACL = []string{"+cluster|slots"}

// everything uses each operation once.
func everything(t *testing.T, m *redis.Redis) {
	t.Helper()
	p := &idp{}
	e := must(t, m, backend.Stamp{}, p.fill)
	e = must(t, m, e.Stamp, p.fill)
	if err := m.Revoke(t.Context(), key, e.ID); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	e = must(t, m, e.Stamp, p.fill)
	p.asked(t, 3)
	if err := m.Confirm(t.Context(), key, e.ID); err != nil {
		t.Fatalf("confirm: %v", err)
	}
	if existed, err := m.Delete(t.Context(), key); !existed || err != nil {
		t.Fatalf("delete: %v, %v", existed, err)
	}
	if err := m.Set(t.Context(), key, []byte("x"), life); err != nil {
		t.Fatalf("set: %v", err)
	}
	if err := m.Clear(t.Context()); err != nil {
		t.Fatalf("clear: %v", err)
	}
	if ok, err := m.Exists(t.Context(), key); ok || err != nil {
		t.Fatalf("exists after clear: %v, %v", ok, err)
	}
	if ok, reason, _ := m.State(); !ok {
		t.Fatalf("redis counts as %s", reason)
	}
}

func TestShape_LeastACLIsEnough(t *testing.T) {
	s := redistest.Start(t)
	s.Do(leastACL...)
	s.Do("ACL", "SETUSER", "default", "off")
	cfg := on(s)
	cfg.Options.Username, cfg.Options.Password = "oauth", "canary"
	m := member(t, cfg)
	everything(t, m)
}

func TestShape_CredentialsAreAskedForAtEachConnection(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "oauth", "on", ">first", "~*", "&*", "+@all")
	password := filepath.Join(t.TempDir(), "password")
	write(t, password, "first")
	cfg := on(s)
	cfg.Options.Credentials = func(context.Context) (string, string, error) {
		b, err := os.ReadFile(password)
		return "oauth", string(b), err
	}
	m := member(t, cfg)
	everything(t, m)
	s.Do("ACL", "SETUSER", "oauth", "resetpass", ">second")
	write(t, password, "second")
	s.Do("CLIENT", "KILL", "USER", "oauth")
	everything(t, m)
}

// The password changes in its file; the server says so at no connection that is
// open, so the connections themselves must have authenticated again.
func TestShape_LiveConnectionsAuthenticateAgain(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "first", "on", ">canary", "~*", "&*", "+@all")
	s.Do("ACL", "SETUSER", "second", "on", ">canary", "~*", "&*", "+@all")
	user := filepath.Join(t.TempDir(), "user")
	write(t, user, "first")
	cfg := on(s)
	cfg.Options.CredentialsEvery = 20 * time.Millisecond
	cfg.Options.Credentials = func(context.Context) (string, string, error) {
		b, err := os.ReadFile(user)
		return string(b), "canary", err
	}
	m := member(t, cfg)
	must(t, m, backend.Stamp{}, (&idp{}).fill)
	before := connectionsOf(s, "first")
	if len(before) == 0 {
		t.Fatal("no connection")
	}
	write(t, user, "second")
	// One pooled connection at least is used from here on; it must be an old one.
	eventually(t, func() error {
		must(t, m, backend.Stamp{}, (&idp{}).fill)
		for id := range connectionsOf(s, "second") {
			if before[id] {
				return nil
			}
		}
		return errors.New(s.Do("CLIENT", "LIST"))
	})
}

// connectionsOf returns the ids of a user's connections.
func connectionsOf(s *redistest.Server, user string) map[string]bool {
	ids := make(map[string]bool)
	for line := range strings.Lines(s.Do("CLIENT", "LIST")) {
		if id, _, ok := strings.Cut(line, " "); ok && strings.Contains(line, " user="+user+" ") {
			ids[id] = true
		}
	}
	return ids
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestShape_TLSWithPrivateCAClientCertificateAndServerName(t *testing.T) {
	a := redistest.NewAuthority(t)
	port := redistest.FreePort(t)
	redistest.Start(t, "tls-port "+port, "tls-cert-file "+a.Cert, "tls-key-file "+a.Key, "tls-ca-cert-file "+a.CA)
	cfg := patient(redis.Config{Prefix: prefix, Options: redis.Options{
		URL:    redis.Secret("rediss://" + net.JoinHostPort("127.0.0.1", port)),
		CAFile: filepath.Join(t.TempDir(), "bundle"), CertFile: a.Cert, KeyFile: a.Key, ServerName: "redis.test",
	}})
	write(t, cfg.Options.CAFile, readFile(t, redistest.NewAuthority(t).CA))
	m := member(t, cfg)
	must(t, m, backend.Stamp{}, (&idp{}).fill)
	if ok, reason, _ := m.State(); ok || reason != "tls" {
		t.Fatalf("with another's ca: %v %s", ok, reason)
	}
	// The bundle rotates; nobody restarts.
	write(t, cfg.Options.CAFile, readFile(t, a.CA))
	eventually(t, func() error {
		ok, reason, _ := m.State()
		return want(ok, "still "+reason)
	})
	if _, err := m.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	everything(t, m)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestShape_Cluster(t *testing.T) {
	t.Parallel()
	nodes := redistest.StartCluster(t, 3, 0)
	for _, n := range nodes {
		n.Do(append(leastACL, clusterACL...)...)
	}
	cfg := patient(clusterOf(nodes[:1]))
	cfg.Options.Username, cfg.Options.Password = "oauth", "canary"
	m := member(t, cfg)
	everything(t, m)
	spread(t, m, nodes)
}

// clusterOf returns the configuration of a member that starts from some nodes.
func clusterOf(nodes []*redistest.Server) redis.Config {
	cfg := redis.Config{Prefix: prefix, Options: redis.Options{Mode: redis.ModeCluster}}
	for _, n := range nodes {
		cfg.Options.Addrs = append(cfg.Options.Addrs, n.Addr)
	}
	return cfg
}

// spread stores keys on every master and clears them all.
func spread(t *testing.T, m *redis.Redis, nodes []*redistest.Server) {
	t.Helper()
	for i := range 30 {
		if err := m.Set(t.Context(), fmt.Sprintf("%064x", i), []byte("x"), life); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		if n.Do("DBSIZE") == "0" {
			t.Errorf("no key on %s", n.Addr)
		}
	}
	if err := m.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if ok, err := m.Exists(t.Context(), fmt.Sprintf("%064x", i)); ok || err != nil {
			t.Errorf("key %d is still served (%v)", i, err)
		}
	}
}

func TestShape_Sentinel(t *testing.T) {
	t.Parallel()
	_, cfg := sentinels(t)
	cfg = patient(cfg)
	everything(t, member(t, cfg))
	// The same with a password that can change.
	cfg.Options.Password = ""
	cfg.Options.Credentials = func(context.Context) (string, string, error) { return "", "canary", nil }
	everything(t, member(t, cfg))
}
