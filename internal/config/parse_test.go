package config

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse_Defaults(t *testing.T) {
	cfg := parse(t, withServer(``, ``), Options{})
	if len(cfg.Warnings) != 0 || len(cfg.Degraded) != 0 {
		t.Errorf("a plain configuration warns: %s", warningsOf(cfg))
	}
	want := Server{
		Name: "pacs", URL: "https://dicom.example.com/v2/", TokenEndpoint: "https://idp.example.com/token",
		ClientID: "orthanc", AuthStyle: "auto",
		RefreshBuffer: 300 * time.Second, Provider: "generic",
		Resilience: Resilience{
			CircuitBreakerFailureThreshold: 5, CircuitBreakerTimeout: time.Minute,
			RetryMaxAttempts: 3, RetryStrategy: "exponential", RetryInitialDelay: time.Second,
			RetryMultiplier: 2, RetryMaxDelay: 30 * time.Second, RetryIncrement: time.Second,
		},
	}
	got := cfg.Servers[0]
	got.ClientSecret, got.EndpointParams = SecretRef{}, Params{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("server\n%+v\nwant\n%+v", got, want)
	}
	if cfg.Backend != BackendMemory || !cfg.Enabled || !cfg.EnableMetrics || cfg.LogLevel != slog.LevelInfo {
		t.Errorf("section %+v", cfg)
	}
	if (cfg.Proxy != Proxy{Timeout: time.Hour, ReplayBytes: 8 << 20, ReplayTotalBytes: 64 << 20}) {
		t.Errorf("proxy %+v", cfg.Proxy)
	}
	if cfg.AssumedLifetime != 300*time.Second || cfg.SecurityLog != "inline" {
		t.Errorf("assumed lifetime %v, security log %q", cfg.AssumedLifetime, cfg.SecurityLog)
	}
	if o := cfg.Orthanc; o.DicomWebRoot != "/dicom-web/" || !o.DicomWebEnabled || !o.HTTPSVerifyPeers || o.ServersInDatabase {
		t.Errorf("orthanc %+v", o)
	}
}

func TestParse_ServersAsObjectAreTheSameAsAnArray(t *testing.T) {
	object := parse(t, withSection(`"Servers": {"b": {`+aServer+`}, "a": {"Scope": "x", `+aServer+`}}`), Options{})
	array := parse(t, withSection(`"Servers": [{"Name": "a", "Scope": "x", `+aServer+`}, {"Name": "b", `+aServer+`}]`), Options{})
	for _, cfg := range []*Config{object, array} {
		for i := range cfg.Servers {
			cfg.Servers[i].ClientSecret = SecretRef{}
		}
	}
	if !reflect.DeepEqual(object.Servers, array.Servers) {
		t.Errorf("object\n%+v\narray\n%+v", object.Servers, array.Servers)
	}
}

func TestParse_ReadsWhatOrthancReads(t *testing.T) {
	cfg := parse(t, "\xef\xbb\xbf"+`// a comment
	{
	  "Name": "a // b /* c */ \" , ]", /* another,
	  one */
	  "DicomWeb": {"OAuth": {"Servers": [{"Name": "pacs", `+aServer+`,},], } } // last
	,}`, Options{})
	if len(cfg.Servers) != 1 {
		t.Errorf("servers %v", cfg.Servers)
	}
}

func TestParse_TakesTheThreePlacesOfTheSection(t *testing.T) {
	section := `{"Servers": {"pacs": {` + aServer + `}}}`
	for text, warnings := range map[string]string{
		`{"DicomWeb": {"OAuth": ` + section + `}}`: "",
		`{"DicomWebOAuth": ` + section + `}`:       `DicomWebOAuth: is the old place of this section; move it to "DicomWeb.OAuth"`,
		section:                                    "",
	} {
		cfg := parse(t, text, Options{})
		if len(cfg.Servers) != 1 || warningsOf(cfg) != warnings {
			t.Errorf("%s\n%d servers, warnings %q", text, len(cfg.Servers), warningsOf(cfg))
		}
	}
}

