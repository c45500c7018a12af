package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"
)

// Parse reads a whole orthanc.json, with the section at DicomWeb.OAuth or
// DicomWebOAuth, or a file that holds only the section. Its error is Errors and
// holds everything that is wrong; the Config that comes with it then has only
// Warnings. Secrets in files are loaded once to see that they can be, and not
// kept.
func Parse(orthancJSON []byte, opts Options) (*Config, error) {
	r := &report{}
	tree, err := readJSON(orthancJSON)
	if err != nil {
		return &Config{}, Errors{{Code: InvalidValue, Message: err.Error()}}
	}
	s, err := newSchema()
	if err != nil {
		return nil, err
	}
	doc, err := locate(tree, s, r)
	if err != nil {
		return &Config{}, Errors{{Code: InvalidValue, Message: err.Error()}}
	}
	return (&builder{opts: opts, report: r, doc: doc}).parse(s)
}

// parse brings the section into its canonical shape, validates it and builds
// the Config.
func (b *builder) parse(s *schema) (*Config, error) {
	r, doc := b.report, b.doc
	if b.opts.Expand {
		expandSection(doc, b.opts.lookupEnv(), r)
	}
	normalise(doc, s, r)
	dropSidecarKeys(doc, s.root, b.opts)
	s.validate(doc, r)
	if len(r.errs) == 0 {
		if err := b.build(s); err != nil {
			return nil, err
		}
	}
	if doc.section["Enabled"] == false {
		r.downgrade()
		b.cfg = Config{}
	}
	if err := r.failed(); err != nil {
		return &Config{Warnings: r.warnings}, err
	}
	cfg := &b.cfg
	cfg.Orthanc = readOrthanc(doc, b.opts)
	warnOrthanc(cfg, r)
	cfg.Warnings = r.warnings
	cfg.effective = doc.redacted(s)
	return cfg, nil
}

// dropSidecarKeys takes out what only orthanc-oauth serve reads, so that it and
// the plugin can share a file.
func dropSidecarKeys(d *document, p *property, opts Options) {
	for key := range maps.Clone(d.section) {
		if child := p.Properties[key]; child != nil && child.Sidecar && !opts.Sidecar {
			delete(d.section, key)
		}
	}
}

// fileSection is the section as it stands in the file, canonical and with
// defaults: the bridge between the tree and a Config. Its fields are the keys of
// schema.json; decoding refuses any that only one of the two has.
type fileSection struct {
	Enabled                bool
	ConfigVersion          string
	CacheBackend           string
	Redis                  fileRedis
	Gossip                 fileGossip
	AllowInsecure          bool
	EncryptionKey          *Secret
	EncryptionKeyFile      *string
	Proxy                  fileProxy
	SecurityLog            string
	AssumedLifetimeSeconds int
	Listen                 string
	ListenTLS              TLSFiles
	UsersFile              *string
	AdminListen            string
	AdminTokenFile         *string
	Servers                []fileServer
	ResilienceConfig       fileResilience
	RateLimitRequests      int
	RateLimitWindowSeconds int
	LogLevel               string
	EnableMetrics          bool
}

type fileProxy struct {
	TimeoutSeconds                int
	ReplayBytes, ReplayTotalBytes int64
}

// builder turns the validated tree into a Config and checks what a value means
// beyond its type.
type builder struct {
	opts   Options
	report *report
	doc    *document
	cfg    Config

	redisKeys []string // those of Redis that the file has, without defaults
}

