package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// aServer is the least a server needs; tests put further keys before it.
const aServer = `"Url": "https://dicom.example.com/v2/", "TokenEndpoint": "https://idp.example.com/token",
	"ClientId": "orthanc", "ClientSecret": "a-secret-of-more-than-20-characters"`

// withServer returns an orthanc.json with one server "pacs" and further keys of
// it and of the section.
func withServer(serverKeys, sectionKeys string) string {
	return `{"DicomWeb": {"OAuth": {` + sectionKeys + `"Servers": [{"Name": "pacs", ` + serverKeys + aServer + `}]}}}`
}

// withSection returns an orthanc.json with the given section.
func withSection(keys string) string { return `{"DicomWeb": {"OAuth": {` + keys + `}}}` }

func parse(t *testing.T, text string, opts Options) *Config {
	t.Helper()
	cfg, err := Parse([]byte(text), opts)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return cfg
}

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func warningsOf(c *Config) string {
	lines := make([]string, len(c.Warnings))
	for i, w := range c.Warnings {
		lines[i] = w.String()
	}
	return strings.Join(lines, "\n")
}