func TestParse_NoServersIsOnlyAWarning(t *testing.T) {
	// The guide's second example has none.
	cfg := parse(t, withSection(`"Enabled": true, "CacheBackend": "memory"`), Options{})
	if got, want := warningsOf(cfg), "DicomWeb.OAuth.Servers: has no enabled server: nothing to do"; got != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
}

func TestParse_DisabledSectionStartsWhateverIsWrong(t *testing.T) {
	cfg := parse(t, withSection(`"Enabled": false, "Servers": {"pacs": {"Url": 5}}`), Options{})
	if cfg.Enabled || len(cfg.Servers) != 0 || !strings.Contains(warningsOf(cfg), "Url: found 5") {
		t.Errorf("enabled %v, servers %v, warnings %q", cfg.Enabled, cfg.Servers, warningsOf(cfg))
	}
}

func TestParse_DisabledServerMayLackItsSecrets(t *testing.T) {
	cfg := parse(t, withSection(`"Servers": [{"Name": "off", "Enabled": false, "Url": "", "ClientSecret": ""},
		{"Name": "on", `+aServer+`}]`), Options{})
	if len(cfg.Servers) != 1 || cfg.Servers[0].Name != "on" || !slices.Equal(cfg.Disabled, []string{"off"}) {
		t.Errorf("servers %v, disabled %v", cfg.Servers, cfg.Disabled)
	}
}

func TestParse_ServerKeys(t *testing.T) {
	cfg := parse(t, withServer(`"Scope": "a b", "Audience": "aud", "Resource": "res", "AuthStyle": "POST",
		"EndpointParams": {"one": "1", "two": ["a", "b"]}, "TokenRefreshBufferSeconds": 0, "VerifySSL": false,
		"ProviderType": "Keycloak", "ResilienceConfig": {"CircuitBreakerEnabled": true, "RetryMaxAttempts": 2}, `,
		`"ResilienceConfig": {"RetryMaxAttempts": 1, "RetryInitialDelay": 2.5}, `), Options{})
	s := cfg.Servers[0]
	if s.Scope != "a b" || s.Audience != "aud" || s.Resource != "res" || s.AuthStyle != "post" || s.RefreshBuffer != 0 ||
		!s.VerifySSL.Skip || s.Provider != "keycloak" {
		t.Errorf("server %+v", s)
	}
	if got, want := s.EndpointParams.Values().Encode(), "one=1&two=a&two=b"; got != want {
		t.Errorf("parameters %v, want %v", got, want)
	}
	if r := s.Resilience; !r.CircuitBreakerEnabled || r.RetryMaxAttempts != 2 || r.RetryInitialDelay != 2500*time.Millisecond {
		t.Errorf("the server's resilience does not stand over the section's: %+v", r)
	}
}

func TestParse_ResilienceTightensOnly(t *testing.T) {
	cfg := parse(t, withServer(`"ResilienceConfig": {"RetryMaxAttempts": 10, "RetryInitialDelay": 0}, `, ``), Options{})
	if r := cfg.Servers[0].Resilience; r.RetryMaxAttempts != 3 || r.RetryInitialDelay != 200*time.Millisecond {
		t.Errorf("loosened: %+v", r)
	}
	const want = `DicomWeb.OAuth.Servers[0] "pacs": ResilienceConfig.RetryMaxAttempts: found 10, used as 3: these settings tighten the built-in limits only
DicomWeb.OAuth.Servers[0] "pacs": ResilienceConfig.RetryInitialDelay: found 0s, used as 200ms: these settings tighten the built-in limits only`
	if got := warningsOf(cfg); got != want {
		t.Errorf("warnings\n%s\nwant\n%s", got, want)
	}
}

