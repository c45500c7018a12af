package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"orthanc-oauth/internal/fleet"
)

// mistake is a wrong configuration, and the one line that says so.
type mistake struct {
	name   string
	change func(t *testing.T, w *world, section map[string]any)
	says   []string // all of these, in one line
	// atRun: the file is right, and only running shows what is wrong, so that
	// check has nothing to say.
	atRun bool
	real  bool // tried with a real Orthanc as well
}

// server returns the only server of a section.
func serverOf(section map[string]any) map[string]any {
	return section["Servers"].(map[string]any)[archive].(map[string]any)
}

var mistakes = []mistake{
	{
		name: "unknown key",
		change: func(_ *testing.T, _ *world, s map[string]any) {
			serverOf(s)["TokenEndpiont"] = serverOf(s)["TokenEndpoint"]
			delete(serverOf(s), "TokenEndpoint")
		},
		says: []string{`"archive"`, `"TokenEndpiont"`, "TokenEndpoint"}, real: true,
	},
	{
		name:   "wrong type",
		change: func(_ *testing.T, _ *world, s map[string]any) { s["EnableMetrics"] = "yes" },
		says:   []string{"EnableMetrics", "found", "allowed"},
	},
	{
		name: "empty secret from an unset variable",
		change: func(_ *testing.T, _ *world, s map[string]any) {
			delete(serverOf(s), "ClientSecretFile")
			serverOf(s)["ClientSecret"] = "${CHAOS_UNSET}"
		},
		says: []string{`"archive"`, "ClientSecret"}, real: true,
	},
	{
		name: "variable that is not set, by name",
		change: func(_ *testing.T, _ *world, s map[string]any) {
			delete(serverOf(s), "ClientSecretFile")
			serverOf(s)["ClientSecretEnv"] = "CHAOS_UNSET"
		},
		says: []string{`"archive"`, "ClientSecretEnv", "CHAOS_UNSET"},
	},
	{
		name: "two servers of one name",
		change: func(_ *testing.T, w *world, s map[string]any) {
			one, two := w.server(), w.server()
			one["Name"], two["Name"] = archive, archive
			s["Servers"] = []any{one, two}
		},
		says: []string{"archive", "Name", "two servers"},
	},
	{
		name:   "url that is none",
		change: func(_ *testing.T, _ *world, s map[string]any) { serverOf(s)["Url"] = "pacs.hospital.example" },
		says:   []string{`"archive"`, "Url", "pacs.hospital.example", "absolute"}, real: true,
	},
	{
		name: "token endpoint in the clear",
		change: func(_ *testing.T, _ *world, s map[string]any) {
			serverOf(s)["TokenEndpoint"] = "http://idp.hospital.example/token"
		},
		says: []string{`"archive"`, "TokenEndpoint", "https"},
	},
	{
		name:   "gossip secret too short",
		change: gossiping(func(g map[string]any) { g["SecretKey"] = "c2hvcnQ=" }),
		says:   []string{"Gossip.SecretKey", "5 bytes", "at least 32"},
	},
	{
		name: "gossip without a key beyond loopback",
		change: gossiping(func(g map[string]any) {
			delete(g, "SecretKey")
			g["BindAddr"] = "0.0.0.0"
		}),
		says: []string{"Gossip.SecretKey", "0.0.0.0", "keygen"}, real: true,
	},
	{
		name: "gossip port in use",
		change: func(t *testing.T, w *world, s map[string]any) {
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			must(t, err)
			t.Cleanup(func() { _ = l.Close() })
			gossiping(func(g map[string]any) { g["BindPort"] = l.Addr().(*net.TCPAddr).Port })(t, w, s)
		},
		says: []string{"gossip", "127.0.0.1:", "in use"}, atRun: true, real: true,
	},
	{
		name: "secret file that is not there",
		change: func(_ *testing.T, w *world, s map[string]any) {
			serverOf(s)["ClientSecretFile"] = w.secret + ".gone"
		},
		says: []string{`"archive"`, "ClientSecretFile", ".gone", "no such file"}, real: true,
	},
	{
		name: "secret file that is a folder",
		change: func(_ *testing.T, w *world, s map[string]any) {
			serverOf(s)["ClientSecretFile"] = w.fleet.Dir()
		},
		says: []string{`"archive"`, "ClientSecretFile", "not a regular file"},
	},
	{
		name: "ca file without a certificate",
		change: func(_ *testing.T, w *world, s map[string]any) {
			serverOf(s)["VerifySSL"] = w.secret
		},
		says: []string{`"archive"`, "VerifySSL", "PEM"},
	},
	{
		name:   "unknown backend",
		change: func(_ *testing.T, _ *world, s map[string]any) { s["CacheBackend"] = "memcached" },
		says:   []string{"CacheBackend", "memcached", "gossip", "redis", "memory"},
	},
}

