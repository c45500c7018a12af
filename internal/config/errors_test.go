package config

import (
	"errors"
	"strings"
	"testing"
)

// TestParse_BadInputs holds the messages an operator sees: they are what this
// package is for. Each input has exactly the errors listed.
func TestParse_BadInputs(t *testing.T) {
	const pacs = `DicomWeb.OAuth.Servers[0] "pacs": `
	tests := []struct {
		name, input string
		want        []string
	}{
		// The file.
		{"empty file", ``, []string{`malformed JSON at line 1, column 1: unexpected end of JSON input`}},
		{"cut off", "{\n \"DicomWeb\": {", []string{`malformed JSON at line 2, column 14: unexpected end of JSON input`}},
		{"missing comma", "{\n  \"A\": 1\n  \"B\": 2\n}", []string{`malformed JSON at line 3, column 3: invalid character '"' after object key:value pair`}},
		{"column counts characters", "{\"ä\": x}", []string{`malformed JSON at line 1, column 7: invalid character 'x' looking for beginning of value`}},
		{"unquoted variable", `{"DicomWeb": {"OAuth": {"Redis": {"Port": ${PORT}}}}}`, []string{`malformed JSON at line 1, column 43: invalid character '$' looking for beginning of value`}},
		{"text behind", `{} {}`, []string{`malformed JSON at line 1, column 4: invalid character '{' after top-level value`}},
		{"endless comment", "{}\n/* ", []string{`malformed JSON at line 2, column 1: a comment does not end`}},
		{"only a comma", `[,]`, []string{`malformed JSON at line 1, column 2: invalid character ',' looking for beginning of value`}},
		{"duplicate key", "{\"DicomWeb\": {\n\"OAuth\": {\"Enabled\": true, \"Enabled\": false}}}", []string{`malformed JSON at line 2, column 36: key "Enabled" stands twice in one object`}},
		{"not UTF-8", "{\"\xff\": 1}", []string{`the file is not UTF-8 text`}},
		{"number out of range", `{"A": 1e999999999}`, []string{`malformed JSON at line 1, column 17: a number is out of range`}},
		{"no object", `[]`, []string{`the file does not hold a JSON object`}},
		{"too deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), []string{`malformed JSON at line 1, column 65: nested deeper than 64 levels`}},
		{"no section", `{"Name": "orthanc"}`, []string{`no section "DicomWeb.OAuth" (or "DicomWebOAuth", its old spelling) in this file`}},
		{"two sections", `{"DicomWeb": {"OAuth": {}}, "DicomWebOAuth": {}}`, []string{`found both "DicomWeb.OAuth" and its old spelling "DicomWebOAuth"; keep the first`}},
		{"section of a wrong type", `{"DicomWebOAuth": []}`, []string{`DicomWebOAuth: allowed: an object`}},

		// Keys.
		{"unknown key in a server", withServer(`"Clientid": "x", `, ``), []string{pacs + `unknown key "Clientid", did you mean "ClientId"?`}},
		{"unknown key in the section", withServer(``, `"CachBackend": "redis", `), []string{`DicomWeb.OAuth: unknown key "CachBackend", did you mean "CacheBackend"?`}},
		{"unknown key in Redis", withServer(``, `"Redis": {"Hots": "x"}, `), []string{`DicomWeb.OAuth.Redis: unknown key "Hots", did you mean "Host"?`}},
		{"unknown key in TLS", withServer(``, `"Gossip": {"TLS": {"CAFiles": "x"}}, `), []string{`DicomWeb.OAuth.Gossip.TLS: unknown key "CAFiles", did you mean "CAFile"?`}},
		{"unknown key in resilience", withServer(`"ResilienceConfig": {"RetryMaxAttempt": 2}, `, ``), []string{pacs + `ResilienceConfig: unknown key "RetryMaxAttempt", did you mean "RetryMaxAttempts"?`}},
		{"key like no other", withServer(``, `"Proxy": {"Frobnicate": 1}, `), []string{`DicomWeb.OAuth.Proxy: unknown key "Frobnicate"; allowed: ReplayBytes, ReplayTotalBytes, TimeoutSeconds`}},
		{"server key in the section", withServer(``, `"ClientSecret": "hush", `), []string{`DicomWeb.OAuth: unknown key "ClientSecret"; it belongs into a server`}},
		{"Redis key in the section", withServer(``, `"MasterName": "m", `), []string{`DicomWeb.OAuth: unknown key "MasterName"; it belongs into Redis`}},
		{"section key in a server", withServer(`"CacheBackend": "redis", `, ``), []string{pacs + `unknown key "CacheBackend"; it belongs beside Servers`}},
		{"both spellings", withServer(``, `"CacheType": "redis", "CacheBackend": "redis", `), []string{`DicomWeb.OAuth: found both "CacheBackend" and its old spelling "CacheType"; keep the first`}},
		{"RedisUrl and Redis", withServer(``, `"RedisUrl": "redis://h", "Redis": {}, `), []string{`DicomWeb.OAuth: found both "Redis" and its old spelling "RedisUrl"; keep the first`}},

		// Types.
		{"number for a string", withServer(`"Scope": 5, `, ``), []string{pacs + `Scope: found 5; allowed: scopes separated by single spaces`}},
		{"string for a number", withServer(``, `"Redis": {"Port": "abc"}, `), []string{`DicomWeb.OAuth.Redis.Port: found "abc"; allowed: an integer from 1 to 65535`}},
		{"port too large", withServer(``, `"Gossip": {"BindPort": 65536}, `), []string{`DicomWeb.OAuth.Gossip.BindPort: found 65536; allowed: an integer from 0 to 65535`}},
		{"fraction", withServer(`"TokenRefreshBufferSeconds": 1.5, `, ``), []string{pacs + `TokenRefreshBufferSeconds: found 1.5; allowed: an integer from 0 to 86400`}},
		{"string for a boolean", withServer(``, `"EnableMetrics": "yes", `), []string{`DicomWeb.OAuth.EnableMetrics: found "yes"; allowed: true or false`}},
		{"null", withServer(``, `"Proxy": null, `), []string{`DicomWeb.OAuth.Proxy: found null; allowed: an object`}},
		{"word of no list", withServer(`"AuthStyle": "Digest", `, ``), []string{pacs + `AuthStyle: found "Digest"; allowed: "auto", "basic", "post"`}},
		{"secret of a wrong type", withSection(`"Servers": {"pacs": {"Url": "https://d.example.com", "ClientSecret": 12345678}}`), []string{`DicomWeb.OAuth.Servers "pacs": ClientSecret: found a value that is not shown; allowed: a string`}},
		{"secret ring of a wrong type", withServer(``, `"Gossip": {"SecretKeys": ["a", "b", "c", "d"]}, `), []string{`DicomWeb.OAuth.Gossip.SecretKeys: found an array; allowed: an array of one to three secrets`}},
		{"servers of a wrong type", withSection(`"Servers": "pacs"`), []string{`DicomWeb.OAuth.Servers: found "pacs"; allowed: an array of servers with Name, or an object of servers by name`}},
		{"server of a wrong type", withSection(`"Servers": ["pacs"]`), []string{`DicomWeb.OAuth.Servers[0]: found "pacs"; allowed: an object`}},
		{"server by name of a wrong type", withSection(`"Servers": {"pacs": ["hush"]}`), []string{`DicomWeb.OAuth.Servers "pacs": found an array; allowed: an object`}},
		{"two servers", withSection(`"Servers": [{"Name": "a", "Url": 1},{"Name": "b", "Url": 2}]`), []string{
			`DicomWeb.OAuth.Servers[0] "a": Url: found 1; allowed: an absolute http or https URL without user, query or fragment`,
			`DicomWeb.OAuth.Servers[1] "b": Url: found 2; allowed: an absolute http or https URL without user, query or fragment`,
		}},

		// Required, and empty where a variable was not set.
		{"no name", withSection(`"Servers": [{` + aServer + `}]`), []string{`DicomWeb.OAuth.Servers[0]: "Name" is missing; it is 1 to 64 of the characters A-Z a-z 0-9 - _ . and no dot in front`}},
		{"no URL", withSection(`"Servers": {"pacs": {}}`), []string{`DicomWeb.OAuth.Servers "pacs": "Url" is missing; it is an absolute http or https URL without user, query or fragment`}},
		{"only a URL", withSection(`"Servers": {"pacs": {"Url": "https://dicom.example.com"}}`), []string{
			`DicomWeb.OAuth.Servers "pacs": TokenEndpoint: is missing`,
			`DicomWeb.OAuth.Servers "pacs": ClientId: is missing`,
			`DicomWeb.OAuth.Servers "pacs": one of "ClientSecret", "ClientSecretFile", "ClientSecretEnv" is required`,
		}},
		{"everything empty", withSection(`"Servers": {"pacs": {"Url": "", "TokenEndpoint": "", "ClientId": "", "ClientSecret": ""}}`), []string{
			`DicomWeb.OAuth.Servers "pacs": TokenEndpoint: is empty; is ${VAR} set?`,
			`DicomWeb.OAuth.Servers "pacs": ClientId: is empty; is ${VAR} set?`,
			`DicomWeb.OAuth.Servers "pacs": ClientSecret: is empty; is ${VAR} set?`,
			`DicomWeb.OAuth.Servers "pacs": Url: is empty; is ${VAR} set?`,
		}},
		{"secret twice", withServer(`"ClientSecretEnv": "S", `, ``), []string{pacs + `found more than one of "ClientSecret", "ClientSecretFile", "ClientSecretEnv"; keep one`}},
		{"encryption key twice", withServer(``, `"EncryptionKey": "x", "EncryptionKeyFile": "y", `), []string{`DicomWeb.OAuth: found both "EncryptionKey" and "EncryptionKeyFile"; keep one`}},
		{"empty encryption key", withServer(``, `"EncryptionKey": "", `), []string{`DicomWeb.OAuth.EncryptionKey: is empty; is ${VAR} set?`}},
		{"empty CA", withServer(`"VerifySSL": "", `, ``), []string{pacs + `VerifySSL: is empty; is ${VAR} set?`}},

		// Servers.
		{"two of one name", withSection(`"Servers": [{"Name": "pacs", ` + aServer + `}, {"Name": "pacs", ` + aServer + `}]`), []string{`DicomWeb.OAuth.Servers[1] "pacs": Name: two servers have this name; each needs one of its own`}},
		{"slash in a name", withSection(`"Servers": {"a/b": {` + aServer + `}}`), []string{`DicomWeb.OAuth.Servers "a/b": Name: found "a/b"; allowed: 1 to 64 of the characters A-Z a-z 0-9 - _ . and no dot in front`}},
		{"dot segment as a name", withSection(`"Servers": {"..": {` + aServer + `}}`), []string{`DicomWeb.OAuth.Servers "..": Name: found ".."; allowed: 1 to 64 of the characters A-Z a-z 0-9 - _ . and no dot in front`}},
		{"key and name differ", withSection(`"Servers": {"a": {"Name": "b", ` + aServer + `}}`), []string{`DicomWeb.OAuth.Servers "a": Name: differs from the key that names this server; remove it`}},
		{"quoted boolean", withServer(`"VerifySSL": "true", `, ``), []string{pacs + `VerifySSL: found "true"; allowed: true or false without quotes, or the path of a CA file`}},
		{"CA file not there", withServer(`"VerifySSL": "/nowhere/ca.pem", `, ``), []string{pacs + `VerifySSL: file "/nowhere/ca.pem": no such file or directory`}},
		{"CA is a directory", withServer(`"VerifySSL": "/", `, ``), []string{pacs + `VerifySSL: "/" is not a regular file`}},
		{"control character in a scope", withServer(`"Scope": "a\nb", `, ``), []string{pacs + `Scope: found "a\nb"; allowed: scopes separated by single spaces`}},
		{"parameter with its own key", withServer(`"EndpointParams": {"scope": "x", "grant_type": "y"}, `, ``), []string{
			pacs + `EndpointParams.grant_type: is always "client_credentials"; remove it`,
			pacs + `EndpointParams.scope: has a key of its own: "Scope"`,
		}},
		{"parameter of a wrong type", withServer(`"EndpointParams": {"a": {"b": "hush"}}, `, ``), []string{pacs + `EndpointParams.a: found an object; allowed: a string or an array of strings`}},

		// Redis.
		{"host with a port", withServer(``, `"CacheBackend": "redis", "Redis": {"Host": "h:6379"}, `), []string{`DicomWeb.OAuth.Redis.Host: found "h:6379"; allowed: a host name or address without a port, or the absolute path of a socket`}},
		{"braces in a prefix", withServer(``, `"CacheBackend": "redis", "Redis": {"Prefix": "{x}"}, `), []string{`DicomWeb.OAuth.Redis.Prefix: found "{x}"; allowed: 1 to 128 characters, no braces and no spaces`}},
		{"Redis URL", withServer(``, `"RedisUrl": "http://:hush@h", `), []string{`DicomWeb.OAuth.RedisUrl: found a value that is not shown; allowed: redis://[user:password@]host[:port][/db], rediss://... or unix:///path[?db=0]`}},
		{"Sentinel without its keys", withServer(``, `"CacheBackend": "redis", "Redis": {"Mode": "sentinel"}, `), []string{
			`DicomWeb.OAuth.Redis.MasterName: is empty; is ${VAR} set?`,
			`DicomWeb.OAuth.Redis.Addrs: is missing; Mode "sentinel" needs the Sentinels as host:port`,
		}},
		{"cluster with a database", withServer(``, `"CacheBackend": "redis", "Redis": {"Mode": "cluster", "DB": 1}, `), []string{`DicomWeb.OAuth.Redis.DB: found 1; allowed: 0 in Mode "cluster"`}},
		{"addresses of a single Redis", withServer(``, `"CacheBackend": "redis", "Redis": {"Addrs": ["127.0.0.1:1"]}, `), []string{`DicomWeb.OAuth.Redis.Addrs: goes with Mode "sentinel" or "cluster"; Mode is "single", which uses Host and Port`}},
		{"open cluster", withServer(``, `"CacheBackend": "redis", "Redis": {"Mode": "cluster", "Addrs": ["r:6379"]}, `), []string{`DicomWeb.OAuth.Redis: Redis beyond loopback without TLS and a password, with "Addrs", which no configuration of the Python plugin has; set SSL, Password or AllowInsecure`}},
		{"open Redis, a default written out", withServer(``, `"CacheBackend": "redis", "Redis": {"Host": "10.0.0.3", "Mode": "single"}, `), []string{`DicomWeb.OAuth.Redis: Redis beyond loopback without TLS and a password, with "Mode", which no configuration of the Python plugin has; set SSL, Password or AllowInsecure`}},
		{"open Redis, a newer timeout", withServer(``, `"CacheBackend": "redis", "Redis": {"Host": "10.0.0.3", "Port": 6379, "ReadTimeoutMs": 500}, `), []string{`DicomWeb.OAuth.Redis: Redis beyond loopback without TLS and a password, with "ReadTimeoutMs", which no configuration of the Python plugin has; set SSL, Password or AllowInsecure`}},
		{"open Redis, a user and no password", withServer(``, `"CacheBackend": "redis", "Redis": {"Host": "10.0.0.3", "Username": "u"}, `), []string{`DicomWeb.OAuth.Redis: Redis beyond loopback without TLS and a password, with "Username", which no configuration of the Python plugin has; set SSL, Password or AllowInsecure`}},
		{"CA without TLS", withServer(``, `"CacheBackend": "redis", "Redis": {"ServerName": "x"}, `), []string{`DicomWeb.OAuth.Redis.SSL: found false, but CAFile, CertFile, KeyFile or ServerName is set; allowed: true`}},
		{"half a client certificate", withServer(``, `"CacheBackend": "redis", "Redis": {"SSL": true, "CertFile": "x"}, `), []string{`DicomWeb.OAuth.Redis: CertFile and KeyFile go together; one of them is missing or empty`}},

		// Gossip.
		{"no key", withServer(``, `"CacheBackend": "gossip", "Gossip": {"Peers": ["a"]}, `), []string{`DicomWeb.OAuth.Gossip.SecretKey: is missing, and BindAddr "0.0.0.0" is not loopback; make one with: orthanc-oauth keygen`}},
		{"short key", withServer(``, `"CacheBackend": "gossip", "Gossip": {"SecretKey": "YWJj"}, `), []string{`DicomWeb.OAuth.Gossip.SecretKey: found base64 of 3 bytes; allowed: at least 32, made with: orthanc-oauth keygen`}},
		{"no base64", withServer(``, `"CacheBackend": "gossip", "Gossip": {"SecretKey": "!hush!"}, `), []string{`DicomWeb.OAuth.Gossip.SecretKey: is not base64; make one with: orthanc-oauth keygen`}},
		{"two ways to give a key", withServer(``, `"CacheBackend": "gossip", "Gossip": {"BindAddr": "::1", "SecretKey": "a", "SecretKeys": ["b"]}, `), []string{`DicomWeb.OAuth.Gossip: found more than one of "SecretKey", "SecretKeyFile", "SecretKeys"; keep one`}},
		{"section key in Gossip", withServer(``, `"CacheBackend": "gossip", "Gossip": {"BindAddr": "localhost", "AllowInsecure": 1}, `), []string{`DicomWeb.OAuth.Gossip: unknown key "AllowInsecure"; it belongs beside Servers`}},
		{"host name to bind", withServer(``, `"CacheBackend": "gossip", "Gossip": {"BindAddr": "localhost"}, `), []string{`DicomWeb.OAuth.Gossip.BindAddr: found "localhost"; allowed: an IP address`}},
		{"peers", withServer(``, `"CacheBackend": "gossip", "Gossip": {"BindAddr": "::1", "Peers": ["http://x", "a:b", ":1", ""]}, `), []string{
			`DicomWeb.OAuth.Gossip.Peers[0]: found "http://x"; allowed: host, host:port or [v6]:port`,
			`DicomWeb.OAuth.Gossip.Peers[1]: found "a:b"; allowed: host, host:port or [v6]:port`,
			`DicomWeb.OAuth.Gossip.Peers[2]: found ":1"; allowed: host, host:port or [v6]:port`,
			`DicomWeb.OAuth.Gossip.Peers[3]: found ""; allowed: host, host:port or [v6]:port`,
		}},
		{"prefixes", withServer(``, `"CacheBackend": "gossip", "Gossip": {"BindAddr": "::1", "AllowedCIDRs": ["10.0.0.1"]}, `), []string{`DicomWeb.OAuth.Gossip.AllowedCIDRs[0]: found "10.0.0.1"; allowed: a prefix like 10.0.0.0/8`}},
		{"half a PKI", withServer(``, `"CacheBackend": "gossip", "Gossip": {"BindAddr": "::1", "TLS": {"CAFile": "x"}}, `), []string{`DicomWeb.OAuth.Gossip.TLS: needs all of CAFile, CertFile and KeyFile; one is missing or empty`}},

		// The rest.
		{"replay bounds", withServer(``, `"Proxy": {"ReplayBytes": 100, "ReplayTotalBytes": 10}, `), []string{`DicomWeb.OAuth.Proxy.ReplayTotalBytes: found 10; allowed: at least ReplayBytes (100)`}},
		{"no version", withServer(``, `"ConfigVersion": "3.0", `), []string{`DicomWeb.OAuth.ConfigVersion: found "3.0"; allowed: "1.0", "2.0"`}},
		{"legacy section in messages", `{"DicomWebOAuth": {"Servers": {"pacs": {"Url": 1}}}}`, []string{`DicomWebOAuth.Servers "pacs": Url: found 1; allowed: an absolute http or https URL without user, query or fragment`}},
		{"section alone in messages", `{"Servers": {"pacs": {"Url": 1}}, "Servres": 1}`, []string{
			`unknown key "Servres", did you mean "Servers"?`,
			`Servers "pacs": Url: found 1; allowed: an absolute http or https URL without user, query or fragment`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.input), Options{})
			if err == nil {
				t.Fatalf("accepted; want\n%s", strings.Join(tt.want, "\n"))
			}
			if got, want := err.Error(), strings.Join(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Error("the message shows a secret")
			}
		})
	}
}

