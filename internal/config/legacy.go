package config

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// scope is the kind of object in which a key stands.
type scope int

const (
	inSection scope = 1 << iota
	inServer
)

// alias is an accepted older spelling.
type alias struct {
	scope    scope
	old, now string
}

func aliases() []alias {
	return []alias{
		{inSection, "CacheType", "CacheBackend"},
		{inServer, "RefreshBufferSeconds", "TokenRefreshBufferSeconds"},
		{inServer, "Type", "ProviderType"},
	}
}

// idle is a key that the Python plugin documents and that does nothing here.
type idle struct {
	key     string
	instead string
}

func idleKeys() []idle {
	return []idle{
		{"LogFile", "Orthanc's own log receives this plugin's lines (--logfile, --logdir); the sidecar writes to standard error"},
		{"AuditLogging", "use SecurityLog"},
		{"TokenValidation", "the DICOMweb server validates its tokens"},
		{"RateLimiting", "use RateLimitRequests"},
		{"TokenLifetime", "the provider's expires_in counts; AssumedLifetimeSeconds stands in where it sends none"},
		{"RequireHTTPS", "TokenEndpoint is https always, and a Url of http is warned about"},
	}
}

// unbuilt is a key, or some of its values, whose function is not built yet.
// Such a key is refused by name, because ignoring it would be a surprise. To
// build one, delete its row and, if it is not there, add it to schema.json.
type unbuilt struct {
	scope scope
	key   string
	asks  func(value any) bool // whether this value asks for the function
	why   string
}

func unbuiltKeys() []unbuilt {
	const jwt = "validating tokens is not built yet; the DICOMweb server validates them"
	return []unbuilt{
		{inServer, "Mode", isOneOf("direct"), "direct mode is not built yet; use \"proxy\""},
		{inServer, "ProviderType", isOneOf("azuremanagedidentity"), "managed identities are not built yet; use a client secret and TokenEndpoint"},
		{inServer, "ProviderType", isOneOf("google"), "Google has no client-secret grant, and service accounts are not built yet"},
		{inServer, "ProviderType", isOneOf("aws"), "signing for AWS is not built yet; for a Cognito user pool use \"generic\" and its TokenEndpoint"},
		{inServer, "UseManagedIdentity", isAsked, "managed identities are not built yet; use a client secret and TokenEndpoint"},
		{inServer, "TenantId", isAsked, "is not built yet; write TokenEndpoint \"https://login.microsoftonline.com/<tenant>/oauth2/v2.0/token\""},
		{inServer, "Region", isAsked, "signing for AWS is not built yet"},
		{inServer, "UseInstanceProfile", isAsked, "instance profiles are not built yet; use a client secret and TokenEndpoint"},
		{inServer, "DicomWebRoot", isAsked, "is not built yet; write the whole base address as Url"},
		{inSection | inServer, "JWTPublicKey", isAsked, jwt},
		{inSection | inServer, "JWTAudience", isAsked, jwt},
		{inSection | inServer, "JWTIssuer", isAsked, jwt},
		{inSection | inServer, "JWTAlgorithms", isAsked, jwt},
		{inSection | inServer, "JWTEnforce", isAsked, jwt},
		{inSection | inServer, "DisableJWTValidation", func(v any) bool { return v != true }, jwt},
	}
}

