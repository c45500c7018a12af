package node

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/backend/redis/redistest"
)

// redisPatience is how long Redis has in these tests, in milliseconds: none is
// about one that does not answer, and on a busy machine the product's 250 pass
// with nobody at fault.
const redisPatience = 5000

// redisAt is the guide's configuration of a Redis.
func redisAt(s *redistest.Server, more map[string]any) map[string]any {
	host, port, _ := net.SplitHostPort(s.Addr)
	number, _ := strconv.Atoi(port)
	section := map[string]any{"Host": host, "Port": number, "DialTimeoutMs": redisPatience, "ReadTimeoutMs": redisPatience}
	maps.Copy(section, more)
	return map[string]any{"CacheBackend": "redis", "Redis": section}
}

// serve asks a node for something of the remote, and fails the test if that
// fails.
func serve(t *testing.T, n *Node) {
	t.Helper()
	if rec := query(n); rec.Code != http.StatusOK {
		t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
}

func TestRedis_StatusNamesTheFaultAndWhatToDo(t *testing.T) {
	s := redistest.Start(t, "requirepass canary-redis")
	w := newWorld(t)
	n, logs := started(t, w.section(secretFile(t, oldSecret), redisAt(s, nil)))
	for range 3 {
		serve(t, n)
	}
	st := n.status(t.Context())
	if st.Status != "degraded" || st.Backend.State != "noauth" || st.Backend.Since == "" {
		t.Errorf("status %+v", st)
	}
	for sink, text := range map[string]string{"status": fmt.Sprint(st.Reasons), "backend": st.Backend.Reason, "log": logs.String()} {
		if strings.Count(text, "set Redis.Password") != 1 {
			t.Errorf("%s says not once what to do: %s", sink, text)
		}
	}
	w.wantRequests(t, 1)
}

// A deployment written from the Python plugin's documents, its spellings included.
func TestRedis_URLOfTheOldDocuments(t *testing.T) {
	s := redistest.Start(t, "requirepass canary-redis")
	w := newWorld(t)
	n, logs := started(t, w.section(secretFile(t, oldSecret), map[string]any{
		"CacheType": "redis", "RedisUrl": "redis://:canary-redis@" + s.Addr + "/3",
	}))
	serve(t, n)
	if st := n.status(t.Context()); st.Backend.State != "ok" {
		t.Errorf("status %+v; log:\n%s", st.Backend, logs)
	}
	if keys := s.Do("INFO", "keyspace"); !strings.Contains(keys, "db3:keys=1,") {
		t.Errorf("want the token in database 3:\n%s", keys)
	}
}

// A sidecar renews what stands in PasswordFile; the server no longer takes the
// password before. Nobody restarts.
func TestRedis_PasswordFileIsReadAgain(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "oauth", "on", ">first", "~*", "&*", "+@all")
	w := newWorld(t)
	password := secretFile(t, "first")
	n, logs := started(t, w.section(secretFile(t, oldSecret), redisAt(s, map[string]any{"Username": "oauth", "PasswordFile": password})))
	serve(t, n)
	s.Do("ACL", "SETUSER", "oauth", "resetpass", ">second")
	write(t, password, "second")
	s.Do("CLIENT", "KILL", "USER", "oauth")
	if e, err := n.store.backend().Get(t.Context(), n.tokens.Keys()[0]); err != nil || e.From != backend.FromRedis {
		t.Errorf("redis does not answer: %v; log:\n%s", err, logs)
	}
	if st := n.status(t.Context()); st.Backend.State != "ok" {
		t.Errorf("status %+v; log:\n%s", st.Backend, logs)
	}
}

