package config

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
)

type fileServer struct {
	Name                      string
	Enabled                   bool
	Mode                      string
	URL                       string `json:"Url"`
	TokenEndpoint             *string
	ClientID                  *string `json:"ClientId"`
	ClientSecret              *Secret
	ClientSecretFile          *string
	ClientSecretEnv           *string
	Scope, Audience, Resource string
	EndpointParams            map[string]oneOrMore
	AuthStyle                 string
	TokenRefreshBufferSeconds int
	VerifySSL                 any
	ProviderType              string
	ResilienceConfig          fileResilience
}

// oneOrMore is a string or an array of strings.
type oneOrMore []string

// UnmarshalJSON implements json.Unmarshaler.
func (o *oneOrMore) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*o = []string{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(o))
}

func (b *builder) servers(files []fileServer) {
	seen := map[string]bool{}
	for i, e := range b.doc.servers() {
		f := files[i]
		b.checkName(e.at.at("Name"), f.Name, seen)
		if !f.Enabled {
			b.cfg.Disabled = append(b.cfg.Disabled, f.Name)
			continue
		}
		b.cfg.Servers = append(b.cfg.Servers, b.server(e.at, f))
	}
	if len(b.cfg.Servers) == 0 {
		b.report.warn(place{path: b.doc.base}.at("Servers"), "has no enabled server: nothing to do")
	}
}

// maxName keeps names short enough for URLs, metrics and tables.
const maxName = 64

// checkName keeps names safe in a URL path: a slash or dot segment would name
// another route.
func (b *builder) checkName(at place, name string, seen map[string]bool) {
	if !b.require(at, name) {
		return
	}
	bad := strings.ContainsFunc(name, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.", r)
	})
	if bad || len(name) > maxName || name[0] == '.' {
		b.report.invalid(at, brief(name), "1 to 64 of the characters A-Z a-z 0-9 - _ . and no dot in front")
	}
	if seen[name] {
		b.report.refuse(at, InvalidValue, "two servers have this name; each needs one of its own")
	}
	seen[name] = true
}

func (b *builder) server(at place, f fileServer) Server {
	s := Server{
		Name: f.Name, URL: f.URL,
		TokenEndpoint: b.needed(at.at("TokenEndpoint"), f.TokenEndpoint),
		ClientID:      b.needed(at.at("ClientId"), f.ClientID),
		ClientSecret:  b.clientSecret(at, f),
		Scope:         f.Scope, Audience: f.Audience, Resource: f.Resource,
		EndpointParams: b.endpointParams(at.at("EndpointParams"), f.EndpointParams),
		AuthStyle:      f.AuthStyle,
		RefreshBuffer:  time.Duration(f.TokenRefreshBufferSeconds) * time.Second,
		VerifySSL:      b.verifySSL(at.at("VerifySSL"), f.VerifySSL),
		Resilience:     b.resilience(at.at("ResilienceConfig"), f.ResilienceConfig),
	}
	b.checkURL(at.at("Url"), f.URL)
	s.Provider = b.provider(at, f.ProviderType, b.checkEndpoint(at.at("TokenEndpoint"), s.TokenEndpoint), f.Scope)
	b.checkScope(at.at("Scope"), f.Scope)
	b.checkText(at.at("ClientId"), s.ClientID)
	return s
}

// needed returns a required string, or refuses its absence.
func (b *builder) needed(at place, value *string) string {
	if value == nil {
		b.report.refuse(at, MissingKey, "is missing")
		return ""
	}
	b.require(at, *value)
	return *value
}

// weakSecret is the length below which guessing a secret from what is stored
// under keys derived from it is within reach.
const weakSecret = 20

func (b *builder) clientSecret(at place, f fileServer) SecretRef {
	given := 0
	for _, set := range []bool{f.ClientSecret != nil, f.ClientSecretFile != nil, f.ClientSecretEnv != nil} {
		if set {
			given++
		}
	}
	const three = "\"ClientSecret\", \"ClientSecretFile\", \"ClientSecretEnv\""
	switch {
	case given == 0:
		b.report.refuse(at, MissingKey, "one of %s is required", three)
		return SecretRef{}
	case given > 1:
		b.report.refuse(at, InvalidValue, "found more than one of %s; keep one", three)
		return SecretRef{}
	}
	ref := b.secretOf(at, f)
	if ref.IsSet() {
		b.warnWeak(ref)
	}
	return ref
}

func (b *builder) secretOf(at place, f fileServer) SecretRef {
	if f.ClientSecretEnv == nil {
		return b.secret(at, "ClientSecret", f.ClientSecret, f.ClientSecretFile)
	}
	key := at.at("ClientSecretEnv")
	if !b.require(key, *f.ClientSecretEnv) {
		return SecretRef{at: key}
	}
	return b.load(SecretRef{at: key, env: *f.ClientSecretEnv})
}