// isAsked is true of every value but those that mean "not used".
func isAsked(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case json.Number:
		return v != "0"
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

func isOneOf(values ...string) func(any) bool {
	return func(value any) bool {
		s, ok := value.(string)
		return ok && slices.Contains(values, s)
	}
}

// normalise gives a section its canonical shape: Servers as an array, aliases
// renamed, keys without function taken out.
func normalise(d *document, s *schema, r *report) {
	d.listServers(r)
	section := element{at: place{path: d.base}, object: d.section}
	liftRoot(d, s, r)
	splitRedisURL(section, r)
	rewrite(section, inSection, s.root, r)
	for _, server := range d.servers() {
		rewrite(server, inServer, s.server(), r)
	}
	migrate(section, r)
}

func rewrite(e element, in scope, p *property, r *report) {
	rename(e, in, r)
	lowerEnums(e.object, p)
	dropIdle(e, r)
	refuseUnbuilt(e, in, p, r)
}

func rename(e element, in scope, r *report) {
	for _, a := range aliases() {
		value, found := e.object[a.old]
		if a.scope&in == 0 || !found {
			continue
		}
		delete(e.object, a.old)
		if _, both := e.object[a.now]; both {
			r.refuse(e.at, InvalidValue, "found both %q and its old spelling %q; keep the first", a.now, a.old)
			continue
		}
		r.warn(e.at.at(a.old), "is an old spelling; write %q", a.now)
		e.object[a.now] = value
	}
}

// lowerEnums lets words of a fixed list be written in any case, as the Python
// plugin's documents do ("INFO", "Azure").
func lowerEnums(object map[string]any, p *property) {
	for key, value := range object {
		child := p.Properties[key]
		if child == nil {
			continue
		}
		switch v := value.(type) {
		case string:
			if lower := strings.ToLower(v); slices.Contains(child.Enum, lower) {
				object[key] = lower
			}
		case map[string]any:
			lowerEnums(v, child)
		}
	}
}

func dropIdle(e element, r *report) {
	for _, k := range idleKeys() {
		if _, found := e.object[k.key]; found {
			delete(e.object, k.key)
			r.warn(e.at.at(k.key), "has no effect: %s", k.instead)
		}
	}
}

func refuseUnbuilt(e element, in scope, p *property, r *report) {
	for _, k := range unbuiltKeys() {
		value, found := e.object[k.key]
		if k.scope&in == 0 || !found {
			continue
		}
		_, inSchema := p.Properties[k.key]
		switch {
		case k.asks(value) && inSchema:
			r.refuse(e.at.at(k.key), InvalidValue, "%s: %s", brief(fmt.Sprint(value)), k.why)
		case k.asks(value):
			r.refuse(e.at.at(k.key), InvalidValue, "%s", k.why)
		case !inSchema:
			r.warn(e.at.at(k.key), "has no effect yet")
		}
		if !inSchema {
			delete(e.object, k.key)
		}
	}
}

// liftRoot takes the keys that may also stand at the root of orthanc.json. They
// are not all ours there: Python-era files carry "LogLevel": "default" for
// Orthanc, which must not stop a start.
func liftRoot(d *document, s *schema, r *report) {
	for _, key := range []string{"LogLevel", "EnableMetrics", "ConfigVersion"} {
		value, found := d.root[key]
		if _, own := d.section[key]; own || !found {
			continue
		}
		lifted := map[string]any{key: value}
		lowerEnums(lifted, s.root)
		if s.compiled.Validate(lifted) != nil {
			r.warn(place{path: key}, "found %s at the root of the file, which is not taken; allowed: %s",
				s.root.Properties[key].describe(value), s.root.Properties[key].allowed())
			continue
		}
		d.section[key] = lifted[key]
	}
}

func migrate(section element, r *report) {
	if section.object["ConfigVersion"] == "1.0" {
		// 2.0 only added ProviderType and TokenRefreshBufferSeconds, whose defaults apply anyway.
		r.warn(section.at.at("ConfigVersion"), "1.0 is read as 2.0; write \"2.0\"")
		section.object["ConfigVersion"] = "2.0"
	}
}

// splitRedisURL turns RedisUrl into the keys of Redis.
func splitRedisURL(section element, r *report) {
	value, found := section.object["RedisUrl"]
	if !found {
		return
	}
	delete(section.object, "RedisUrl")
	at := section.at.at("RedisUrl")
	if _, both := section.object["Redis"]; both {
		r.refuse(section.at, InvalidValue, "found both \"Redis\" and its old spelling \"RedisUrl\"; keep the first")
		return
	}
	text, _ := value.(string)
	redis, ok := parseRedisURL(text)
	if !ok {
		// The URL may hold a password, so it is not shown.
		r.refuse(at, InvalidValue, "found a value that is not shown; allowed: redis://[user:password@]host[:port][/db], rediss://... or unix:///path[?db=0]")
		return
	}
	r.warn(at, "is an old spelling; write \"Redis\" with \"Host\", \"Port\", \"DB\", \"Password\", \"SSL\"")
	section.object["Redis"] = redis
}

func parseRedisURL(text string) (map[string]any, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Fragment != "" {
		return nil, false
	}
	redis := map[string]any{}
	db := u.Query().Get("db")
	switch {
	case u.Scheme == "unix" && u.Path != "":
		redis["Host"] = u.Path
	case (u.Scheme == "redis" || u.Scheme == "rediss") && u.Hostname() != "":
		redis["Host"] = u.Hostname()
		redis["SSL"] = u.Scheme == "rediss"
		if path := strings.Trim(u.Path, "/"); path != "" {
			db = path
		}
	default:
		return nil, false
	}
	if name := u.User.Username(); name != "" {
		redis["Username"] = name
	}
	password, _ := u.User.Password()
	redis["Password"] = password
	return redis, setNumber(redis, "Port", u.Port()) && setNumber(redis, "DB", db)
}

func setNumber(object map[string]any, key, text string) bool {
	if text == "" {
		return true
	}
	n, err := strconv.ParseUint(text, 10, 16)
	object[key] = json.Number(strconv.FormatUint(n, 10))
	return err == nil
}