func (b *builder) build(s *schema) error {
	b.fillDefaults(s)
	var f fileSection
	if err := decode(b.doc.section, &f); err != nil {
		return fmt.Errorf("schema and code differ: %w", err)
	}
	at := place{path: b.doc.base}
	b.cfg = Config{
		Enabled:         f.Enabled,
		Backend:         f.CacheBackend,
		AllowInsecure:   f.AllowInsecure,
		EncryptionKey:   b.secret(at, "EncryptionKey", f.EncryptionKey, f.EncryptionKeyFile),
		SecurityLog:     f.SecurityLog,
		AssumedLifetime: time.Duration(f.AssumedLifetimeSeconds) * time.Second,
		LogLevel:        level(f.LogLevel),
		EnableMetrics:   f.EnableMetrics,
		RateLimit: RateLimit{
			Requests:   f.RateLimitRequests,
			Window:     time.Duration(f.RateLimitWindowSeconds) * time.Second,
			PerAddress: b.opts.Sidecar,
		},
	}
	b.checkKey(b.cfg.EncryptionKey)
	b.require(at.at("SecurityLog"), f.SecurityLog)
	b.proxy(at.at("Proxy"), f.Proxy)
	b.backend(at, f)
	b.servers(f.Servers)
	if b.opts.Sidecar {
		b.sidecar(at, f)
	}
	return nil
}

// fillDefaults writes the schema's defaults into the section, of the chosen
// backend only, and the section's resilience into each server.
func (b *builder) fillDefaults(s *schema) {
	section := b.doc.section
	ensure(section, "Proxy")
	switch section["CacheBackend"] {
	case BackendRedis:
		ensure(section, "Redis")
		given, _ := section["Redis"].(map[string]any)
		b.redisKeys = slices.Sorted(maps.Keys(given))
	case BackendGossip:
		ensure(section, "Gossip")
	}
	shared, _ := section["ResilienceConfig"].(map[string]any)
	for _, server := range b.doc.servers() {
		merged := maps.Clone(shared)
		if merged == nil {
			merged = map[string]any{}
		}
		own, _ := server.object["ResilienceConfig"].(map[string]any)
		maps.Copy(merged, own)
		server.object["ResilienceConfig"] = merged
		fill(server.object, s.server(), b.opts.Sidecar)
	}
	fill(section, s.root, b.opts.Sidecar)
	if gossip, ok := section["Gossip"].(map[string]any); ok && gossip["Name"] == nil {
		host, _ := os.Hostname() // an unnamed instance works
		gossip["Name"] = host
	}
}

func ensure(object map[string]any, key string) {
	if _, found := object[key]; !found {
		object[key] = map[string]any{}
	}
}

func fill(object map[string]any, p *property, sidecar bool) {
	for key, child := range p.Properties {
		value, found := object[key]
		nested, isObject := value.(map[string]any)
		switch {
		case isObject && child.Properties != nil:
			fill(nested, child, sidecar)
		case !found && child.Default != nil && (sidecar || !child.Sidecar):
			object[key] = child.Default
		}
	}
}

// decode moves a tree into a struct.
func decode(tree map[string]any, into any) error {
	text, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

func level(name string) slog.Level {
	switch name {
	case "debug":
		return slog.LevelDebug
	case "warn", "warning":
		return slog.LevelWarn
	case "error", "critical":
		return slog.LevelError
	}
	return slog.LevelInfo
}

func (b *builder) proxy(at place, f fileProxy) {
	if f.ReplayTotalBytes < f.ReplayBytes {
		b.report.invalid(at.at("ReplayTotalBytes"), fmt.Sprint(f.ReplayTotalBytes),
			fmt.Sprintf("at least ReplayBytes (%d)", f.ReplayBytes))
	}
	b.cfg.Proxy = Proxy{
		Timeout:          time.Duration(f.TimeoutSeconds) * time.Second,
		ReplayBytes:      f.ReplayBytes,
		ReplayTotalBytes: f.ReplayTotalBytes,
	}
}

func (b *builder) backend(at place, f fileSection) {
	switch f.CacheBackend {
	case BackendRedis:
		b.redis(at.at("Redis"), f.Redis)
	case BackendGossip:
		b.gossip(at.at("Gossip"), f.Gossip)
	}
	for key, backend := range map[string]string{"Redis": BackendRedis, "Gossip": BackendGossip} {
		if _, found := b.doc.section[key]; found && f.CacheBackend != backend {
			b.report.warn(at.at(key), "is not used: CacheBackend is %q", f.CacheBackend)
		}
	}
}

// degrade warns of what status should call degraded.
func (b *builder) degrade(at place, message string) {
	b.report.warn(at, "%s", message)
	b.cfg.Degraded = append(b.cfg.Degraded, at.prefix()+message)
}
