package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const canary = "canary-0123456789-canary"

// TestSecrets_AppearNowhere greps every rendering of a configuration, of its
// warnings and of its errors for a planted secret.
func TestSecrets_AppearNowhere(t *testing.T) {
	section := `"CacheBackend": "redis", "Redis": {"Host": "r.example.com", "Password": "` + canary + `", "SentinelPassword": "` + canary + `"},
		"Gossip": {"SecretKeys": ["` + canary + `"], "SecretKey": "` + canary + `"}, `
	good := withServer(`"EndpointParams": {"k": "`+canary+`", "l": ["`+canary+`"]}, `, section)
	good = strings.Replace(good, "a-secret-of-more-than-20-characters", canary, 1)
	good = strings.Replace(good, `{"DicomWeb"`, `{"HttpProxy": "http://u:`+canary+`@p", "DicomWeb"`, 1)
	cfg := parse(t, good, Options{})
	type holder struct{ hidden *Config } // fmt asks no methods below an unexported field
	sinks := map[string]string{
		"fmt":      everyVerb(cfg, *cfg, cfg.Servers, cfg.Redis, cfg.Gossip, cfg.Redis.Password, cfg.Orthanc.HTTPProxy),
		"hidden":   fmt.Sprintf("%+v %#v", holder{cfg}, struct{ s Server }{cfg.Servers[0]}),
		"json":     marshal(t, cfg),
		"redacted": marshal(t, cfg.Redacted()),
		"printed":  fmt.Sprintf("%+v", cfg.Redacted()),
		"slog":     logged(cfg, cfg.Servers[0], cfg.Servers[0].ClientSecret, cfg.Redis.Password, cfg.Orthanc.HTTPProxy),
		"warnings": warningsOf(cfg),
	}
	for _, bad := range []string{
		strings.Replace(good, `"`+canary+`"`, `["`+canary+`"]`, 1),
		strings.ReplaceAll(good, `"redis"`, `"gossip"`),
		strings.Replace(good, `"EndpointParams": {`, `"EndpointParams": {"scope": "`+canary+`", `, 1),
		strings.Replace(good, `"Password": "`+canary+`"`, `"Pasword": "`+canary+`"`, 1),
		strings.Replace(good, `"CacheBackend": "redis"`, `"CacheBackend": "redis", "RedisUrl": "redis://:`+canary+`@h"`, 1),
		strings.Replace(good, `"Redis": {`, `"RedisUrl": "redis://:`+canary+`@h/x", "Redis2": {`, 1),
		strings.Replace(good, `https://dicom`, `https://u:`+canary+`@dicom`, 1),
		strings.Replace(good, `"`+canary+`"`, `"`+canary+`" x`, 1),
	} {
		_, err := Parse([]byte(bad), Options{})
		if err == nil {
			t.Errorf("accepted %s", bad)
			continue
		}
		sinks["error "+err.Error()] = fmt.Sprintf("%v %+v", err, err) + marshal(t, err)
	}
	for name, text := range sinks {
		if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
			t.Errorf("%s shows a secret: %s", name, text)
		}
	}
	if secret, err := cfg.Servers[0].ClientSecret.Load(); err != nil || secret.Reveal() != canary {
		t.Errorf("the secret itself is lost: %v", err)
	}
}

func everyVerb(values ...any) string {
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		for _, v := range values {
			fmt.Fprintf(&out, verb, v)
		}
	}
	return out.String()
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func logged(values ...any) string {
	var out bytes.Buffer
	for _, v := range values {
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
	}
	return out.String()
}

func TestSecretRef_ReadsItsFileAgain(t *testing.T) {
	path := writeFile(t, "secret", "first\n")
	ref := SecretRef{file: path}
	for _, content := range []string{"first\n", "second\r\n", "two ends\n\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		secret, err := ref.Load()
		want := strings.TrimSuffix(strings.TrimSuffix(content, "\n"), "\r")
		if err != nil || secret.Reveal() != want {
			t.Errorf("%q read as %q, %v", content, secret.Reveal(), err)
		}
	}
}

func TestSecretRef_SaysWhyItCannotBeLoaded(t *testing.T) {
	dir := t.TempDir()
	at := place{path: "Servers[0]", server: "pacs", key: "ClientSecretFile"}
	tests := []struct{ name, content, want string }{
		{"missing", "", `: no such file or directory`},
		{"empty", "\n", ` is empty`},
		{"large", strings.Repeat("x", maxSecret+1), ` is larger than 64 KiB`},
	}
	for _, tt := range tests {
		path := filepath.Join(dir, tt.name)
		if tt.content != "" {
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := SecretRef{at: at, file: path}.Load()
		want := fmt.Sprintf(`Servers[0] "pacs": ClientSecretFile: file %q%s`, path, tt.want)
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	_, err := SecretRef{at: at, env: "NOT_SET", getenv: env()}.Load()
	if want := `Servers[0] "pacs": ClientSecretFile: environment variable "NOT_SET" is not set or empty`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestParse_SecretsFromFilesAndVariables(t *testing.T) {
	path := writeFile(t, "secret", "from the file, 20 and more\n")
	text := strings.Replace(withSection(`"Servers": {"file": {`+aServer+`}, "var": {`+aServer+`}}`),
		`"ClientSecret": "a-secret-of-more-than-20-characters"`, `"ClientSecretFile": "`+path+`"`, 1)
	text = strings.Replace(text, `"ClientSecret": "a-secret-of-more-than-20-characters"`, `"ClientSecretEnv": "S"`, 1)
	cfg := parse(t, text, Options{Getenv: env("S", `from "the" variable, quoted`)})
	for i, want := range []string{"from the file, 20 and more", `from "the" variable, quoted`} {
		secret, err := cfg.Servers[i].ClientSecret.Load()
		if err != nil || secret.Reveal() != want {
			t.Errorf("server %d: %q, %v; want %q", i, secret.Reveal(), err, want)
		}
	}
}

func TestParse_WarnsOfAWeakSecret(t *testing.T) {
	cfg := parse(t, strings.Replace(withServer(``, ``), "a-secret-of-more-than-20-characters", "short", 1), Options{})
	const want = `DicomWeb.OAuth.Servers[0] "pacs": ClientSecret: the client secret has fewer than 20 characters; whoever reads the shared cache could guess it`
	if got := warningsOf(cfg); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestKeyRing_ReadsOneKeyALine(t *testing.T) {
	one, two := strings.Repeat("A", 43)+"=", strings.Repeat("_", 43)
	path := writeFile(t, "keys", one+"\n\n"+two+"\n")
	ring := KeyRing{refs: []SecretRef{{file: path}}}
	keys, err := ring.Load()
	if err != nil || len(keys) != 2 || keys[0][0] != 0 || keys[1][0] != 0xff {
		t.Errorf("keys %x, %v", keys, err)
	}
	if got := ring.Paths(); len(got) != 1 || got[0] != path {
		t.Errorf("paths %v", got)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat(one+"\n", 4)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Load(); err == nil || !strings.Contains(err.Error(), "found 4 secrets; allowed: at most 3") {
		t.Errorf("four keys: %v", err)
	}
}