func TestParse_BadURLs(t *testing.T) {
	const rule = `allowed: an absolute http or https URL without user, query or fragment`
	for url, found := range map[string]string{
		"dicom.example.com":              `"dicom.example.com"`,
		"/dicom-web/":                    `"/dicom-web/"`,
		"ftp://dicom.example.com":        `"ftp://dicom.example.com"`,
		"https://":                       `"https://"`,
		"https://u:hush@d.example.com":   `a URL with a user, which is not shown`,
		"https://d.example.com/?k=hush":  `"https://d.example.com/?..."`,
		"https://d.example.com/#x":       `"https://d.example.com/#x"`,
		"https://d.example.com:70000/":   `"https://d.example.com:70000/"`,
		"https://d.example.com/a/../b":   `"https://d.example.com/a/../b"`,
		"https://d.example.com/%2e%2e/b": `"https://d.example.com/%2e%2e/b"`,
		"https://d.example.com/ b":       `"https://d.example.com/ b"`,
	} {
		section := withSection(`"Servers": {"pacs": {"Url": "` + url + `", "TokenEndpoint": "https://i.example.com/t",
			"ClientId": "c", "ClientSecret": "0123456789012345678901234"}}`)
		_, err := Parse([]byte(section), Options{})
		if want := `DicomWeb.OAuth.Servers "pacs": Url: found ` + found + `; ` + rule; err == nil || err.Error() != want {
			t.Errorf("%s: got\n%v\nwant\n%s", url, err, want)
		}
	}
}

