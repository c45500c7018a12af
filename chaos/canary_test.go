package chaos

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"orthanc-oauth/chaos/canary"
	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// canaries and sinks are those of package canary, with assertions.
type (
	canaries map[string]string
	sinks    map[string][]byte
)

func (s sinks) leaks(c canaries) []string { return canary.Sinks(s).Leaks(canary.Secrets(c)) }

// clean asserts that the sinks hold no canary, that each of them holds something
// at all, and that one planted there would have been found.
func (s sinks) clean(t *testing.T, c canaries) {
	t.Helper()
	for _, leak := range s.leaks(c) {
		t.Errorf("leaked: %s", leak)
	}
	for where, content := range s {
		if len(content) == 0 {
			t.Errorf("nothing was collected from %s", where)
		}
		for what, secret := range c {
			if secret == "" {
				t.Fatalf("no canary for %s", what)
			}
			planted := sinks{where: slices.Concat(content, []byte("="), []byte(secret), content[:min(9, len(content))])}
			if len(planted.leaks(canaries{what: secret})) == 0 {
				t.Errorf("a planted %s in %s was not found", what, where)
			}
		}
	}
}

func TestCanaries_AreFoundInEveryDisguise(t *testing.T) {
	t.Parallel()
	secret, key := "canary-client-øé/+&x", randomKey()
	for name, text := range map[string]string{
		"plain":     "level=INFO secret=" + secret + "\n",
		"form":      "client_id=x&client_secret=" + url.QueryEscape(secret),
		"basic":     "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+secret)),
		"basic, 1":  "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("users:"+secret+"?")),
		"basic, 2":  "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user-x:"+secret)),
		"hex":       fmt.Sprintf("%x", secret),
		"upper hex": fmt.Sprintf("%X", secret),
	} {
		if len(sinks{name: []byte(text)}.leaks(canaries{"secret": secret})) != 1 {
			t.Errorf("not found as %s: %s", name, text)
		}
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	must(t, err)
	for _, text := range [][]byte{[]byte(key), raw, []byte(hex.EncodeToString(raw))} {
		if len(sinks{"x": slices.Concat([]byte("key "), text)}.leaks(canaries{"key": key})) != 1 {
			t.Errorf("a key is not found as %q", text)
		}
	}
	if found := (sinks{"x": []byte("nothing here")}).leaks(canaries{"secret": secret, "key": key}); len(found) > 0 {
		t.Errorf("found where nothing is: %v", found)
	}
}

// routes are what every node answers, on the way to an answer or an error.
var routes = []struct{ method, path string }{
	{http.MethodGet, "/dicomweb-oauth/live"},
	{http.MethodGet, "/dicomweb-oauth/status"},
	{http.MethodGet, "/dicomweb-oauth/servers"},
	{http.MethodGet, "/dicomweb-oauth/cluster"},
	{http.MethodGet, "/dicomweb-oauth/metrics"},
	{http.MethodGet, "/plugins/oauth/status"},
	{http.MethodGet, "/dicomweb-oauth/servers/" + archive + "/test"}, // 405
	{http.MethodPost, "/dicomweb-oauth/servers/" + archive + "/test"},
	{http.MethodPost, "/dicomweb-oauth/servers/" + archive + "/invalidate"},
	{http.MethodPost, "/dicomweb-oauth/servers/nobody/test"}, // 404
	{http.MethodPost, "/dicomweb-oauth/cache/clear"},
}

// orthancRoutes are Orthanc's own, where our plugin leaves something.
var orthancRoutes = []struct{ method, path string }{
	{http.MethodGet, "/tools/metrics-prometheus"},
	{http.MethodGet, "/dicom-web/servers?expand"},
	{http.MethodGet, "/plugins/dicomweb-oauth"},
	{http.MethodGet, "/system"},
	{http.MethodGet, "/jobs?expand"},
}

