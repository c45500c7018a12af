package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	jsonBlock = regexp.MustCompile("(?ms)^ *```json\n(.*?)^ *```")
	namedFile = regexp.MustCompile(`"(UsersFile|AdminTokenFile|[A-Za-z]*SecretFile|SecretKeyFile|PasswordFile)": "([^"]+)"`)
)

// TestReadme_ExamplesAreAccepted parses every JSON block of the README and of
// the operator's guide as Orthanc or the sidecar would. Files that the examples
// name are made here.
func TestReadme_ExamplesAreAccepted(t *testing.T) {
	for _, doc := range []struct {
		file  string
		least int
	}{{"../../README.md", 3}, {"../../docs/operations/README.md", 0}} {
		raw, err := os.ReadFile(doc.file)
		if err != nil {
			t.Fatal(err)
		}
		blocks := jsonBlock.FindAllStringSubmatch(string(raw), -1)
		if len(blocks) < doc.least {
			t.Errorf("%s: %d JSON blocks", doc.file, len(blocks))
		}
		for i, block := range blocks {
			text := withFiles(t, block[1])
			conf, err := Parse([]byte(text), Options{Sidecar: strings.Contains(text, "UsersFile"), Expand: true})
			switch {
			case err != nil:
				t.Errorf("%s, example %d: %v\n%s", doc.file, i+1, err, block[1])
			case len(conf.Warnings) > 0:
				t.Errorf("%s, example %d warns: %v", doc.file, i+1, conf.Warnings)
			}
		}
	}
}

// withFiles replaces the secret files that a configuration names by ones that
// are there.
func withFiles(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	return namedFile.ReplaceAllStringFunc(text, func(pair string) string {
		parts := namedFile.FindStringSubmatch(pair)
		name := filepath.Join(dir, filepath.Base(parts[2]))
		if err := os.WriteFile(name, []byte(strings.Repeat("A", 43)+"=\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return `"` + parts[1] + `": "` + name + `"`
	})
}
