package redis_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"orthanc-oauth/backend/redis"
)

var update = flag.Bool("update", false, "write the tables of docs/operations/redis.md")

const docsFile = "../../docs/operations/redis.md"

// TestDocs_SayWhatTheCodeSays holds docs/operations/redis.md equal to the ACL
// that the shapes are tested with, and to the reasons and hints of the status.
func TestDocs_SayWhatTheCodeSays(t *testing.T) {
	raw, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	rules := strings.NewReplacer(">canary", ">password", prefix, redis.DefaultPrefix).Replace(strings.Join(leastACL, " "))
	for mark, want := range map[string]string{
		"acl":         "```\n" + rules + "\n```\n",
		"acl cluster": "```\n" + strings.Join(clusterACL, " ") + "\n```\n",
		"reasons":     reasonTable(),
	} {
		before, rest, found := strings.Cut(page, "<!-- "+mark+" -->\n")
		old, after, ended := strings.Cut(rest, "\n\n")
		old += "\n"
		switch {
		case !found || !ended && !*update:
			t.Errorf("no place for %q", mark)
		case old != want && !*update:
			t.Errorf("%q differs; run: go test ./backend/redis -run Docs -update\ngot\n%s\nwant\n%s", mark, old, want)
		}
		page = before + "<!-- " + mark + " -->\n" + want + "\n" + after
	}
	if *update {
		if err := os.WriteFile(docsFile, []byte(page), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
}

func reasonTable() string {
	var b strings.Builder
	b.WriteString("| reason | what to do |\n|---|---|\n")
	for _, reason := range redis.Reasons() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", reason, redis.Hint(reason))
	}
	return b.String()
}