func TestParse_ProviderBySuffixOfTheHost(t *testing.T) {
	for endpoint, want := range map[string]string{
		"https://login.microsoftonline.com/t/oauth2/token":                 "azure",
		"https://LOGIN.microsoftonline.com./t/oauth2/token":                "azure",
		"https://login.microsoftonline.com.evil.example/t/token":           "generic",
		"https://x.auth.eu-west-1.amazoncognito.com/oauth2/token":          "aws",
		"https://notamazoncognito.com/token":                               "generic",
		"https://idp.lawsonhospital.org/token":                             "generic",
		"https://kc.example.com/realms/r/protocol/openid-connect/token":    "keycloak",
		"https://kc.example.com/auth/realms/r/protocol/openid-connect/tok": "keycloak",
	} {
		text := strings.Replace(withServer(``, ``), "https://idp.example.com/token", endpoint, 1)
		if got := parse(t, text, Options{}).Servers[0].Provider; got != want {
			t.Errorf("%s: %q, want %q", endpoint, got, want)
		}
	}
}

func TestParse_RedisShapes(t *testing.T) {
	const degraded = "DicomWeb.OAuth.Redis: Redis beyond loopback without "
	tests := []struct {
		name, section, network, addr, degraded string
		tls                                    bool
	}{
		{"default", `"CacheBackend": "redis"`, "tcp", "localhost:6379", "", false},
		{"guide, option 1", `"CacheBackend": "redis", "Redis": {"Host": "redis.example.com", "Port": 6379, "DB": 0, "Password": "p", "Prefix": "orthanc:oauth:"}`, "tcp", "redis.example.com:6379", degraded + "TLS", false},
		{"guide, Azure", `"CacheBackend": "redis", "Redis": {"Host": "c.redis.cache.windows.net", "Port": 6380, "DB": 0, "Password": "p", "SSL": true}`, "tcp", "c.redis.cache.windows.net:6380", "", true},
		{"guide, Memorystore", `"CacheBackend": "redis", "Redis": {"Host": "10.0.0.3", "Port": 6379, "DB": 0}`, "tcp", "10.0.0.3:6379", degraded + "TLS and a password", false},
		{"socket", `"CacheBackend": "redis", "Redis": {"Host": "/run/redis.sock"}`, "unix", "/run/redis.sock", "", false},
		{"URL", `"CacheType": "redis", "RedisUrl": "rediss://u:p@r.example.com:7000/3"`, "tcp", "r.example.com:7000", "", true},
		{"URL of a socket", `"CacheType": "redis", "RedisUrl": "unix:///run/redis.sock?db=3"`, "unix", "/run/redis.sock", "", false},
		{"cluster, allowed", `"CacheBackend": "redis", "AllowInsecure": true, "Redis": {"Mode": "cluster", "Addrs": ["r:7000"]}`, "tcp", "r:7000", degraded + "TLS and a password", false},
		{"cluster with a password", `"CacheBackend": "redis", "Redis": {"Mode": "cluster", "Addrs": ["r:7000"], "Password": "p"}`, "tcp", "r:7000", degraded + "TLS", false},
		{"Sentinel with a password", `"CacheBackend": "redis", "Redis": {"Mode": "sentinel", "MasterName": "m", "Addrs": ["r:26379"], "Password": "p"}`, "tcp", "r:26379", degraded + "TLS", false},
		{"cluster with TLS", `"CacheBackend": "redis", "Redis": {"Mode": "cluster", "Addrs": ["r:7000"], "SSL": true}`, "tcp", "r:7000", degraded + "a password", true},
		{"newer key, allowed", `"CacheBackend": "redis", "AllowInsecure": true, "Redis": {"Host": "10.0.0.3", "ReadTimeoutMs": 500}`, "tcp", "10.0.0.3:6379", degraded + "TLS and a password", false},
		{"newer key on loopback", `"CacheBackend": "redis", "Redis": {"Host": "127.0.0.1", "ReadTimeoutMs": 500}`, "tcp", "127.0.0.1:6379", "", false},
		{"open URL", `"CacheType": "redis", "RedisUrl": "redis://r.example.com:6379/3"`, "tcp", "r.example.com:6379", degraded + "TLS and a password", false},
		{"IPv6", `"CacheBackend": "redis", "Redis": {"Host": "::1"}`, "tcp", "[::1]:6379", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := parse(t, withServer(``, tt.section+`, `), Options{})
			r := cfg.Redis
			if r.Network != tt.network || !slices.Equal(r.Addrs, []string{tt.addr}) || r.TLS != tt.tls {
				t.Errorf("redis %+v", r)
			}
			if got := strings.Join(cfg.Degraded, "\n"); got != tt.degraded {
				t.Errorf("degraded %q, want %q", got, tt.degraded)
			}
			if strings.Contains(tt.section, "RedisUrl") && r.DB != 3 {
				t.Errorf("DB %d, want 3", r.DB)
			}
		})
	}
}