// What a start prepares says at once that Redis is wrong, before any request.
func TestRedis_StartSaysThatRedisIsAway(t *testing.T) {
	s := redistest.Prepare(t)
	w := newWorld(t)
	n, _ := started(t, w.section(secretFile(t, oldSecret), redisAt(s, nil)))
	eventually(t, func() error {
		if st := n.status(t.Context()).Backend; st.State != "unreachable" || st.Reason == "" {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	serve(t, n)
	w.wantRequests(t, 1)
}

// What the fleet shares through Redis, and who can look over its shoulder.
func TestRedis_NothingInTheClear(t *testing.T) {
	s := redistest.Start(t, "appendonly yes", "appendfsync always", "requirepass canary-redis")
	stop := s.Monitor()
	w := newWorld(t)
	file := secretFile(t, oldSecret)
	password := secretFile(t, "canary-redis")
	section := w.section(file, redisAt(s, map[string]any{"PasswordFile": password}))
	a, logs := started(t, section)
	b, _ := started(t, section)
	serve(t, a)
	serve(t, b)
	w.wantRequests(t, 1)
	// A revoked token, its successor, and a node that finds that one.
	w.idp.RevokeAll()
	serve(t, a)
	serve(t, b)
	w.wantRequests(t, 2)

	value := s.Do("GET", "orthanc:oauth:{"+a.tokens.Keys()[0]+"}")
	s.Do("SAVE")
	sinks := map[string]string{"GET": value, "RDB and AOF": string(s.Stored()), "MONITOR": stop(), "log": logs.String()}
	if !strings.HasPrefix(value, "oo1 ") || !strings.Contains(sinks["RDB and AOF"], value) || !strings.Contains(sinks["MONITOR"], "evalsha") {
		t.Fatalf("the sinks do not hold what was looked for: %q", value)
	}
	for sink, text := range sinks {
		for _, secret := range append(w.idp.Tokens(), oldSecret, clientID) {
			encoded := base64.StdEncoding.EncodeToString([]byte(secret))
			if secret != clientID && strings.Contains(text, secret) || strings.Contains(text, encoded) {
				t.Errorf("%s holds a secret", sink)
			}
		}
		if sink != "GET" && strings.Contains(text, "canary-redis") {
			t.Errorf("%s holds the password of redis", sink)
		}
	}
}

// roll replaces the nodes of a fleet one by one, as a rolling restart with
// another configuration does. All that run are in use in between.
func roll(t *testing.T, fleet []*Node, section func(i int) map[string]any) {
	t.Helper()
	for i := range fleet {
		next, _ := started(t, section(i))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := fleet[i].Close(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		fleet[i] = next
		for _, n := range fleet {
			serve(t, n)
		}
	}
}

// Every way between two backends costs one acquisition of a key at most: that of
// the first node on the new one.
func TestMigration_RollingRestartCostsOneAcquisitionAKey(t *testing.T) {
	s := redistest.Start(t)
	w := newWorld(t)
	file := secretFile(t, oldSecret)
	memory := func(int) map[string]any { return w.section(file, nil) }
	onRedis := func(int) map[string]any { return w.section(file, redisAt(s, nil)) }
	ports := []string{redistest.FreePort(t), redistest.FreePort(t)}
	onGossip := func(i int) map[string]any {
		g := gossipOn("n"+strconv.Itoa(i), "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1])
		g["Gossip"].(map[string]any)["BindPort"], _ = strconv.Atoi(ports[i])
		return w.section(file, g)
	}

	var fleet []*Node
	for i := range 2 {
		n, _ := started(t, memory(i))
		serve(t, n)
		fleet = append(fleet, n)
	}
	asked := len(w.idp.Requests())
	if asked != 2 {
		t.Fatalf("%d acquisitions of two nodes on their own", asked)
	}
	for _, step := range []struct {
		name    string
		section func(int) map[string]any
	}{
		{"memory to redis", onRedis},
		{"redis to gossip", onGossip},
		{"gossip to redis", onRedis},
	} {
		roll(t, fleet, step.section)
		now := len(w.idp.Requests())
		t.Logf("%s: %d more", step.name, now-asked)
		if now-asked > 1 {
			t.Errorf("%s costs %d acquisitions", step.name, now-asked)
		}
		asked = now
	}
}