func gossiping(change func(gossip map[string]any)) func(*testing.T, *world, map[string]any) {
	return func(t *testing.T, w *world, s map[string]any) {
		t.Helper()
		port := w.port(t)
		gossip := w.gossip("node", port, port)
		change(gossip)
		s["CacheBackend"], s["Gossip"] = "gossip", gossip
	}
}

// The prefixes of a line: what comes after is the same in all three.
const (
	commandPrefix = "error: "
	orthancPrefix = "dicomweb-oauth: "
)

func TestInput_EveryMistakeIsOneLineAndNothingStarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			section := w.section("memory")
			m.change(t, w, section)
			m.checkCommands(t, w, section)
		})
	}
	w.counted(t, 0)
}

// checkCommands asserts what serve and check say of a section, and that they
// say the same.
func (m mistake) checkCommands(t *testing.T, w *world, section map[string]any) {
	maps.Copy(section, w.sidecarKeys(t))
	raw, err := json.Marshal(map[string]any{"DicomWeb": map[string]any{"OAuth": section}})
	must(t, err)
	file := w.write(t, "mistake.json", string(raw))
	served, code := command(t, "serve", file)
	if code == 0 {
		t.Error("serve ended with exit code 0")
	}
	m.oneLine(t, served, commandPrefix)
	checked, code := command(t, "check", "--sidecar", file)
	if m.atRun {
		if code != 0 {
			t.Errorf("check: exit code %d: %s", code, checked)
		}
		return
	}
	if code == 0 {
		t.Error("check ended with exit code 0")
	}
	m.oneLine(t, checked, commandPrefix)
	if a, b := ours(served, commandPrefix), ours(checked, commandPrefix); a[0] != b[0] {
		t.Errorf("serve says %q, check says %q", a[0], b[0])
	}
}

// sidecarKeys are the keys that serve demands.
func (w *world) sidecarKeys(t *testing.T) map[string]any {
	t.Helper()
	return map[string]any{
		"Listen":         "127.0.0.1:" + strconv.Itoa(w.port(t)),
		"AdminListen":    "127.0.0.1:" + strconv.Itoa(w.port(t)),
		"UsersFile":      w.write(t, "users", user().line),
		"AdminTokenFile": w.write(t, "admin", "canary-admin-"+randomWord()),
	}
}

// oneLine asserts that a program said exactly one thing of ours, and what.
func (m mistake) oneLine(t *testing.T, output, prefix string) {
	t.Helper()
	lines := ours(output, prefix)
	if len(lines) != 1 {
		t.Fatalf("%d lines, want 1:\n%s", len(lines), output)
	}
	for _, text := range m.says {
		if !strings.Contains(lines[0], text) {
			t.Errorf("the line %q does not say %q", lines[0], text)
		}
	}
	if strings.Contains(output, "canary-") {
		t.Errorf("a secret is in the output:\n%s", output)
	}
}

// ours returns what follows prefix in the lines that have it.
func ours(output, prefix string) (lines []string) {
	for line := range strings.Lines(output) {
		if _, text, found := strings.Cut(line, prefix); found {
			lines = append(lines, strings.TrimSpace(text))
		}
	}
	return lines
}

// command runs the binary to its end.
func command(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(binaryVar), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return stderr.String(), cmd.ProcessState.ExitCode()
}

func TestInput_MalformedJSONIsOneLineWithItsPlace(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	file, err := f.WriteFile("malformed.json", []byte("{\"DicomWeb\": {\n  \"OAuth\": {\"Servers\": [}\n}}"))
	must(t, err)
	m := mistake{says: []string{"malformed JSON", "line 2"}}
	for _, args := range [][]string{{"serve", file}, {"check", file}} {
		output, code := command(t, args...)
		if code == 0 {
			t.Errorf("%s: exit code 0", args[0])
		}
		m.oneLine(t, output, commandPrefix)
	}
}

func TestInput_OrthancDoesNotStartHalfConfigured(t *testing.T) {
	t.Parallel()
	tools := needOrthanc(t)
	w := newWorld(t, worldOptions{})
	for _, m := range mistakes {
		if !m.real {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			section := w.section("memory")
			m.change(t, w, section)
			o, err := w.launch(t, tools, "bad-"+strings.ReplaceAll(m.name, " ", "-"), section, nil)
			if _, ended := errors.AsType[*fleet.EndedError](err); !ended {
				t.Fatalf("Orthanc has started: %v", err)
			}
			if o.ExitCode() <= 0 {
				t.Errorf("exit code %d", o.ExitCode())
			}
			m.oneLine(t, o.Log(64<<10), orthancPrefix)
		})
	}
	w.counted(t, 0)
}