func TestParse_Gossip(t *testing.T) {
	cfg := parse(t, withServer(``, `"CacheBackend": "gossip", "Gossip": {"Name": "one", "BindPort": 0,
		"AdvertiseAddr": "10.0.0.1", "Peers": ["a", "b.example.com:7946", "[fd00::1]:7946", "10.0.0.2"],
		"SecretKey": "`+strings.Repeat("A", 43)+`=", "AllowedCIDRs": ["10.1.2.3/8"], "Profile": "WAN"}, `), Options{})
	g := cfg.Gossip
	if g.Name != "one" || g.BindAddr != "0.0.0.0" || g.BindPort != 0 || g.ClusterName != "default" || g.Profile != "wan" || g.Replicas != 3 || len(g.Peers) != 4 {
		t.Errorf("gossip %+v", g)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}; !slices.Equal(g.AllowedCIDRs, want) {
		t.Errorf("prefixes %v, want %v", g.AllowedCIDRs, want)
	}
	if keys, err := g.Secrets.Load(); err != nil || len(keys) != 1 || len(keys[0]) != 32 {
		t.Errorf("secrets %v, %v", keys, err)
	}
}

func TestParse_RateLimit(t *testing.T) {
	off := parse(t, withServer(``, ``), Options{})
	on := parse(t, withServer(``, `"RateLimitRequests": 100, "RateLimitWindowSeconds": 10, `), Options{})
	if (off.RateLimit != RateLimit{Window: time.Minute}) || (on.RateLimit != RateLimit{Requests: 100, Window: 10 * time.Second}) {
		t.Errorf("off %+v, on %+v", off.RateLimit, on.RateLimit)
	}
}

func TestParse_GossipWithoutAKey(t *testing.T) {
	loopback := parse(t, withServer(``, `"CacheBackend": "gossip", "Gossip": {"BindAddr": "127.0.0.1", "Peers": ["a"]}, `), Options{})
	if loopback.Gossip.Secrets.IsSet() || len(loopback.Degraded) != 0 || loopback.Gossip.Name == "" {
		t.Errorf("loopback: %+v, degraded %v", loopback.Gossip, loopback.Degraded)
	}
	open := parse(t, withServer(``, `"CacheBackend": "gossip", "AllowInsecure": true, "Gossip": {"Peers": ["a"]}, `), Options{})
	if len(open.Degraded) != 1 {
		t.Errorf("degraded %v", open.Degraded)
	}
}

func TestParse_Sidecar(t *testing.T) {
	users := writeFile(t, "users", "orthanc:hush\n")
	token := writeFile(t, "token", "hush\n")
	cfg := parse(t, withServer(``, `"UsersFile": "`+users+`", "AdminTokenFile": "`+token+`", `), Options{Sidecar: true})
	s := cfg.Sidecar
	if s.Listen != "127.0.0.1:8043" || s.AdminListen != "127.0.0.1:8044" || s.Users.Path() != users || s.ListenTLS.IsSet() {
		t.Errorf("sidecar %+v", s)
	}
	if secret, err := s.AdminToken.Load(); err != nil || secret.Reveal() != "hush" {
		t.Errorf("admin token: %v", err)
	}

	plugin := parse(t, withServer(``, `"Listen": 5, "UsersFile": "/nowhere", `), Options{})
	if len(plugin.Warnings) != 0 || plugin.Sidecar.Listen != "" {
		t.Errorf("the plugin reads the sidecar's keys: %v", plugin.Warnings)
	}
}

