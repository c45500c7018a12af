//go:build chaos

package containers

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// composeGo is the module that holds the schema of Compose v2. It is fetched by
// Go's own client and not imported: only the schema is wanted.
const composeGo = "github.com/compose-spec/compose-go/v2@v2.16.2"

// TestTopology_IsValidByTheSchemaOfComposeV2 is for the compose that the machine
// does not have: here the file runs with docker-compose 1.29.
func TestTopology_IsValidByTheSchemaOfComposeV2(t *testing.T) {
	schema := composeSchema(t)
	raw, err := os.ReadFile(composeFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(document(t, raw)); err != nil {
		t.Error(err)
	}
	planted := strings.Replace(string(raw), "restart: \"no\"", "restarts: \"no\"", 1)
	if err := schema.Validate(document(t, []byte(planted))); err == nil {
		t.Error("a misspelt key was not found")
	}
}

func composeSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", composeGo)
	cmd.Dir = t.TempDir() // outside of this module, whose go.mod has no need of it
	if err := os.WriteFile(filepath.Join(cmd.Dir, "go.mod"), []byte("module schema\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	var module struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &module)
	}
	if err != nil {
		if requireReal() {
			t.Fatalf("fetch %s: %v", composeGo, err)
		}
		t.Skipf("SKIPPED, not validated: fetch %s: %v", composeGo, err)
	}
	raw, err := os.ReadFile(filepath.Join(module.Dir, "schema", "compose-spec.json"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("compose-spec.json", parsed); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("compose-spec.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// document returns a YAML file as the schema sees it: as JSON.
func document(t *testing.T, raw []byte) any {
	t.Helper()
	var parsed any
	if err := yaml.Unmarshal(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}