func TestParse_TokenEndpointIsHTTPSOrLoopback(t *testing.T) {
	for endpoint, ok := range map[string]bool{
		"https://idp.example.com/token":       true,
		"https://idp.example.com/token?p=one": true, // Azure AD B2C
		"http://127.0.0.1:9000/token":         true,
		"http://localhost/token":              true,
		"http://[::1]:9000/token":             true,
		"http://idp.example.com/token":        false,
		"http://127.0.0.1.example.com/token":  false,
		"https://u:p@idp.example.com/token":   false,
		"idp.example.com/token":               false,
	} {
		section := withSection(`"Servers": {"pacs": {"Url": "https://d.example.com", "TokenEndpoint": "` + endpoint + `",
			"ClientId": "c", "ClientSecret": "0123456789012345678901234"}}`)
		_, err := Parse([]byte(section), Options{})
		if (err == nil) != ok {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestParse_ErrorsCarryCodes(t *testing.T) {
	_, err := Parse([]byte(withSection(`"Servers": {"pacs": {"Url": "x", "TokenEndpoint": ""}}`)), Options{})
	var problems Errors
	if !errors.As(err, &problems) {
		t.Fatalf("%T, want Errors", err)
	}
	codes := map[string]Code{}
	for _, p := range problems {
		codes[p.Key] = p.Code
	}
	if codes["Url"] != InvalidValue || codes["TokenEndpoint"] != MissingKey {
		t.Errorf("codes %v", codes)
	}
	var first *Error
	if !errors.As(err, &first) || first.Server != "pacs" {
		t.Errorf("first error %+v names no server", first)
	}
}

func TestParse_RefusesHugeFiles(t *testing.T) {
	_, err := Parse(make([]byte, maxFile+1), Options{})
	if err == nil || err.Error() != "file of 8388609 bytes; allowed: at most 8388608" {
		t.Error(err)
	}
}