func TestParse_SidecarRefusesWhatIsOpen(t *testing.T) {
	tests := []struct{ keys, want string }{
		{``, `DicomWeb.OAuth.UsersFile: is missing; it is the path of a file with the credentials of the data path (orthanc-oauth hash-password)
DicomWeb.OAuth.AdminTokenFile: is missing; it is the path of a file with the bearer token of the admin routes`},
		{`"UsersFile": "", "AdminTokenFile": "/nowhere", `, `DicomWeb.OAuth.UsersFile: is empty; is ${VAR} set?
DicomWeb.OAuth.AdminTokenFile: file "/nowhere": no such file or directory`},
		{
			`"UsersFile": "@", "AdminTokenFile": "@", "Listen": ":8043", "AdminListen": "8044", `,
			`DicomWeb.OAuth.Listen: found ":8043", which is not loopback; set ListenTLS, or AllowInsecure
DicomWeb.OAuth.AdminListen: found "8044"; allowed: host:port`,
		},
		{
			`"UsersFile": "@", "AdminTokenFile": "@", "ListenTLS": {"CertFile": "@"}, `,
			`DicomWeb.OAuth.ListenTLS: CertFile and KeyFile go together; one of them is missing or empty`,
		},
		{
			`"UsersFile": "@", "AdminTokenFile": "@", "ListenTLS": {"CertFile": "@", "KeyFile": "@"}, `,
			`DicomWeb.OAuth.ListenTLS: files "@" and "@" are not a PEM certificate and its key`,
		},
	}
	file := writeFile(t, "secret", "hush")
	for _, tt := range tests {
		_, err := Parse([]byte(strings.ReplaceAll(withServer(``, tt.keys), "@", file)), Options{Sidecar: true})
		if want := strings.ReplaceAll(tt.want, "@", file); err == nil || err.Error() != want {
			t.Errorf("%s\ngot\n%v\nwant\n%s", tt.keys, err, want)
		}
	}
}

func TestParse_RelativeFilesStartAtBaseDir(t *testing.T) {
	path := writeFile(t, "secret", "0123456789012345678901234")
	text := withSection(`"Servers": {"pacs": {"Url": "https://d.example.com", "TokenEndpoint": "https://i.example.com/t",
		"ClientId": "c", "ClientSecretFile": "secret"}}`)
	cfg := parse(t, text, Options{BaseDir: strings.TrimSuffix(path, "/secret")})
	if got := cfg.Servers[0].ClientSecret.Path(); got != path {
		t.Errorf("path %q, want %q", got, path)
	}
}

func TestParse_Orthanc(t *testing.T) {
	cfg := parse(t, `{"HttpProxy": "http://u:hush@proxy:3128", "HttpsVerifyPeers": false, "HttpsCACertificates": "/ca.pem",
		"DicomWeb": {"Enable": false, "Root": "dw", "ServersInDatabase": true,
			"Servers": {"a": ["http://u:hush@a/", "u", "hush"], "pacs": {"Url": "http://localhost:8042/oauth-dicom-web/servers/pacs"}},
			"OAuth": {"Servers": {"pacs": {`+aServer+`}}}}}`, Options{})
	want := Orthanc{
		DicomWebRoot: "/dw/", ServersInDatabase: true, HTTPSCACertificates: "/ca.pem",
		DicomWebServers: map[string]string{"a": "http://a/", "pacs": "http://localhost:8042/oauth-dicom-web/servers/pacs"},
		HTTPProxy:       cfg.Orthanc.HTTPProxy,
	}
	if !reflect.DeepEqual(cfg.Orthanc, want) || cfg.Orthanc.HTTPProxy.Reveal() != "http://u:hush@proxy:3128" {
		t.Errorf("orthanc %+v", cfg.Orthanc)
	}
	const warnings = `DicomWeb.Enable: is false: the plugin registers its servers with Orthanc's DICOMweb plugin, which is off
DicomWeb.ServersInDatabase: is true: Orthanc keeps the plugin's loopback address and password in its database until a regular stop
DicomWeb.Servers: "pacs" is an OAuth server as well, whose registration replaces this entry; remove it here`
	if got := warningsOf(cfg); got != warnings {
		t.Errorf("warnings\n%s", got)
	}
}

