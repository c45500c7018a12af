package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is this module's path. In patterns "./x" stands for its package x.
const module = "orthanc-oauth"

// graph is who imports whom, test files left out: import path to import paths.
type graph map[string][]string

// builds are the ways in which the module is built. Their graphs are united:
// an arrow that only one of them has is an arrow.
var builds = []struct {
	cgo  string
	tags string
}{
	{cgo: "0"},
	{cgo: "1", tags: "orthanc"},
}

// load asks the go command for everything the module's packages depend on.
func load(t *testing.T) graph {
	t.Helper()
	g := make(graph)
	for _, b := range builds {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-tags="+b.tags, "-json=ImportPath,Imports", "./...")
		cmd.Dir = root(t)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v\n%s", err, complaints.String())
		}
		if err := g.add(bytes.NewReader(out)); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// add reads what go list prints: one JSON object after the other. A package that
// does not build is listed with what it imports; the compiler will say the rest.
func (g graph) add(list io.Reader) error {
	for dec := json.NewDecoder(list); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		for _, imported := range p.Imports {
			g.arrow(p.ImportPath, imported)
		}
	}
}

// arrow notes that one package imports another.
func (g graph) arrow(from, to string) {
	for _, path := range []string{from, to} {
		if _, known := g[path]; !known {
			g[path] = nil
		}
	}
	if !slices.Contains(g[from], to) {
		g[from] = append(g[from], to)
	}
}

// chain returns the shortest way by which from comes to import something that
// bad accepts, within so many steps, or nil.
func (g graph) chain(from string, bad func(string) bool, steps int) []string {
	ways := [][]string{{from}}
	seen := map[string]bool{from: true}
	for len(ways) > 0 && len(ways[0]) <= steps {
		way := ways[0]
		ways = ways[1:]
		for _, next := range g[way[len(way)-1]] {
			if seen[next] {
				continue
			}
			seen[next] = true
			longer := append(slices.Clone(way), next)
			if bad(next) {
				return longer
			}
			ways = append(ways, longer)
		}
	}
	return nil
}

// ours returns the module's own packages that match one of patterns.
func (g graph) ours(patterns []string) []string {
	var out []string
	for path := range g {
		if isOurs(path) && matchesAny(patterns, path) {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

func isOurs(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// matches reports whether a pattern names an import path: exactly, or with /...
// at its end the whole tree.
func matches(pattern, path string) bool {
	pattern = fullPath(pattern)
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == tree || strings.HasPrefix(path, tree+"/")
	}
	return path == pattern
}

// fullPath replaces a leading "./" by the module's path.
func fullPath(pattern string) string {
	if rest, ok := strings.CutPrefix(pattern, "./"); ok {
		return module + "/" + rest
	}
	return pattern
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// root is the module's folder: the nearest one above with a go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}
