package config

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzParse looks for panics, and for configurations that are neither accepted
// whole nor refused with a reason.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `[]`, `{"Servers": null}`, `{"Servers": {"a": null}}`, "{//\n}", `{"a": 1,}`,
		withServer(``, ``),
		withServer(`"VerifySSL": "/", "EndpointParams": {"a": ["b"]}, "ResilienceConfig": {}, `, `"CacheType": "redis", "RedisUrl": "unix:///x?db=1", `),
		withServer(``, `"CacheBackend": "redis", "Redis": {"Mode": "sentinel", "Addrs": ["a:1"], "MasterName": "m"}, `),
		withServer(``, `"CacheBackend": "gossip", "Gossip": {"Peers": ["[::1]:1"], "SecretKeys": ["x"]}, `),
		`{"DicomWebOAuth": {"ConfigVersion": "1.0", "Enabled": false, "Servers": [{"Name": "${A:-b}"}]}, "LogLevel": "default"}`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, text []byte, sidecar bool) {
		if strings.Contains(string(text), "/dev/") || strings.Contains(string(text), "/proc/") {
			return // a configuration may name any file; the fuzzer need not read those
		}
		cfg, err := Parse(text, Options{Sidecar: sidecar, Expand: sidecar, Getenv: env("A", "value")})
		switch {
		case err != nil && (err.Error() == "" || strings.Contains(err.Error(), "schema and code differ")):
			t.Errorf("error %q", err)
		case err == nil:
			if _, err := json.Marshal(cfg.Redacted()); err != nil {
				t.Errorf("the effective configuration does not encode: %v", err)
			}
		}
	})
}