func TestRedacted_ParsesAgainToTheSame(t *testing.T) {
	first := parse(t, withServer(`"EndpointParams": {"a": ["x"]}, `, `"CacheType": "redis", "RedisUrl": "redis://127.0.0.1", "ConfigVersion": "1.0", `), Options{})
	text, err := json.Marshal(first.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	second := parse(t, string(text), Options{})
	again, err := json.Marshal(second.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != string(again) {
		t.Errorf("first\n%s\nthen\n%s", text, again)
	}
	if len(first.Warnings) < 3 {
		t.Errorf("the aliases did not warn: %s", warningsOf(first))
	}
}

func TestParse_WholeNumbersMayHaveAPoint(t *testing.T) {
	cfg := parse(t, withServer(`"TokenRefreshBufferSeconds": 6e1, `, `"Proxy": {"TimeoutSeconds": 60.0}, "ResilienceConfig": {"RetryMaxDelay": 2.50}, `), Options{})
	if s := cfg.Servers[0]; s.RefreshBuffer != time.Minute || cfg.Proxy.Timeout != time.Minute || s.Resilience.RetryMaxDelay != 2500*time.Millisecond {
		t.Errorf("server %+v, proxy %+v", s, cfg.Proxy)
	}
}

// pairFiles writes a certificate that signs itself, and its key.
func pairFiles(t *testing.T) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		writeFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

func TestParse_CertificateFiles(t *testing.T) {
	cert, key := pairFiles(t)
	files := `"CertFile": "` + cert + `", "KeyFile": "` + key + `"`
	users := writeFile(t, "users", strings.Repeat("x", 100<<10))
	cfg := parse(t, withServer(`"VerifySSL": "`+cert+`", `, `"CacheBackend": "gossip",
		"Gossip": {"SecretKeys": ["`+strings.Repeat("A", 43)+`"], "Peers": ["a"], "TLS": {"CAFile": "`+cert+`", `+files+`}},
		"Listen": ":8043", "ListenTLS": {`+files+`}, "UsersFile": "`+users+`", "AdminTokenFile": "`+users+`", `), Options{Sidecar: true})
	if cfg.Servers[0].VerifySSL.CAFile != cert || (cfg.Gossip.TLS != TLSFiles{cert, cert, key}) || (cfg.Sidecar.ListenTLS != TLSFiles{"", cert, key}) {
		t.Errorf("files %+v %+v %+v", cfg.Servers[0].VerifySSL, cfg.Gossip.TLS, cfg.Sidecar.ListenTLS)
	}
	redis := parse(t, withServer(``, `"CacheBackend": "redis", "Redis": {"Host": "r.example.com", "SSL": true, "CAFile": "`+cert+`", `+files+`}, `), Options{})
	if r := redis.Redis; r.CAFile != cert || r.CertFile != cert || r.KeyFile != key || len(redis.Degraded) != 0 {
		t.Errorf("redis %+v, degraded %v", r, redis.Degraded)
	}
}

func TestParse_WrongCertificateFiles(t *testing.T) {
	cert, key := pairFiles(t)
	for keys, want := range map[string]string{
		`"VerifySSL": "` + key + `"`: `VerifySSL: file "` + key + `" holds no PEM certificate`,
	} {
		_, err := Parse([]byte(withServer(keys+`, `, ``)), Options{})
		if err == nil || err.Error() != `DicomWeb.OAuth.Servers[0] "pacs": `+want {
			t.Errorf("got\n%v\nwant\n%s", err, want)
		}
	}
	for files, want := range map[string]string{
		`"CertFile": "` + cert + `", "KeyFile": "` + cert + `"`: `: files "` + cert + `" and "` + cert + `" are not a PEM certificate and its key`,
		`"CertFile": "/nowhere", "KeyFile": "` + key + `"`:      `.CertFile: file "/nowhere": no such file or directory`,
		`"CertFile": "` + cert + `", "KeyFile": "/nowhere"`:     `.KeyFile: file "/nowhere": no such file or directory`,
	} {
		_, err := Parse([]byte(withServer(``, `"CacheBackend": "redis", "Redis": {"SSL": true, `+files+`}, `)), Options{})
		if err == nil || err.Error() != `DicomWeb.OAuth.Redis`+want {
			t.Errorf("got\n%v\nwant\n%s", err, want)
		}
	}
}
