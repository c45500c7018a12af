package config

import (
	"slices"
	"strings"
	"testing"
)

// TestParse_StartsWhatThePythonPluginsDocumentsSay holds configurations as its
// three documents spell them, with their own extra keys.
func TestParse_StartsWhatThePythonPluginsDocumentsSay(t *testing.T) {
	const server = `"Url": "https://dicom.example.com/v2/", "TokenEndpoint": "https://login.example.com/oauth2/token",
		"ClientId": "${OAUTH_CLIENT_ID}", "ClientSecret": "${OAUTH_CLIENT_SECRET}"`
	tests := []struct {
		name, text string
		backend    string
		warnings   []string
	}{
		{
			"guide, option 1", `{"Plugins": ["/path/to/dicomweb_oauth_plugin.py"], "DicomWeb": {"OAuth": {"Enabled": true,
			"CacheBackend": "redis", "Redis": {"Host": "redis.example.com", "Port": 6379, "DB": 0,
			"Password": "${REDIS_PASSWORD}", "Prefix": "orthanc:oauth:"}, "Servers": [{"Name": "a", ` + server + `}]}}}`,
			BackendRedis,
			[]string{`DicomWeb.OAuth.Redis: Redis beyond loopback without TLS`},
		},
		{
			"reference, servers by name", `{"DicomWebOAuth": {"Servers": {"a": {` + server + `, "Scope": "x/.default",
			"TokenRefreshBufferSeconds": 600, "VerifySSL": true, "ProviderType": "azure"}}}}`,
			BackendMemory,
			[]string{`DicomWebOAuth: is the old place of this section; move it to "DicomWeb.OAuth"`},
		},
		{
			"older keys", `{"DicomWeb": {"OAuth": {"CacheType": "memory", "ConfigVersion": "1.0", "LogLevel": "INFO",
			"Servers": {"a": {` + server + `, "RefreshBufferSeconds": 60, "Type": "Generic"}}}}}`,
			BackendMemory,
			[]string{
				`DicomWeb.OAuth.CacheType: is an old spelling; write "CacheBackend"`,
				`DicomWeb.OAuth.Servers "a": RefreshBufferSeconds: is an old spelling; write "TokenRefreshBufferSeconds"`,
				`DicomWeb.OAuth.Servers "a": Type: is an old spelling; write "ProviderType"`,
				`DicomWeb.OAuth.ConfigVersion: 1.0 is read as 2.0; write "2.0"`,
			},
		},
		{
			"keys at the root, one of them Orthanc's", `{"LogLevel": "default", "EnableMetrics": false, "ConfigVersion": "2.0",
			"DicomWeb": {"OAuth": {"Servers": {"a": {` + server + `}}}}}`,
			BackendMemory, nil,
		},
		{
			"a root level of somebody else", `{"LogLevel": {"core": 1}, "DicomWeb": {"OAuth": {"Servers": {"a": {` + server + `}}}}}`,
			BackendMemory,
			[]string{`LogLevel: found an object at the root of the file, which is not taken; allowed: "debug", "info", "warn", "warning", "error", "critical", "default"`},
		},
		{
			"Redis URL", `{"DicomWeb": {"OAuth": {"CacheBackend": "redis", "RedisUrl": "redis://:p@localhost:6379/0", "Servers": {"a": {` + server + `}}}}}`,
			BackendRedis,
			[]string{`DicomWeb.OAuth.RedisUrl: is an old spelling; write "Redis" with "Host", "Port", "DB", "Password", "SSL"`},
		},
		{
			"keys without effect", `{"DicomWeb": {"OAuth": {"LogFile": "/x", "AuditLogging": {"Enabled": true}, "TokenValidation": true,
			"RateLimiting": {}, "Servers": {"a": {` + server + `, "TokenLifetime": 3600, "RequireHTTPS": true}}}}}`,
			BackendMemory,
			[]string{
				`DicomWeb.OAuth.LogFile: has no effect: Orthanc's own log receives this plugin's lines (--logfile, --logdir); the sidecar writes to standard error`,
				`DicomWeb.OAuth.AuditLogging: has no effect: use SecurityLog`,
				`DicomWeb.OAuth.TokenValidation: has no effect: the DICOMweb server validates its tokens`,
				`DicomWeb.OAuth.RateLimiting: has no effect: use RateLimitRequests`,
				`DicomWeb.OAuth.Servers "a": TokenLifetime: has no effect: the provider's expires_in counts; AssumedLifetimeSeconds stands in where it sends none`,
				`DicomWeb.OAuth.Servers "a": RequireHTTPS: has no effect: TokenEndpoint is https always, and a Url of http is warned about`,
			},
		},
		{
			"values that ask for nothing", `{"DicomWeb": {"OAuth": {"DisableJWTValidation": true, "Servers": {"a": {` + server + `,
			"UseManagedIdentity": false, "TenantId": "", "Mode": "proxy"}}}}}`,
			BackendMemory,
			[]string{
				`DicomWeb.OAuth.DisableJWTValidation: has no effect yet`,
				`DicomWeb.OAuth.Servers "a": UseManagedIdentity: has no effect yet`,
				`DicomWeb.OAuth.Servers "a": TenantId: has no effect yet`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := parse(t, tt.text, Options{Expand: true, Getenv: env(
				"OAUTH_CLIENT_ID", "id", "OAUTH_CLIENT_SECRET", "01234567890123456789", "REDIS_PASSWORD", "p")})
			if cfg.Backend != tt.backend || len(cfg.Servers) != 1 || cfg.Servers[0].ClientID != "id" {
				t.Errorf("backend %q, servers %+v", cfg.Backend, cfg.Servers)
			}
			if got, want := warningsOf(cfg), strings.Join(tt.warnings, "\n"); got != want {
				t.Errorf("warnings\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestParse_RefusesWhatIsNotBuilt asks for each function that a later issue
// builds: none may be ignored in silence.
func TestParse_RefusesWhatIsNotBuilt(t *testing.T) {
	asking := map[string]string{
		"Mode": `"direct"`, "UseManagedIdentity": `true`, "UseInstanceProfile": `true`, "TenantId": `"t"`,
		"Region": `"eu-west-1"`, "DicomWebRoot": `"https://x"`, "JWTPublicKey": `"/k.pem"`, "JWTAudience": `["a"]`,
		"JWTIssuer": `"i"`, "JWTAlgorithms": `["RS256"]`, "JWTEnforce": `true`, "DisableJWTValidation": `false`,
	}
	for _, k := range unbuiltKeys() {
		values := []string{asking[k.key]}
		if k.key == "ProviderType" {
			values = []string{`"azuremanagedidentity"`, `"Google"`, `"aws"`}
			values = slices.DeleteFunc(values, func(v string) bool { return !k.asks(strings.ToLower(strings.Trim(v, `"`))) })
		}
		for _, value := range values {
			pair := `"` + k.key + `": ` + value + `, `
			if k.scope&inSection != 0 {
				refused(t, withServer(``, pair), "DicomWeb.OAuth."+k.key+": ", k.why)
			}
			if k.scope&inServer != 0 {
				refused(t, withServer(pair, ``), `DicomWeb.OAuth.Servers[0] "pacs": `+k.key+": ", k.why)
			}
		}
	}
}

func refused(t *testing.T, text, where, why string) {
	t.Helper()
	_, err := Parse([]byte(text), Options{})
	if err == nil || !strings.HasPrefix(err.Error(), where) || !strings.HasSuffix(err.Error(), why) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got\n%v\nwant\n%s...%s", err, where, why)
	}
}

func TestParse_RefusesGooglesTokenEndpoint(t *testing.T) {
	text := strings.Replace(withServer(``, ``), "https://idp.example.com/token", "https://oauth2.googleapis.com/token", 1)
	refused(t, text, `DicomWeb.OAuth.Servers[0] "pacs": TokenEndpoint: `, "Google has no client-secret grant, and service accounts are not built yet")
}

func TestParse_WarnsOfAnAzureScopeWithoutDefault(t *testing.T) {
	text := strings.Replace(withServer(`"Scope": "https://dicom.healthcareapis.azure.com", `, ``),
		"https://idp.example.com/token", "https://login.microsoftonline.com/t/oauth2/v2.0/token", 1)
	const want = `DicomWeb.OAuth.Servers[0] "pacs": Scope: Entra ID's v2.0 endpoint wants a scope that ends in "/.default"`
	if got := warningsOf(parse(t, text, Options{})); got != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
}

func TestExpand_ReplacesVariablesEverywhereInTheSection(t *testing.T) {
	getenv := env("NAME", "pacs", "QUOTE", `a"b`, "EMPTY", "", "SECRET", "0123456789012345678901234", "SCOPE", "s")
	text := `{"HttpProxy": "${UNSET}", "DicomWeb": {"OAuth": {"Servers": [{"Name": "${NAME}", "Url": "https://${HOST:-d.example.com}/",
		"TokenEndpoint": "https://i.example.com/t", "ClientId": "x${EMPTY}${EMPTY:-d}y", "ClientSecret": "${SECRET}",
		"Scope": "${SCOPE} $SCOPE ${} $${SCOPE}", "EndpointParams": {"a": ["${QUOTE}", "${EMPTY2:-}"]}}]}}}`
	cfg := parse(t, text, Options{Expand: true, Getenv: getenv})
	s := cfg.Servers[0]
	if s.Name != "pacs" || s.URL != "https://d.example.com/" || s.ClientID != "xy" || s.Scope != "s $SCOPE ${} $s" {
		t.Errorf("server %+v", s)
	}
	if got := s.EndpointParams.Values()["a"]; !slices.Equal(got, []string{`a"b`, ""}) {
		t.Errorf("parameter %q", got)
	}
	if !cfg.Orthanc.HTTPProxy.IsZero() {
		t.Error("an unset variable outside of the section is not empty")
	}
}

func TestExpand_NamesEachVariableThatIsNotSet(t *testing.T) {
	for text, want := range map[string]string{
		withServer(`"Scope": "${A}${B:-x}${C}", `, ``): `DicomWeb.OAuth.Servers[0] "pacs": Scope: environment variable "A" is not set; set it, or write ${A:-default}
DicomWeb.OAuth.Servers[0] "pacs": Scope: environment variable "C" is not set; set it, or write ${C:-default}`,
		withServer(``, `"Gossip": {"Peers": ["x", "${PEER}"]}, `):     `DicomWeb.OAuth.Gossip.Peers[1]: environment variable "PEER" is not set; set it, or write ${PEER:-default}`,
		withSection(`"Servers": {"a": {"Url": "${U}", "Name": "a"}}`): `DicomWeb.OAuth.Servers "a": Url: environment variable "U" is not set; set it, or write ${U:-default}`,
	} {
		cfg, err := Parse([]byte(text), Options{Expand: true, Getenv: env()})
		if err == nil || err.Error() != want {
			t.Errorf("got\n%v\nwant\n%s", err, want)
		}
		if cfg == nil {
			t.Error("no Config for the warnings")
		}
	}
}

func TestExpand_LeavesAPluginsStringsAlone(t *testing.T) {
	cfg := parse(t, withServer(`"Scope": "${A}", `, ``), Options{Getenv: env("A", "x")})
	if cfg.Servers[0].Scope != "${A}" {
		t.Errorf("scope %q: Orthanc's core replaces variables, once", cfg.Servers[0].Scope)
	}
}