// askAll adds the answers of routes to the sinks.
func (s sinks) askAll(t *testing.T, when, node string, admin fleet.Client, more ...struct{ method, path string }) {
	t.Helper()
	for _, r := range append(slices.Clone(routes), more...) {
		a, err := ask(t.Context(), admin, r.method, r.path)
		must(t, err)
		name := fmt.Sprintf("%s %s of %s %s", r.method, r.path, node, when)
		s[name] = fmt.Appendf(nil, "%d %v %s", a.status, a.header, a.body)
	}
}

// addLogs adds what processes have written.
func (s sinks) addLogs(processes []*fleet.Process) {
	for _, p := range processes {
		s["log of "+p.Name] = []byte(p.Log(8 << 20))
	}
}

// addFiles adds every file under a folder.
func (s sinks) addFiles(t *testing.T, what, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		s[what+" "+d.Name()] = append(content, '\n')
		return err
	}))
}

// temp makes a folder for temporary files and returns the variable that names it.
func (w *world) temp(t *testing.T) (dir, env string) {
	t.Helper()
	dir = filepath.Dir(w.write(t, "temporary/witness", "so that the folder is not empty"))
	return dir, "TMPDIR=" + dir
}

// addTokens adds every token of the provider to the canaries.
func (c canaries) addTokens(idp *idptest.IdP) {
	for i, token := range idp.Tokens() {
		c[fmt.Sprintf("token %d", i+1)] = token
	}
}

// misfortunes has everything go wrong that puts details into errors, and looks
// at the answers each time.
func (w *world) misfortunes(t *testing.T, look func(when string), send func()) {
	t.Helper()
	look("at rest")
	w.idp.RevokeAll() // 401 and a replay
	send()
	w.gate.Script(idptest.GateScript{Forbid: true})
	send()
	look("when the remote forbids")
	w.gate.Script(idptest.GateScript{RefuseNext: 8})
	send()
	w.gate.Script(idptest.GateScript{})
	w.idp.Always(idptest.Answer{Kind: idptest.Raw, Status: 401, Body: "planted-body " + w.client.Secrets[0]})
	look("when the provider refuses, and echoes the secret")
	send()
	w.idp.Behave()
}

func TestCanaries_OrthancsThatGossip(t *testing.T) {
	t.Parallel()
	tools := needOrthanc(t)
	w := newWorld(t, worldOptions{})
	temp, env := w.temp(t)
	w.env = append(w.env, env)
	bound := []int{w.port(t), w.port(t)}
	wires := []int{w.port(t), w.port(t)}
	nodes := make([]*fleet.Orthanc, len(bound))
	relays := make([]*relay, len(bound))
	for i, name := range []string{"a", "b"} {
		relays[i] = newRelay(t, wires[i], bound[i])
		gossip := w.gossip(name, bound[i], wires...)
		gossip["AdvertiseAddr"], gossip["AdvertisePort"] = "127.0.0.1", wires[i]
		section := w.section("gossip", map[string]any{"Gossip": gossip, "LogLevel": "debug"})
		nodes[i] = w.orthanc(t, tools, name, section, map[string]any{"DicomWeb": map[string]any{
			"Enable": true, "Root": "/dicom-web/", "ServersInDatabase": true, "OAuth": section,
		}})
		_, err := nodes[i].Do(t.Context(), http.MethodPut, "/tools/log-level", "text/plain", strings.NewReader("verbose"))
		must(t, err)
	}
	together(t, nodes[0].Client, nodes[1].Client)
	all := sinks{}
	for _, n := range nodes {
		must(t, n.Stow(t.Context(), archive, study(1, 2)))
	}
	w.counted(t, 1) // so the token went over the wire
	secrets := canaries{
		"client secret": w.client.Secrets[0], "SecretKey": w.key, "password of Orthanc's user": w.password,
	}
	w.misfortunes(t, func(when string) {
		for _, n := range nodes {
			all.askAll(t, when, n.Name, n.Client, orthancRoutes...)
		}
	}, func() {
		for _, n := range nodes {
			_, err := n.Query(t.Context(), archive, study(1, 2))
			all["error of "+n.Name] = fmt.Appendf(all["error of "+n.Name], "query: %v\n", err)
		}
	})
	for _, n := range nodes {
		secrets["data path password of "+n.Name] = dataPathPassword(t, filepath.Join(w.fleet.Dir(), n.Name))
		terminate(t, n)
	}
	for i, r := range relays {
		streams, packets := r.seen()
		all["gossip streams of "+nodes[i].Name], all["gossip packets of "+nodes[i].Name] = streams, packets
	}
	secrets.addTokens(w.idp)
	all.addLogs(w.fleet.Processes())
	all.addFiles(t, "temporary file", temp)
	all.clean(t, secrets)
}

