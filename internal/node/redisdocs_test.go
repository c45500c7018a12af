package node

import (
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis/redistest"
)

// shapes start what a block of docs/operations/redis.md is about, on loopback,
// and return what is different there. All passwords are shapePassword.
var shapes = map[string]func(t *testing.T) map[string]any{
	"plain":  func(t *testing.T) map[string]any { return at(redistest.Start(t, withPassword).Addr) },
	"socket": func(t *testing.T) map[string]any { return map[string]any{"Host": redistest.Start(t).Socket} },
	"tls": func(t *testing.T) map[string]any {
		s, keys := secureServer(t)
		s.Do(shapeUser...)
		return keys
	},
	"sentinel": func(t *testing.T) map[string]any {
		_, addrs := redistest.StartSentinels(t, "main", shapePassword, "sentinel-password")
		return map[string]any{"Addrs": addrs}
	},
	"cluster":                secureCluster,
	"elasticache":            secure,
	"elasticache-serverless": secureCluster,
	"azure-cache":            secure,
	"azure-managed":          secureCluster,
	"memorystore":            secure,
}

const (
	shapePassword = "canary-redis"
	withPassword  = "requirepass " + shapePassword
)

var shapeUser = []string{"ACL", "SETUSER", "oauth", "on", ">" + shapePassword, "~orthanc:oauth:*", "&orthanc:oauth:*", "+@all"}

func at(addr string) map[string]any {
	host, port, _ := net.SplitHostPort(addr)
	number, _ := strconv.Atoi(port)
	return map[string]any{"Host": host, "Port": number}
}

// secureServer starts a server with TLS, a private CA and a password. The
// services' public CAs cannot be had on loopback.
func secureServer(t *testing.T) (*redistest.Server, map[string]any) {
	a, port := redistest.NewAuthority(t), redistest.FreePort(t)
	s := redistest.Start(t, append(tlsOf(a), withPassword, "tls-port "+port)...)
	keys := at(net.JoinHostPort("127.0.0.1", port))
	keys["CAFile"], keys["ServerName"] = a.CA, "redis.test"
	return s, keys
}

func tlsOf(a redistest.Authority) []string {
	return []string{"tls-cert-file " + a.Cert, "tls-key-file " + a.Key, "tls-ca-cert-file " + a.CA, "tls-auth-clients no"}
}

func secure(t *testing.T) map[string]any {
	_, keys := secureServer(t)
	return keys
}

// secureCluster answers with IP addresses, which its certificate does not name.
func secureCluster(t *testing.T) map[string]any {
	a := redistest.NewAuthority(t)
	nodes := redistest.StartCluster(t, 3, 0, append(tlsOf(a), withPassword, "masterauth "+shapePassword, "tls-cluster yes")...)
	for _, n := range nodes {
		n.Do(shapeUser...)
	}
	addr := net.JoinHostPort("127.0.0.1", nodes[0].Directive("tls-port"))
	return map[string]any{"Addrs": []string{addr}, "CAFile": a.CA, "ServerName": "redis.test"}
}

var shapeBlock = regexp.MustCompile("(?s)<!-- shape: ([a-z-]+) -->\n```json\n(.*?)\n```")

func TestRedisDocs_EachBlockWorks(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := shapeBlock.FindAllStringSubmatch(string(page), -1)
	if len(blocks) != len(shapes) || strings.Count(string(page), "```json") != len(blocks) {
		t.Errorf("%d blocks of %d shapes are found", len(blocks), len(shapes))
	}
	for _, block := range blocks {
		start := shapes[block[1]]
		if start == nil {
			t.Errorf("nobody knows how to run %q", block[1])
			continue
		}
		t.Run(block[1], func(t *testing.T) {
			t.Parallel()
			runBlock(t, block[2], start(t))
		})
	}
}

// runBlock runs a node with a block, whose token Redis must then hold.
func runBlock(t *testing.T, block string, local map[string]any) {
	var section map[string]any
	if err := json.Unmarshal([]byte(block), &section); err != nil {
		t.Fatal(err)
	}
	redis, _ := section["Redis"].(map[string]any)
	maps.Copy(redis, local)
	redis["DialTimeoutMs"], redis["ReadTimeoutMs"] = redisPatience, redisPatience
	if redis["PasswordFile"] != nil {
		redis["PasswordFile"] = secretFile(t, shapePassword)
	}
	w := newWorld(t)
	n, logs := started(t, w.section(secretFile(t, oldSecret), section))
	if rec := query(n); rec.Code != http.StatusOK {
		t.Fatalf("status %d: %s; log:\n%s", rec.Code, rec.Body, logs)
	}
	e, err := n.store.backend().Get(t.Context(), n.tokens.Keys()[0])
	if err != nil || e.From != backend.FromRedis {
		t.Errorf("redis does not hold the token: %v", err)
	}
	if st := n.status(t.Context()); st.Backend.State != "ok" || st.Backend.Name != "redis" {
		t.Errorf("status %+v; log:\n%s", st, logs)
	}
	w.wantRequests(t, 1)
}
