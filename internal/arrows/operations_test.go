package arrows

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// row is a table row that begins with a span of code.
var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// TestDocs_LogLinesAreThoseOfTheCode keeps the table of log lines from naming
// what nothing logs.
func TestDocs_LogLinesAreThoseOfTheCode(t *testing.T) {
	top := root(t)
	doc, err := os.ReadFile(filepath.Join(top, "docs", "operations", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "\n## Log lines\n")
	table, _, _ := strings.Cut(rest, "\n#")
	rows := row.FindAllStringSubmatch(table, -1)
	if len(rows) < 20 {
		t.Fatalf("%d log lines in the table", len(rows))
	}
	var code strings.Builder
	walk(t, ".go", func(name string, text []byte) {
		if !strings.HasSuffix(name, "_test.go") {
			code.Write(text)
		}
	})
	for _, r := range rows {
		if !strings.Contains(code.String(), `"`+r[1]+`"`) && !strings.Contains(code.String(), `"`+r[1]+`: `) {
			t.Errorf("nothing logs %q", r[1])
		}
	}
}
