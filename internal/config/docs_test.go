package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated tables of docs/configuration.md")

const docsFile = "../../docs/configuration.md"

// TestDocs_TablesAreThoseOfTheSchema holds the tables of docs/configuration.md
// equal to schema.json and to the tables of legacy.go. With -update it writes
// them.
func TestDocs_TablesAreThoseOfTheSchema(t *testing.T) {
	raw, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for name, table := range tables(t) {
		begin, end := "<!-- "+name+": generated -->\n", "<!-- end -->"
		before, rest, found := strings.Cut(text, begin)
		old, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("docs/configuration.md has no place for the table %q", name)
		}
		if old != table && !*update {
			t.Errorf("the table %q differs from the schema; run: go test ./internal/config -run Docs -update\ngot\n%s\nwant\n%s", name, old, table)
		}
		text = before + begin + table + end + after
	}
	if *update {
		if err := os.WriteFile(docsFile, []byte(text), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
}

func tables(t *testing.T) map[string]string {
	t.Helper()
	root, err := readProperties()
	if err != nil {
		t.Fatal(err)
	}
	server := root.Properties["Servers"].Items
	orders := keyOrders(t)
	of := func(path string) []string { return orders[path+"/properties"] }
	return map[string]string{
		"section":        keyTable(root, of(""), inSection),
		"redis":          keyTable(root.Properties["Redis"], of("/$defs/redis"), 0),
		"gossip":         keyTable(root.Properties["Gossip"], of("/$defs/gossip"), 0),
		"gossip TLS":     keyTable(root.Properties["Gossip"].Properties["TLS"], of("/$defs/gossip/properties/TLS"), 0),
		"proxy":          keyTable(root.Properties["Proxy"], of("/$defs/proxy"), 0),
		"listen TLS":     keyTable(root.Properties["ListenTLS"], of("/$defs/listenTLS"), 0),
		"server":         keyTable(server, of("/$defs/server"), inServer),
		"resilience":     keyTable(server.Properties["ResilienceConfig"], of("/$defs/resilience"), 0),
		"not built":      unbuiltTable(),
		"without effect": idleTable(),
	}
}

// keyTable keeps the order of schema.json, which is the order to read them in.
func keyTable(p *property, order []string, in scope) string {
	var b strings.Builder
	b.WriteString("| key | default | meaning | also accepted |\n|---|---|---|---|\n")
	for _, key := range order {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", key, defaultText(p.Properties[key]), meaning(p.Properties[key]), aliasText(key, in))
	}
	return b.String()
}

// keyOrders returns the keys of each object of schema.json in their order, by
// the object's path.
func keyOrders(t *testing.T) map[string][]string {
	t.Helper()
	orders := map[string][]string{}
	dec := json.NewDecoder(bytes.NewReader(schemaJSON))
	token := func() json.Token {
		next, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	var walk func(path string)
	walk = func(path string) {
		switch token() {
		case json.Delim('{'):
			for dec.More() {
				key, _ := token().(string)
				orders[path] = append(orders[path], key)
				walk(path + "/" + key)
			}
			token()
		case json.Delim('['):
			for dec.More() {
				walk(path + "/-")
			}
			token()
		}
	}
	walk("")
	return orders
}

func defaultText(p *property) string {
	switch d := p.Default.(type) {
	case nil:
		return p.DefaultText
	case string:
		if d == "" {
			return "`\"\"`"
		}
		return "`" + d + "`"
	case []any:
		words := make([]string, len(d))
		for i, v := range d {
			words[i] = fmt.Sprintf("`%v`", v)
		}
		return strings.Join(words, " ")
	case map[string]any:
		return ""
	}
	return fmt.Sprintf("`%v`", p.Default)
}

func meaning(p *property) string {
	text := p.Description
	if p.Sidecar {
		text = "Sidecar only. " + text
	}
	if len(p.Enum) > 0 {
		text += " One of `" + strings.Join(p.Enum, "` `") + "`."
	}
	return text
}

func aliasText(key string, in scope) string {
	var old []string
	for _, a := range aliases() {
		if a.now == key && a.scope == in {
			old = append(old, "`"+a.old+"`")
		}
	}
	if key == "Redis" && in == inSection {
		old = append(old, "`RedisUrl`: `redis://`, `rediss://` or `unix://`")
	}
	return strings.Join(old, " ")
}

func unbuiltTable() string {
	var b strings.Builder
	b.WriteString("| key | where | what the refusal says |\n|---|---|---|\n")
	for _, k := range unbuiltKeys() {
		where := map[scope]string{inSection: "section", inServer: "server", inSection | inServer: "both"}[k.scope]
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.key, where, strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(k.why))
	}
	return b.String()
}

func idleTable() string {
	var b strings.Builder
	b.WriteString("| key | instead |\n|---|---|\n")
	for _, k := range idleKeys() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", k.key, k.instead)
	}
	return b.String()
}

// TestDocs_ExamplesAreAccepted parses every JSON block of the document. Files
// that the examples name are made here.
func TestDocs_ExamplesAreAccepted(t *testing.T) {
	raw, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	getenv := env("AZURE_SECRET", "01234567890123456789", "KEYCLOAK_SECRET", "01234567890123456789", "REDIS_PASSWORD", "p")
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(raw), -1)
	if len(blocks) < 4 {
		t.Fatalf("%d JSON blocks", len(blocks))
	}
	for i, block := range blocks {
		text := regexp.MustCompile(`"/(run/secrets|etc/orthanc-oauth)/([a-z.-]+)"`).ReplaceAllStringFunc(block[1], func(path string) string {
			name := filepath.Join(dir, filepath.Base(strings.Trim(path, `"`)))
			if err := os.WriteFile(name, []byte(strings.Repeat("A", 43)+"=\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return `"` + name + `"`
		})
		opts := Options{Expand: true, Getenv: getenv, Sidecar: strings.Contains(text, "UsersFile")}
		if _, err := Parse([]byte(text), opts); err != nil {
			t.Errorf("example %d: %v\n%s", i+1, err, text)
		}
	}
}

// TestSchema_DefaultsAreWithinTheSchema and every key has a description, or the
// document would have an empty cell.
func TestSchema_DefaultsAreWithinTheSchema(t *testing.T) {
	cfg := parse(t, withServer(``, `"Redis": {}, "Gossip": {}, "Proxy": {}, "ResilienceConfig": {}, `), Options{})
	text, err := json.Marshal(cfg.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(text, Options{}); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	root, err := readProperties()
	if err != nil {
		t.Fatal(err)
	}
	described(t, "", root)
}

func described(t *testing.T, path string, p *property) {
	t.Helper()
	if p.Description == "" {
		t.Errorf("%s has no description", path)
	}
	for key, child := range p.Properties {
		described(t, path+"."+key, child)
	}
	if p.Items != nil && p.Items.Properties != nil {
		described(t, path+"[]", p.Items)
	}
}