var passwordInDatabase = regexp.MustCompile(`"Password"\s*:\s*"([^"]+)"`)

// dataPathPassword digs the password of the loopback proxy out of Orthanc's
// database: the one place where it may stand, and only because ServersInDatabase
// says so (orthanc.md).
func dataPathPassword(t *testing.T, dir string) (password string) {
	t.Helper()
	eventually(t, func(context.Context) error {
		for _, file := range []string{"index-wal", "index"} {
			raw, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue
			}
			if m := passwordInDatabase.FindSubmatch(raw); m != nil {
				password = string(m[1])
				return nil
			}
		}
		return fmt.Errorf("no password in the database in %s", dir)
	})
	return password
}

func TestCanaries_SidecarsOnRedis(t *testing.T) {
	t.Parallel()
	tools := needRedis(t)
	w := newWorld(t, worldOptions{})
	temp, env := w.temp(t)
	password := "canary-redis-" + randomWord()
	redis, err := w.fleet.Redis(t.Context(), tools, "redis", "--requirepass", password)
	must(t, err)
	monitor := newMonitor(t, redis, password)
	section := w.section("redis", map[string]any{
		"Redis":    map[string]any{"Host": redis.Host, "Port": redis.Port, "PasswordFile": w.write(t, "redis-password", password)},
		"LogLevel": "debug", "EncryptionKeyFile": w.write(t, "encryption.key", w.key),
	})
	nodes := []*fleet.Sidecar{w.sidecar(t, "a", section, env), w.sidecar(t, "b", section, env)}
	all := sinks{}
	for _, n := range nodes {
		must(t, n.Stow(t.Context(), archive, study(1, 2)))
	}
	w.counted(t, 1)
	all["dump of Redis"] = monitor.dump(t, filepath.Join(w.fleet.Dir(), "redis", "dump.rdb"))
	w.misfortunes(t, func(when string) {
		for _, n := range nodes {
			all.askAll(t, when, n.Name, n.Client)
		}
	}, func() {
		for _, n := range nodes {
			a, err := query(t.Context(), n, archive)
			must(t, err)
			all["answer of "+n.Name] = fmt.Appendf(all["answer of "+n.Name], "%d %v %s", a.status, a.header, a.body)
			stranger := n.Data
			stranger.Password = "wrong"
			a, err = ask(t.Context(), stranger, http.MethodGet, "/"+archive+"/studies")
			must(t, err)
			all["refusal of "+n.Name] = fmt.Appendf(nil, "%d %v %s", a.status, a.header, a.body)
		}
	})
	secrets := canaries{
		"client secret": w.client.Secrets[0], "EncryptionKey": w.key, "Redis password": password,
		"data path password": user().password, "admin token": nodes[0].Token,
	}
	for _, n := range nodes {
		n.Stop()
	}
	all["monitor of Redis"] = monitor.seen()
	secrets.addTokens(w.idp)
	all.addLogs(w.fleet.Processes())
	all.addFiles(t, "temporary file", temp)
	all.clean(t, secrets)
}