func (b *builder) warnWeak(ref SecretRef) {
	secret, err := ref.Load()
	if err == nil && len(secret.Reveal()) < weakSecret {
		b.report.warn(ref.at, "the client secret has fewer than %d characters; whoever reads the shared cache could guess it", weakSecret)
	}
}

func (b *builder) checkURL(at place, text string) {
	if !b.require(at, text) {
		return
	}
	u, ok := baseURL(text)
	if !ok || u.RawQuery != "" || u.ForceQuery {
		b.report.invalid(at, showURL(text), "an absolute http or https URL without user, query or fragment")
		return
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		b.report.warn(at, "is http: tokens and images travel in the clear; use https")
	}
}

// checkEndpoint returns the parsed token endpoint, or nil.
func (b *builder) checkEndpoint(at place, text string) *url.URL {
	if text == "" {
		return nil // reported by needed
	}
	u, ok := baseURL(text)
	if !ok || u.Scheme == "http" && !isLoopback(u.Hostname()) {
		b.report.invalid(at, showURL(text), "an absolute https URL without user or fragment (http on loopback only)")
		return nil
	}
	return u
}

// provider names the kind of provider. Host names are compared by suffix, at a
// dot: idp.lawsonhospital.org is not AWS.
func (b *builder) provider(at place, configured string, endpoint *url.URL, scope string) string {
	if endpoint == nil {
		return configured
	}
	kind := configured
	if kind == "auto" {
		kind = detect(endpoint)
	}
	switch {
	case kind == "google":
		b.report.refuse(at.at("TokenEndpoint"), InvalidValue,
			"found Google's: Google has no client-secret grant, and service accounts are not built yet")
	case kind == "azure" && strings.Contains(endpoint.Path, "/v2.0/") && !strings.HasSuffix(scope, "/.default"):
		b.report.warn(at.at("Scope"), "Entra ID's v2.0 endpoint wants a scope that ends in \"/.default\"")
	}
	return kind
}

func detect(endpoint *url.URL) string {
	host := strings.ToLower(strings.TrimSuffix(endpoint.Hostname(), "."))
	under := func(domain string) bool { return host == domain || strings.HasSuffix(host, "."+domain) }
	switch {
	case under("login.microsoftonline.com"), under("login.microsoftonline.us"), under("login.partner.microsoftonline.cn"):
		return "azure"
	case under("amazoncognito.com"):
		return "aws"
	case under("oauth2.googleapis.com"):
		return "google"
	case strings.Contains(endpoint.Path, "/realms/"):
		return "keycloak"
	}
	return "generic"
}

// checkScope follows RFC 6749, section 3.3.
func (b *builder) checkScope(at place, scope string) {
	bad := strings.ContainsFunc(scope, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' })
	if bad || strings.TrimSpace(scope) != scope || strings.Contains(scope, "  ") {
		b.report.invalid(at, brief(scope), "scopes separated by single spaces")
	}
}

func (b *builder) checkText(at place, text string) {
	if strings.ContainsFunc(text, unicode.IsControl) {
		b.report.invalid(at, brief(text), "a string without control characters")
	}
}

// endpointParams refuses parameters that have keys of their own: two values of
// one would be sent, and which one counts is the provider's choice.
func (b *builder) endpointParams(at place, params map[string]oneOrMore) Params {
	own := map[string]string{
		"client_id": "ClientId", "client_secret": "ClientSecret", "scope": "Scope",
		"audience": "Audience", "resource": "Resource", "grant_type": "",
	}
	all := make(url.Values, len(params))
	for _, name := range slices.Sorted(maps.Keys(params)) {
		key, taken := own[name]
		switch {
		case name == "":
			b.report.refuse(at, InvalidValue, "found a parameter without a name")
		case taken && key == "":
			b.report.refuse(at.at(name), InvalidValue, "is always \"client_credentials\"; remove it")
		case taken:
			b.report.refuse(at.at(name), InvalidValue, "has a key of its own: %q", key)
		}
		all[name] = params[name]
	}
	return Params{values: &all}
}

func (b *builder) verifySSL(at place, value any) VerifySSL {
	switch v := value.(type) {
	case bool:
		if !v {
			b.report.warn(at, "is false: whoever is on the way can read secrets, tokens and images; name a CA file instead")
		}
		return VerifySSL{Skip: !v}
	case string:
		if strings.EqualFold(v, "true") || strings.EqualFold(v, "false") {
			b.report.invalid(at, brief(v), "true or false without quotes, or the path of a CA file")
		} else if b.require(at, v) {
			return VerifySSL{CAFile: b.caFile(at, v)}
		}
	}
	return VerifySSL{}
}
